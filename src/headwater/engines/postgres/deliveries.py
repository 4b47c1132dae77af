"""Leasing messages to the consumers of this process.

The database grants leases and takes them back; what is in memory follows it. A claim leases a few messages of one
queue under one number, their fencing token. A message's deadline is kept here while the process lives: it gives a late
one back itself, and extends the lease's row for those that go on. When it is dead, or stopped for longer than its row
in `process` says, the others take all its leases back (`beats.py`); the messages are then suspect of having killed it,
and are handed out alone: while a process holds a suspect, it claims nothing else.

Claims look at messages from where the line knows that nothing is left before (`_Line`), so that rows that were deleted
and that a long transaction keeps from being vacuumed cost nothing.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

import asyncpg

from headwater.applying.batch import Batch
from headwater.applying.state import Counts, Entry, Lease, decode_envelope
from headwater.clock import Timer
from headwater.engines.postgres.database import UNREACHABLE, verify
from headwater.engines.postgres.keys import unpack_text
from headwater.engines.postgres.records import Records
from headwater.engines.postgres.writer import Writer
from headwater.errors import StoreError
from headwater.events import Delivery

RESCAN_S = 120.0
_UNSEEN_S = 10.0
_HORIZONS = 64
_CLAIM = "SELECT * FROM @claim($1, $2, $3, $4, $5, $6, $7, $8, $9)"
_RELEASE = "SELECT @release_messages($1, $2, $3, $4, $5, $6)"
_EXTEND = "UPDATE @lease SET until_ms = $3 WHERE process = $1 AND id = ANY ($2)"
Place = tuple[int, int]


class _Line:
    """One queue that is consumed here.

    `position` and `time_ms`: no free message is left at or before them. A claim that found all it looked for moves them
    to what was `reached` when all transactions had ended that might still write before it (`horizons`). Transactions of
    others may stay open for long; a batch of ours that takes longer than `_UNSEEN_S` is found when all is looked at
    again.
    `drained`: a claim found all there was, and `stirred`: there may be something since.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.waiters: deque[asyncio.Future[None]] = deque()
        self.claiming = asyncio.Lock()
        self.stirred = self.drained = False
        self.timer: Timer | None = None
        self.due_ms = 0
        self.rescan(0.0)

    def rescan(self, now_s: float) -> None:
        """Look at everything again: at first, and after a claim that may have hidden messages was broken off."""
        self.position = self.time_ms = 0
        self.horizons: deque[tuple[int, float, tuple[int, int]]] = deque()
        self.known: tuple[int, int] = (0, 0)
        self.rescan_at = now_s + RESCAN_S
        self.drained = False

    def wake(self) -> None:
        self.stirred = True
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def note(self, row: asyncpg.Record, now_s: float) -> None:
        """Move on after a claim that was not for a suspect."""
        while self.horizons and (self.horizons[0][0] <= row["behind"] or self.horizons[0][1] <= now_s - _UNSEEN_S):
            self.known = self.horizons.popleft()[2]
        if len(self.horizons) < _HORIZONS or self.horizons[-1][1] <= now_s - _UNSEEN_S / _HORIZONS:
            self.horizons.append((row["ahead"], now_s, (row["reached"], row["reached_ms"] - 1)))
        self.drained = bool(row["late_done"] and row["fresh_done"])
        picked = list(zip(row["positions"] or (), row["readies"] or (), strict=True))
        last = self.known[0] if row["fresh_done"] else max((at for at, ready_ms in picked if not ready_ms), default=0)
        late = self.known[1] if row["late_done"] else max((ready_ms for _, ready_ms in picked), default=1) - 1
        self.position = max(self.position, min(self.known[0], last))
        self.time_ms = max(self.time_ms, min(self.known[1], late))


