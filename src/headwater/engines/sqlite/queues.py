"""Looking into queues and dead letters, pausing, purging, subscribing, replaying."""

from __future__ import annotations

import asyncio
import math
from array import array
from collections.abc import Callable
from typing import NamedTuple

import apsw
import msgspec

from headwater.applying.documents import subject
from headwater.applying.state import Lease, decode_envelope
from headwater.catalog import Router, RouteSpec
from headwater.engine import MANY_GROUPS, DeadLetter, Query, QueueStats, Subscription, Waiting
from headwater.engines.sqlite.database import fetch, verify
from headwater.engines.sqlite.deliveries import Deliveries
from headwater.engines.sqlite.fifo import FifoWindow
from headwater.engines.sqlite.records import translated
from headwater.errors import DeclarationError, UnknownResource
from headwater.events import INSERTED, Delivery, Envelope, KeyPart
from headwater.ids import new_id
from headwater.unit import Emit, new_commit

_SLICE = 500
_NOBODY = Delivery(queue="", position=0, fence=0, receives=0, event=Envelope(id="", source="", type=""))
Removal = Callable[[apsw.Connection, list[int]], int]


class _Waits(NamedTuple):
    """Of the messages of a queue: how many are delayed, when the oldest was sent, when the first was or is ready."""

    delayed: int = 0
    oldest_ms: int = 0
    due_ms: int = 0


_EMPTY = _Waits()


