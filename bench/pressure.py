"""`pressure`: whether the pipeline keeps its rate on PostgreSQL beside an open transaction, and beside dead letters.

It runs for `n` seconds beside a reader that is idle in a transaction, so that no row which is deleted meanwhile can be
vacuumed, then beside a million dead letters of the same queue, too (fewer for a small `n`). The rate is that of the
last slices, the floor that of the first ones, before there was a reader. `us_per_message` is the processor time of
this process and of the server: on a machine that others use it tells more than the rate.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
import msgspec

from bench.pipeline import PRODUCERS, make_app
from bench.report import Report, resident_mb
from bench.served import running
from bench.stores import Setting, Stores, postgres

SLICE_S = 10.0
DEAD_LETTERS = 1_000_000
_FULL_S, _FEW = 120, 3
_BURY = """
INSERT INTO {0}.dead (queue, event_id, envelope, crc, receives, reason, died_ms)
SELECT q.id, e.id || '-' || n, e.envelope, e.crc, 5, 'pressure', e.time_ms
FROM {0}.name q, (SELECT * FROM {0}.event ORDER BY seq LIMIT 1) e, generate_series(1, $1) n WHERE q.name = 'bench/noted'
"""
_TABLES = """
SELECT relname, n_live_tup, n_dead_tup, pg_total_relation_size(relid) FROM pg_stat_user_tables
WHERE schemaname = $1 AND pg_total_relation_size(relid) > 1000000 ORDER BY 4 DESC
"""


class Slice(msgspec.Struct, frozen=True):
    rate_s: float
    us_per_message: float


class Stream:
    """64 producers that publish without end; counts what was handled."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self.handled = 0
        self.app, self._publish, _ = make_app(self._one)

    def _one(self) -> None:
        self.handled += 1

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            producers = [group.create_task(self._produce(self._publish)) for _ in range(PRODUCERS)]
            try:
                yield
            finally:
                for producer in producers:
                    producer.cancel()

    async def _produce(self, publish: Callable[[int], Awaitable[object]]) -> None:
        while True:
            await publish(0)

    async def slices(self, count: int, seconds: float) -> list[Slice]:
        found = []
        for _ in range(count):
            handled, used_s, begun = self.handled, self._cpu_s(), time.perf_counter()
            await asyncio.sleep(seconds)
            handled, used_s = self.handled - handled, self._cpu_s() - used_s
            found.append(
                Slice(round(handled / (time.perf_counter() - begun)), round(used_s / max(handled, 1) * 1e6, 1))
            )
        return found

    def _cpu_s(self) -> float:
        return time.process_time() + self._stores.server_cpu_s()


async def pressure(n: int = _FULL_S, setting: Setting = postgres) -> Report:
    letters, slice_s = min(DEAD_LETTERS, DEAD_LETTERS * n // _FULL_S), min(SLICE_S, n / _FEW)
    with setting() as stores:
        stream, begun = Stream(stores), time.perf_counter()
        async with running(stores, stream.app):
            connection = await asyncpg.connect(stores.server)
            async with stream.flowing():
                await stream.slices(1, slice_s)
                first = await stream.slices(_FEW, slice_s)
                async with _idle_reader(stores):
                    beside_reader = await stream.slices(round(n / slice_s), slice_s)
                    await connection.execute("SET synchronous_commit = off")
                    await connection.execute(_BURY.format(stores.schema()), letters)
                    await stream.slices(1, slice_s)
                    last = await stream.slices(_FEW, slice_s)
                    tables = await _tables(connection, stores)
            await connection.close()
        floor, rate = _median(first), _median(last)
        return Report(
            bench="pressure",
            n=n,
            rate_s=round(rate),
            floor_s=round(floor),
            ratio=round(rate / floor, 3),
            rss_mb=resident_mb(),
            details={
                "seconds": round(time.perf_counter() - begun),
                "dead_letters": letters,
                "reader_ratio": round(_median(beside_reader[-_FEW:]) / floor, 3),
                "first": first,
                "beside_reader": beside_reader,
                "beside_dead_letters": last,
                "tables": tables,
            },
            **stores.described(),
        )


def _median(slices: list[Slice]) -> float:
    return statistics.median(slice.rate_s for slice in slices)


@asynccontextmanager
async def _idle_reader(stores: Stores) -> AsyncIterator[None]:
    connection = await asyncpg.connect(stores.server)
    await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    await connection.fetchval(f"SELECT count(*) FROM {stores.schema()}.message")
    try:
        yield
    finally:
        await connection.close()


async def _tables(connection: asyncpg.Connection, stores: Stores) -> dict[str, dict[str, int]]:
    """Live and dead rows and megabytes of the larger tables, with their indexes."""
    rows = await connection.fetch(_TABLES, stores.schema())
    return {name: {"live": live, "dead": dead, "mb": size >> 20} for name, live, dead, size in rows}