class Deliveries(Records):
    process: int
    _writer: Writer | None

    def _prepare_deliveries(self) -> None:
        self._lines: dict[int, _Line] = {}
        self._held: dict[int, set[Place]] = {}
        self._suspect: int | None = None
        self._expiry: Timer | None = None
        self._expiry_due = math.inf
        self._tasks: set[asyncio.Future[Any]] = set()
        self._closing = False

    def _start(self, work: Coroutine[Any, Any, object]) -> None:
        """Run it beside all else; it is cancelled when the store is closed."""
        self._begin(work).add_done_callback(self._look_at)

    def _look_at(self, task: asyncio.Future[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None and isinstance(error, Exception):
            self.fail(error)

    def _begin(self, work: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def receive(self, queue: str, limit: int, *, grouped: bool = False) -> list[Delivery]:
        self.writable()
        line = self._line(queue)
        while not self._closing:
            if line.drained and not line.stirred:
                await self._wait(line)
                continue
            line.stirred = False
            claim = self._begin(self._claim(line, limit, grouped))
            try:
                deliveries: list[Delivery] = await asyncio.shield(claim)
            except asyncio.CancelledError:
                claim.add_done_callback(self._give_back)
                raise
            if deliveries:
                if not line.drained:
                    line.wake()
                return deliveries
            if not line.stirred:
                await self._wait(line)
        raise StoreError("the store is closed", operation="receive", resource=queue)

    def _line(self, queue: str) -> _Line:
        number = self.queue_number(queue)
        line = self._lines.get(number)
        if line is None:
            line = self._lines[number] = _Line(number)
            line.rescan(self.clock.monotonic())
        return line

    async def _wait(self, line: _Line) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                line.wake()
            raise

    def _give_back(self, claim: asyncio.Future[list[Delivery]]) -> None:
        """The receiver went away while the claim was under way."""
        if not claim.cancelled() and claim.exception() is None and claim.result():
            self._start(self.release(claim.result()))

    async def _claim(self, line: _Line, limit: int, grouped: bool) -> list[Delivery]:
        async with line.claiming:
            if line.number in self.state.paused or self._suspect is not None or self._closing:
                return []
            now_s = self.clock.monotonic()
            if line.rescan_at <= now_s:
                line.rescan(now_s)
            try:
                row = await self._ask_for(line, limit, grouped)
            except BaseException:
                line.rescan(now_s)
                raise
        if row["due_ms"] == -1:
            return []
        if not row["is_suspect"]:
            line.note(row, now_s)
        if row["due_ms"] is not None:
            self._set_timer(line, row["due_ms"])
        return self._adopt(line, row) if row["positions"] else []

    async def _ask_for(self, line: _Line, limit: int, grouped: bool) -> asyncpg.Record:
        """Claim in the database. A claim whose answer is lost ends with its lease: nobody knows its number."""
        rows = await self.database.fetch(
            _CLAIM,
            line.number,
            limit,
            self.process,
            self.given_ms,
            self._visibility_ms(line),
            line.position,
            line.time_ms,
            grouped,
            self._suspect is None,
        )
        row: asyncpg.Record = rows[0]
        return row

    def _visibility_ms(self, line: _Line) -> int:
        return self.state.queues[self.state.names[line.number]].visibility_ms

    def _adopt(self, line: _Line, row: asyncpg.Record) -> list[Delivery]:
        fence, deadline = row["lease"], self.clock.monotonic() + self._visibility_ms(line) / 1000
        queue = self.state.names[line.number]
        deliveries = []
        columns = ("positions", "grps", "sent", "received", "was_redriven", "readies", "bodies", "crcs")
        for position, group, sent_ms, receives, redriven, ready_ms, body, crc in zip(
            *(row[name] for name in columns), strict=True
        ):
            verify(crc, lambda: f"event {position}", body)  # noqa: B023
            event = decode_envelope(body)
            delivery = Delivery(
                queue=queue,
                position=position,
                fence=fence,
                receives=receives,
                event=event,
                group=group and unpack_text(group),
                sent_ms=sent_ms,
                redriven=redriven,
            )
            entry = Entry(position, position, event, delivery.group, ready_ms, receives, redriven, sent_ms)
            self.state.leases[line.number, position] = Lease(delivery, entry, deadline)
            deliveries.append(delivery)
        self._held[fence] = {(line.number, delivery.position) for delivery in deliveries}
        if row["is_suspect"]:
            self._suspect = fence
        self._watch_expiry()
        return deliveries

    async def suspects(self, queue: str) -> list[Delivery]:
        """None: they are claimed like others, but alone."""
        return []

    def begin(self, delivery: Delivery) -> None:
        """A claim has counted it."""

    def end(self, delivery: Delivery) -> None:
        """A claim has counted it."""

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        now_s, now_ms = self.clock.monotonic(), self.present_ms()
        fences: dict[int, set[int]] = {}
        for delivery in deliveries:
            lease = self.state.leases.get(self._place(delivery))
            if lease is not None and lease.delivery.fence == delivery.fence:
                visibility_ms = self.state.queues[delivery.queue].visibility_ms
                lease.deadline = now_s + visibility_ms / 1000
                fences.setdefault(visibility_ms, set()).add(delivery.fence)
        for visibility_ms, held in fences.items():
            await self.database.fetch(_EXTEND, self.process, list(held), now_ms + visibility_ms)

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        await self._return(deliveries, counted=False)

    async def _return(self, deliveries: Iterable[Delivery], *, counted: bool) -> None:
        given = {(delivery.fence, delivery.position) for delivery in deliveries}
        mine = {
            place: lease.delivery.fence
            for place, lease in self.state.leases.items()
            if (lease.delivery.fence, place[1]) in given
        }
        if not mine:
            return
        numbers, positions = zip(*mine, strict=True)
        await self.give_back(numbers, positions, list(mine.values()), counted=counted)
        for place, fence in mine.items():
            self._forget(place, fence)

    async def give_back(
        self, numbers: Sequence[int], positions: Sequence[int], fences: Sequence[int], *, counted: bool = False
    ) -> None:
        """End leases in the database, those that still stand."""
        rows = await self.database.fetch(_RELEASE, self.gate, self.given_ms, counted, numbers, positions, fences)
        self.announce(set(rows[0][0]))

    def _place(self, delivery: Delivery) -> Place:
        return self.state.ids[delivery.queue], delivery.position

    def _forget(self, place: Place, fence: int) -> None:
        """The lease is over, in the database too."""
        lease = self.state.leases.get(place)
        if lease is not None and lease.delivery.fence == fence:
            del self.state.leases[place]
        held = self._held.get(fence)
        if held is not None:
            held.discard(place)
            if not held:
                del self._held[fence]
                if self._suspect == fence:
                    self._suspect = None
                    self.stir(self._lines)

    def stir(self, numbers: Iterable[int]) -> None:
        """Have the consumers of these queues look again."""
        for number in list(numbers):
            if line := self._lines.get(number):
                line.wake()

    def rescan(self) -> None:
        """A claim somewhere was broken off: what it had locked may have been passed over."""
        for line in self._lines.values():
            line.rescan(self.clock.monotonic())
            line.wake()

    # Leases of this process that run out.

    def _watch_expiry(self, after_s: float = -math.inf) -> None:
        deadlines = (lease.deadline for lease in self.state.leases.values())
        due = min((deadline for deadline in deadlines if deadline > after_s), default=math.inf)
        if due < self._expiry_due:
            if self._expiry is not None:
                self._expiry.cancel()
            self._expiry_due = due
            self._expiry = self.clock.call_later(max(due - self.clock.monotonic(), 0), self._expire)

    def _expire(self) -> None:
        self._expiry, self._expiry_due = None, math.inf
        now_s = self.clock.monotonic()
        late = [lease.delivery for lease in self.state.leases.values() if lease.deadline <= now_s]
        if self._closing:
            return
        if late:
            self._start(self._give_up(late))
        self._watch_expiry(now_s)

    async def _give_up(self, late: list[Delivery]) -> None:
        try:
            await self._return(late, counted=True)
        except Exception as error:
            if not isinstance(error, UNREACHABLE):
                self.fail(error)
        for place, lease in list(self.state.leases.items()):
            if lease.delivery in late:
                self._forget(place, lease.delivery.fence)

    def fail(self, error: Exception) -> None:
        raise NotImplementedError

    # The way back from the writer.

    def _ending(self, batch: Batch) -> list[int]:
        """The leases whose last messages are settled by the batch."""
        left: dict[int, set[Place]] = {}
        for place, (lease, _) in batch.settled.items():
            fence = lease.delivery.fence
            if fence in self._held:
                left.setdefault(fence, set(self._held[fence])).discard(place)
        return [fence for fence, places in left.items() if not places]

    def _written(self, batch: Batch, first: int) -> None:
        """A batch was written: its counters, leases and messages."""
        touched = set(batch.fresh)
        for number, entries in batch.fresh.items():
            counts = self.state.counts.setdefault(number, Counts())
            counts.sent += len(entries)
        for place, (lease, settle) in batch.settled.items():
            counts = self.state.counts.setdefault(place[0], Counts())
            if settle.outcome == "retry":
                counts.retried += 1
            else:
                counts.settled += 1
            if settle.outcome == "retry" or lease.delivery.group is not None:
                touched.add(place[0])
            self._forget(place, lease.delivery.fence)
        self.announce(touched)
        if batch.pending and batch.pending.flipped:
            self.revised()

    def announce(self, numbers: set[int]) -> None:
        """Something is or will be ready in these queues."""
        self.stir(numbers)

    def revised(self) -> None:
        """The catalog has a new revision; who has the old one is told by its next commit at the latest."""

    def _set_timer(self, line: _Line, due_ms: int) -> None:
        """Look again when the next delayed message is ready."""
        if line.timer is not None:
            if line.due_ms <= due_ms:
                return
            line.timer.cancel()
        line.due_ms = due_ms
        line.timer = self.clock.call_later(max(due_ms - self.present_ms(), 0) / 1000, lambda: self._due(line))

    def _due(self, line: _Line) -> None:
        line.timer = None
        line.wake()
