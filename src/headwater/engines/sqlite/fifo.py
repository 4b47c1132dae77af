"""The ready window of a queue with groups: at most one lease holder a group, in order of position.

Messages are loaded in order of position, so a group's first entry in memory is its first on disk. A group is
*ready* (in the round of `_round`), *leased* (its first `leased` entries are with a handler) or *parked* (its head
is delayed, in `_parked` by ready time); a failing head therefore holds back its group and nobody else. Groups take
turns: a long one goes to the end of the round after each lease. Of a long group only the first `GROUP_MAX`
entries are held, of the rest the positions; a run of such messages is passed over without being read. While the
window is behind, each lease reads on, and when all that is held is leased or parked it reads on whatever is held: so
nobody waits behind the length of another group, or behind its handler.

All methods run on the event loop.
"""

from __future__ import annotations

import heapq
from array import array
from collections import deque
from itertools import islice, takewhile

from headwater.applying.state import Entry
from headwater.engines.sqlite.loading import Loader

HELD_MAX = 8_192
GROUP_MAX = 64
CHUNK = 512
RUN = 8_192
"""How many messages of full groups are passed over at once."""


class _Group:
    __slots__ = ("entries", "later", "leased", "name", "parked", "queued")

    def __init__(self, name: str) -> None:
        self.name = name
        self.entries: deque[Entry] = deque()
        self.leased = 0
        self.later: array[int] | None = None
        self.queued = False
        self.parked = False

    @property
    def full(self) -> bool:
        """Whether further messages are held by their positions only."""
        return self.later is not None or len(self.entries) >= GROUP_MAX

    def append_later(self, position: int) -> None:
        if self.later is None:
            self.later = array("q")
        self.later.append(position)


