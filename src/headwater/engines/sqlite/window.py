"""The ready window of a queue without groups: the part of its messages that is held in memory.

Messages sent without delay are loaded by position: `_cursor` is the last position loaded or offered; the window is
`_behind` when there may be more on disk past it. Delayed and retried messages are loaded by (ready time,
position) up to `_horizon`; None says that all of them are in memory. New messages are offered after their commit;
an offer that the window already holds, or that lies past what it has loaded, is ignored, so loading and
offering may overlap in any order. `_members` names the entry that stands for each held position; any other entry of
that position, left behind in a queue, is passed over.

All methods run on the event loop.
"""

from __future__ import annotations

import heapq
from collections import deque
from itertools import count

from headwater.applying.state import Entry
from headwater.engines.sqlite.loading import Loader

READY_MAX = 2_048
DELAYED_MAX = 8_192
CHUNK = 512


class Window:
    """Holds at most about `READY_MAX` ready and `DELAYED_MAX` delayed entries."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._ready: deque[Entry] = deque()
        self._delayed: list[tuple[int, int, int, Entry]] = []
        self._ticket = count()
        self._members: dict[int, Entry] = {}
        self._cursor = 0
        self._behind = True
        self._horizon: tuple[int, int] | None = (0, 0)

    def offer(self, entry: Entry) -> None:
        """A new message, after its commit."""
        if entry.ready_ms:
            if entry.position not in self._members:
                self._park(entry)
        elif entry.position > self._cursor and not self._behind:
            if len(self._ready) >= READY_MAX:
                self._behind = True
                return
            self._cursor = entry.position
            self._hold(entry)

    def _hold(self, entry: Entry) -> None:
        if entry.position not in self._members:
            self._members[entry.position] = entry
            self._ready.append(entry)

    def _park(self, entry: Entry) -> None:
        place = (entry.ready_ms, entry.position)
        if self._horizon is not None and place > self._horizon:
            self._members.pop(entry.position, None)
            return
        self._members[entry.position] = entry
        heapq.heappush(self._delayed, (*place, next(self._ticket), entry))
        if len(self._delayed) > 2 * DELAYED_MAX:
            self._forget_late()

    def _forget_late(self) -> None:
        self._delayed.sort()
        for _, position, _, entry in self._delayed[DELAYED_MAX:]:
            if self._members.get(position) is entry:
                del self._members[position]
        del self._delayed[DELAYED_MAX:]
        self._horizon = self._delayed[-1][:2]

    def take(self, limit: int, now_ms: int, *, grouped: bool = False) -> list[Entry]:
        """Up to `limit` messages that are ready, removed from the window."""
        self._wake(now_ms)
        ready, members = self._ready, self._members
        taken: list[Entry] = []
        while len(taken) < limit and (ready or self._fill(now_ms)):
            entry = ready.popleft()
            if members.get(entry.position) is entry:
                del members[entry.position]
                taken.append(entry)
        return taken

    def pick(self, positions: list[int]) -> list[Entry]:
        """These messages, as if taken."""
        self.drop(positions)
        return self._loader.at(positions)

    def settled(self, entry: Entry) -> None:
        """A taken message is gone; so is an entry that was loaded again meanwhile."""
        self._members.pop(entry.position, None)

    def restore(self, entry: Entry) -> None:
        """A taken message comes back: at its new ready time, or first of all when it has none ahead."""
        if entry.ready_ms:
            self._park(entry)
        else:
            self._members[entry.position] = entry
            self._ready.appendleft(entry)

    def drop(self, positions: list[int]) -> None:
        """Forget messages that were removed from the store while they waited."""
        for position in positions:
            self._members.pop(position, None)

    def next_due(self) -> int | None:
        """When the next delayed message is ready."""
        return self._delayed[0][0] if self._delayed else None

    def _fill(self, now_ms: int) -> bool:
        """Load until a message is ready; False when none is."""
        while not self._ready:
            if self._behind:
                self._refill()
                continue
            self._wake(now_ms)
            if not self._ready and (self._delayed or self._horizon is None):
                return False
        return True

    def _refill(self) -> None:
        rows = self._loader.ready(self._cursor, CHUNK)
        for entry in rows:
            self._hold(entry)
            self._cursor = entry.position
        self._behind = len(rows) == CHUNK

    def _wake(self, now_ms: int) -> None:
        if self._horizon is not None and len(self._delayed) < CHUNK:
            self._load_delayed()
        while self._delayed and self._delayed[0][0] <= now_ms and len(self._ready) < READY_MAX:
            self._ready.append(heapq.heappop(self._delayed)[3])

    def _load_delayed(self) -> None:
        assert self._horizon is not None
        rows = self._loader.delayed(self._horizon, CHUNK)
        horizon = (rows[-1].ready_ms, rows[-1].position) if len(rows) == CHUNK else None
        self._horizon = None
        for entry in rows:
            if entry.position not in self._members:
                self._park(entry)
        self._horizon = horizon
