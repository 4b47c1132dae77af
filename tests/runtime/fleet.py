"""Workers for tests of the autoscaler: a consumer each, on the engine and the virtual clock of a harness."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from headwater import App, Event, Queue, Scale
from headwater.errors import HeadwaterError
from headwater.handlers import HandlerSpec
from headwater.runtime.autoscaler import Autoscaler
from headwater.runtime.consumer import Consumer
from headwater.testing import Harness
from tests.runtime.samples import Job

QUEUE = "shop/jobs"


class Fleet:
    """A target (`autoscaler.Target`); `told` are the numbers in the order in which they came."""

    def __init__(self, h: Harness, spec: HandlerSpec) -> None:
        self.told: list[int] = []
        self.refusals = 0
        self._h = h
        self._spec = spec
        self._workers: list[Consumer] = []
        self._threads = ThreadPoolExecutor(1)

    async def set(self, queue: str, wanted: int) -> None:
        self.told.append(wanted)
        if self.refusals:
            self.refusals -= 1
            raise HeadwaterError("no room", operation="scale")
        engine = self._h.supervisor.engine
        policy = (await engine.catalog()).queues[queue]
        while len(self._workers) < wanted:
            tracer = self._h.supervisor.tracer
            worker = Consumer(engine, self._h.clock, self._spec, policy, self._threads, tracer=tracer)
            worker.start()
            self._workers.append(worker)
        while len(self._workers) > wanted:
            await self._workers.pop().drain(5)

    def running(self, queue: str) -> int | None:
        return len(self._workers)

    async def stop(self) -> None:
        for worker in self._workers:
            await worker.drain(0)
        self._threads.shutdown()


class Yard:
    """A queue of an app, its fleet and its autoscaler; a job's `n` are the seconds that it takes, below 0 it fails."""

    def __init__(self, h: Harness, jobs: Queue[Job], scale: Scale) -> None:
        declared = App[None]("shop")
        self.attempts: list[tuple[str, int]] = []

        @declared.on(declared.queue("jobs", Job), run_in="process", scale=scale)
        async def work(event: Event[Job]) -> None:
            self.attempts.append((event.data.id, event.attempt))
            await h.clock.sleep(abs(event.data.n))
            if event.data.n < 0:
                raise ValueError("poison")

        self.h = h
        self.jobs = jobs
        self.spec = declared.handlers[QUEUE]
        self.fleet = Fleet(h, self.spec)
        self.scaler = self.make_scaler()

    def make_scaler(self) -> Autoscaler:
        supervisor = self.h.supervisor
        handlers, terms = [self.spec], supervisor.terms
        return Autoscaler(supervisor.engine, self.h.clock, supervisor.system, handlers, self.fleet, terms=terms)

    async def start(self) -> None:
        self.scaler.wakeups.start()
        await self.settle()

    async def stop(self) -> None:
        await self.scaler.stop()
        await self.fleet.stop()

    async def settle(self) -> None:
        """Until the autoscaler and the store have nothing to do at this moment of the virtual clock."""
        for _ in range(6):
            await self.h.supervisor.engine.release([])  # comes after what the store's writer has to do
            for _ in range(5):
                await asyncio.sleep(0)
            while self.scaler.wakeups.busy:  # noqa: ASYNC110
                await asyncio.sleep(0.0005)

    async def pass_time(self, seconds: float) -> None:
        clock = self.h.clock
        end = clock.monotonic() + seconds
        while (now := clock.monotonic()) < end:
            due = clock.next_timer()
            clock.move_to(min(end, end if due is None else max(due, now)))
            await self.settle()

    async def send(self, count: int, n: int = 1) -> None:
        await asyncio.gather(*(self.jobs.send(Job(id=str(number), n=n)) for number in range(count)))

    async def backlog(self) -> int:
        (stats,) = [stats for stats in await self.h.supervisor.engine.stats() if stats.queue == QUEUE]
        return stats.depth
