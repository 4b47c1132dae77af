"""A batch's view of loads: what is staged for the keys it names, the flips it makes, the rows it moves into place.

While a table's load is flipped and not expanded, a key's staged row comes before its record. Whoever writes such a key
first moves the staged row into place, with its event: so each change of a load becomes one event, before any later
change of the key, whether expanding or a writer comes first. A staged row and its record are never both in force.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import apsw
import msgspec

from headwater.engines.sqlite.database import Row, fetch, select_rows, verify
from headwater.engines.sqlite.state import Merging, State
from headwater.errors import Conflict
from headwater.unit import Commit, Flip, Origin

STAGED = (
    "WITH k(l, p, s) AS (VALUES {keys}) SELECT load, pk, sk, version, body, crc, schema, expires_ms, digest"
    " FROM k CROSS JOIN staged ON load = l AND pk = p AND sk = s"
)
_LOAD = "SELECT tbl, scope, state FROM load WHERE id = ?"
_GENERATION = "SELECT load FROM generation WHERE tbl = ? AND scope = ?"
Slot = tuple[int, str, str | int]


class Stored(msgspec.Struct, frozen=True):
    """A record as the batch sees it."""

    version: str
    body: bytes
    expires_ms: int | None
    schema: int


class Staged(msgspec.Struct, frozen=True):
    """A row of a load as it is staged (see `schema.sql`)."""

    version: str
    body: bytes | None
    schema: int
    expires_ms: int | None
    digest: bytes | None

    def over(self, record: Stored | None) -> Stored | None:
        """The record that it makes of the present one."""
        if self.body is not None:
            return Stored(self.version, self.body, self.expires_ms, self.schema)
        if record is None or self.expires_ms is None:
            return None
        return msgspec.structs.replace(record, expires_ms=self.expires_ms)


class Pending:
    def __init__(self, state: State, connection: apsw.Connection) -> None:
        self._state = state
        self._connection = connection
        self.merging = state.merging
        self.rows: dict[Slot, Staged] = {}
        """By load, not by table: (load, pk, sk)."""
        self.moved: list[Slot] = []
        self.entries: list[Row] = []
        self.flipped: list[tuple[int, Flip]] = []
        self.members: dict[tuple[int, str, str, str | int], tuple[bytes, str] | None] = {}

    def prefetch(self, slots: Iterable[Slot], flips: Sequence[Flip]) -> None:
        """Read what loads hold for the keys: those flipped already, and those that a commit of the batch flips."""
        loads: dict[int, list[int]] = {tbl: [merging.load] for tbl, merging in self.merging.items()}
        for flip in flips:
            loads.setdefault(self._state.ids.get(flip.table, 0), []).append(flip.load)
        keys: list[Row] = [(load, pk, sk) for tbl, pk, sk in slots for load in loads.get(tbl, ())]
        for load, pk, sk, version, body, crc, schema, expires_ms, digest in select_rows(self._connection, STAGED, keys):
            verify(crc, lambda: f"load {load} {pk} {sk}", body)  # noqa: B023
            self.rows[load, pk, sk] = Staged(version, body, schema, expires_ms, digest)

    def of(self, slot: Slot) -> Staged | None:
        """What a flipped load holds for the key of a record."""
        merging = self.merging.get(slot[0])
        return None if merging is None else self.rows.get((merging.load, slot[1], slot[2]))

    def plan_flips(self, commit: Commit) -> None:
        """Have the commit's own loads in force for what it writes; the caller puts `merging` back on a refusal."""
        for flip in commit.flips:
            tbl = self._state.ids.get(flip.table, 0)
            found = fetch(self._connection, _LOAD, (flip.load,))
            last = fetch(self._connection, _GENERATION, (tbl, flip.scope))
            if found != [(tbl, flip.scope, 0)]:
                raise _conflict(flip, "the load was given up")
            if tbl in self.merging:
                raise _conflict(flip, "the rows of its last load are not in place yet")
            if (last[0][0] if last else 0) != flip.after:
                raise _conflict(flip, "another load came first")
            origin = Origin(commit.cause, commit.caller, commit.trace, commit.depth)
            self.merging = {**self.merging, tbl: Merging(flip.load, flip.scope, origin)}

    def adopt_flips(self, commit: Commit) -> None:
        self.flipped += [(self._state.ids[flip.table], flip) for flip in commit.flips]

    def leave_index(self, tbl: int, entries: list[Row]) -> None:
        """Forget the index entries of a staged row that is about to move."""
        load = self.merging[tbl].load
        self.entries += [(load, *entry) for entry in entries]

    def move(self, slot: Slot) -> Origin:
        """Forget the staged row of a key, which its caller puts into place; what its change is caused by."""
        merging = self.merging[slot[0]]
        place = (merging.load, slot[1], slot[2])
        row = self.rows.pop(place)
        self.moved.append(place)
        self.members[slot[0], merging.scope, slot[1], slot[2]] = (
            None if row.digest is None else (row.digest, row.version)
        )
        return merging.origin


def _conflict(flip: Flip, message: str) -> Conflict:
    return Conflict(message, operation="load", resource=f"{flip.table} {flip.scope}".rstrip())
