"""The one port for time.

Everything that waits or dates something asks a `Clock`: wall time for what is stored, monotonic time for leases
and back-off inside a process, `call_later` for timers. Tests bring a virtual one (`headwater.testing`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol


class Timer(Protocol):
    def cancel(self) -> None: ...


class Clock(Protocol):
    def wall_ms(self) -> int:
        """Milliseconds since the epoch. May step backwards; stores never do (`max(last, wall)`)."""
        ...

    def monotonic(self) -> float:
        """Seconds that never step; comparable inside one process only."""
        ...

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Run `callback` on the event loop after `seconds` of this clock."""
        ...

    def call_at(self, wall_ms: int, callback: Callable[[], None]) -> Timer:
        """Run `callback` on the event loop once the wall clock shows `wall_ms` or later, also after it was set."""
        ...

    async def sleep(self, seconds: float) -> None: ...


LONGEST_SLEEP_S = 5.0
"""How long a wait for a wall time may sleep at once: the clock may be set meanwhile."""


class SystemClock:
    """The machine's clocks and the running event loop's timers."""

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        return asyncio.get_running_loop().call_later(seconds, callback)

    def call_at(self, wall_ms: int, callback: Callable[[], None]) -> Timer:
        return _WallTimer(self, wall_ms, callback)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _WallTimer:
    """Waits for a wall time in short sleeps."""

    def __init__(self, clock: Clock, wall_ms: int, callback: Callable[[], None]) -> None:
        self._clock = clock
        self._wall_ms = wall_ms
        self._callback = callback
        self._timer = clock.call_later(self._sleep_s(), self._look)

    def _sleep_s(self) -> float:
        return min(max(self._wall_ms - self._clock.wall_ms(), 0) / 1000, LONGEST_SLEEP_S)

    def _look(self) -> None:
        left_s = self._sleep_s()
        if left_s > 0:
            self._timer = self._clock.call_later(left_s, self._look)
        else:
            self._callback()

    def cancel(self) -> None:
        self._timer.cancel()


def from_ms(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
