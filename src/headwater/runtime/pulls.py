"""Consumers over HTTP: what they receive, how they settle it (`http.opened.Pulling`).

A receive leases messages like a consumer in the process does, but nobody watches over the lease: what is neither
settled nor extended within the queue's visibility is redelivered, that receive counted. A message whose receives are
used up that way is a dead letter instead. Results are one commit, in which each item stands for itself: one whose
lease has passed on is skipped and named. A server that drains hands out nothing more, and takes results to the end.
An attempt is what lies between a receive and its result: counted, and a span, like a handler's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

from headwater.catalog import QueueSpec
from headwater.clock import Clock
from headwater.engine import Engine
from headwater.errors import (
    Discard,
    HeadwaterError,
    InvalidValue,
    LeaseLost,
    Overloaded,
    Retry,
    Stopping,
    Undeliverable,
)
from headwater.events import Caller, Delivery
from headwater.http.opened import MAX_HELD_MS, Pulled, Result
from headwater.runtime.attempt_spans import AttemptSpans
from headwater.runtime.attempts import settle, settle_failed
from headwater.runtime.receipts import Lease, Receipts
from headwater.runtime.tally import Tally
from headwater.tracing import Tracer
from headwater.unit import Commit, Settle


class Pulls:
    """Serves the queues of `policies`; `tallies` has what it counts of them.

    `most_waiting` bounds the receives that wait at the same time: each occupies a request.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        policies: Mapping[str, QueueSpec],
        derive: Callable[[], bytes],
        *,
        most_waiting: int,
        tracer: Tracer,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._policies = policies
        self._spans = {
            queue: AttemptSpans(tracer, clock, queue.partition("/")[2], policy) for queue, policy in policies.items()
        }
        self.tallies = {queue: Tally() for queue in policies}
        self._receipts = Receipts(derive)
        self._most_waiting = most_waiting
        self._waiting: set[asyncio.Future[None]] = set()
        self._stopping = False

    @property
    def waiting(self) -> int:
        """How many receives wait for messages."""
        return len(self._waiting)

    def drain(self) -> None:
        """Hand out nothing more: receives that wait are answered without messages."""
        self._stopping = True
        for end in self._waiting:
            _finish(end)

    async def receive(
        self, queue: str, caller: Caller, most: int, wait_s: float, gone: Callable[[], Awaitable[object]]
    ) -> list[Pulled]:
        """See `Pulling`. Raises `Stopping`, and `Overloaded` when too many wait."""
        if self._stopping:
            raise Stopping(
                "the server stops and hands out nothing more", operation="receive", resource=queue, hint="try later"
            )
        if len(self._waiting) >= self._most_waiting:
            raise Overloaded("too many receives wait", operation="receive", resource=queue, hint="try later")
        end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self._clock.call_later(wait_s, lambda: _finish(end)) if wait_s else None
        if timer is None:
            _finish(end)
        leaving = asyncio.ensure_future(gone())
        self._waiting.add(end)
        try:
            deliveries = await self._lease(queue, most, end, leaving)
        finally:
            self._waiting.discard(end)
            leaving.cancel()
            if timer is not None:
                timer.cancel()
        until_ms = self._clock.wall_ms() + MAX_HELD_MS
        leases = [(delivery, Lease.of(delivery, until_ms)) for delivery in deliveries]
        return [Pulled(delivery, self._receipts.make(lease, queue, caller), lease.span) for delivery, lease in leases]

    async def _lease(
        self, queue: str, most: int, end: asyncio.Future[None], leaving: asyncio.Future[object]
    ) -> list[Delivery]:
        while True:
            receiving = asyncio.ensure_future(self._engine.receive(queue, most))
            wanted = False
            try:
                await asyncio.sleep(0)
                await asyncio.wait((receiving, end, leaving), return_when=asyncio.FIRST_COMPLETED)
                wanted = not leaving.done()
            finally:
                deliveries = await _ended(receiving)
                if deliveries and not wanted:
                    await self._engine.release(deliveries)
            deliveries = await self._without_overdue(queue, deliveries) if wanted else []
            if deliveries or not wanted or end.done():
                return deliveries

    async def _without_overdue(self, queue: str, deliveries: list[Delivery]) -> list[Delivery]:
        """Bury what used up its receives without a result."""
        maximum = self._policies[queue].max_receives
        overdue = [delivery for delivery in deliveries if delivery.receives > maximum]
        if not overdue:
            return deliveries
        reason = f"received {maximum} times without a result"
        buried = [settle(delivery, "bury", reason) for delivery in overdue]
        await self._commit(buried)
        self.tallies[queue].stats.failed += len(overdue)
        for delivery, ended in zip(overdue, buried, strict=True):
            self._spans[queue].log_end(delivery, ended)
        return [delivery for delivery in deliveries if delivery not in overdue]

    async def settle(self, queue: str, caller: Caller, results: Sequence[Result]) -> Sequence[HeadwaterError | None]:
        """See `Pulling`. Raises what a commit raises; nothing was settled then."""
        answers, leases = self._read(queue, caller, [result.receipt for result in results])
        policy, now_ms = self._policies[queue], await self._engine.now_ms()
        attempts = {
            n: _Attempt(lease.delivery(queue), lease.span, lease.until_ms - MAX_HELD_MS, now_ms, _error(results[n]))
            for n, lease in leases.items()
        }
        settles = {n: attempt.settled(policy) for n, attempt in attempts.items()}
        await self._applied(queue, answers, settles)
        for n, attempt in attempts.items():
            if answers[n] is None:
                self._count(attempt, settles[n])
        return answers

    def _count(self, attempt: _Attempt, ended: Settle) -> None:
        """The attempt has ended so."""
        delivery, lasted_ms = attempt.delivery, max(attempt.ended_ms - attempt.began_ms, 0)
        tally = self.tallies[delivery.queue]
        if ended.outcome in ("retry", "bury"):
            tally.stats.failed += 1
        else:
            tally.stats.handled += 1
        tally.durations.observe(lasted_ms / 1000)
        self._spans[delivery.queue].end(delivery, attempt.span, lasted_ms, attempt.error, ended)

    async def extend(self, queue: str, caller: Caller, receipts: Sequence[str]) -> Sequence[HeadwaterError | None]:
        """See `Pulling`. Whether a lease holds is asked after its extension: from then on it cannot expire."""
        answers, leases = self._read(queue, caller, receipts)
        deliveries = {n: lease.delivery(queue) for n, lease in leases.items()}
        await self._engine.extend(list(deliveries.values()))
        return await self._applied(queue, answers, {n: settle(held, "fence") for n, held in deliveries.items()})

    def _read(
        self, queue: str, caller: Caller, receipts: Sequence[str]
    ) -> tuple[list[HeadwaterError | None], dict[int, Lease]]:
        """For each receipt why it is refused, and the leases of the others by their places."""
        answers: list[HeadwaterError | None] = [None] * len(receipts)
        leases: dict[int, Lease] = {}
        seen: set[tuple[int, int]] = set()
        now_ms = self._clock.wall_ms()
        for n, receipt in enumerate(receipts):
            lease = self._receipts.read(receipt, queue, caller)
            if lease is None:
                answers[n] = _refused(InvalidValue, "it is no receipt of this queue for this caller", queue)
            elif lease.until_ms <= now_ms:
                answers[n] = _refused(LeaseLost, "the receipt has expired; the item has no effect", queue)
            elif (lease.position, lease.fence) in seen:
                answers[n] = _refused(InvalidValue, "the receipt comes twice; its first item counts", queue)
            else:
                seen.add((lease.position, lease.fence))
                leases[n] = lease
        return answers, leases

    async def _applied(
        self, queue: str, answers: list[HeadwaterError | None], settles: Mapping[int, Settle]
    ) -> list[HeadwaterError | None]:
        places = list(settles)
        for lost in await self._commit(list(settles.values())):
            answers[places[lost]] = _refused(LeaseLost, "the lease has passed on; the item has no effect", queue)
        return answers

    async def _commit(self, settles: list[Settle]) -> Sequence[int]:
        """The places of those whose lease has passed on."""
        if not settles:
            return ()
        return (await self._engine.commit(Commit(id="", settles=settles, tolerant=True))).lost


