"""SQL on PostgreSQL: the answers that SQLite's tables give, from no more rows than it takes, in one snapshot."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from headwater.catalog import QueueSpec, RouteSpec, TableSpec
from headwater.engine import Answer, Question
from headwater.engines import make_engine
from headwater.engines.postgres import relations
from headwater.engines.postgres.engine import PostgresEngine
from headwater.engines.postgres.inspection import _Reading
from headwater.errors import HeadwaterError, TimedOut, Unavailable
from headwater.unit import new_commit
from tests.conformance.conftest import sqlite
from tests.conformance.loading import flip, load, stage
from tests.conformance.workbench import Store, emit, write
from tests.patience import PATIENCE_S
from tests.postgres.server import Server

ROWS = TableSpec(name="shop/rows", partition="id", fields=("id", "n"))
PARTS = TableSpec(name="shop/parts", partition="box", sort="place")
CATALOG = (ROWS, PARTS, "shop/news", QueueSpec(name="shop/q", fifo=True), QueueSpec(name="shop/p"))
ROUTES = (
    RouteSpec(source="shop/rows", target="shop/q", group="$subject"),
    RouteSpec(source="shop/news", target="shop/p"),
)


@pytest.fixture
async def opened(store: Store) -> Store:
    return await store.open(*CATALOG, *ROUTES)


@pytest.fixture
async def beside(opened: Store, postgres: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(postgres)
    yield connection
    await connection.close()


@pytest.fixture
async def twin(tmp_path: Path) -> AsyncIterator[Store]:
    """The same in SQLite."""
    twin = Store(sqlite(tmp_path))
    await twin.open(*CATALOG, *ROUTES)
    yield twin
    await twin.engine.close()


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relations, "FIRST_ROWS", 2)
    monkeypatch.setattr(relations, "MOST_ROWS", 3)


def ask(store: Store, statement: str, **options: Any) -> asyncio.Future[Answer]:
    return asyncio.ensure_future(store.engine.ask(Question(statement=statement, **options)))


def schema_of(store: Store) -> str:
    assert isinstance(store.engine, PostgresEngine)
    return store.engine.address.schema


async def fill(store: Store) -> None:
    for key in ("", "a", "ab", "b", "B", "ä", "10", "9", "\U0001f600"):
        if key:
            await store.put("shop/rows", key, {"id": key, "n": len(key)})
    for box in ("b1", "b2"):
        for place in (-(2**63), -5, 0, 3, 7, 10, 2**63 - 1, "", "3", "a", "b", "é"):
            if place != "":
                await store.put("shop/parts", (box, place), {"box": box, "place": place, "n": str(place)})
    commit = new_commit()
    commit.trace = "t1"
    for n in range(7):
        emit(commit, "shop/news", {"n": n})
    await store.engine.commit(commit)
    for delivery in await store.take("shop/q", 2):
        await store.bury(delivery, "bad")
    await load(store.engine, "shop/rows", {"a": {"n": 1}, "x": {"n": 1}}, missing="keep")
    staging, *_ = await stage(store.engine, "shop/rows", {"a": {"n": 99}, "c": {"n": 3}})
    await flip(store.engine, staging)


CONDITIONS = {
    'SELECT id, n FROM "shop/rows"': (
        "id = 'a'", "id = 'x'", "id = 10", "id > 'a'", "id >= 'a' AND id < 'b'", "id <= 'B'", "id < 10", "id IS NULL",
        "id = NULL", "id = 'A' COLLATE NOCASE", "id IN ('a', 'c', 'nowhere', 9)", "id LIKE 'a%'", "id GLOB 'a*'",
        "id = x'61'", "id != 'a'", "n = 1", "id = 'z' || char(0) || 'y'", "id BETWEEN 'a' AND 'b' ORDER BY id DESC",
        "n > 0 ORDER BY n, id DESC", "1 ORDER BY id LIMIT 3 OFFSET 2", "1 ORDER BY id DESC LIMIT 4",
        "1 ORDER BY id COLLATE NOCASE DESC, id", "id = 'a' OR id = 'b' OR n = 99",
    ),
    "SELECT box, place, n, _key FROM shop_parts": (
        "box = 'b1'", "box = 'b1' AND place = 3", "box = 'b1' AND place = '3'", "place = 3.0", "place > 3",
        "box = 'b2' AND place > 'a'", "box = 'b2' AND place <= 7", "place < '3'", "place >= 6.5", "place <= 6.5",
        "place BETWEEN -5 AND 'a'", "place = 9223372036854775807", "place > 9223372036854775807",
        "place = 9223372036854775808", "place IS NULL", "box = 'b1' ORDER BY place", "box = 'b1' ORDER BY place DESC",
        "1 ORDER BY box DESC, place", "1 ORDER BY box DESC, place DESC LIMIT 5", "1 ORDER BY place, box",
        "box IN ('b2', 'b1') ORDER BY place DESC, box LIMIT 4", "box = 'b1' AND place IN (3, 'a', 12)",
        "(box, place) > ('b1', 7) ORDER BY box, place", "place = 3 ORDER BY box DESC",
    ),
    "SELECT source, type, subject, data FROM events": (
        "trace = 't1'", "trace = 't1' AND data ->> 'n' > 3 ORDER BY position DESC", "source = 'shop/rows'",
        "source = 'nowhere'", "position < 0", "1 ORDER BY position DESC LIMIT 3", "1 ORDER BY position LIMIT 5",
        "type = 'inserted'", "id = 'nothing'", "position = (SELECT max(position) FROM events)",
        "position IN (SELECT position FROM events ORDER BY position LIMIT 4)",
    ),
    "SELECT queue, subject, data, fifo_group, receives FROM messages": (
        "1", "queue = 'shop/q'", "queue = 'shop/q' ORDER BY position DESC LIMIT 2", "trace = 't1'",
        "event IN (SELECT id FROM events WHERE trace = 't1')", "queue = 'shop/p' AND receives = 0",
    ),
    "SELECT queue, subject, reason, data FROM dead_letters": ("1", "queue = 'shop/q' ORDER BY id DESC", "id < 0"),
    "SELECT queue, receive, outcome, error FROM failures": ("1", "event IN (SELECT event FROM dead_letters)"),
    "SELECT count(*), count(DISTINCT trace), min(n.name) FROM events JOIN (SELECT 1 AS name) n": ("1",),
    "SELECT p.n, e.type FROM shop_parts p JOIN events e ON e.source = 'shop/parts' AND e.data ->> 'n' = p.n": ("1",),
}  # fmt: skip
STATEMENTS = [f"{select} WHERE {condition}" for select, conditions in CONDITIONS.items() for condition in conditions]


@pytest.mark.usefixtures("small_pages")
async def test_answers_are_those_of_sqlite(opened: Store, twin: Store) -> None:
    for store in (opened, twin):
        await fill(store)
    answered = 0
    for statement in STATEMENTS:
        expected, found = (await ask(twin, statement)), (await ask(opened, statement))
        if "ORDER BY" not in statement:
            expected.rows.sort(key=repr)
            found.rows.sort(key=repr)
        assert found == expected, statement
        answered += bool(found.rows)
    assert answered > len(STATEMENTS) * 0.7


Watch = Callable[[str, Sequence[Any], Sequence[Any]], None]


def watch(monkeypatch: pytest.MonkeyPatch, seen: Watch) -> None:
    """Tell of each page: the statement, its arguments, its rows."""
    fetch = _Reading.fetch

    def fetch_and_tell(self: _Reading, statement: str, arguments: Sequence[Any]) -> Sequence[Any]:
        rows = fetch(self, statement, arguments)
        seen(statement, list(arguments), rows)
        return rows

    monkeypatch.setattr(_Reading, "fetch", fetch_and_tell)


@pytest.mark.parametrize(
    ("statement", "most"),
    [
        ("SELECT n FROM shop_rows WHERE id = 'r-77'", 1),
        ("SELECT n FROM shop_rows WHERE id >= 'r-77' AND id < 'r-78'", 1),
        ("SELECT id FROM shop_rows WHERE id > 'r-50' ORDER BY id LIMIT 3", 64),
        ("SELECT id FROM shop_rows ORDER BY id DESC LIMIT 3", 64),
        ("SELECT place FROM shop_parts WHERE box = 'b' AND place = 4", 1),
        ("SELECT data FROM events ORDER BY position DESC LIMIT 5", 64),
        ("SELECT data FROM events WHERE id = (SELECT event FROM messages LIMIT 1)", 66),
        ("SELECT data FROM events WHERE trace = 't9'", 1),
        ("SELECT data FROM messages WHERE queue = 'shop/p'", 1),
    ],
)
async def test_conditions_on_keys_read_few_rows(
    opened: Store, monkeypatch: pytest.MonkeyPatch, statement: str, most: int
) -> None:
    commit = new_commit()
    for n in range(300):
        write(commit, "shop/rows", f"r-{n:02}", {"id": f"r-{n:02}", "n": n})
        write(commit, "shop/parts", ("b", n), {"box": "b", "place": n})
    await opened.engine.commit(commit)
    commit = new_commit()
    commit.trace = "t9"
    emit(commit, "shop/news", {})
    await opened.engine.commit(commit)
    read = 0

    def count(_statement: str, _arguments: Sequence[Any], rows: Sequence[Any]) -> None:
        nonlocal read
        read += len(rows)

    watch(monkeypatch, count)
    await ask(opened, "SELECT 1")
    sampled, read = read, 0
    await ask(opened, statement)
    assert read - sampled <= most


@pytest.mark.usefixtures("small_pages")
async def test_all_pages_are_of_one_snapshot(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in "bdfh":
        await opened.put("shop/rows", key, {"id": key, "n": 1})
    loop = asyncio.get_running_loop()

    async def change() -> None:
        for key in "aceg":
            await opened.put("shop/rows", key, {"id": key, "n": 2})
        await opened.put("shop/rows", "h", None)
        await opened.put("shop/rows", "f", {"id": "f", "n": 3})

    pages = 0

    def seen(statement: str, _arguments: Sequence[Any], rows: Sequence[Any]) -> None:
        nonlocal pages
        pages += ".record r" in statement and bool(rows)
        if pages == 1:
            asyncio.run_coroutine_threadsafe(change(), loop).result(PATIENCE_S)

    watch(monkeypatch, seen)
    answer = await ask(opened, "SELECT id, n FROM shop_rows")
    assert answer.rows == [(key, 1) for key in "bdfh"]
    assert pages > 1
    assert len((await ask(opened, "SELECT id, n FROM shop_rows")).rows) == 7


_WAITING = "FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%.event r%'"


@pytest.fixture
async def locked(opened: Store, postgres: str) -> AsyncIterator[asyncpg.transaction.Transaction]:
    """A transaction that lets nobody read the events."""
    connection = await asyncpg.connect(postgres)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(f"LOCK TABLE {schema_of(opened)}.event IN ACCESS EXCLUSIVE MODE")
    yield transaction
    await connection.close()


async def until_waiting(beside: asyncpg.Connection, count: int) -> None:
    """So many statements wait for the lock."""
    deadline = time.monotonic() + PATIENCE_S
    while await beside.fetchval(f"SELECT count(*) {_WAITING}") != count:
        assert time.monotonic() < deadline


async def test_a_statement_that_is_late_ends_in_the_database_too(
    opened: Store, beside: asyncpg.Connection, locked: asyncpg.transaction.Transaction
) -> None:
    asking = ask(opened, "SELECT data FROM events", seconds=0.5)
    await until_waiting(beside, 1)
    with pytest.raises(TimedOut):
        await asking
    await until_waiting(beside, 0)
    await locked.rollback()
    assert (await ask(opened, "SELECT data FROM events")).rows == []


async def test_closing_ends_a_statement_that_waits_for_the_database(
    opened: Store, beside: asyncpg.Connection, locked: asyncpg.transaction.Transaction
) -> None:
    asking = ask(opened, "SELECT data FROM events", seconds=60)
    await until_waiting(beside, 1)
    await asyncio.wait_for(opened.engine.close(), PATIENCE_S)
    with pytest.raises(HeadwaterError, match="being closed"):
        await asking
    await until_waiting(beside, 0)
    await locked.rollback()


async def test_a_connection_that_breaks_is_an_error_of_ours(
    opened: Store, beside: asyncpg.Connection, locked: asyncpg.transaction.Transaction
) -> None:
    asking = ask(opened, "SELECT data FROM events")
    await until_waiting(beside, 1)
    await beside.execute(f"SELECT pg_terminate_backend(pid) {_WAITING}")
    with pytest.raises(Unavailable):
        await asking
    await locked.rollback()
    assert (await ask(opened, "SELECT data FROM events")).rows == []


async def test_a_database_that_is_gone_is_not_taken_for_a_slow_statement(start_postgres: Callable[..., Server]) -> None:
    server = start_postgres(fsync="on")
    engine = make_engine(f"{server.url}?schema=shop")
    await engine.open()
    try:
        server.kill()
        with pytest.raises(Unavailable):
            await engine.ask(Question(statement="SELECT 1", seconds=0.3))
        server.start()
    finally:
        await engine.close()
