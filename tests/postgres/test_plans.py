"""What the engine does for each commit, claim, read and beat reads few rows, however large the tables are.

The rows are counted by the database, in functions too, whatever plans it makes: with statistics of the large tables,
and with those of tables that were empty, as when a store fills up faster than it is analysed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from headwater.catalog import IndexSpec, QueueSpec, TableSpec
from headwater.engine import Query
from headwater.engines.postgres.database import Connection, Database
from headwater.engines.postgres.engine import PostgresEngine
from headwater.events import Delivery
from headwater.unit import Claim, Read, new_commit
from tests.conformance import workbench
from tests.conformance.workbench import emit, settle, write
from tests.postgres.server import run_sql
from tests.postgres.shop import opened, soon

pytestmark = pytest.mark.anyio
ROWS, JOBS, STEPS, DUE = "shop/rows", "shop/jobs", "shop/steps", "shop/due"
MANY = 200_000
MOST_READ = 500
"""Of one table or index, in one transaction; an operation below names at most ten rows, and looks at pages of ten."""
TIMES = 8
"""So often that the database turns from plans for the values at hand to generic ones."""
_COUNT = """
SELECT c.relname, pg_stat_get_xact_numscans(c.oid) AS walks, pg_stat_get_xact_tuples_returned(c.oid) AS read
FROM pg_class c WHERE c.relnamespace = $1::regnamespace AND c.relkind IN ('r', 'i')
"""
FILL = """
INSERT INTO @event (seq, id, trace, source, subject, time_ms, envelope, crc, queues)
SELECT {base} + n, 'e' || n, 't' || n / 3, e.source, 's' || n % 50000, e.time_ms, e.envelope, e.crc, '{jobs}'
FROM generate_series(1, {many}) n, (SELECT * FROM @event ORDER BY seq LIMIT 1) e;
INSERT INTO @message (queue, position, ready_ms, fence, sent_ms, receives, blocked, redriven, suspect, grp)
SELECT CASE n % 4 WHEN 0 THEN {due} WHEN 1 THEN {steps} ELSE {jobs} END, {base} + n,
    CASE n % 4 WHEN 0 THEN CASE WHEN n % 8 = 0 THEN {now} - n ELSE {now} + 3600000 + n END ELSE 0 END,
    0, {now}, 0, n % 4 = 1 AND n > 4000 AND n % 40 <> 1 OR n % 40 = 1 AND n > 1, false, false,
    CASE WHEN n % 4 = 1 THEN CASE WHEN n % 40 = 1 THEN 'deep' ELSE 'g' || n % 4000 END END
FROM generate_series(1, {many}) n;
INSERT INTO @record (tbl, pk, sk, version, crc, schema, expires_ms, body)
SELECT r.tbl, convert_to('p' || n / 1000, 'UTF8'), convert_to('s' || lpad((n % 1000)::text, 3, '0'), 'UTF8'), 'v' || n,
    r.crc, 1, CASE WHEN n % 2 = 0 THEN {now} + 3600000 + n END, r.body
FROM generate_series(1, {many}) n, (SELECT * FROM @record LIMIT 1) r;
INSERT INTO @entry SELECT {index}, convert_to('sx' || n % 100, 'UTF8'),
    convert_to('i', 'UTF8') || int8send((n - 9223372036854775808)::bigint),
    convert_to('p' || n / 1000, 'UTF8'), convert_to('s' || lpad((n % 1000)::text, 3, '0'), 'UTF8')
