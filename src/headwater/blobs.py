"""Blobs: bytes under an id, and what a place for them must be able to do.

Identity: a blob has an id that its writer makes anew for every write, time-ordered, never the key of an object; so
keys are nothing but data. A blob is written once, whole, and never changed. States: being written (invisible to
`read` and `ids`) → whole → deleted.

Guarantee: when `write` returns, the whole blob is on stable storage under its id. When it raises, or the process dies,
there is no such blob, or a whole one that nothing refers to: what is not referred to is collected
(`runtime/garbage.py`). Errors: `StoreFull` for no room, `StoreError` for a place that cannot be read or
written, `UnknownResource` for an id without a blob.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import Protocol
from weakref import WeakKeyDictionary

import msgspec

from headwater.ids import new_id

CHUNK = 256 * 1024
"""The bytes that are handed on at once, in reading and in writing."""


class Blob(msgspec.Struct, frozen=True):
    """What was written: `sha256` is hexadecimal."""

    id: str
    size: int
    sha256: str


class BlobStore(Protocol):
    """One place for blobs, used by one store; see the module's note."""

    async def open(self, owner: str) -> None:
        """Take the place for the store `owner`, and remove what writes that were cut off have left.

        Idempotent. Raises `DeclarationError` when the place belongs to another store: each would collect the other's
        blobs.
        """
        ...

    async def check(self, owner: str) -> None:
        """Raise `DeclarationError` when the place belongs to another store; changes nothing."""
        ...

    async def write(self, id: str, data: AsyncIterator[bytes], *, limit: int, sha256: str = "") -> Blob:
        """Write a blob of at most `limit` bytes. Raises `TooLarge`, and `InvalidValue` when it has another SHA-256."""
        ...

    async def read(self, id: str, start: int, end: int) -> AsyncGenerator[bytes]:
        """The bytes from `start` to `end` (exclusive) in chunks. Close the generator if it is not read to its end."""
        ...

    async def delete(self, id: str) -> None:
        """Remove a blob; removing an absent one does nothing."""
        ...

    async def ids(self, after: str, limit: int) -> list[str]:
        """Ids of whole blobs in the place's own order, those after `after` ("": from the beginning)."""
        ...

    async def close(self) -> None: ...


def blob_id(now_ms: int) -> str:
    """A new id that tells its time."""
    return f"{now_ms:012x}{new_id()[12:]}"


def time_of_blob(id: str) -> int | None:
    """When the blob of this id was begun; None when the id is none of ours."""
    return int(id[:12], 16) if len(id) == 32 and _HEX.issuperset(id) else None


_HEX = frozenset("0123456789abcdef")


class Uncommitted:
    """Blobs whose record may still be committed, by who would: not garbage, however old they are.

    A holder is not kept alive by what it holds, and holds nothing once it is `closed`. The commit of a closed unit of
    work may still be under way: that is a matter of moments, and what is collected was found twice, minutes apart.
    """

    def __init__(self) -> None:
        self._held: WeakKeyDictionary[object, set[str]] = WeakKeyDictionary()

    def hold(self, holder: object, id: str) -> None:
        self._held.setdefault(holder, set()).add(id)

    def hold_only(self, holder: object, ids: Iterable[str]) -> None:
        """The holder holds these, and nothing else any more."""
        self._held[holder] = set(ids)

    def ids(self) -> set[str]:
        return {id for holder, held in self._held.items() if not getattr(holder, "closed", False) for id in held}
