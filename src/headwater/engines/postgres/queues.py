"""Looking into queues and dead letters, pausing, purging, subscribing, replaying."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from headwater.applying.documents import subject
from headwater.applying.state import Counts, decode_envelope
from headwater.catalog import Router, RouteSpec
from headwater.engine import DeadLetter, Query, QueueStats, Subscription, Waiting
from headwater.engines.postgres.database import Connection, verify
from headwater.engines.postgres.deliveries import Deliveries
from headwater.engines.postgres.keys import unpack_text
from headwater.engines.postgres.state import State
from headwater.engines.postgres.totals import Totals
from headwater.errors import DeclarationError, UnknownResource
from headwater.events import INSERTED, Envelope, KeyPart
from headwater.ids import new_id
from headwater.unit import Commit, Emit, new_commit

_SLICE = 500
_SHARE = 20
"""Counting that isn't quick takes at most one part in so many of the time."""
_QUICK_S = 0.03
_COUNT = (
    "SELECT queue, count(*) AS depth, count(*) FILTER (WHERE fence <> 0) AS leased,"
    " count(*) FILTER (WHERE ready_ms > $1) AS delayed, min(sent_ms) AS oldest,"
    " min(CASE WHEN ready_ms = 0 THEN sent_ms ELSE ready_ms END) AS due,"
    " count(DISTINCT grp) FILTER (WHERE fence <> 0 OR NOT blocked AND ready_ms <= $1) AS groups"
    " FROM @message GROUP BY queue"
)
_COUNT_DEAD = "SELECT queue, count(*) FROM @dead GROUP BY queue"
_PEEK = (
    "SELECT m.position, m.receives, m.ready_ms, m.grp, e.envelope, e.crc FROM @message m"
    " JOIN @event e ON e.seq = m.position WHERE m.queue = $1 AND m.position > $2 ORDER BY m.position LIMIT $3"
)
_DEAD = (
    "SELECT id, queue, event_id, envelope, crc, grp, receives, reason, died_ms FROM @dead"
    " WHERE ($1 = 0 OR queue = $1) AND id > $2 ORDER BY id LIMIT $3"
)
FREE = (
    "SELECT position, grp FROM @message WHERE queue = $1 AND position > $2 AND position <= $3 AND fence = 0"
    " ORDER BY position LIMIT $4 FOR UPDATE SKIP LOCKED"
)
_REMOVE = "DELETE FROM @message WHERE queue = $1 AND position = ANY ($2)"
_UNBLOCK = "SELECT @unblock($1, $2, @clock_ms($3))"
_LAST = "SELECT coalesce(max(position), 0) FROM @message WHERE queue = $1"
GATE = "SELECT pg_advisory_xact_lock($1)"
REVISE = "UPDATE @head SET revision = revision + 1"
_PAUSE = "INSERT INTO @paused VALUES ($1) ON CONFLICT DO NOTHING"
_RESUME = "DELETE FROM @paused WHERE queue = $1"
_SUBSCRIBE = "INSERT INTO @subscription VALUES ($1, $2)"
_UNSUBSCRIBE = "DELETE FROM @subscription WHERE id = $1 RETURNING id"
Counted = dict[int, tuple[int, ...]]


