"""A batch's view of loads: what is staged for the keys it names, the flips it makes, the rows it moves into place.

While a table's load is flipped and not expanded, a key's staged row comes before its record. Whoever writes such a key
first moves the staged row into place, with its event: so each change of a load becomes one event, before any later
change of the key, whether expanding or a writer comes first. A staged row and its record are never both in force.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from headwater.applying.state import Merging, Slot, Staged, State
from headwater.errors import Conflict
from headwater.unit import Commit, Flip, Origin

Row = tuple[Any, ...]


class Pending:
    def __init__(self, state: State) -> None:
        self._state = state
        self.merging = state.merging
        self.rows: dict[Slot, Staged] = {}
        """By load, not by table: (load, pk, sk)."""
        self.loads: dict[int, tuple[int, str, int]] = {}
        """(table, scope, state) of the loads that are to be flipped."""
        self.generations: dict[tuple[int, str], int] = {}
        """The load that each scope was last flipped to."""
        self.moved: list[Slot] = []
        self.entries: list[Row] = []
        self.flipped: list[tuple[int, Flip]] = []
        self.members: dict[tuple[int, str, str, str | int], tuple[bytes, str] | None] = {}

    def places(self, slots: Iterable[Slot], flips: Sequence[Flip]) -> list[Slot]:
        """What `rows` is to hold for the keys: of the loads flipped already, and of those that a commit flips."""
        loads: dict[int, list[int]] = {tbl: [merging.load] for tbl, merging in self.merging.items()}
        for flip in flips:
            loads.setdefault(self._state.ids.get(flip.table, 0), []).append(flip.load)
        return [(load, pk, sk) for tbl, pk, sk in slots for load in loads.get(tbl, ())]

    def of(self, slot: Slot) -> Staged | None:
        """What a flipped load holds for the key of a record."""
        merging = self.merging.get(slot[0])
        return None if merging is None else self.rows.get((merging.load, slot[1], slot[2]))

    def plan_flips(self, commit: Commit) -> None:
        """Have the commit's own loads in force for what it writes; the caller puts `merging` back on a refusal."""
        for flip in commit.flips:
            tbl = self._state.ids.get(flip.table, 0)
            if self.loads.get(flip.load) != (tbl, flip.scope, 0):
                raise _conflict(flip, "the load was given up")
            if tbl in self.merging:
                raise _conflict(flip, "the rows of its last load are not in place yet")
            if self.generations.get((tbl, flip.scope), 0) != flip.after:
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
