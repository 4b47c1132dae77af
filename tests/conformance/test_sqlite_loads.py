"""Loads in the SQLite engine: what happens between a look into memory and a statement, and what is left behind."""

import asyncio
import time

import apsw
import pytest

from headwater.engines.sqlite import records, staging
from headwater.engines.sqlite.database import Row, fetch
from headwater.engines.sqlite.engine import SqliteEngine
from headwater.unit import Committed, new_commit
from tests.conformance.loading import flip, load, stage
from tests.conformance.test_loads import CATALOG, TABLE, row, seen
from tests.conformance.workbench import Store, write
from tests.patience import PATIENCE_S


@pytest.fixture
async def engine(store: Store) -> SqliteEngine:
    await store.open(*CATALOG)
    assert isinstance(store.engine, SqliteEngine)
    return store.engine


async def test_a_flip_between_the_look_and_the_statement_shows_no_mixture(
    store: Store, engine: SqliteEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await load(engine, TABLE, {name: row(1) for name in "abc"})
    staged, *_ = await stage(engine, TABLE, {name: row(2) for name in "abc"})
    statements = 0
    committing: list[asyncio.Future[Committed]] = []

    def fetch_late(connection: apsw.Connection, statement: str, bindings: Row) -> list[Row]:
        """The first statement begins when the load is flipped and one of its rows is in place."""
        nonlocal statements
        statements += 1
        if statements == 1:
            flipping, late = new_commit(), new_commit()
            flipping.flips.append(staged.flip)
            write(late, TABLE, "a", {"id": "a", **row(2)})
            committing.extend(map(engine.writer.submit, (flipping, late)))
            deadline = time.monotonic() + PATIENCE_S
            moved = "SELECT 1 FROM staged WHERE pk = 'a'"
            while not engine.state.merging or fetch(connection, moved):
                assert time.monotonic() < deadline
                time.sleep(0.001)
        return fetch(connection, statement, bindings)

    monkeypatch.setattr(records, "fetch", fetch_late)
    assert await seen(store) == dict.fromkeys("abc", 2)
    assert statements == 2
    await asyncio.gather(*committing)


async def test_index_entries_of_staged_rows_leave_with_them(
    engine: SqliteEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "SLICE_ROWS", 1)
    staged, *_ = await stage(engine, TABLE, {name: row(2) for name in "abc"})
    await flip(engine, staged)
    left = []
    while await engine.expand(TABLE):
        left.append(fetch(engine.reader, "SELECT count(*) FROM staged_entry")[0][0])
    assert left == [2, 1, 0]


async def test_nothing_is_left_of_a_load_that_is_in_place(engine: SqliteEngine) -> None:
    await load(engine, TABLE, {name: row(1) for name in "abc"})
    await load(engine, TABLE, {"a": row(2)}, missing="expire", grace_ms=1_000)
    for table in ("load", "staged", "staged_entry"):
        assert fetch(engine.reader, f"SELECT * FROM {table}") == []
    assert engine.state.merging == {}
    assert [key for (key,) in fetch(engine.reader, "SELECT pk FROM member")] == ["a"]
