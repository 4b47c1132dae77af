"""The bare loop on PostgreSQL: the floor of the queue benchmarks there, and the database's own limits.

The same rows in the same schema by asyncpg alone, with no routing, models, retries or fencing. What arrived while the
last group was put is put by one statement and one commit, and so are up to a hundred messages claimed, handed to the
handler, and deleted. All wait for the disk but the claims: a crash that takes a claim back loses nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import msgspec

from bench.report import Stopwatch
from bench.stores import Stores
from headwater import new_id
from headwater.engines import open_engine

GROUP = 100
_QUEUE, _AT_MS = 1, 1_700_000_000_000
_BY_INDEX = {"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off", "enable_hashjoin": "off"}
_CLAIMING = {**_BY_INDEX, "enable_mergejoin": "off", "synchronous_commit": "off"}
_PUT = """
WITH sent AS (
    INSERT INTO {0}.event (seq, id, trace, source, subject, time_ms, envelope, crc, queues)
    SELECT seq, id, id, 1, CASE WHEN $4 THEN id END, {2}, body, 0, '1'
    FROM unnest($1::bigint[], $2::text[], $3::bytea[]) AS e(seq, id, body)
    RETURNING seq
), written AS (
    INSERT INTO {0}.record AS r (tbl, pk, sk, version, crc, schema, body)
    SELECT 1, convert_to(id, 'UTF8'), '', id, 0, 1, body FROM unnest($2::text[], $3::bytea[]) AS e(id, body) WHERE $4
    ON CONFLICT (tbl, pk, sk) DO UPDATE SET version = excluded.version, body = excluded.body
)
INSERT INTO {0}.message (queue, position, ready_ms, fence, sent_ms, receives, blocked, redriven, suspect)
SELECT q, seq, 0, 0, {2}, 0, false, false, false FROM unnest($1::bigint[]) AS e(seq), generate_series(1, $5) AS q
"""
_CLAIM = """
WITH next AS (
    SELECT position FROM {0}.message
    WHERE queue = {1} AND position > $1 AND ready_ms = 0 AND NOT blocked AND fence = 0
    ORDER BY position LIMIT $2 FOR UPDATE SKIP LOCKED
)
UPDATE {0}.message m SET fence = 1, receives = receives + 1 FROM next JOIN {0}.event e ON e.seq = next.position
WHERE m.queue = {1} AND m.position = next.position RETURNING m.position, e.envelope
"""
_DELETE = "DELETE FROM {0}.message WHERE queue = {1} AND position = ANY ($1)"


class BareTables:
    """Rows in a store's schema: `put`, `claim` and `delete` are one statement and one commit each."""

    def __init__(self, stores: Stores, *, name: str, changes: bool = False, queues: int = 1) -> None:
        self._stores = stores
        self._name = name
        self._changes = changes
        self._queues = queues
        self._seq = self._claimed = 0
        self.commits = self.sent = 0

    async def open(self) -> None:
        engine = await open_engine(self._stores.url(self._name))
        await engine.close()
        self._putting, self._claiming, self._deleting = [
            await asyncpg.connect(self._stores.server, server_settings=settings)
            for settings in ({}, _CLAIMING, _BY_INDEX)
        ]

    async def close(self) -> None:
        for connection in (self._putting, self._claiming, self._deleting):
            await connection.close()

    def _sql(self, statement: str) -> str:
        return statement.format(self._stores.schema(self._name), _QUEUE, _AT_MS)

    async def put(self, ids: list[str], bodies: list[bytes]) -> None:
        """Events, a message of each in each queue and, for changes, records."""
        seqs = [self._seq + n for n in range(1, len(ids) + 1)]
        await self._putting.fetch(self._sql(_PUT), seqs, ids, bodies, self._changes, self._queues)
        self._seq += len(ids)
        self.sent += len(ids) * self._queues
        self.commits += 1

    async def claim(self) -> list[Any]:
        rows: list[Any] = await self._claiming.fetch(self._sql(_CLAIM), self._claimed, GROUP)
        self._claimed = max((row["position"] for row in rows), default=self._claimed)
        return rows

    async def delete(self, rows: list[Any]) -> None:
        await self._deleting.fetch(self._sql(_DELETE), [row["position"] for row in rows])
        self.commits += 1


class PostgresBareLoop:
    """`put` writes an event, its message and, for `changes`, a record; `handler` gets each message once."""

    def __init__(self, stores: Stores, handler: Callable[[bytes], Awaitable[None]], *, changes: bool = False) -> None:
        self._tables = BareTables(stores, changes=changes, name="bare")
        self._handler = handler
        self._arrived, self._written = asyncio.Event(), asyncio.Event()
        self._inbox: list[tuple[str, bytes, asyncio.Future[None]]] = []

    @property
    def commits(self) -> int:
        return self._tables.commits

    async def start(self) -> None:
        await self._tables.open()
        self._tasks = [asyncio.create_task(work()) for work in (self._write, self._take)]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._tables.close()

    def put(self, id: str, body: bytes) -> asyncio.Future[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._inbox.append((id, body, done))
        self._arrived.set()
        return done

    async def _write(self) -> None:
        while True:
            await self._arrived.wait()
            items, self._inbox = self._inbox[:GROUP], self._inbox[GROUP:]
            if not self._inbox:
                self._arrived.clear()
            await self._tables.put([id for id, _, _ in items], [body for _, body, _ in items])
            for _, _, done in items:
                done.set_result(None)
            self._written.set()

    async def _take(self) -> None:
        while True:
            await self._written.wait()
            self._written.clear()
            while rows := await self._tables.claim():
                for row in rows:
                    await self._handler(msgspec.json.decode(row["envelope"]))
                await self._tables.delete(rows)


async def raw_limits(stores: Stores, n: int, *, changes: bool) -> dict[str, float]:
    """Units a second at a hundred a commit: first all are put, then all are claimed and deleted."""
    tables = BareTables(stores, changes=changes, name="raw")
    await tables.open()
    body = b'{"id":"0123456789abcdef0123456789abcdef","n":1,"text":"abcdefghijklmnop"}'
    n = max(n // GROUP, 1) * GROUP
    with Stopwatch() as putting:
        for _ in range(0, n, GROUP):
            await tables.put([new_id() for _ in range(GROUP)], [body] * GROUP)
    with Stopwatch() as taking:
        while rows := await tables.claim():
            await tables.delete(rows)
    await tables.close()
    return {"raw_put_s": round(n / putting.seconds), "raw_claim_delete_s": round(n / taking.seconds)}