class Queues(Deliveries):
    def _prepare_queues(self) -> None:
        self._counted: tuple[Counted, dict[int, int]] = ({}, {})
        self._count_at = 0.0
        self.totals = Totals()

    async def stats(self) -> list[QueueStats]:
        """Counts from the database. When there is so much that counting takes long, they may be some seconds old."""
        waiting, dead = await self._count()
        now_ms = self.present_ms()
        found = []
        for name in sorted(self.state.queues):
            number = self.state.ids[name]
            depth, leased, delayed, oldest_ms, due_ms, groups = waiting.get(number, (0, 0, 0, 0, 0, 0))
            sent, settled, retried = self.totals.of(number, self.state.counts.get(number) or Counts())
            found.append(
                QueueStats(
                    queue=name,
                    depth=depth,
                    in_flight=leased,
                    delayed=delayed,
                    dead=dead.get(number, 0),
                    oldest_age_ms=max(0, now_ms - oldest_ms) if depth else 0,
                    paused=number in self.state.paused,
                    sent=sent,
                    settled=settled,
                    retried=retried,
                    due_ms=due_ms,
                    groups=groups if self.state.queues[name].fifo else None,
                )
            )
        return found

    async def _count(self) -> tuple[Counted, dict[int, int]]:
        time_s = asyncio.get_running_loop().time
        begin = time_s()
        if begin >= self._count_at:
            rows = await self.database.fetch(_COUNT, self.present_ms())
            dead = await self.database.fetch(_COUNT_DEAD)
            await self.totals.learn(self.database)
            self._counted = {row[0]: tuple(row)[1:] for row in rows}, {row[0]: row[1] for row in dead}
            end = time_s()
            self._count_at = end + (end - begin) * _SHARE if self._live and end - begin > _QUICK_S else 0.0
        return self._counted

    async def peek(self, queue: str, limit: int, after: int = 0) -> list[Waiting]:
        number = self.queue_number(queue)
        rows = await self.database.fetch(_PEEK, number, after, limit)
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
                    group=group and unpack_text(group),
                )
            )
        failures = await self.failures([waiting.event.id for waiting in found])
        return [msgspec.structs.replace(x, failures=failures.get((x.event.id, number), ())) for x in found]

    async def pause(self, queue: str, paused: bool) -> None:
        number = self.queue_number(queue)
        await self._change(_PAUSE if paused else _RESUME, number)
        (self.state.paused.add if paused else self.state.paused.discard)(number)
        await self.reload()
        self.revised()
        self.announce({number})

    async def _change(self, statement: str, *arguments: Any) -> list[Any]:
        """Run a statement that changes the catalog, alone, and give the catalog a new revision. May run twice."""
        self.writable()

        async def work() -> list[Any]:
            async with self.database.transaction() as connection:
                await connection.fetch(GATE, self.gate)
                rows = await connection.fetch(self.database.sql(statement), *arguments)
                await connection.execute(self.database.sql(REVISE))
                return list(rows)

        return await self.database.patiently("write", work)

    async def purge(self, queue: str) -> int:
        number, total = self.queue_number(queue), 0
        last = (await self.database.fetch(_LAST, number))[0][0]
        after = 0
        while True:
            removed, after = await self._remove_free(number, after, last)
            total += removed
            if not after:
                self.announce({number})
                return total

    async def _remove_free(self, number: int, after: int, last: int) -> tuple[int, int]:
        """Remove a slice of messages that are not leased; (how many, the last position or 0 at the end)."""
        self.writable()

        async def work() -> tuple[int, int]:
            async with self.database.transaction() as connection:
                await connection.fetch(GATE, self.gate)
                rows = await connection.fetch(self.database.sql(FREE), number, after, last, _SLICE)
                await self.remove(connection, number, [tuple(row) for row in rows])
                return len(rows), rows[-1][0] if len(rows) == _SLICE else 0

        removed, following = await self.database.patiently("write", work)
        self.state.counts.setdefault(number, Counts()).settled += removed
        return removed, following

    async def remove(self, connection: Connection, number: int, places: list[tuple[int, str | None]]) -> None:
        """Delete messages (position, group) that the caller has locked, and have their groups go on.

        The caller has the gate alone: a message that is sent meanwhile could wait for a head that is gone.
        """
        if not places:
            return
        groups = sorted({group for _, group in places if group is not None})
        await connection.execute(self.database.sql(_REMOVE), number, [position for position, _ in places])
        if groups:
            await connection.execute(self.database.sql(_UNBLOCK), [number] * len(groups), groups, self.given_ms)

    async def dead_letters(self, queue: str = "", limit: int = 100, after: int = 0) -> list[DeadLetter]:
        rows = await self.database.fetch(_DEAD, self.queue_number(queue) if queue else 0, after, limit)
        failures = await self.failures([row["event_id"] for row in rows])
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
                    reason=unpack_text(reason),
                    died_ms=died_ms,
                    group=group and unpack_text(group),
                    failures=failures.get((event_id, number), ()),
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
        self.writable()

        async def work() -> Subscription:
            async with self.database.transaction() as connection:
                await connection.fetch(GATE, self.gate)
                state = State()
                await state.load(connection, self.address.schema)
                merged = state.merged()
                Router(merged.queues, (*merged.routes, plain))
                for id, present in state.subscriptions.items():
                    if msgspec.structs.replace(present, id="") == plain:
                        return Subscription(id, present)
                added = msgspec.structs.replace(plain, id=new_id())
                await connection.execute(self.database.sql(_SUBSCRIBE), added.id, msgspec.json.encode(added))
                await connection.execute(self.database.sql(REVISE))
                return Subscription(added.id, added)

        subscription = await self.database.patiently("subscribe", work)
        await self.reload()
        self.revised()
        return subscription

    async def unsubscribe(self, id: str) -> bool:
        removed = await self._change(_UNSUBSCRIBE, id)
        await self.reload()
        self.revised()
        return bool(removed)

    async def replay(self, table: str, queue: str) -> int:
        """Slices of present rows, each one commit of direct sends in key order."""
        self.queue_number(queue)
        total = 0
        after: tuple[KeyPart, ...] | None = None
        while True:
            page = await self.query(Query(table=table, after=after, limit=_SLICE))
            if not page.records:
                return total
            commit = new_commit()
            for n, record in enumerate(page.records):
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
            await self.submit(commit)
            total += len(page.records)
            after = page.records[-1].key

    async def submit(self, commit: Commit) -> None:
        """Commit, inside of the engine."""
        raise NotImplementedError