class _Attempt(NamedTuple):
    """What a consumer says of a delivery: `error` is why it failed."""

    delivery: Delivery
    span: str
    began_ms: int
    ended_ms: int
    error: Exception | None

    def settled(self, policy: QueueSpec) -> Settle:
        """How the delivery ends; a retry after the last receive is a dead letter."""
        if self.error is None:
            return settle(self.delivery)
        return settle_failed(self.delivery, self.error, policy, self.began_ms, self.ended_ms)


def _error(result: Result) -> Exception | None:
    match result.outcome:
        case "ack":
            return None
        case "discard":
            return Discard(result.reason)
        case "dead":
            return Undeliverable(result.reason or "its consumer gave it up")
        case "retry":
            return Retry(result.after, result.reason or "retry requested")


def _refused(kind: type[HeadwaterError], message: str, queue: str) -> HeadwaterError:
    return kind(message, operation="settle", resource=queue)


async def _ended(receiving: asyncio.Future[list[Delivery]]) -> list[Delivery]:
    """What was received; nothing when it had to be cancelled."""
    receiving.cancel()
    await asyncio.wait([receiving])
    return [] if receiving.cancelled() else receiving.result()


def _finish(end: asyncio.Future[None]) -> None:
    if not end.done():
        end.set_result(None)
