"""The handler of an operation's calls: asks the third party, then notes what became of it.

A batch runs in two parts. First all that is due is asked, at most `concurrency` calls at once: reads here are not
validated, and nothing is written but, before a start, that it is begun. Then each outcome is noted against the
operation's present state, in the unit of work of the batch. The outcomes are kept until then: when that commit
meets a conflict, the handler runs again and asks nothing twice.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec
import structlog

from headwater.backoff import delay_ms
from headwater.clock import Clock
from headwater.errors import Conflict, DeclarationError
from headwater.events import Delivery, Event
from headwater.operations.ledger import Ledger, Raw
from headwater.operations.outcomes import Outcome, Reader, read_error
from headwater.operations.pace import Pace
from headwater.operations.tracked import Call, Due, Progress, State, Tracked, with_statistics
from headwater.transactions import attempt
from headwater.unit import Origin, Settle
from headwater.work import RERUNS, UnitOfWork, back_off, current, enter, leave

if TYPE_CHECKING:
    import httpx

Q = TypeVar("Q")
A = TypeVar("A")
BACKOFF_MS = 60_000
CALL_S = 60.0
"""How long a call may take in all."""
KEPT_OUTCOMES = 4_096
"""More than a consumer has under way."""
log = structlog.get_logger("headwater.operations")


class Asked(msgspec.Struct, frozen=True):
    """A call that was made, or put off, and what became of it. `state`: the operation's, then; `may_run`: an earlier
    start may have had an effect."""

    call: Call
    outcome: Outcome
    state: State
    may_run: bool = False


class Calls(Generic[Q, A]):
    """`handle` is the handler. What the app declares is set by `Operation`."""

    ask: dict[Call, Callable[[Tracked[Q]], Awaitable[httpx.Response]]]

    def __init__(self, ledger: Ledger, reader: Reader[A], pace: Pace, *, concurrency: int) -> None:
        self.ask = {}
        self.ledger = ledger
        self._reader = reader
        self.pace = pace
        self.idempotent = True
        self._concurrency = concurrency
        self.typed: Callable[[Raw], Tracked[Q]]
        self.every_ms: Callable[[], int]
        self.count: Callable[[Call, str], None]
        self.reset()

    def reset(self) -> None:
        """Before a run: nothing is known of calls that another process, or another run, has made."""
        self._slots = asyncio.Semaphore(self._concurrency)
        self._outcomes: OrderedDict[str, Asked] = OrderedDict()

    async def handle(self, events: Sequence[Event[Due]]) -> None:
        unit = current.get()
        assert unit is not None
        deliveries = {delivery.event.id: delivery for delivery in unit.deliveries}
        tasks = [asyncio.create_task(self._ask_once(unit, event, deliveries[event.id])) for event in events]
        try:
            asked = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        now_ms = await unit.engine.now_ms()
        for event, one in zip(events, asked, strict=True):
            if one is not None:
                async with attempt(event):
                    unit.use(_same_depth(deliveries[event.id]))
                    await _Noting(self, unit, event.data, one, now_ms).run()

    # Asking

    async def _ask_once(self, unit: UnitOfWork, event: Event[Due], delivery: Delivery) -> Asked | None:
        """Make the call that is due; None when the message has no effect any more."""
        known = self._outcomes.get(event.id)
        if known is not None:
            return known
        engine, due, ledger = unit.engine, event.data, self.ledger
        reading = UnitOfWork(engine, delivery)
        progress = await ledger.progress(reading, due.subject)
        if progress is None or (progress.id, progress.token) != (due.id, due.token):
            return None
        tracked = await ledger.of_open(reading, progress)
        call = self._due_call(tracked, progress)
        if call is None:
            return None
        asked: Asked | None
        async with self._slots:
            wait_s = self.pace.turn(engine.clock.monotonic(), paced=due.paced)
            if wait_s > 0:
                return Asked(call, Outcome(kind="postponed", wait_s=wait_s), tracked.state)
            if call == "start":
                asked = await self._start(unit, reading, delivery, due, with_statistics(tracked, progress))
            else:
                outcome = await self._call(call, reading, engine.clock, with_statistics(tracked, progress))
                asked = Asked(call, outcome, tracked.state)
        if asked is not None:
            self._remember(event.id, asked, progress, engine.clock)
        return asked

    def _remember(self, id: str, asked: Asked, progress: Progress, clock: Clock) -> None:
        """Keep the outcome until it is noted; a pause that the third party wants begins at once, for all."""
        self.count(asked.call, asked.outcome.kind)
        self._outcomes[id] = asked
        if len(self._outcomes) > KEPT_OUTCOMES:
            self._outcomes.popitem(last=False)
        if asked.outcome.kind == "busy":
            wait_s = asked.outcome.wait_s or self.backoff_ms(progress.failures + 1) / 1000
            self.pace.pause(wait_s, clock.monotonic())

    def _due_call(self, tracked: Raw, progress: Progress) -> Call | None:
        if tracked.state == "in_doubt":
            return None
        if not tracked.external_id:
            return "start"
        asked = tracked.cancel_refused or progress.stopping or "cancel" not in self.ask
        return "cancel" if tracked.cancel_requested_ms and not asked else "poll"

    async def _start(
        self, unit: UnitOfWork, reading: UnitOfWork, delivery: Delivery, due: Due, tracked: Raw
    ) -> Asked | None:
        """Note that the third party may know of it from now on, then start it."""
        before = await self._begin(unit, delivery, due)
        if before is None:
            return None
        if before.may_run and not self.idempotent:
            error = "the process ended while it was being started"
            return Asked("start", Outcome(kind="unreachable", error=error, unsure=True), tracked.state, True)
        outcome = await self._call("start", reading, unit.engine.clock, tracked)
        return Asked("start", outcome, tracked.state, before.may_run)

    async def _begin(self, unit: UnitOfWork, delivery: Delivery, due: Due) -> Progress | None:
        """The progress as it was before, in a commit of its own; None when the message has no effect any more."""
        for again in range(RERUNS + 1):
            own = UnitOfWork(unit.engine, _same_depth(delivery))
            progress = await self.ledger.progress(own, due.subject)
            if progress is None or (progress.id, progress.token) != (due.id, due.token):
                return None
            before = msgspec.structs.replace(progress)
            if before.may_run and not self.idempotent:
                return before
            progress.may_run, progress.attempts = True, progress.attempts + 1
            self.ledger.keep(own, progress)
            own.settle(Settle(delivery.queue, delivery.position, delivery.fence, "fence"))
            try:
                await own.commit()
            except Conflict:
                if again == RERUNS:
                    raise
                await back_off(again)
            else:
                return before
        raise AssertionError("unreachable")

    async def _call(self, call: Call, reading: UnitOfWork, clock: Clock, tracked: Raw) -> Outcome:
        """Run the app's function, in a unit that it may read in."""
        token = enter(reading)
        try:
            response = await self._bounded(clock, self.ask[call](self.typed(tracked)))
            if reading.writes_anything:
                raise DeclarationError(
                    f"on_{call} only asks the third party: what it writes would not be part of any commit",
                    operation="call",
                    resource=self.ledger.name,
                    hint="write in a handler of the operation's events",
                )
            return self._reader.read(call, response, clock.wall_ms() / 1000)
        except Exception as error:
            outcome = read_error(call, error)
            if outcome.kind == "changed":
                log.warning("a call raised", operation=self.ledger.name, subject=tracked.subject, error=outcome.error)
            return outcome
        finally:
            leave(token)
            reading.close(f"on_{call} returned")

    async def _bounded(self, clock: Clock, asking: Awaitable[httpx.Response]) -> httpx.Response:
        """Give up on a call whose client does not."""
        task = asyncio.current_task()
        assert task is not None
        expired = False

        def expire() -> None:
            nonlocal expired
            expired = task.cancel()

        timer = clock.call_later(CALL_S, expire)
        try:
            return await asking
        except asyncio.CancelledError:
            if not expired or task.uncancel() > 0:
                raise
            raise TimeoutError(f"no answer within {CALL_S:g} s") from None
        finally:
            timer.cancel()

    # What the outcome asks for

    def backoff_ms(self, failures: int) -> int:
        """Doubling from a minute, or from the interval of the polls if that is shorter, to that interval."""
        every_ms = self.every_ms()
        return delay_ms(
            failures, base_ms=min(every_ms, BACKOFF_MS), cap_ms=max(every_ms, BACKOFF_MS), roll=random.random()
        )


