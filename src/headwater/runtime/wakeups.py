"""Wake-ups: work of the server that is due at a time, such as schedules and alarms, one run after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from headwater.clock import Clock, Timer
from headwater.errors import CommitUnknown, StoreError, StoreFull, Unavailable

RETRY_MS = 5_000
"""When a run is tried again that raised."""
log = structlog.get_logger("headwater.wakeups")


class Wakeups:
    """Runs `work` at `start`, at each `wake`, and at the wall time in milliseconds that its last run answered.

    There is one run at a time; a wake-up during a run makes it run once more. A run that raises is tried again
    later, unless the store has failed for good. What is due is `work`'s own business: it looks at the clock.
    """

    def __init__(self, name: str, clock: Clock, work: Callable[[], Awaitable[int | None]]) -> None:
        self.name = name
        self._clock = clock
        self._work = work
        self._wanted = False
        self._started = False
        self._running: asyncio.Task[None] | None = None
        self._timer: Timer | None = None

    @property
    def busy(self) -> bool:
        return self._running is not None

    def start(self) -> None:
        self._started = True
        self.wake()

    def wake(self) -> None:
        """Run now, or once more after the present run; nothing before `start`."""
        self._wanted = self._started
        if self._wanted and self._running is None:
            self._running = asyncio.create_task(self._run(), name=self.name)

    async def stop(self) -> None:
        """Cancel the present run; there is no other. Idempotent."""
        self._started = self._wanted = False
        self._set_timer(None)
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    async def _run(self) -> None:
        try:
            due_ms: int | None = None
            while self._wanted:
                self._wanted = False
                due_ms = await self._attempt()
            if self._started:
                self._set_timer(due_ms)
        finally:
            self._running = None

    async def _attempt(self) -> int | None:
        try:
            return await self._work()
        except StoreFull as error:
            log.warning("the disk is full", work=self.name, error=str(error))
        except (Unavailable, CommitUnknown) as error:
            log.warning("work is tried again", work=self.name, error=str(error))
        except StoreError as error:
            log.error("work stopped", work=self.name, error=str(error))
            return None
        except Exception:
            log.exception("work failed", work=self.name)
        return self._clock.wall_ms() + RETRY_MS

    def _set_timer(self, due_ms: int | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if due_ms is None else self._clock.call_at(due_ms, self.wake)
