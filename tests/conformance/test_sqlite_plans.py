"""The statements that run for each commit, receive and look-up use an index: none walks a whole table."""

import re
from collections.abc import Sequence
from typing import Any

import apsw
import pytest

from headwater.catalog import IndexSpec, TableSpec
from headwater.engine import Query
from headwater.engines.sqlite import forgetting, loading, prefetch, records, scopes, staging
from headwater.engines.sqlite.engine import SqliteEngine
from tests.conformance.workbench import Store

KEYS = {4: "(1, '', 'a', 'b')", 3: "(1, 'a', 'b')", 2: "('a', 'b')", 1: "(1)"}
BATCHES = [
    (prefetch._RECORDS, 3),
    (prefetch._CLAIMS, 2),
    (prefetch._DEAD, 1),
    (prefetch.STAGED, 3),
    (staging._MEMBERS, 4),
    (staging._VERSIONS, 3),
    (staging._BODIES, 3),
    (scopes._HELD, 4),
]
STATEMENTS = [
    *(statement.format(keys=KEYS[width]) for statement, width in BATCHES),
    loading.READY,
    loading.PLACES,
    loading.IN_ORDER,
    loading.DELAYED,
    loading.AT_POSITIONS.replace("carray(?)", "(1, 2)"),
    records._READ,
    records._READ_STAGED,
    prefetch._LOAD,
    prefetch._GENERATION,
    staging.MEMBERS_AFTER,
    staging.STAND,
    staging.NEXT_STAGED,
    forgetting.OWN,
    forgetting.TRACE,
    forgetting.LETTERS,
    forgetting.CLAIMS,
    forgetting.MEMBERS,
    scopes._OTHERS,
    scopes.STAGED_OF,
    records._TRIED,
    records._DEAD,
    records._WAITING,
    f"{records._EVENT} WHERE id = ?",
    f"{records._EVENT} WHERE trace = ? ORDER BY seq LIMIT ?",
    f"{records._EVENT} WHERE source = ? AND subject = ? ORDER BY seq DESC LIMIT ?",
    "SELECT tbl, pk, sk FROM record WHERE expires_ms <= ? ORDER BY expires_ms LIMIT ?",
    "SELECT scope, id FROM claim WHERE expires_ms <= ? ORDER BY expires_ms LIMIT ?",
]
ROWS = TableSpec(name="shop/rows", partition="p", sort="s", indexes=(IndexSpec("by-n", "n", "m"),))
QUERIES = [
    Query(table="shop/rows"),
    Query(table="shop/rows", partition="p", prefix="s", after=("p", "s1")),
    Query(table="shop/rows", partition="p", low=1, high=5, reverse=True),
    Query(table="shop/rows", index="by-n", partition="x", low=1, after=("x", 1, "p", "s")),
    Query(table="shop/rows", index="by-n", reverse=True),
]
_WALK = re.compile(r"SCAN (?!k\b|CONSTANT|\d+ CONSTANT)")


def plan(connection: apsw.Connection, statement: str) -> list[str]:
    return steps_of(connection, statement, (1,) * statement.count("?"))


def steps_of(connection: apsw.Connection, statement: str, bindings: Sequence[Any]) -> list[str]:
    return [str(row[3]) for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", bindings).fetchall()]


@pytest.fixture
async def engine(store: Store) -> SqliteEngine:
    await store.open(ROWS)
    assert isinstance(store.engine, SqliteEngine)
    return store.engine


@pytest.mark.parametrize("statement", STATEMENTS)
async def test_no_statement_walks_a_table(engine: SqliteEngine, statement: str) -> None:
    steps = plan(engine.reader, statement)
    assert steps
    assert not [step for step in steps if _WALK.match(step)], steps
    assert not [step for step in steps if "TEMP B-TREE" in step], steps


@pytest.mark.parametrize("query", QUERIES)
async def test_no_query_walks_or_sorts(engine: SqliteEngine, query: Query) -> None:
    statement, bindings = (records._by_index if query.index else records._by_key)(engine, query)
    steps = steps_of(engine.reader, statement, bindings)
    assert all(step.startswith("SEARCH") for step in steps), steps


@pytest.mark.parametrize("query", QUERIES)
async def test_no_query_over_a_staged_load_walks_or_sorts(engine: SqliteEngine, query: Query) -> None:
    statement, bindings = (records._by_index if query.index else records._by_key)(engine, query, 7)
    steps = steps_of(engine.reader, statement, bindings)
    searches = [step for step in steps if step.startswith(("SEARCH", "SCAN", "USE"))]
    assert len(searches) >= 3
    assert all(step.startswith("SEARCH") for step in searches), steps


async def test_a_walk_would_be_noticed(engine: SqliteEngine) -> None:
    assert any(_WALK.match(step) for step in plan(engine.reader, "SELECT * FROM message WHERE event = ?"))
