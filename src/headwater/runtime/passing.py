"""Letting time pass on a virtual clock while a supervisor runs: to what is due next, then until all is idle."""

from __future__ import annotations

import asyncio
import time

from headwater.runtime.supervisor import Supervisor
from headwater.virtual_clock import VirtualClock

IDLE_LIMIT_S = 30.0
UPKEEP_MOMENTS = 200
"""In how many steps of one `advance` expiry and retention are looked after, when a second each would be more."""


class Passing:
    """`advance` expects that the supervisor's upkeep does not run, and looks after it."""

    def __init__(self, supervisor: Supervisor, clock: VirtualClock) -> None:
        self._supervisor = supervisor
        self._clock = clock

    async def run_until_idle(self, limit_s: float | None = None) -> None:
        """Wait until no message is ready or running and nothing is being committed; time stands still.

        Raises `TimeoutError` after the limit in real time, naming the busy queues.
        """
        deadline = time.monotonic() + (IDLE_LIMIT_S if limit_s is None else limit_s)
        while busy := await self._busy():
            if time.monotonic() > deadline:
                raise TimeoutError(f"still busy: {', '.join(busy)}")
            await asyncio.sleep(0.001)

    async def _busy(self) -> list[str]:
        for _ in range(3):
            await asyncio.sleep(0)
        consumers = self._supervisor.consumers
        busy = [queue for queue, consumer in consumers.items() if consumer.busy]
        busy += [wakeups.name for wakeups in self._supervisor.wakeups if wakeups.busy]
        for stats in await self._supervisor.engine.stats():
            apart = stats.queue in self._supervisor.tallies
            ready = stats.depth - stats.delayed - stats.in_flight
            waits = ready > 0 and not stats.paused and (apart or stats.queue in consumers)
            if (apart and stats.in_flight) or (waits and not await self._blocked(stats.queue)):
                busy.append(stats.queue)
        return busy

    async def _blocked(self, queue: str) -> bool:
        """Whether all that is ready waits behind the delayed head of its group."""
        waiting = await self._supervisor.engine.peek(queue, 10_000)
        now_ms, blocked = self._clock.wall_ms(), set()
        for message in waiting:
            if message.group in blocked:
                continue
            if message.ready_ms <= now_ms:
                return False
            if message.group is not None:
                blocked.add(message.group)
        return True

    async def advance(self, seconds: float) -> None:
        """Let time pass, firing everything that comes due on the way, in order."""
        begin = self._clock.monotonic()
        end = begin + seconds
        period = max((end - begin) / UPKEEP_MOMENTS, 1.0)
        upkeep = begin + period
        await self._settle()
        while (now := self._clock.monotonic()) < end:
            due = self._clock.next_timer()
            moment = min(end, upkeep, end if due is None else max(due, now))
            self._clock.move_to(moment)
            if moment in (upkeep, end):
                upkeep = moment + period
                await self._supervisor.janitor.tick()
                for folder in self._supervisor.drop_folders:
                    await folder.look()
            await self._settle()

    async def _settle(self) -> None:
        """Until idle; what happened meanwhile is told to the monitor, which skips minutes in which nothing does."""
        await self.run_until_idle()
        if await self._supervisor.monitor.rouse():
            await self.run_until_idle()
