"""Objects without their bytes, and listing them."""

from __future__ import annotations

import msgspec

from headwater.engine import Query
from headwater.tables import Table

BINARY = "application/octet-stream"
_SLICE = 32


class ObjectInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An object without its bytes.

    `etag` is opaque and unique per put (the ETag over HTTP, without the quotes), `sha256` hexadecimal. `sequencer`, 16
    hexadecimal digits, sorts the puts of one key in the order of their commits, over deletion and re-creation too.
    `blob` names the bytes in the blob store.
    """

    key: str
    size: int
    sha256: str
    etag: str
    content_type: str = BINARY
    metadata: dict[str, str] = {}
    blob: str
    sequencer: str
    modified_ms: int


class ObjectPage(msgspec.Struct, frozen=True):
    """Objects of a listing, and with a delimiter the prefixes that stand for all objects below them, each in key order.

    `cursor` is None on the last page, else it is given to the next call.
    """

    items: list[ObjectInfo]
    prefixes: list[str] = []
    cursor: str | None = None


class Listing:
    """One page of `Bucket.list`: reads slices of keys and leaps over what a prefix stands for."""

    def __init__(self, table: Table[ObjectInfo], prefix: str, delimiter: str, limit: int) -> None:
        self.items: list[ObjectInfo] = []
        self.prefixes: list[str] = []
        self.place: tuple[str, str] | None = None
        """Where the next page begins: (after this key, or from this one on)."""
        self._table = table
        self._prefix = prefix
        self._delimiter = delimiter
        self._limit = limit

    @property
    def _left(self) -> int:
        return self._limit - len(self.items) - len(self.prefixes)

    async def run(self, place: tuple[str, str]) -> None:
        following: tuple[str, str] | None = place
        while following is not None and self._left:
            following = await self._slice(*following)
        self.place = following

    async def _slice(self, after: str, low: str) -> tuple[str, str] | None:
        """Take one slice; where the next one begins."""
        query = Query(
            table=self._table.name,
            prefix=self._prefix,
            low=low or None,
            after=(after, "") if after else None,
            limit=min(self._left, _SLICE) if self._delimiter else self._left,
        )
        page = await self._table.query_records(query)
        for record in page.records:
            key = str(record.key[0])
            if group := self._group_of(key):
                self.prefixes.append(group)
                return _beyond(group)
            self.items.append(self._table.codec.decode(record.body))
        return (str(page.next[0]), "") if page.next else None

    def _group_of(self, key: str) -> str:
        at = key.find(self._delimiter, len(self._prefix)) if self._delimiter else -1
        return "" if at < 0 else key[: at + len(self._delimiter)]


def _beyond(prefix: str) -> tuple[str, str] | None:
    """From the least key on that is above all those with the prefix; None when there is none."""
    kept = prefix.rstrip("\U0010ffff")
    if not kept:
        return None
    last = ord(kept[-1]) + 1
    return "", kept[:-1] + chr(0xE000 if 0xD800 <= last <= 0xDFFF else last)
