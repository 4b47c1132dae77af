"""Clocks whose time is made: `VirtualClock` stands still until it is moved, `SteeredClock` runs until it is paused."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from headwater.clock import Timer

START = "2026-01-01T00:00:00Z"


class _VirtualTimer:
    def __init__(self, callback: Callable[[], None], wall_ms: int | None = None) -> None:
        self.callback: Callable[[], None] | None = callback
        self.wall_ms = wall_ms

    def cancel(self) -> None:
        self.callback = None


class VirtualClock:
    """A clock that stands still until `advance`; its timers fire then, in the order of their times."""

    def __init__(self, start: str = START) -> None:
        self._start = datetime.fromisoformat(start).astimezone(UTC)
        self._elapsed_us = 0
        self._timers: list[tuple[int, int, _VirtualTimer]] = []
        self._number = itertools.count()

    def _now_us(self) -> int:
        """How much time has passed."""
        return self._elapsed_us

    def wall_ms(self) -> int:
        return int(self._start.timestamp() * 1000) + self._now_us() // 1000

    def monotonic(self) -> float:
        return self._now_us() / 1_000_000

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        return self._push(seconds, _VirtualTimer(callback))

    def _push(self, seconds: float, timer: _VirtualTimer) -> Timer:
        due_us = self._now_us() + max(round(seconds * 1_000_000), 0)
        heapq.heappush(self._timers, (due_us, next(self._number), timer))
        return timer

    def call_at(self, wall_ms: int, callback: Callable[[], None]) -> Timer:
        return self._push((wall_ms - self.wall_ms()) / 1000, _VirtualTimer(callback, wall_ms))

    def step(self, duration: timedelta) -> None:
        """Set the wall clock forward, or back; no time passes. Timers for wall times are due when it shows them."""
        self._start += duration
        timers, self._timers = sorted(self._timers), []
        for due_us, number, timer in timers:
            if timer.wall_ms is None:
                heapq.heappush(self._timers, (due_us, number, timer))
            elif timer.callback is not None:
                self._push((timer.wall_ms - self.wall_ms()) / 1000, timer)

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if not done.done():
                done.set_result(None)

        timer = self.call_later(seconds, wake)
        try:
            await done
        finally:
            timer.cancel()

    def next_timer(self) -> float | None:
        """When the next timer fires, on the monotonic scale."""
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        return self._timers[0][0] / 1_000_000 if self._timers else None

    def move_to(self, elapsed: float) -> None:
        """Let time pass to this point and fire what is due, without waiting for what that starts."""
        self._elapsed_us = max(self._elapsed_us, round(elapsed * 1_000_000))
        while self.next_timer() is not None and self._timers[0][0] <= self._elapsed_us:
            _, _, timer = heapq.heappop(self._timers)
            callback, timer.callback = timer.callback, None
            assert callback is not None
            callback()


class SteeredClock(VirtualClock):
    """A clock for a server in development: it goes with the machine's until it is paused, and can be moved forward.

    Timers belong to the event loop; the time may be asked for in any thread.
    """

    def __init__(self) -> None:
        super().__init__(datetime.now(UTC).isoformat())
        self.steering = asyncio.Lock()
        """Held while somebody moves it."""
        self._since: float | None = time.monotonic()
        """When, on the machine's clock, `_elapsed_us` was right; None while it is paused."""
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def running(self) -> bool:
        return self._since is not None

    def _now_us(self) -> int:
        since = self._since
        return self._elapsed_us + (0 if since is None else int((time.monotonic() - since) * 1_000_000))

    def ahead_ms(self) -> int:
        """How far it is ahead of the machine's clock."""
        return self.wall_ms() - time.time_ns() // 1_000_000

    def catch_up(self, wall_ms: int) -> None:
        """Show at least this time: a store's never goes back, and an earlier server may have been moved forward."""
        ahead_ms = wall_ms - self.wall_ms()
        if ahead_ms > 0:
            self.step(timedelta(milliseconds=ahead_ms))
            self._arm()

    def pause(self) -> None:
        """Stand still from now on; only `move_to` lets time pass."""
        self._elapsed_us, self._since = self._now_us(), None
        self._arm()

    def resume(self) -> None:
        """Go with the machine's clock again, from the time that it shows."""
        if self._since is None:
            self._since = time.monotonic()
            self._arm()

    def _push(self, seconds: float, timer: _VirtualTimer) -> Timer:
        pushed = super()._push(seconds, timer)
        if self._timers[0][2] is timer:
            self._arm()
        return pushed

    def _arm(self) -> None:
        """Have the loop call us when the first timer is due."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        due = self.next_timer()
        if due is not None and self.running:
            self._alarm = asyncio.get_running_loop().call_later(max(due - self.monotonic(), 0), self._ring)

    def _ring(self) -> None:
        now_us, now = self._now_us(), time.monotonic()
        self._since = now
        self._elapsed_us = now_us
        self.move_to(now_us / 1_000_000)
        self._arm()