class Queues(Deliveries):
    async def stats(self) -> list[QueueStats]:
        if self.read_only:
            self.state.count(self.reader)
        for queue in self.state.queues:
            more = self._look_ahead(queue)
            while more:
                await asyncio.sleep(0)
                more = self._look_ahead(queue)
        return self._stats()

    @translated("stats")
    def _look_ahead(self, queue: str) -> bool:
        """Read on in a queue with groups that has messages, until enough of them are known to be counted."""
        spec, number = self.state.queues[queue], self.queue_number(queue)
        if not (spec.fifo and self.state.counts[number].depth):
            return False
        window = self._line(queue).window
        return isinstance(window, FifoWindow) and window.look_ahead(MANY_GROUPS)

    def _groups(self, number: int, leased: list[Delivery], now_ms: int) -> int | None:
        """How many groups are ready or leased; None of a queue without groups."""
        spec = self.state.queues.get(self.state.names[number])
        if spec is None or not spec.fifo:
            return None
        window = self._lines[number].window if number in self._lines else None
        ready = window.ready_groups(MANY_GROUPS, now_ms) if isinstance(window, FifoWindow) else 0
        return ready + len({delivery.group for delivery in leased})

    @translated("stats")
    def _stats(self) -> list[QueueStats]:
        now_ms = self.present_ms()
        leased: dict[int, list[Delivery]] = {}
        for (number, _), lease in list(self.state.leases.items()):
            if lease.entry is not None:
                leased.setdefault(number, []).append(lease.delivery)
        found = []
        for number, counts in sorted(self.state.counts.items(), key=lambda item: self.state.names[item[0]]):
            waits = self._waits(number, counts.depth, now_ms) if counts.depth else _EMPTY
            found.append(
                QueueStats(
                    queue=self.state.names[number],
                    depth=counts.depth,
                    in_flight=len(leased.get(number, ())),
                    delayed=waits.delayed,
                    dead=counts.dead,
                    oldest_age_ms=max(0, now_ms - waits.oldest_ms) if waits.oldest_ms else 0,
                    paused=number in self.state.paused,
                    sent=counts.sent,
                    settled=counts.settled,
                    retried=counts.retried,
                    due_ms=waits.due_ms,
                    groups=self._groups(number, leased.get(number, []), now_ms),
                )
            )
        return found

    def _waits(self, number: int, depth: int, now_ms: int) -> _Waits:
        """How the messages of a queue wait. Those that were ready when they were sent are due since then."""
        oldest = fetch(self.reader, "SELECT sent_ms FROM message WHERE queue = ? ORDER BY position LIMIT 1", (number,))
        if not oldest:
            return _EMPTY
        later, delayed, due_ms = fetch(
            self.reader,
            "SELECT count(*), total(ready_ms > ?), min(ready_ms) FROM message WHERE queue = ? AND ready_ms > 0",
            (now_ms, number),
        )[0]
        if later < depth:
            ready = fetch(
                self.reader,
                "SELECT sent_ms FROM message WHERE queue = ? AND ready_ms = 0 ORDER BY position LIMIT 1",
                (number,),
            )
            due_ms = min([due_ms] * (due_ms is not None) + [sent_ms for (sent_ms,) in ready], default=0)
        return _Waits(int(delayed), oldest[0][0], due_ms or 0)

    async def peek(self, queue: str, limit: int, after: int = 0) -> list[Waiting]:
        return self._peek(queue, limit, after)

    @translated("peek")
    def _peek(self, queue: str, limit: int, after: int) -> list[Waiting]:
        number = self.queue_number(queue)
        rows = fetch(
            self.reader,
            "SELECT m.position, m.receives, m.ready_ms, m.grp, e.envelope, e.crc FROM message m"
            " CROSS JOIN event e ON e.seq = m.event"
            " WHERE m.queue = ? AND m.position > ? ORDER BY m.position LIMIT ?",
            (number, after, limit),
        )
        found = []
        for position, receives, ready_ms, group, body, crc in rows:
            verify(crc, lambda: f"{queue} {position}", body)  # noqa: B023
            event = decode_envelope(body)
            found.append(
                Waiting(
                    queue=queue,
                    position=position,
                    event=event,
                    receives=receives,
                    ready_ms=ready_ms,
                    group=group,
                    failures=self.failures(event.id, number),
                )
            )
        return found

    async def pause(self, queue: str, paused: bool) -> None:
        number = self.queue_number(queue)

        def work(connection: apsw.Connection) -> None:
            if paused:
                connection.execute("INSERT OR IGNORE INTO paused VALUES (?)", (number,))
            else:
                connection.execute("DELETE FROM paused WHERE queue = ?", (number,))

        def adopt(_: None) -> None:
            (self.state.paused.add if paused else self.state.paused.discard)(number)

        await self.writer.run(work, adopt)
        if not paused and (line := self._lines.get(number)):
            line.wake()

    async def purge(self, queue: str) -> int:
        number, total = self.queue_number(queue), 0
        after = 0
        while True:
            removed, after = await self._remove_waiting(number, after)
            total += removed
            if not after:
                return total

    async def _remove_waiting(self, number: int, after: int) -> tuple[int, int]:
        """Remove a slice of messages that are not leased; (how many, the last position or 0 at the end)."""

        def work(connection: apsw.Connection, held: list[int]) -> int:
            rows = fetch(
                connection,
                "SELECT position FROM message WHERE queue = ? AND position > ? ORDER BY position LIMIT ?",
                (number, after, _SLICE),
            )
            self._hold(number, [position for (position,) in rows], held)
            delete_messages(connection, number, held)
            return rows[-1][0] if len(rows) == _SLICE else 0

        return await self._remove(number, work)

    async def _remove(self, number: int, work: Removal, *, die: bool = False) -> tuple[int, int]:
        """Run `work`, which holds and deletes messages; (how many it held, its answer)."""
        held: list[int] = []

        def adopt(_: int) -> None:
            counts = self.state.counts[number]
            counts.depth -= len(held)
            counts.settled += len(held)
            counts.dead += len(held) if die else 0

        removal = self.writer.run(lambda connection: work(connection, held), adopt)
        removal.add_done_callback(lambda done: self._let_go_of(number, held, failed=done.exception() is not None))
        answer = await asyncio.shield(removal)
        return len(held), answer

    def _hold(self, number: int, positions: list[int], held: list[int]) -> None:
        """Take leases of messages that are about to be removed, so that no consumer gets them meanwhile."""
        for position in positions:
            lease = Lease(_NOBODY, None, math.inf)
            if self.state.leases.setdefault((number, position), lease) is lease:
                held.append(position)

    def _let_go_of(self, number: int, held: list[int], *, failed: bool) -> None:
        """On the event loop: the windows forget what was removed, or take back what was refused meanwhile."""
        line = self._lines.get(number)
        if line and not failed:
            line.window.drop(held)
        for position in held:
            lease = self.state.leases.pop((number, position))
            if line and failed and lease.refused is not None:
                line.window.restore(lease.refused)
        if line:
            line.wake()

    async def dead_letters(self, queue: str = "", limit: int = 100, after: int = 0) -> list[DeadLetter]:
        return self._dead_letters(queue, limit, after)

    @translated("dead letters")
    def _dead_letters(self, queue: str, limit: int, after: int) -> list[DeadLetter]:
        where, bindings = ("queue = ? AND ", [self.queue_number(queue)]) if queue else ("", [])
        rows = fetch(
            self.reader,
            "SELECT id, queue, event_id, envelope, crc, grp, receives, reason, died_ms FROM dead"
            f" WHERE {where}id > ? ORDER BY id LIMIT ?",
            (*bindings, after, limit),
        )
        found = []
        for id, number, event_id, body, crc, group, receives, reason, died_ms in rows:
            verify(crc, lambda: f"dead letter {id}", body)  # noqa: B023
            name = self.state.names[number]
            found.append(
                DeadLetter(
                    id=id,
                    queue=name,
                    message_id=f"{event_id}/{name}",
                    event=decode_envelope(body),
                    receives=receives,
                    reason=reason,
                    died_ms=died_ms,
                    group=group,
                    failures=self.failures(event_id, number),
                )
            )
        return found

    async def subscribe(self, route: RouteSpec) -> Subscription:
        self.queue_number(route.target)
        if route.source not in self.state.ids:
            raise UnknownResource("no such source", operation="subscribe", resource=route.source)
        if route.group and not self.state.queues[route.target].fifo:
            raise DeclarationError(
                "the queue is not FIFO, it cannot keep groups in order",
                operation="subscribe",
                resource=route.target,
                hint="declare it with fifo=True, or subscribe without a group",
            )
        plain = msgspec.structs.replace(route, origin="subscribed", id="")
        merged = self.state.merged()
        Router(merged.queues, (*merged.routes, plain))

        def work(connection: apsw.Connection) -> Subscription:
            for id, present in self.state.subscriptions.items():
                if msgspec.structs.replace(present, id="") == plain:
                    return Subscription(id, present)
            added = msgspec.structs.replace(plain, id=new_id())
            connection.execute("INSERT INTO subscription VALUES (?, ?)", (added.id, msgspec.json.encode(added)))
            connection.execute("UPDATE head SET revision = revision + 1")
            return Subscription(added.id, added)

        def adopt(answer: Subscription) -> None:
            if answer.id not in self.state.subscriptions:
                self.state.subscriptions[answer.id] = answer.route
                self.state.head.revision += 1
                self.state.compile()

        subscription: Subscription = await self.writer.run(work, adopt)
        return subscription

    async def unsubscribe(self, id: str) -> bool:
        if id not in self.state.subscriptions:
            return False

        def work(connection: apsw.Connection) -> bool:
            connection.execute("DELETE FROM subscription WHERE id = ?", (id,))
            removed = connection.changes() > 0
            connection.execute("UPDATE head SET revision = revision + ?", (removed,))
            return removed

        def adopt(removed: bool) -> None:
            if removed:
                del self.state.subscriptions[id]
                self.state.head.revision += 1
                self.state.compile()

        return bool(await self.writer.run(work, adopt))

    async def replay(self, table: str, queue: str) -> int:
        """Slices of present rows, each one commit of direct sends in key order."""
        self.queue_number(queue)
        total = 0
        after: tuple[KeyPart, ...] | None = None
        while True:
            records = self._query(Query(table=table, after=after, limit=_SLICE)).records
            if not records:
                return total
            commit = new_commit()
            for n, record in enumerate(records):
                event = Envelope(
                    id=f"{commit.id}-{n}",
                    source=table,
                    type=INSERTED,
                    subject=subject(record.key),
                    data=record.body,
                    key=record.key,
                    version=record.version,
                    attributes={"replayed": "true"},
                    trace=commit.trace,
                    schema=record.schema,
                )
                commit.emits.append(Emit(event, queue=queue, group=event.subject))
            await self.writer.submit(commit)
            total += len(records)
            after = records[-1].key
            await asyncio.sleep(0)


def delete_messages(connection: apsw.Connection, queue: int, positions: list[int]) -> None:
    if positions:
        connection.execute(
            "DELETE FROM message WHERE queue = ? AND position IN carray(?)",
            (queue, apsw.carray(array("q", positions))),
        )
