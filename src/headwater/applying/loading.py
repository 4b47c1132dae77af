"""The part of a bulk load that every engine shares: the keys it has brought, what each row is, and its refusals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import apsw
import msgspec

from headwater.engine import Document
from headwater.errors import InvalidValue, LoadRefused
from headwater.events import Key

SLICE_BYTES = 512 * 1024
_encode = msgspec.msgpack.encode
_HINT = 'each key has one scope: load the other one without it first, with missing="delete" or "expire"'
T = TypeVar("T", bound=Sequence[Any])


class Brought:
    """The keys that a load has brought: a temporary database, beyond its cache in a file that nobody else sees."""

    def __init__(self, table: str) -> None:
        self._table = table
        self._seen = apsw.Connection("")
        self._seen.execute("PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF")
        self._seen.execute("CREATE TABLE seen (key BLOB PRIMARY KEY) STRICT, WITHOUT ROWID")

    def close(self) -> None:
        self._seen.close()

    def add(self, keys: Sequence[Key]) -> None:
        """Raises `InvalidValue` for a key that comes twice."""
        packed = tuple(map(_encode, keys))
        if not packed:
            return
        try:
            with self._seen:
                self._seen.execute("INSERT INTO seen SELECT value FROM carray(?)", (apsw.carray(packed),))
        except apsw.ConstraintError:
            known = self.among(keys)
            twice = next((key for n, key in enumerate(keys) if key in known or key in keys[:n]), keys[0])
            raise InvalidValue(
                f"the load brings the key {shown(twice)} twice",
                operation="load",
                resource=self._table,
                hint="group its rows, or remove the repeated ones",
            ) from None

    def among(self, keys: Sequence[Key]) -> set[Key]:
        """Those of the keys that were brought."""
        packed = {_encode(key): key for key in keys}
        if not packed:
            return set()
        rows = self._seen.execute(
            "SELECT key FROM carray(?) CROSS JOIN seen ON key = value", (apsw.carray(tuple(packed)),)
        )
        return {packed[key] for (key,) in rows}


class Present(NamedTuple):
    """A record as the load meets it."""

    version: str
    schema: int
    expires_ms: int | None


class Member(NamedTuple):
    """What the last load of the scope wrote for a key."""

    digest: bytes | None
    version: str | None


Verdict = Literal["inserted", "modified", "renewed", "doubtful", "same"]


def judge(
    document: Document, record: Present | None, member: Member | None, schema: int, expires_ms: int | None
) -> Verdict:
    """What a row is to its record. Doubtful: somebody has written the record since, so the bodies tell."""
    if record is None:
        return "inserted"
    if member is None or record.version != member.version:
        return "doubtful"
    if document.digest != member.digest:
        return "modified"
    return "same" if (schema, expires_ms) == (record.schema, record.expires_ms) else "renewed"


def leaves_ms(record: Present | None, at_ms: int | None) -> int | None:
    """When the record of a key that its load does not bring goes: at once (None), or at the end of the grace period
    unless it expires before."""
    if record is None or at_ms is None:
        return None
    return at_ms if record.expires_ms is None else min(at_ms, record.expires_ms)


def slices(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """Staged rows, whose last value is the body, in slices of bounded size."""
    begin = size = 0
    for at, row in enumerate(rows):
        size += len(row[-1])
        if size > SLICE_BYTES and at > begin:
            yield rows[begin:at]
            begin, size = at, len(row[-1])
    if begin < len(rows):
        yield rows[begin:]


def shown(key: Key) -> str:
    return repr(key[0]) if key[1] == "" else repr(key)


def anothers(key: Key, scope: str, resource: str) -> InvalidValue:
    return InvalidValue(
        f"the load brings the key {shown(key)}, which belongs to the scope {scope!r}",
        operation="load",
        resource=resource,
        hint=_HINT,
    )


def too_many(vanished: int, present: int, max_removed: float, resource: str) -> LoadRefused:
    return LoadRefused(
        f"it would remove at least {vanished} of the {present} rows of its scope, {max_removed:.4g} of them may go",
        operation="load",
        resource=resource,
        hint="look whether its source is whole; load it with a greater max_removed if it is",
    )
