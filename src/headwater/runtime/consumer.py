"""A consumer: leases the messages of one queue and keeps its handler busy.

Up to `concurrency` slots, tasks started as the backlog needs them, take from one small buffer of leased
deliveries. A slot submits an attempt's commit and goes on with the next delivery without waiting for the flush;
what the commit answers is dealt with in `_ended`: a conflict puts the work back into the buffer, a full disk
does so after a pause, a lost lease ends it.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Coroutine
from concurrent.futures import Executor as Threads
from typing import Any

import msgspec
import structlog

from headwater.catalog import QueueSpec
from headwater.clock import Clock
from headwater.engine import Engine
from headwater.errors import (
    CommitUnknown,
    Conflict,
    HeadwaterError,
    LeaseLost,
    Retry,
    Stopping,
    StoreDamaged,
    StoreError,
    StoreFull,
)
from headwater.events import Delivery
from headwater.handlers import HandlerSpec
from headwater.runtime.acks import FULL_DISK_PAUSE_S, Acks
from headwater.runtime.executor import Executor, Submitted, Work
from headwater.unit import Settle
from headwater.work import RERUNS

MAX_UNDER_WAY = 512
PREFETCH = 4
"""How many deliveries a consumer leases at once, for each of its slots."""
log = structlog.get_logger("headwater.consumer")


class ConsumerStats(msgspec.Struct):
    """Counts since the start of the process."""

    handled: int = 0
    failed: int = 0
    conflicts: int = 0
    running: int = 0


class Consumer:
    """`start`, then `drain`: it stops leasing, finishes what runs, and gives back the rest."""

    def __init__(self, engine: Engine, clock: Clock, spec: HandlerSpec, policy: QueueSpec, threads: Threads) -> None:
        self.spec = spec
        self.policy = policy
        self.stats = ConsumerStats()
        self._engine = engine
        self._clock = clock
        self._acks = Acks(engine, clock, self._acked)
        self._executor = Executor(engine, clock, spec, policy, threads=threads, acks=self._acks)
        self._buffer: deque[Work] = deque()
        self._held: dict[int, Delivery] = {}
        self._slots: set[asyncio.Task[None]] = set()
        self._filling = asyncio.Lock()
        self._room = asyncio.Event()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._stopping = False
        self._idle: set[asyncio.Task[None] | None] = set()
        self._extender: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._spawn()
        self._extender = asyncio.create_task(self._extend(), name=f"extend {self.spec.queue}")

    async def run_suspects(self) -> None:
        """Run what ran when the process last died, one at a time."""
        for delivery in await self._engine.suspects(self.spec.queue):
            self._held[delivery.position] = delivery
            self._quiet.clear()
            await self._run(Work([delivery]))
            await self._quiet.wait()

    @property
    def busy(self) -> bool:
        """Whether deliveries are held: leased, running or being committed."""
        return bool(self._held)

    async def drain(self, deadline_s: float) -> None:
        """Stop leasing, wait for the running handlers until the deadline, then give back the rest."""
        self._stopping = True
        buffered = [delivery for work in self._buffer for delivery in work.deliveries]
        self._buffer.clear()
        for slot in self._slots & self._idle:
            slot.cancel()
        if self._slots:
            await asyncio.wait(self._slots, timeout=deadline_s)
        for slot in self._slots:
            slot.cancel()
        await asyncio.gather(*self._slots, return_exceptions=True)
        if self._extender is not None:
            self._extender.cancel()
        await self._give_back(buffered)
        try:
            async with asyncio.timeout(deadline_s):
                await self._quiet.wait()
        except TimeoutError:
            log.warning("commits still under way at the deadline", queue=self.spec.queue)
        await self._give_back(list(self._held.values()))

    async def _give_back(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            self._held.pop(delivery.position, None)
        self._noted()
        if deliveries:
            try:
                await self._engine.release(deliveries)
            except StoreError as error:
                log.warning("leases could not be given back", queue=self.spec.queue, error=str(error))

    # Slots

    def _spawn(self) -> None:
        task = asyncio.create_task(self._slot(), name=f"slot {self.spec.queue}")
        self._slots.add(task)
        task.add_done_callback(self._slots.discard)

    async def _slot(self) -> None:
        buffer = self._buffer
        while not self._stopping:
            work = buffer.popleft() if buffer else await self._next()
            if buffer and not self._idle and len(self._slots) < self.spec.concurrency:
                self._spawn()
            await self._run(work)

    async def _next(self) -> Work:
        """The next work of the buffer, filled by whichever slot finds it empty."""
        while len(self._held) >= MAX_UNDER_WAY:
            self._room.clear()
            await self._room.wait()
        task = asyncio.current_task()
        self._idle.add(task)
        try:
            async with self._filling:
                await asyncio.sleep(0)
                while not self._buffer:
                    await self._fill()
                return self._buffer.popleft()
        finally:
            self._idle.discard(task)

    async def _fill(self) -> None:
        batch = self.spec.batch
        limit = batch or PREFETCH * self.spec.concurrency
        deliveries = await self._engine.receive(self.spec.queue, limit, grouped=bool(batch))
        for delivery in deliveries:
            self._held[delivery.position] = delivery
        self._quiet.clear()
        if batch:
            self._buffer.append(Work(deliveries))
        else:
            self._buffer.extend([Work([delivery]) for delivery in deliveries])

    async def _run(self, work: Work) -> None:
        self.stats.running += 1
        try:
            for submitted in await self._executor.run(work):
                self._track(submitted)
        finally:
            self.stats.running -= 1

    # The end of an attempt

    def _track(self, submitted: Submitted) -> None:
        submitted.future.add_done_callback(lambda future: self._ended(submitted))

    def _acked(self, settles: list[Settle], error: BaseException | None) -> None:
        if error is not None:
            log.warning(
                "acknowledgements were lost; their messages come again", queue=self.spec.queue, error=str(error)
            )
        for settle in settles:
            self._held.pop(settle.position, None)
        self.stats.handled += len(settles)
        self._noted()

    def _noted(self) -> None:
        """Deliveries are held no more: wake who waits for room, or for the end."""
        if len(self._held) < MAX_UNDER_WAY:
            self._room.set()
            if not self._held:
                self._quiet.set()

    def _ended(self, submitted: Submitted) -> None:
        future, work = submitted.future, submitted.work
        error = None if future.cancelled() else future.exception()
        if error is None:
            self._forget(work, submitted)
            return
        if isinstance(error, Conflict) and work.reruns < RERUNS:
            self.stats.conflicts += 1
            self._again(Work(work.deliveries, work.reruns + 1), random.random() * 0.002 * 2**work.reruns)
        elif isinstance(error, StoreFull):
            self._again(work, FULL_DISK_PAUSE_S)
        elif isinstance(error, LeaseLost | CommitUnknown | StoreDamaged | Stopping):
            log.warning("an attempt has no effect", queue=self.spec.queue, error=str(error))
            self._forget(work, None)
        elif isinstance(error, HeadwaterError):
            self._fail(work, error)
        else:
            self._fail(work, Retry(reason=repr(error)))

    def _forget(self, work: Work, submitted: Submitted | None) -> None:
        for delivery in work.deliveries:
            self._held.pop(delivery.position, None)
        self._noted()
        if submitted is None:
            return
        if submitted.failed:
            self.stats.failed += 1
        else:
            self.stats.handled += len(work.deliveries) - len(submitted.released)
        if submitted.released:
            self._background(self._give_back(list(submitted.released)))

    def _again(self, work: Work, seconds: float) -> None:
        """Back into the buffer after a pause; the leases are kept."""

        def put_back() -> None:
            if self._stopping:
                self._background(self._give_back(list(work.deliveries)))
            else:
                self._background(self._run(work))

        self._clock.call_later(seconds, put_back)

    def _fail(self, work: Work, error: Exception) -> None:
        """The commit itself was refused for what it holds: that is the handler's failure."""
        log.warning("a handler's commit was refused", queue=self.spec.queue, error=str(error))
        now_ms = self._clock.wall_ms()
        for delivery in work.deliveries:
            self._track(self._executor.submit_failed(delivery, error, now_ms))

    def _background(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._slots.add(task)
        task.add_done_callback(self._slots.discard)

    async def _extend(self) -> None:
        """Hold the leases while their handlers live."""
        while True:
            await self._clock.sleep(self.policy.visibility_ms / 3000)
            if self._held:
                await self._engine.extend(list(self._held.values()))