class FifoWindow:
    """Holds about `HELD_MAX` entries of groups that are neither parked nor leased, and all groups that are."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._groups: dict[str, _Group] = {}
        self._round: deque[_Group] = deque()
        self._parked: list[tuple[int, int, _Group]] = []
        self._cursor = 0
        self._behind = True
        self._in_run = False
        self._held = 0

    def offer(self, entry: Entry) -> None:
        """A new message, after its commit; ignored when it lies past what is loaded."""
        if entry.position <= self._cursor or self._behind:
            return
        if self._held >= HELD_MAX:
            self._behind = True
            return
        self._cursor = entry.position
        self._append(entry)

    def _append(self, entry: Entry) -> None:
        name = entry.group or ""
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = _Group(name)
        if group.full:
            group.append_later(entry.position)
            return
        group.entries.append(entry)
        if not group.parked:
            self._held += 1
        if len(group.entries) == 1:
            self._schedule(group)

    def _schedule(self, group: _Group) -> None:
        """Put an unleased group where its head belongs: into the round, to the parked ones, or away."""
        if not group.entries and group.later is not None:
            self._load_later(group)
        if not group.entries:
            del self._groups[group.name]
        elif group.entries[0].ready_ms:
            head = group.entries[0]
            heapq.heappush(self._parked, (head.ready_ms, head.position, group))
            if not group.parked:
                group.parked = True
                self._held -= len(group.entries)
        else:
            self._schedule_now(group)

    def _schedule_now(self, group: _Group) -> None:
        if not group.queued:
            group.queued = True
            self._round.append(group)

    def _unpark(self, group: _Group) -> None:
        if group.parked:
            group.parked = False
            self._held += len(group.entries)

    def _load_later(self, group: _Group) -> None:
        later = group.later
        assert later is not None
        entries = self._loader.at(later[:GROUP_MAX].tolist())
        group.later = later[GROUP_MAX:] if len(later) > GROUP_MAX else None
        group.entries.extend(entries)
        self._held += len(entries)
        if not entries and group.later is not None:
            self._load_later(group)

    def take(self, limit: int, now_ms: int, *, grouped: bool = False) -> list[Entry]:
        """Heads of up to `limit` ready groups; with `grouped` also the ready messages that follow a head."""
        if self._behind and self._held < HELD_MAX:
            self._load_chunk()
        taken = self._take_ready(limit, now_ms, grouped)
        while not taken and self._behind:
            self._load_chunk()
            taken = self._take_ready(limit, now_ms, grouped)
        return taken

    def _take_ready(self, limit: int, now_ms: int, grouped: bool) -> list[Entry]:
        self._wake(now_ms)
        taken: list[Entry] = []
        while self._round and len(taken) < limit:
            group = self._round.popleft()
            group.queued = False
            if group.leased or group.parked or not group.entries:
                continue
            for entry in group.entries:
                if (group.leased and not grouped) or len(taken) == limit or entry.ready_ms > now_ms:
                    break
                group.leased += 1
                taken.append(entry)
        return taken

    def pick(self, positions: list[int]) -> list[Entry]:
        """Of these messages the ones that head their groups, as if taken."""
        wanted, last = set(positions), max(positions, default=0)
        while self._behind and self._cursor < last:
            self._load_chunk()
        picked: list[Entry] = []
        for group in self._groups.values():
            if group.leased or group.parked:
                continue
            heads = list(takewhile(lambda entry: entry.position in wanted, group.entries))
            group.leased = len(heads)
            picked += heads
        return picked

    def settled(self, entry: Entry) -> None:
        """A taken message is gone: the next of its group may follow."""
        group = self._groups.get(entry.group or "")
        if group is None:
            return
        if group.entries and group.entries[0] is entry:
            group.entries.popleft()
        elif entry in group.entries:
            group.entries.remove(entry)
        else:
            return
        self._held -= 1
        self._unlease(group)

    def restore(self, entry: Entry) -> None:
        """A taken message comes back to its place in the group."""
        group = self._groups.get(entry.group or "")
        if group is not None:
            self._unlease(group)

    def _unlease(self, group: _Group) -> None:
        group.leased -= 1
        if group.leased <= 0:
            group.leased = 0
            self._schedule(group)

    def drop(self, positions: list[int]) -> None:
        """Forget messages that were removed from the store while they waited."""
        gone = set(positions)
        for group in list(self._groups.values()):
            if group.later is not None:
                group.later = array("q", [p for p in group.later if p not in gone]) or None
            kept = deque(entry for entry in group.entries if entry.position not in gone)
            if len(kept) == len(group.entries):
                continue
            self._unpark(group)
            self._held -= len(group.entries) - len(kept)
            # taken entries among them are those whose lease was refused because they were being removed
            group.leased = sum(entry.position not in gone for entry in islice(group.entries, group.leased))
            group.entries = kept
            if not group.leased:
                self._schedule(group)

    def look_ahead(self, groups: int) -> bool:
        """Read on while fewer groups are ready than this; whether there is more to read."""
        if not self._behind or len(self._round) >= groups:
            return False
        self._load_chunk()
        return True

    def ready_groups(self, most: int, now_ms: int) -> int:
        """How many of the groups that have been read are ready, counted up to `most`."""
        self._wake(now_ms)
        ready = (group for group in self._round if group.entries and not group.leased and not group.parked)
        return sum(1 for _ in islice(ready, most))

    def next_due(self) -> int | None:
        """When the next parked group is ready."""
        return self._parked[0][0] if self._parked else None

    def _wake(self, now_ms: int) -> None:
        while self._parked and self._parked[0][0] <= now_ms:
            _, position, group = heapq.heappop(self._parked)
            if not group.parked or not group.entries or group.entries[0].position != position:
                continue
            self._unpark(group)
            self._schedule_now(group)

    def _load_chunk(self) -> None:
        if self._pass_over():
            return
        rows = self._loader.in_order(self._cursor, CHUNK)
        for entry in rows:
            self._cursor = entry.position
            self._append(entry)
        self._behind = len(rows) == CHUNK
        self._in_run = self._behind and self._groups[rows[-1].group or ""].full

    def _pass_over(self) -> bool:
        """Note the positions of a run of messages whose groups are full; whether there may be more of it."""
        if not self._in_run:
            return False
        places = self._loader.places(self._cursor, RUN)
        for position, name in places:
            group = self._groups.get(name or "")
            if group is None or not group.full:
                return False
            group.append_later(position)
            self._cursor = position
        return len(places) == RUN