def _same_depth(delivery: Delivery) -> Origin:
    """Calls follow one another for days: they are one cause deep, all of them."""
    event = delivery.event
    return Origin(delivery.message_id, event.caller, event.trace, event.depth)


class _Noting:
    """One outcome, noted in the unit of work of its batch."""

    def __init__(self, calls: Calls[Any, Any], unit: UnitOfWork, due: Due, asked: Asked, now_ms: int) -> None:
        self.calls, self.unit, self.due, self.asked, self.now_ms = calls, unit, due, asked, now_ms
        self.outcome = asked.outcome
        self.ledger = calls.ledger

    async def run(self) -> None:
        progress = await self.ledger.progress(self.unit, self.due.subject)
        if progress is None or progress.id != self.due.id:
            await self._note_late()
            return
        if self.outcome.kind == "postponed":
            if progress.token == self.due.token:
                self._wake(progress, math.ceil(self.outcome.wait_s * 1000), paced=True)
            return
        self._count(progress)
        kind = self.outcome.kind
        if kind == "pending":
            await self._pending(progress)
        elif kind in ("busy", "unreachable", "changed"):
            await self._went_wrong(progress)
        else:
            await self._move_on(progress, await self.ledger.of_open(self.unit, progress))

    def _wake(self, progress: Progress, delay_ms: int, *, paced: bool = False) -> None:
        self.ledger.wake(self.unit, progress, self.now_ms, delay_ms, paced=paced)

    def _count(self, progress: Progress) -> None:
        outcome = self.outcome
        if self.asked.call == "poll":
            progress.polls += 1
            progress.polled_ms = self.now_ms
        progress.last_status, progress.last_answer = outcome.status, outcome.answer
        progress.last_error = outcome.error
        if outcome.kind not in ("busy", "unreachable", "changed"):
            progress.failures = 0
            self.ledger.leave_contract(self.unit, progress)

    async def _pending(self, progress: Progress) -> None:
        """The usual answer: nothing but the progress is written, once the operation is known to be pending."""
        self._wake(progress, self.calls.every_ms())
        if self.asked.state == "started":
            tracked = await self.ledger.of_open(self.unit, progress)
            if tracked.state == "started":
                self.ledger.save(self.unit, msgspec.structs.replace(tracked, state="pending"), progress)

    async def _move_on(self, progress: Progress, tracked: Raw) -> None:
        outcome, ledger = self.outcome, self.ledger
        match outcome.kind:
            case "started" if not tracked.external_id:
                self._wake(progress, 0 if tracked.cancel_requested_ms else self.calls.every_ms())
                started = {"state": "started", "detail": "", "started_ms": self.now_ms}
                if tracked.state == "in_doubt":
                    ledger.alarm(self.unit, "operation-in-doubt", tracked, "the answer came after all", "ok")
                ledger.save(
                    self.unit, msgspec.structs.replace(tracked, external_id=outcome.external_id, **started), progress
                )
            case "completed" | "failed":
                detail = "the third party says so" if outcome.kind == "failed" else ""
                ledger.end(self.unit, tracked, progress, outcome.kind, self.now_ms, detail=detail)
            case "cancelled":
                await self._cancelled(progress, tracked)
            case "refused":
                self._wake(progress, self.calls.every_ms())
                ledger.save(
                    self.unit, msgspec.structs.replace(tracked, cancel_refused=True, detail=outcome.error), progress
                )
            case "stopping":
                progress.stopping = bool(tracked.cancel_requested_ms)
                self._wake(progress, self.calls.every_ms())
            case _:
                self._wake(progress, self.calls.every_ms())

    async def _cancelled(self, progress: Progress, tracked: Raw) -> None:
        """Ended; a new one is started if it was stopped at our wish and is wanted again since."""
        wanted_again = progress.rejoined and not tracked.cancel_requested_ms
        self.ledger.end(self.unit, tracked, progress, "cancelled", self.now_ms, detail="by the third party")
        if wanted_again:
            overdue_ms = tracked.deadline_ms - tracked.requested_ms
            await self.ledger.request(self.unit, tracked.subject, bytes(tracked.request), overdue_ms)

    async def _went_wrong(self, progress: Progress) -> None:
        outcome, ledger = self.outcome, self.ledger
        progress.failures += 1
        delay_ms = self.calls.backoff_ms(progress.failures)
        if outcome.kind == "busy":
            delay_ms = max(delay_ms, math.ceil(outcome.wait_s * 1000))
        if outcome.kind == "changed":
            await ledger.meet_contract(self.unit, progress, outcome, self.now_ms)
        if self.asked.call == "start":
            tracked = await ledger.of_open(self.unit, progress)
            progress.may_run = self.asked.may_run or outcome.unsure
            if tracked.external_id or tracked.state != "requested":
                return
            if progress.may_run and not self.calls.idempotent:
                ledger.doubt(self.unit, tracked, progress, outcome.error)
                return
            if tracked.cancel_requested_ms and not progress.may_run:
                ledger.end(self.unit, tracked, progress, "cancelled", self.now_ms, detail="before it was started")
                return
        self._wake(progress, delay_ms)

    async def _note_late(self) -> None:
        """The operation has ended meanwhile: what matters still is that the third party has started it."""
        if self.outcome.kind != "started":
            return
        tracked = await self.ledger.record(self.unit, (self.due.subject, self.due.id))
        if tracked is not None and not tracked.external_id:
            detail = f"{tracked.detail}; the third party has started it all the same".removeprefix("; ")
            told = msgspec.structs.replace(tracked, external_id=self.outcome.external_id, detail=detail)
            figures = Progress(
                subject=told.subject, id=told.id, last_status=self.outcome.status, attempts=told.attempts
            )
            self.ledger.save(self.unit, told, figures)
            self.ledger.alarm(self.unit, "operation-in-doubt", told, detail)
