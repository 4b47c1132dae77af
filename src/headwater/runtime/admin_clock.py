"""Admin operations on the clock of a server in development: it can be paused and moved forward."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

from headwater.durations import to_ms
from headwater.errors import Forbidden, InvalidValue
from headwater.runtime.admin_base import AdminBase, time_of
from headwater.runtime.monitor import Monitor
from headwater.runtime.operations import operation
from headwater.runtime.passing import Passing
from headwater.runtime.supervisor import Supervisor
from headwater.virtual_clock import SteeredClock

MOST_MS = timedelta(days=31) // timedelta(milliseconds=1)


class ClockOperations(AdminBase):
    @operation()
    async def clock_show(self) -> dict[str, Any]:
        """What time it is for the server; `virtual`: it can be paused and moved; `running`: it goes.

        `ahead_ms` is how far it is ahead of the machine's clock, `next_ms` in how long the next timer of the server is
        due: null without any.
        """
        return self._told()

    def _told(self) -> dict[str, Any]:
        clock = self.clock
        told = {"time": time_of(clock.wall_ms()), "virtual": False, "running": True, "ahead_ms": 0, "next_ms": None}
        if not isinstance(clock, SteeredClock):
            return told
        due = clock.next_timer()
        left_ms = None if due is None else max(round((due - clock.monotonic()) * 1000), 0)
        return {**told, "virtual": True, "running": clock.running, "ahead_ms": clock.ahead_ms(), "next_ms": left_ms}

    @operation(writes=True)
    async def clock_pause(self) -> dict[str, Any]:
        """Have time stand still: nothing becomes due; what is ready is handled all the same."""
        async with self._steered() as (clock, _):
            clock.pause()
        return self._told()

    @operation(writes=True)
    async def clock_resume(self) -> dict[str, Any]:
        """Have time go on, from where it stands."""
        async with self._steered() as (clock, _):
            clock.resume()
        return self._told()

    @operation(writes=True)
    async def clock_advance(self, *, duration: str) -> dict[str, Any]:
        """Let time pass, such as "1h", at most 31 days: all that is due on the way happens, in order.

        Each time until what it leads to is done; `busy` tells what was not within 30 seconds, where time stops then.
        """
        duration_ms = to_ms(duration)
        if not 0 < duration_ms <= MOST_MS:
            raise InvalidValue("time moves forward, by at most 31 days", operation="clock-advance", resource=duration)
        busy = ""
        async with self._steered() as (clock, supervisor):
            ran = clock.running
            clock.pause()
            await supervisor.end_upkeep()
            monitor = supervisor.monitor
            assert isinstance(monitor, Monitor)
            monitor.set_skips(skips=True)
            try:
                await Passing(supervisor, clock).advance(duration_ms / 1000)
            except TimeoutError as error:
                busy = str(error)
            finally:
                monitor.set_skips(skips=False)
                supervisor.begin_upkeep()
                if ran:
                    clock.resume()
        return {**self._told(), "busy": busy}

    @operation(writes=True)
    async def clock_run_until_idle(self) -> dict[str, Any]:
        """Wait until no message is ready or handled; `busy` tells which queues were not idle within 30 seconds."""
        busy = ""
        async with self._steered() as (clock, supervisor):
            try:
                await Passing(supervisor, clock).run_until_idle()
            except TimeoutError as error:
                busy = str(error)
        return {**self._told(), "busy": busy}

    @contextlib.asynccontextmanager
    async def _steered(self) -> AsyncIterator[tuple[SteeredClock, Supervisor]]:
        """The clock, for one at a time. Raises `Forbidden` when the server has the machine's."""
        if (
            self.supervisor is None
            or not isinstance(self.clock, SteeredClock)
            or not self.engine.features.single_process
        ):
            raise Forbidden(
                "the server goes by the machine's clock, or by its database's",
                operation="clock",
                hint="start one with `headwater run --virtual-clock` on a SQLite store, in development",
            )
        async with self.clock.steering:
            yield self.clock, self.supervisor
