"""A batch of messages that Lambda hands over, run by the same executor as everywhere.

Each delivery ends as its commit says: done, or left in its queue. What is not known to be done is told to be left, so
that the queue hands it out again: attempts that failed, that time cut off, and what stood behind a failure of its
FIFO group, which is given back at once. A delivery whose commit was refused because it took effect before is done.
In a batch that refuses all of the batch, so each is run alone then. Leases are extended while attempts run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor as Threads
from typing import Any, cast

import msgspec
import structlog

from headwater.catalog import QueueSpec
from headwater.clock import Clock
from headwater.engine import AlreadyDone, Engine
from headwater.errors import (
    CommitUnknown,
    Conflict,
    HeadwaterError,
    LeaseLost,
    Retry,
    Stopping,
    StoreDamaged,
    StoreFull,
    Unavailable,
)
from headwater.events import Delivery
from headwater.handlers import HandlerSpec
from headwater.permits import Permit, acting
from headwater.runtime.acks import Acks
from headwater.runtime.executor import Executor, Submitted, Work
from headwater.tracing import Tracer
from headwater.unit import Commit, Committed, Outcome, Settle
from headwater.work import RERUNS, back_off

log = structlog.get_logger("headwater.functions")
_NOBODYS_FAULT = (CommitUnknown, LeaseLost, Stopping, StoreDamaged, StoreFull, Unavailable)
"""The attempt did not fail, and had no effect that is known: its messages come again."""


class Counts(msgspec.Struct):
    """What became of a batch; `took` are the durations of attempts in seconds."""

    deliveries: int = 0
    failures: int = 0
    dead: int = 0
    conflicts: int = 0
    took: list[float] = []


class _Ledger:
    """An engine that remembers how the commits that it took have settled deliveries."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.ended: dict[int, Outcome] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def commit(self, commit: Commit) -> asyncio.Future[Committed]:
        committing = self._engine.commit(commit)
        if commit.settles:
            committing.add_done_callback(lambda done: self._note(done, commit.settles))
        return committing

    def _note(self, done: asyncio.Future[Committed], settles: list[Settle]) -> None:
        if done.cancelled() or done.exception() is not None:
            return
        for settle in settles:
            if settle.outcome != "fence":
                self.ended[settle.position] = settle.outcome


