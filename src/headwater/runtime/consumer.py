"""A consumer: leases the messages of one queue and keeps its handler busy.

Up to `concurrency` slots, tasks started as the backlog needs them, take from one small buffer of leased
deliveries. A slot submits an attempt's commit and goes on with the next delivery without waiting for the flush;
what the commit answers is dealt with in `_ended`: a conflict puts the work back into the buffer, a full disk
does so after a pause, a lost lease ends it.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Coroutine
from concurrent.futures import Executor as Threads
from typing import Any

import msgspec
import structlog

from headwater.catalog import QueueSpec
from headwater.clock import Clock, Timer
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
    Unavailable,
)
from headwater.events import Delivery
from headwater.handlers import HandlerSpec
from headwater.metrics import Histogram
from headwater.permits import Permit, acting
from headwater.runtime.acks import FULL_DISK_PAUSE_S, Acks
from headwater.runtime.executor import Executor, Submitted, Work
from headwater.tracing import Tracer
from headwater.unit import Settle
from headwater.work import RERUNS, UnitOfWork, contention_pause_s, current, current_request, rehearsing

MAX_UNDER_WAY = 512
PREFETCH = 4
"""How many deliveries a consumer leases at once, for each of its slots. In processes, no more than run."""
UNREACHED_S = 1.0
"""When a store that could not be reached is asked for messages again."""
Held = tuple[int, int]
"""A delivery's position and fence: messages that were leased together may have the same fence."""
log = structlog.get_logger("headwater.consumer")


class ConsumerStats(msgspec.Struct):
    """Counts of deliveries since the start of the process: `failed` are those whose attempt failed, also the last."""

    handled: int = 0
    failed: int = 0
    conflicts: int = 0
    running: int = 0