FROM generate_series(1, {many}) n;
INSERT INTO @claim SELECT 'scope', 'c' || n, {now} + 3600000 + n, '' FROM generate_series(1, {many} / 4) n;
INSERT INTO @applied SELECT 'a' || n, n, {now} + n, false FROM generate_series(1, {many} / 4) n;
INSERT INTO @lease SELECT -n, 0, {jobs}, {now} + 3600000, ARRAY[-n] FROM generate_series(1, {many} / 1000) n;
INSERT INTO @process VALUES (0, {now} + 3600000, 'another');
INSERT INTO @dead (queue, event_id, envelope, crc, grp, receives, reason, died_ms)
SELECT {jobs}, 'e' || n, e.envelope, e.crc, NULL, 1, '', {now}
FROM generate_series(1, {many} / 10) n, (SELECT * FROM @event ORDER BY seq LIMIT 1) e;
INSERT INTO @attempt (event_id, queue, n, outcome, error, traceback, started_ms, ended_ms)
SELECT 'e' || n, {jobs}, 1, 'retry', '', '', {now}, {now} FROM generate_series(1, {many} / 10) n;
SELECT setval('@block', 1000)
"""


class Counting:
    """Counts what each transaction of the engine reads: (table or index, whole walks, rows)."""

    def __init__(self, schema: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.schema = schema
        self.found: list[tuple[str, int, int]] = []
        plainly = Database.connection
        counting = self

        @asynccontextmanager
        async def connection(self: Database) -> AsyncIterator[Connection]:
            async with plainly(self) as given, given.transaction():
                before = await counting.read(given)
                yield given
                after = await counting.read(given)
                counting.found += [
                    (name, after[name][0] - before[name][0], after[name][1] - before[name][1]) for name in after
                ]

        monkeypatch.setattr(Database, "connection", connection)

    async def read(self, connection: Connection) -> dict[str, tuple[int, int]]:
        rows = await connection.fetch(_COUNT, self.schema)
        return {row["relname"]: (row["walks"], row["read"]) for row in rows}

    def excess(self) -> set[tuple[str, int, int]]:
        return {(name, walks, read) for name, walks, read in self.found if read > MOST_READ}


@pytest.fixture
async def engine(postgres: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PostgresEngine]:
    """A filled store, whose tables were analysed when they were empty."""
    monkeypatch.setattr("headwater.engines.postgres.beats.BEAT_S", 1000.0)
    table = TableSpec(name=ROWS, partition="p", sort="s", indexes=(IndexSpec("by-n", "n", "m"),))
    queues = [QueueSpec(name=name, fifo=name == STEPS) for name in (JOBS, STEPS, DUE)]
    async with opened(f"{postgres_url}&listen=off", install=workbench.catalog(table, *queues)) as engine:
        made = new_commit()
        write(made, ROWS, ("p", "s"), {"p": "p", "s": "s", "n": "x1", "m": 1})
        await engine.commit(made)
        await fill(engine, postgres)
        yield engine


async def fill(engine: PostgresEngine, postgres: str) -> None:
    schema, ids = engine.address.schema, engine.state.ids
    numbers = {"jobs": ids[JOBS], "steps": ids[STEPS], "due": ids[DUE], "index": ids[f"{ROWS}#by-n"]}
    filling = FILL.format(many=MANY, base=1_000_000, now=await engine.now_ms(), **numbers).replace("@", f"{schema}.")
    tables = await tables_of(engine)
    stay = [f"ALTER TABLE {table} SET (autovacuum_enabled = off)" for table in tables]
    run_sql(postgres, *stay, f"ANALYZE {', '.join(tables)}", *filling.strip().split(";\n"))


async def tables_of(engine: PostgresEngine) -> list[str]:
    schema = engine.address.schema
    rows = await engine.database.fetch("SELECT tablename FROM pg_tables WHERE schemaname = $1", schema)
    return [f"{schema}.{row[0]}" for row in rows]


async def claim_and_settle(engine: PostgresEngine, queue: str, outcome: str) -> None:
    deliveries: list[Delivery] = await soon(engine.receive(queue, 10, grouped=queue == STEPS))
    made = new_commit()
    ready_ms = await engine.now_ms() if outcome == "retry" else 0
    made.settles += [settle(delivery, outcome=outcome, ready_ms=ready_ms) for delivery in deliveries]
    await soon(engine.commit(made))


async def commit_rows(engine: PostgresEngine) -> None:
    made = new_commit()
    record = await engine.read(ROWS, ("p7", "s007"))
    made.reads.append(Read(ROWS, ("p7", "s007"), record.version if record else None))
    write(made, ROWS, ("p7", "s007"), {"p": "p7", "s": "s007", "n": "x7", "m": len(made.id)})
    write(made, ROWS, ("p8", "s008"), None)
    made.claims.append(Claim("scope", made.id, await engine.now_ms() + 1000))
    emit(made, JOBS, 1, queue=JOBS)
    emit(made, STEPS, 1, queue=STEPS, group="deep")
    await soon(engine.commit(made))


OPERATIONS: dict[str, Callable[[PostgresEngine], Awaitable[Any]]] = {
    "commit": commit_rows,
    "claim and ack": lambda engine: claim_and_settle(engine, JOBS, "ack"),
    "claim and retry": lambda engine: claim_and_settle(engine, JOBS, "retry"),
    "claim and bury": lambda engine: claim_and_settle(engine, JOBS, "bury"),
    "claim of groups": lambda engine: claim_and_settle(engine, STEPS, "ack"),
    "claim of delayed": lambda engine: claim_and_settle(engine, DUE, "ack"),
    "beat": lambda engine: engine._beat(),
    "poll": lambda engine: engine._look(),
    "read": lambda engine: engine.read(ROWS, ("p5", "s005")),
    "query": lambda engine: engine.query(Query(table=ROWS, limit=10)),
    "query after": lambda engine: engine.query(Query(table=ROWS, after=("p5", "s5"), limit=10, reverse=True)),
    "query partition": lambda engine: engine.query(Query(table=ROWS, partition="p5", prefix="s00", limit=10)),
    "query index": lambda engine: engine.query(Query(table=ROWS, index="by-n", partition="x5", limit=10)),
    "query all of an index": lambda engine: engine.query(Query(table=ROWS, index="by-n", limit=10, reverse=True)),
    "expire records": lambda engine: engine.expire_records(10),
    "expire messages": lambda engine: engine.expire_messages(10),
    "sweep": lambda engine: engine.sweep(86_400_000, 10),
    "peek": lambda engine: engine.peek(JOBS, 10),
    "dead letters": lambda engine: engine.dead_letters(JOBS, 10),
    "history": lambda engine: engine.history(ROWS, ("s77", ""), 10),
    "event": lambda engine: engine.event("e777"),
    "trace": lambda engine: engine.trace("t777"),
    "events": lambda engine: engine.events(1000, 10),
}


async def test_no_operation_reads_more_than_it_needs(
    engine: PostgresEngine, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = Counting(engine.address.schema, monkeypatch)
    assert await excesses(engine, counting) == {}
    run_sql(postgres, f"ANALYZE {', '.join(await tables_of(engine))}")
    assert await excesses(engine, counting) == {}
    await engine.database.fetch("SELECT count(*) FROM @record WHERE version = 'v7'")
    assert counting.excess(), "a walk would be noticed"


async def excesses(engine: PostgresEngine, counting: Counting) -> dict[str, set[tuple[str, int, int]]]:
    """By operation what was read beyond measure."""
    found = {}
    for name, operation in OPERATIONS.items():
        counting.found.clear()
        for _ in range(TIMES):
            await operation(engine)
        if excess := counting.excess():
            found[name] = excess
    return found
