"""What is told of attempts: spans of those whose trace is sampled, a span and a line of the log of each that failed."""

from __future__ import annotations

import asyncio

import structlog

from headwater.catalog import QueueSpec
from headwater.clock import Clock
from headwater.errors import Conflict, Discard
from headwater.events import Delivery
from headwater.tracing import Outcome, Span, Tracer, new_span, parent_of, told
from headwater.unit import Committed, Settle
from headwater.work import UnitOfWork

log = structlog.get_logger("headwater.attempts")


class Running:
    """The spans of an attempt that runs: one for each sampled trace that its events belong to."""

    def __init__(self, tracer: Tracer, spans: list[Span]) -> None:
        self._tracer = tracer
        self._spans = spans
        self._begun = tracer.now()

    def end(self, error: BaseException | None = None) -> None:
        for span in self._spans:
            if error is not None:
                span.outcome, span.error = _outcome(error), told(error)
            self._tracer.record(span, self._begun)

    def end_with(self, committing: asyncio.Future[Committed]) -> None:
        """The attempt ends with its commit."""
        committing.add_done_callback(lambda ended: self.end(None if ended.cancelled() else ended.exception()))


class AttemptSpans:
    """For the attempts of one handler, or of consumers over HTTP."""

    def __init__(self, tracer: Tracer, clock: Clock, name: str, policy: QueueSpec) -> None:
        self.samples = tracer.samples
        self._tracer = tracer
        self._clock = clock
        self._name = name
        self._app = policy.name.partition("/")[0]
        self._maximum = policy.max_receives

    def begin(self, unit: UnitOfWork) -> Running | None:
        """The attempt of the unit's deliveries begins. None when none of them is of a sampled trace."""
        by_trace: dict[str, list[Delivery]] = {}
        for delivery in unit.deliveries:
            if self.samples(delivery.event.trace):
                by_trace.setdefault(delivery.event.trace, []).append(delivery)
        if not by_trace:
            return None
        unit.tracer = self._tracer
        spans = [self._span(found[0], unit.span, len(found)) for found in by_trace.values()]
        return Running(self._tracer, spans)

    def fail(self, delivery: Delivery, error: BaseException, ended: Settle, running: Running | None) -> None:
        """An attempt at the delivery failed, and is settled so."""
        if running is not None:
            running.end(error)
        elif not isinstance(error, Discard):
            span = self._span(delivery, new_span(), 1)
            span.outcome, span.error = "failed", told(error)
            lasted_ms = ended.failure.ended_ms - ended.failure.started_ms if ended.failure else 0
            self._record(span, lasted_ms)
        self.log_end(delivery, ended)

    def end(self, delivery: Delivery, id: str, lasted_ms: int, error: Exception | None, ended: Settle) -> None:
        """An attempt has ended elsewhere, and is settled so; `id` is its span's."""
        if self.samples(delivery.event.trace) or not (error is None or isinstance(error, Discard)):
            span = self._span(delivery, id, 1)
            if error is not None:
                span.outcome, span.error = _outcome(error), told(error)
            self._record(span, lasted_ms)
        self.log_end(delivery, ended)

    def _record(self, span: Span, lasted_ms: int) -> None:
        self._tracer.record(span, self._tracer.now() - lasted_ms / 1000)

    def refuse(self, delivery: Delivery, error: BaseException, ended: Settle) -> None:
        """The commit of an attempt was refused: where its trace is sampled, its span has ended with that."""
        if self.samples(delivery.event.trace):
            self.log_end(delivery, ended)
        else:
            self.fail(delivery, error, ended, None)

    def log_end(self, delivery: Delivery, ended: Settle) -> None:
        """A line for an attempt that failed or a message that is given up."""
        dead = ended.outcome == "bury"
        if not dead and ended.outcome != "retry":
            return
        tell = log.error if dead else log.warning
        tell(
            "a message is a dead letter" if dead else "an attempt failed",
            app=self._app,
            handler=self._name,
            queue=delivery.queue,
            message=delivery.message_id,
            trace=delivery.event.trace,
            receives=delivery.receives,
            max_receives=self._maximum,
            error=ended.reason.partition("\n")[0],
            **({} if dead else {"retry_in_s": (ended.ready_ms - self._clock.wall_ms()) / 1000}),
        )

    def _span(self, delivery: Delivery, id: str, events: int) -> Span:
        return Span(
            trace=delivery.event.trace,
            id=id,
            parent=parent_of(delivery.event),
            kind="attempt",
            name=self._name,
            app=self._app,
            of=delivery.message_id,
            attempt=delivery.receives,
            events=events,
        )


def _outcome(error: BaseException) -> Outcome:
    return "conflict" if isinstance(error, Conflict) else "discarded" if isinstance(error, Discard) else "failed"
