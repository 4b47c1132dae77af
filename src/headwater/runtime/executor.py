"""The executor: the life of one attempt, from leased deliveries to a submitted commit.

decode → filter → run → settle → commit. An attempt ends in exactly one commit, which carries what the handler
wrote and how each delivery ended. Conflicts re-run it in place and count as a failure only after `RERUNS`; an
exception with stale reads is a conflict. Without room on the disk it waits and is run again. A batch that raises is
run again event by event, so that only the guilty ones fail.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor as Threads
from typing import Any

import msgspec

from headwater.catalog import QueueSpec
from headwater.clock import Clock
from headwater.engine import Engine
from headwater.errors import Conflict, Discard, HeadwaterError, StoreFull
from headwater.events import Delivery
from headwater.handlers import HandlerSpec
from headwater.runtime.acks import Acks
from headwater.runtime.attempt_spans import AttemptSpans, Running
from headwater.runtime.attempts import Undecodable, settle, settle_failed
from headwater.tracing import Tracer
from headwater.unit import Committed, Settle
from headwater.work import BLOCKED, FILTERED, RERUNS, UnitOfWork, current


class HandlerTimeout(Exception):
    """The handler ran longer than its time-out."""


class Work(msgspec.Struct, eq=False, gc=False):
    """Deliveries that are run together; `reruns` counts the conflicts they met."""

    deliveries: Sequence[Delivery]
    reruns: int = 0


class Submitted(msgspec.Struct, frozen=True):
    """A commit under way, the work it ends, and the deliveries that it leaves to be released.

    `verdict`: the commit has no effect but to settle a failed attempt; with `failed` the delivery stays in its queue.
    `failures` counts the deliveries that it settles as failed, whatever becomes of them.
    """

    future: asyncio.Future[Committed]
    work: Work
    released: Sequence[Delivery] = ()
    verdict: bool = False
    failed: bool = False
    failures: int = 0


class Executor:
    """Runs attempts of one handler. `run` never raises for what the handler does."""

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        spec: HandlerSpec,
        policy: QueueSpec,
        *,
        threads: Threads,
        acks: Acks,
        tracer: Tracer,
    ) -> None:
        self._spans = AttemptSpans(tracer, clock, spec.name, policy)
        self._acks = acks
        self._engine = engine
        self._clock = clock
        self._spec = spec
        self._policy = policy
        self._threads = threads
        self._decode = spec.feed.decoder()
        self._call: Callable[[Any], Any] = self._in_thread if spec.in_thread else spec.fn
        if spec.timeout_s is not None:
            self._call = self._timed(self._call, spec.timeout_s)

    def run(self, work: Work) -> Awaitable[Sequence[Submitted]]:
        """One attempt at the work, and its commits: none when it wrote nothing (`Acks` ends it then), more than
        one when a batch is run event by event."""
        maximum = self._policy.max_receives
        for delivery in work.deliveries:
            if delivery.receives > maximum:
                return self._run_without(work, [d for d in work.deliveries if d.receives > maximum])
        return self._run_batch(work) if self._spec.batch else self._run_one(work)

    async def _run_without(self, work: Work, overdue: list[Delivery]) -> Sequence[Submitted]:
        """Bury what used up its receives without an end of its own (the process died, the lease expired)."""
        ended = []
        for delivery in overdue:
            buried = settle(delivery, "bury", f"received {delivery.receives - 1} times without an end")
            self._spans.log_end(delivery, buried)
            ended.append(self._submit_settled(delivery, buried))
        rest = [d for d in work.deliveries if d not in overdue]
        return [*ended, *(await self.run(Work(rest, work.reruns)) if rest else ())]

    async def _run_one(self, work: Work) -> Sequence[Submitted]:
        delivery = work.deliveries[0]
        started_ms = self._clock.wall_ms()
        unit = UnitOfWork(self._engine, delivery)
        unit.deliveries = work.deliveries
        span = self._spans.begin(unit) if self._spans.samples(delivery.event.trace) else None
        try:
            event = self._decoded(delivery)
            if self._spec.when is not None and not self._spec.when(event):
                ended = settle(delivery, "filter")
            else:
                await self._handle(unit, event)
                ended = settle(delivery)
                if unit.failures:
                    raise unit.failures[delivery.position]
        except Exception as error:
            refusal = await self._refusal(unit, work, error)
            unit.close("its handler failed")
            if refusal is not None:
                return [_refused(refusal, work, span)]
            return [self.submit_failed(delivery, error, started_ms, span)]
        if not unit.writes_anything:
            unit.close("its handler returned")
            self._acks.add(ended)
            if span is not None:
                span.end()
            return ()
        unit.settle(ended)
        committing = unit.commit()
        if span is not None:
            span.end_with(committing)
        return [Submitted(committing, work)]

    async def _refusal(self, unit: UnitOfWork, work: Work, error: Exception) -> HeadwaterError | None:
        """As what the work is run again, without a receive: no room on the disk, or stale reads; None for a failure."""
        if isinstance(error, StoreFull):
            return error
        if work.reruns < RERUNS and await unit.stale() is not None:
            return Conflict("a read is stale")
        return None

    async def rehearse(self, unit: UnitOfWork) -> bool:
        """Decode, filter and run, and leave it at that; whether the filter let the event pass."""
        delivery = unit.deliveries[0]
        event = self._decoded(delivery)
        if self._spec.when is not None and not self._spec.when(event):
            return False
        token = current.set(unit)
        try:
            await self._call([event] if self._spec.batch else event)
        finally:
            current.reset(token)
        for failure in unit.failures.values():
            raise failure
        return True

    def _decoded(self, delivery: Delivery) -> Any:
        try:
            return self._decode(delivery)
        except Exception as error:
            raise Undecodable(str(error)) from error

    async def _handle(self, unit: UnitOfWork, argument: Any) -> None:
        token = current.set(unit)
        for delivery in unit.deliveries:
            self._engine.begin(delivery)
        try:
            await self._call(argument)
        except asyncio.CancelledError:
            unit.close("the server stopped")
            raise
        finally:
            for delivery in unit.deliveries:
                self._engine.end(delivery)
            current.reset(token)

    async def _in_thread(self, argument: Any) -> None:
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._threads, context.run, self._spec.fn, argument)

    def _timed(self, call: Callable[[Any], Any], seconds: float) -> Callable[[Any], Any]:
        async def timed(argument: Any) -> None:
            task = asyncio.current_task()
            assert task is not None
            expired = False
            too_long = HandlerTimeout(f"the handler ran longer than {seconds:g} s")

            def expire() -> None:
                nonlocal expired
                expired = True
                task.cancel()

            timer = self._clock.call_later(seconds, expire)
            try:
                await call(argument)
            except asyncio.CancelledError:
                if not expired or task.uncancel() > 0:
                    raise
                raise too_long from None
            finally:
                timer.cancel()
            if expired:
                task.uncancel()
                raise too_long

        return timed

    # Batches

    async def _run_batch(self, work: Work) -> Sequence[Submitted]:
        started_ms = self._clock.wall_ms()
        unit = UnitOfWork(self._engine, work.deliveries[0])
        unit.deliveries = work.deliveries
        span = self._spans.begin(unit)
        try:
            events = self._batch_events(unit)
            if events:
                await self._handle(unit, events)
        except Exception as error:
            refusal = await self._refusal(unit, work, error)
            unit.close("its handler failed")
            if refusal is not None:
                return [_refused(refusal, work, span)]
            if len(work.deliveries) == 1:
                return [self.submit_failed(work.deliveries[0], error, started_ms, span)]
            if span is not None:
                span.end(error)
            return await self._run_singly(work)
        released, failures = self._settle_batch(unit, started_ms)
        committing = unit.commit()
        if span is not None:
            span.end_with(committing)
        return [Submitted(committing, work, released, failures=failures)]

    def _batch_events(self, unit: UnitOfWork) -> list[Any]:
        """Decode and filter; what cannot be decoded fails alone."""
        events = []
        for delivery in unit.deliveries:
            try:
                event = self._decoded(delivery)
                if self._spec.when is None or self._spec.when(event):
                    events.append(event)
                else:
                    unit.settle(settle(delivery, "filter"))
                    unit.fail(delivery, FILTERED)
            except Exception as error:
                unit.fail(delivery, error)
        return events

    def _settle_batch(self, unit: UnitOfWork, started_ms: int) -> tuple[list[Delivery], int]:
        """(what is to be released, how many failed)."""
        released, failures = [], 0
        now_ms = self._clock.wall_ms()
        for delivery in unit.deliveries:
            error = unit.failures.get(delivery.position)
            if error is None:
                unit.settle(settle(delivery))
            elif error is BLOCKED:
                released.append(delivery)
            elif error is not FILTERED:
                ended = settle_failed(delivery, error, self._policy, started_ms, now_ms)
                self._spans.fail(delivery, error, ended, None)
                unit.settle(ended)
                failures += not isinstance(error, Discard)
        return released, failures

    async def _run_singly(self, work: Work) -> Sequence[Submitted]:
        """Event by event; after a failure the later ones of its group are given back untouched."""
        submitted: list[Submitted] = []
        failed_groups: set[str | None] = set()
        released: list[Delivery] = []
        for delivery in work.deliveries:
            if delivery.group is not None and delivery.group in failed_groups:
                released.append(delivery)
                continue
            (one,) = await self._run_batch(Work([delivery]))
            submitted.append(one)
            if delivery.group is not None:
                await asyncio.wait([one.future])
                if one.failed or one.future.exception() is not None:
                    failed_groups.add(delivery.group)
        return [*submitted, Submitted(_done(), Work(()), released)] if released else submitted

    # Ending

    def submit_failed(
        self, delivery: Delivery, error: Exception, started_ms: int, span: Running | None = None
    ) -> Submitted:
        """Settle a delivery whose attempt failed, in a commit without any effect of it."""
        ended = settle_failed(delivery, error, self._policy, started_ms, self._clock.wall_ms())
        self._spans.fail(delivery, error, ended, span)
        return self._submit_settled(delivery, ended)

    def submit_refused(self, delivery: Delivery, error: Exception, now_ms: int) -> Submitted:
        """Settle a delivery whose attempt's commit was refused for what it holds."""
        ended = settle_failed(delivery, error, self._policy, now_ms, now_ms)
        self._spans.refuse(delivery, error, ended)
        return self._submit_settled(delivery, ended)

    def _submit_settled(self, delivery: Delivery, ended: Settle) -> Submitted:
        unit = UnitOfWork(self._engine, delivery)
        unit.settle(ended)
        retried, failures = ended.outcome == "retry", int(ended.outcome in ("retry", "bury"))
        return Submitted(unit.commit(), Work([delivery]), verdict=True, failed=retried, failures=failures)


def _done() -> asyncio.Future[Committed]:
    future: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
    future.set_result(Committed(0))
    return future


def _refused(error: HeadwaterError, work: Work, span: Running | None) -> Submitted:
    if span is not None:
        span.end(error)
    future: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    return Submitted(future, work)
