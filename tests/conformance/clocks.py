"""A clock that moves only when a test moves it."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from itertools import count

START_MS = 1_700_000_000_000


class ManualTimer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class ManualClock:
    """Implements `headwater.clock.Clock`; `advance` runs the timers that fall due, in their order."""

    def __init__(self) -> None:
        self.wall = START_MS
        self._now = 0.0
        self._timers: list[tuple[float, int, ManualTimer]] = []
        self._order = count()

    def wall_ms(self) -> int:
        return self.wall

    def monotonic(self) -> float:
        return self._now

    def call_later(self, seconds: float, callback: Callable[[], None]) -> ManualTimer:
        timer = ManualTimer(callback)
        heapq.heappush(self._timers, (self._now + seconds, next(self._order), timer))
        return timer

    def call_at(self, wall_ms: int, callback: Callable[[], None]) -> ManualTimer:
        return self.call_later((wall_ms - self.wall) / 1000, callback)

    async def sleep(self, seconds: float) -> None:
        done = asyncio.Event()
        self.call_later(seconds, done.set)
        await done.wait()

    def advance(self, seconds: float) -> None:
        end, wall = self._now + seconds, self.wall
        begin = self._now
        while self._timers and self._timers[0][0] <= end:
            due, _, timer = heapq.heappop(self._timers)
            self._now = max(self._now, due)
            self.wall = wall + round((self._now - begin) * 1000)
            if timer.callback is not None:
                timer.callback()
        self._now, self.wall = end, wall + round(seconds * 1000)