class Consumption:
    """Runs one batch of one queue; `run` returns the positions of the deliveries that are done.

    Attempts have `left_s()`, and then `grace_s` for their ends.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        spec: HandlerSpec,
        policy: QueueSpec,
        *,
        threads: Threads,
        tracer: Tracer,
        permit: Permit | None,
        left_s: Callable[[], float],
        grace_s: float,
    ) -> None:
        self.counts = Counts()
        self._ledger = _Ledger(engine)
        self._engine = cast("Engine", self._ledger)
        self._clock = clock
        self._spec = spec
        self._policy = policy
        self._threads = threads
        self._tracer = tracer
        self._permit = permit
        self._left_s = left_s
        self._grace_s = grace_s
        self._acks = Acks(self._engine, clock, self._acked)
        self._unacked: dict[int, asyncio.Future[None]] = {}
        self._begun: set[int] = set()
        self._room = asyncio.Semaphore(spec.concurrency)

    async def run(self, deliveries: Sequence[Delivery]) -> set[int]:
        self.counts.deliveries = len(deliveries)
        permitted = acting.set(self._permit)
        lanes = self._batches(deliveries) if self._spec.batch else self._lanes(deliveries)
        running = [asyncio.create_task(self._run_lane(lane)) for lane in lanes]
        acting.reset(permitted)
        extending = asyncio.create_task(self._extend(deliveries))
        if running:
            _, late = await asyncio.wait(running, timeout=self._left_s() + self._grace_s)
            for task in late:
                task.cancel()
            for ended in await asyncio.gather(*running, return_exceptions=True):
                if isinstance(ended, Exception):
                    log.error("an attempt has no effect", error=repr(ended))
        extending.cancel()
        await asyncio.wait([extending])
        return await self._done(deliveries)

    async def _extend(self, deliveries: Sequence[Delivery]) -> None:
        """Hold the leases of what is not settled yet."""
        while True:
            await self._clock.sleep(self._policy.visibility_ms / 3000)
            await self._engine.extend([one for one in deliveries if one.position not in self._ledger.ended])

    async def _done(self, deliveries: Sequence[Delivery]) -> set[int]:
        """What is done; of the rest, what was not tried is given back at once."""
        ended = self._ledger.ended
        untried = [one for one in deliveries if one.position not in ended and one.position not in self._begun]
        if untried:
            await self._engine.release(untried)
        self.counts.dead = sum(outcome == "bury" for outcome in ended.values())
        return {position for position, outcome in ended.items() if outcome != "retry"}

    # What runs after what

    def _lanes(self, deliveries: Sequence[Delivery]) -> Iterable[list[Work]]:
        """Deliveries of one group one after the other, all others beside each other."""
        groups: dict[str, list[Work]] = {}
        for delivery in deliveries:
            if delivery.group is None:
                yield [Work([delivery])]
            else:
                groups.setdefault(delivery.group, []).append(Work([delivery]))
        yield from groups.values()

    def _batches(self, deliveries: Sequence[Delivery]) -> Iterable[list[Work]]:
        size = self._spec.batch
        yield [Work(deliveries[at : at + size]) for at in range(0, len(deliveries), size)]

    async def _run_lane(self, lane: list[Work]) -> None:
        """One work after the other; what is behind a failure of its group stays untouched."""
        stopped: set[str | None] = set()
        for work in lane:
            free = [one for one in work.deliveries if one.group is None or one.group not in stopped]
            if not free:
                continue
            async with self._room:
                if not self._left_s():
                    return
                self._begun.update(one.position for one in free)
                await self._attempt(Work(free))
            stopped.update(one.group for one in free if self._ledger.ended.get(one.position, "retry") == "retry")

    # One attempt

    async def _attempt(self, work: Work) -> None:
        begun = self._clock.monotonic()
        ending = {one.position: asyncio.get_running_loop().create_future() for one in work.deliveries}
        self._unacked.update(ending)
        try:
            submitted = await self._executor().run(work)
        finally:
            self.counts.took.append(self._clock.monotonic() - begun)
        if not submitted:
            await asyncio.wait(ending.values())
        for position in ending:
            self._unacked.pop(position, None)
        for one in submitted:
            await self._end(one)

    def _executor(self) -> Executor:
        """With what is left of the function's time as the time-out, if the handler's own is not shorter."""
        limit_s = self._left_s()
        timeout_s = limit_s if self._spec.timeout_s is None else min(limit_s, self._spec.timeout_s)
        spec = msgspec.structs.replace(self._spec, timeout_s=timeout_s)
        return Executor(
            self._engine,
            self._clock,
            spec,
            self._policy,
            threads=self._threads,
            acks=self._acks,
            tracer=self._tracer,
        )

    def _acked(self, settles: list[Settle], error: BaseException | None) -> None:
        if error is not None:
            log.warning("acknowledgements were lost; their messages come again", error=str(error))
        for settle in settles:
            if (waiting := self._unacked.pop(settle.position, None)) is not None:
                waiting.set_result(None)

    async def _end(self, submitted: Submitted) -> None:
        """What the commit of an attempt answered."""
        self.counts.failures += submitted.failures
        for delivery in submitted.released:
            self._begun.discard(delivery.position)
        await asyncio.wait([submitted.future])
        error = submitted.future.exception()
        if error is not None:
            await self._refused(submitted, error)

    async def _refused(self, submitted: Submitted, error: BaseException) -> None:
        work = submitted.work
        if isinstance(error, Conflict) and work.reruns < RERUNS:
            self.counts.conflicts += 1
            await back_off(work.reruns)
            await self._attempt(Work(work.deliveries, work.reruns + 1))
        elif isinstance(error, AlreadyDone):
            await self._done_before(work, error)
        elif isinstance(error, _NOBODYS_FAULT) or submitted.verdict:
            log.error("an attempt has no effect", error=repr(error))
        else:
            await self._fail(work, error if isinstance(error, HeadwaterError) else Retry(reason=repr(error)))

    async def _done_before(self, work: Work, error: AlreadyDone) -> None:
        if len(work.deliveries) > 1:
            for delivery in work.deliveries:
                await self._attempt(Work([delivery]))
            return
        log.info("a message was done before", error=str(error))
        for delivery in work.deliveries:
            self._ledger.ended[delivery.position] = "ack"

    async def _fail(self, work: Work, error: Exception) -> None:
        """The commit was refused for what it holds: that is the handler's failure."""
        log.warning("a handler's commit was refused", error=str(error))
        now_ms = self._clock.wall_ms()
        for delivery in work.deliveries:
            await self._end(self._executor().submit_refused(delivery, error, now_ms))