class Consumer:
    """`start`, then `drain`: it stops leasing, finishes what runs, and gives back the rest."""

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        spec: HandlerSpec,
        policy: QueueSpec,
        threads: Threads,
        *,
        tracer: Tracer,
        permit: Permit | None = None,
    ) -> None:
        self.spec = spec
        self.policy = policy
        self.stats = ConsumerStats()
        self.durations = Histogram()
        """Of attempts: an event, or a batch, and what is left of it event by event."""
        self._engine = engine
        self._clock = clock
        self._acks = Acks(engine, clock, self._acked)
        self._executor = Executor(engine, clock, spec, policy, threads=threads, acks=self._acks, tracer=tracer)
        self._context = _context_of(spec, permit)
        self._buffer: deque[Work] = deque()
        self._held: dict[Held, Delivery] = {}
        self._slots: set[asyncio.Task[None]] = set()
        self._releasing: set[asyncio.Task[None]] = set()
        self._filling = asyncio.Lock()
        self._room = asyncio.Event()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._stopping = False
        self._idle: set[asyncio.Task[None]] = set()
        self._extender: Timer | None = None
        self._resting: dict[Held, Work] = {}
        self._abandoned = False
        self._cut: list[Delivery] = []

    def start(self) -> None:
        self._spawn()

    async def run_suspects(self) -> None:
        """Run what ran when the process last died, one at a time; one that outlasts its visibility runs on."""
        suspects = await self._engine.suspects(self.spec.queue)
        if suspects:
            self._hold(suspects)
        for delivery in suspects:
            running = self._run(Work([delivery]))
            task = asyncio.create_task(running, name=f"suspect {self.spec.queue}", context=self._context.copy())
            self._slots.add(task)
            task.add_done_callback(self._slots.discard)
            enough = asyncio.Event()
            task.add_done_callback(lambda _, enough=enough: enough.set())  # type: ignore[misc]
            timer = self._clock.call_later(self.policy.visibility_ms / 1000, enough.set)
            try:
                await enough.wait()
            finally:
                timer.cancel()

    @property
    def held(self) -> list[Delivery]:
        """What is leased and not settled, running or not."""
        return list(self._held.values())

    async def rehearse(self, unit: UnitOfWork) -> bool:
        """Run the handler for a unit that is not going to be committed (`runtime.rehearsal`), as a slot would."""
        context = self._context.copy()
        context.run(rehearsing.set, True)
        return await asyncio.create_task(self._executor.rehearse(unit), context=context)

    @property
    def busy(self) -> bool:
        """Whether deliveries are held: leased, running or being committed; not what waits for room on the disk."""
        resting = sum(len(work.deliveries) for work in self._resting.values())
        return len(self._held) > resting + self._acks.resting

    async def drain(self, deadline_s: float) -> None:
        """Stop leasing, wait for the running handlers until the deadline, then give back the rest."""
        self._stopping = True
        waiting = [*self._buffer, *self._resting.values()]
        buffered = [delivery for work in waiting for delivery in work.deliveries]
        self._buffer.clear()
        self._resting.clear()
        for slot in self._slots & self._idle:
            slot.cancel()
        if self._slots:
            await asyncio.wait(self._slots, timeout=deadline_s)
        for slot in self._slots:
            slot.cancel()
        await asyncio.gather(*self._slots, return_exceptions=True)
        await self._give_back([*buffered, *self._cut])
        try:
            async with asyncio.timeout(deadline_s):
                await self._quiet.wait()
        except TimeoutError:
            log.warning("commits still under way at the deadline", queue=self.spec.queue)
        await self._give_back(list(self._held.values()))
        if self._extender is not None:
            self._extender.cancel()
        await asyncio.gather(*self._releasing, return_exceptions=True)

    async def abandon(self) -> None:
        """Stop as a killed process does: handlers end where they stand, no lease is given back (tests of crashes)."""
        self._stopping = self._abandoned = True
        if self._extender is not None:
            self._extender.cancel()
        for slot in self._slots:
            slot.cancel()
        await asyncio.gather(*self._slots, return_exceptions=True)

    async def _give_back(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            self._held.pop((delivery.position, delivery.fence), None)
        self._noted()
        if deliveries and not self._abandoned:
            try:
                await self._engine.release(deliveries)
            except (StoreError, Unavailable) as error:
                log.warning("leases could not be given back", queue=self.spec.queue, error=str(error))

    # Slots

    def _spawn(self) -> None:
        task = asyncio.create_task(self._slot(), name=f"slot {self.spec.queue}", context=self._context.copy())
        self._slots.add(task)
        task.add_done_callback(self._slots.discard)

    async def _slot(self) -> None:
        buffer = self._buffer
        while not self._stopping:
            work = buffer.popleft() if buffer else await self._next()
            if not self._idle and len(self._slots) < self.spec.concurrency:
                if buffer:
                    self._spawn()
                else:
                    asyncio.get_running_loop().call_soon(self._keep_receiving)
            await self._run(work)

    def _keep_receiving(self) -> None:
        """The last delivery of the buffer runs: unless it has ended already, another slot waits for the next."""
        if not self._idle and not self._stopping and len(self._slots) < self.spec.concurrency:
            self._spawn()

    async def _next(self) -> Work:
        """The next work of the buffer, filled by whichever slot finds it empty."""
        task = asyncio.current_task()
        assert task is not None
        self._idle.add(task)
        try:
            while len(self._held) >= MAX_UNDER_WAY:
                self._room.clear()
                await self._room.wait()
            async with self._filling:
                await asyncio.sleep(0)
                while not self._buffer:
                    await self._fill()
                return self._buffer.popleft()
        finally:
            self._idle.discard(task)

    @property
    def _free(self) -> int:
        """How many slots could run something at once."""
        return self.spec.concurrency - (len(self._slots) - len(self._idle))

    async def _fill(self) -> None:
        batch = self.spec.batch
        limit = batch or (self._free if self.spec.in_process else PREFETCH * self.spec.concurrency)
        try:
            deliveries = await self._engine.receive(self.spec.queue, limit, grouped=bool(batch))
        except Unavailable as error:
            log.warning("no messages can be had", queue=self.spec.queue, error=str(error))
            await self._clock.sleep(UNREACHED_S)
            return
        self._hold(deliveries)
        if batch:
            self._buffer.append(Work(deliveries))
        else:
            self._buffer.extend([Work([delivery]) for delivery in deliveries])

    def _hold(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            self._held[delivery.position, delivery.fence] = delivery
        self._quiet.clear()
        if self._extender is None:
            self._extend_later()

    async def _run(self, work: Work) -> None:
        self.stats.running += 1
        begun = self._clock.monotonic()
        try:
            for submitted in await self._executor.run(work):
                self._track(submitted)
        except Exception as error:
            self._fail(work, error)
        except asyncio.CancelledError:
            self._cut += work.deliveries
            raise
        finally:
            self.stats.running -= 1
            self.durations.observe(self._clock.monotonic() - begun)

    # The end of an attempt

    def _track(self, submitted: Submitted) -> None:
        submitted.future.add_done_callback(lambda future: self._ended(submitted))

    def _acked(self, settles: list[Settle], error: BaseException | None) -> None:
        if error is not None:
            log.warning(
                "acknowledgements were lost; their messages come again", queue=self.spec.queue, error=str(error)
            )
        for settle in settles:
            self._held.pop((settle.position, settle.fence), None)
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
            again = Work(work.deliveries, work.reruns + 1)
            asyncio.get_running_loop().call_later(contention_pause_s(work.reruns), self._again, again)
        elif isinstance(error, StoreFull):
            self._rest(work)
        elif isinstance(error, LeaseLost):
            log.warning("an attempt has no effect", queue=self.spec.queue, error=str(error))
            self._background(self._give_back(list(work.deliveries)))
        elif isinstance(error, CommitUnknown | StoreDamaged | Stopping) or submitted.verdict:
            log.error("an attempt has no effect", queue=self.spec.queue, error=repr(error))
            self._forget(work, None)
        elif isinstance(error, HeadwaterError):
            self._fail(work, error)
        else:
            self._fail(work, Retry(reason=repr(error)))

    def _forget(self, work: Work, submitted: Submitted | None) -> None:
        for delivery in work.deliveries:
            self._held.pop((delivery.position, delivery.fence), None)
        self._noted()
        if submitted is None:
            return
        self.stats.failed += submitted.failures
        self.stats.handled += max(len(work.deliveries) - len(submitted.released) - submitted.failures, 0)
        if submitted.released:
            self._background(self._give_back(list(submitted.released)))

    def _again(self, work: Work) -> None:
        """Back into the buffer; the leases are kept. A slot that waits for deliveries makes way for one that runs."""
        if self._stopping:
            self._background(self._give_back(list(work.deliveries)))
            return
        self._buffer.appendleft(work)
        if self._idle:
            waiting = self._idle.pop()
            self._slots.discard(waiting)
            waiting.cancel()
        if len(self._slots) < self.spec.concurrency:
            self._spawn()

    def _rest(self, work: Work) -> None:
        """Wait for room on the disk."""
        first = (work.deliveries[0].position, work.deliveries[0].fence)
        self._resting[first] = work

        def wake() -> None:
            if self._resting.pop(first, None) is not None:
                self._again(work)

        self._clock.call_later(FULL_DISK_PAUSE_S, wake)

    def _fail(self, work: Work, error: Exception) -> None:
        """The commit itself was refused for what it holds: that is the handler's failure."""
        log.warning("a handler's commit was refused", queue=self.spec.queue, error=str(error))
        now_ms = self._clock.wall_ms()
        for delivery in work.deliveries:
            self._track(self._executor.submit_refused(delivery, error, now_ms))

    def _background(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._releasing.add(task)
        task.add_done_callback(self._releasing.discard)

    def _extend_later(self) -> None:
        self._extender = self._clock.call_later(self.policy.visibility_ms / 3000, self._extend)

    def _extend(self) -> None:
        """Hold the leases while their handlers live."""
        self._extender = None
        if self._held:
            self._background(self._engine.extend(list(self._held.values())))
            self._extend_later()


def _context_of(spec: HandlerSpec, permit: Permit | None) -> contextvars.Context:
    """What the handler's code may do, and what the lines of the log say that it writes; for all its attempts."""
    context = contextvars.copy_context()
    app = spec.queue.partition("/")[0]
    context.run(current.set, None)
    context.run(current_request.set, None)
    context.run(acting.set, permit)
    context.run(structlog.contextvars.bind_contextvars, app=app, handler=spec.name, queue=spec.queue)
    return context
