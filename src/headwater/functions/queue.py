"""The function of a queue: runs its handler for the messages that Lambda has received from SQS.

The answer names the messages that are not done (partial batch response). HEADWATER_QUEUE is the queue, "app/name".
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import structlog

from headwater.aws.messages import position_of
from headwater.errors import DeclarationError
from headwater.functions.arrivals import Arrivals
from headwater.functions.consuming import Consumption, Counts
from headwater.functions.decoding import failed_items, read_sqs
from headwater.functions.home import Home, variable
from headwater.functions.invocation import Invocation, entry_point, tell_metrics
from headwater.handlers import HandlerSpec

R = TypeVar("R")
log = structlog.get_logger("headwater.functions")


class _Threads:
    """The threads of plain `def` handlers, kept from event to event as long as all of them come back."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._jobs: set[Future[Any]] = set()

    def pool(self, spec: HandlerSpec) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = _Counted(spec.concurrency if spec.in_thread else 1, self._jobs)
        return self._pool

    def check(self) -> None:
        """A job that goes on beyond its time-out cannot be ended: what follows gets other threads."""
        if self._pool is not None and self._jobs:
            log.error("a job runs on beyond its time-out", jobs=len(self._jobs))
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool, self._jobs = None, set()


class _Counted(ThreadPoolExecutor):
    """Keeps its unfinished jobs in a set."""

    def __init__(self, most: int, jobs: set[Future[Any]]) -> None:
        super().__init__(most, thread_name_prefix="headwater-handler")
        self._unfinished = jobs

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        job = super().submit(fn, *args, **kwargs)
        self._unfinished.add(job)
        job.add_done_callback(self._unfinished.discard)
        return job


_threads = _Threads()


async def consume(home: Home, event: Any, invocation: Invocation) -> dict[str, Any]:
    """Run the handler of HEADWATER_QUEUE for the messages of the event."""
    queue = variable("HEADWATER_QUEUE")
    spec = home.graph.handlers.get(queue)
    if spec is None:
        raise DeclarationError("no app has a handler for the queue", operation="start", resource=queue)
    messages = read_sqs(event)
    arrivals = Arrivals(home, queue)
    with structlog.contextvars.bound_contextvars(app=queue.partition("/")[0], handler=spec.name, queue=queue):
        if await arrivals.is_paused():
            log.info("the queue is paused; its messages stay", messages=len(messages))
            return failed_items(message.id for message in messages)
        deliveries, awaited = await arrivals.take(messages)
        consumption = Consumption(
            home.engine,
            home.clock,
            spec,
            home.catalog.queues[queue],
            threads=_threads.pool(spec),
            tracer=home.tracer,
            permit=home.permits.of_queue(queue),
            left_s=lambda: invocation.left_s,
            grace_s=invocation.margin_s / 2,
        )
        done = await consumption.run(deliveries)
        _threads.check()
    _tell(home, queue, consumption.counts)
    return failed_items(message.id for message in awaited if position_of(message.id) not in done)


def _tell(home: Home, queue: str, counts: Counts) -> None:
    told = {
        "deliveries": counts.deliveries,
        "attempts": len(counts.took),
        "failures": counts.failures,
        "conflicts": counts.conflicts,
        "dead_letters": counts.dead,
    }
    tell_metrics(home, {"Queue": queue}, told, counts.took)


handle = entry_point(consume)
