"""Leasing messages to consumers, and keeping the ready windows in step with the commits.

A lease is granted on the event loop and revoked in the writer's thread only, in the order of the commits, so a
lease that expires and a commit that settles it can never both win. Granting and revoking meet in
`dict.setdefault`, which is atomic under the interpreter lock.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections import deque
from collections.abc import Sequence

import apsw

from headwater.applying.batch import Batch
from headwater.applying.state import Entry, Lease
from headwater.clock import Timer
from headwater.engines.sqlite.board import Board
from headwater.engines.sqlite.fifo import FifoWindow
from headwater.engines.sqlite.loading import Loader
from headwater.engines.sqlite.records import Records
from headwater.engines.sqlite.window import Window
from headwater.engines.sqlite.writer import Result
from headwater.events import Delivery
from headwater.unit import Committed

Place = tuple[int, int]


class _Line:
    """One queue that is being consumed: its window, those who wait, and the timer for delayed messages."""

    def __init__(self, window: Window | FifoWindow, number: int, visibility_ms: int) -> None:
        self.window = window
        self.number = number
        self.visibility_ms = visibility_ms
        self.waiters: deque[asyncio.Future[None]] = deque()
        self.timer: Timer | None = None
        self.due_ms = 0

    def wake(self) -> None:
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return


class Deliveries(Records):
    board: Board

    def _prepare_deliveries(self) -> None:
        self._lines: dict[int, _Line] = {}
        self._fence = secrets.randbits(30) << 32  # a lease of an earlier opening never fits
        self._expiry_due = math.inf
        self._expiry: Timer | None = None
        self._suspects: list[Place] = []

    def _line(self, queue: str) -> _Line:
        number = self.queue_number(queue)
        line = self._lines.get(number)
        if line is None:
            spec = self.state.queues[queue]
            loader = Loader(self.reader, number)
            window = FifoWindow(loader) if spec.fifo else Window(loader)
            line = self._lines[number] = _Line(window, number, spec.visibility_ms)
        return line

    async def receive(self, queue: str, limit: int, *, grouped: bool = False) -> list[Delivery]:
        line = self._line(queue)
        while True:
            deliveries = self._grant(queue, line, limit, grouped)
            if deliveries:
                if line.waiters:
                    line.wake()
                return deliveries
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            line.waiters.append(waiter)
            self._set_timer(line)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    line.wake()
                raise

    def _grant(self, queue: str, line: _Line, limit: int, grouped: bool) -> list[Delivery]:
        if line.number in self.state.paused or self.writer.failure is not None:
            return []
        while entries := line.window.take(limit, self.present_ms(), grouped=grouped):
            granted = [delivery for entry in entries if (delivery := self._lease(queue, line, entry))]
            if granted:
                return granted
        return []

    def _lease(self, queue: str, line: _Line, entry: Entry) -> Delivery | None:
        self._fence += 1
        entry.receives += 1
        delivery = Delivery(
            queue=queue,
            position=entry.position,
            fence=self._fence,
            receives=entry.receives,
            event=entry.event,
            group=entry.group,
            sent_ms=entry.sent_ms,
            redriven=entry.redriven,
        )
        lease = Lease(delivery, entry, self.clock.monotonic() + line.visibility_ms / 1000)
        holder = self.state.leases.setdefault((line.number, entry.position), lease)
        if holder is not lease:
            entry.receives -= 1
            if holder.entry is None:
                holder.refused = entry
            return None
        if lease.deadline < self._expiry_due:
            self._watch_expiry(lease.deadline)
        return delivery

    async def suspects(self, queue: str) -> list[Delivery]:
        number = self.queue_number(queue)
        mine = [position for of, position in self._suspects if of == number]
        self._suspects = [place for place in self._suspects if place[0] != number]
        if not mine:
            return []
        line = self._line(queue)
        return [delivery for entry in line.window.pick(mine) if (delivery := self._lease(queue, line, entry))]

    def begin(self, delivery: Delivery) -> None:
        self.board.begin(self.state.ids[delivery.queue], delivery.position)

    def end(self, delivery: Delivery) -> None:
        self.board.end(self.state.ids[delivery.queue], delivery.position)

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        now = self.clock.monotonic()
        for delivery in deliveries:
            lease = self.state.leases.get(self._place(delivery))
            if lease is not None and lease.delivery.fence == delivery.fence:
                lease.deadline = now + self.state.queues[delivery.queue].visibility_ms / 1000

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        places = {self._place(delivery): delivery.fence for delivery in deliveries}
        await self._revoke(places, counted=False)

    def _place(self, delivery: Delivery) -> Place:
        return self.state.ids[delivery.queue], delivery.position

    async def _revoke(self, places: dict[Place, int], *, counted: bool) -> None:
        leases = self.state.leases

        def work(_: apsw.Connection) -> list[tuple[Place, Entry]]:
            revoked = []
            for place, fence in places.items():
                lease = leases.get(place)
                if lease is not None and lease.entry is not None and lease.delivery.fence == fence:
                    del leases[place]
                    revoked.append((place, lease.entry))
            return revoked

        for (number, _), entry in await self.writer.run(work, durable=False):
            if not counted:
                entry.receives -= 1
            self._restore(number, entry)

    def _restore(self, number: int, entry: Entry) -> None:
        line = self._lines.get(number)
        if line is not None:
            line.window.restore(entry)
            self._set_timer(line)
            line.wake()

    def _watch_expiry(self, deadline: float) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry_due = deadline
        self._expiry = self.clock.call_later(max(deadline - self.clock.monotonic(), 0), self._expire_leases)

    def _expire_leases(self) -> None:
        self._expiry, self._expiry_due = None, math.inf
        now = self.clock.monotonic()
        late = {p: x.delivery.fence for p, x in list(self.state.leases.items()) if x.deadline <= now}
        if late and self.writer.failure is None:
            self._tasks.add(task := asyncio.get_running_loop().create_task(self._revoke(late, counted=True)))
            task.add_done_callback(self._tasks.discard)
        next_due = min((x.deadline for x in list(self.state.leases.values()) if x.deadline > now), default=math.inf)
        if next_due < math.inf:
            self._watch_expiry(next_due)

    _tasks: set[asyncio.Task[None]]

    # The way back from the writer: results to callers, new messages to the windows.

    def _committed(self, batch: Batch | None, answers: list[tuple[asyncio.Future[Committed], Result]]) -> None:
        for future, result in answers:
            if not future.done():
                if isinstance(result, Committed):
                    future.set_result(result)
                else:
                    future.set_exception(result)
        if batch is not None:
            self._follow(batch)

    def _follow(self, batch: Batch) -> None:
        """Bring the windows in step with a batch that was committed."""
        lines = self._lines
        touched: set[_Line] = set()
        for (number, _), (lease, settle) in batch.settled.items():
            line = lines.get(number)
            if line is None or lease.entry is None:
                continue
            touched.add(line)
            if settle.outcome == "retry":
                lease.entry.ready_ms = settle.ready_ms
                line.window.restore(lease.entry)
            else:
                line.window.settled(lease.entry)
        for number, entries in batch.fresh.items():
            line = lines.get(number)
            if line is not None:
                touched.add(line)
                offer = line.window.offer
                for entry in entries:
                    offer(entry)
        for line in touched:
            self._set_timer(line)
            line.wake()

    def _set_timer(self, line: _Line) -> None:
        """Wake a waiting consumer when the next delayed message is ready; without one nobody needs it.

        A paused queue hands out nothing: what is ready there would wake the consumer again and again.
        """
        if not line.waiters or line.number in self.state.paused:
            return
        due = line.window.next_due()
        if due is None or (line.timer is not None and line.due_ms <= due):
            return
        if line.timer is not None:
            line.timer.cancel()
        line.due_ms = due
        line.timer = self.clock.call_later(max(due - self.present_ms(), 0) / 1000, lambda: self._due(line))

    def _due(self, line: _Line) -> None:
        line.timer = None
        line.wake()
        self._set_timer(line)
