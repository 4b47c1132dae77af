"""Reading with SQL: views that tell the truth of the tables, and nothing that does more than read them."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from headwater.catalog import IndexSpec, QueueSpec, RouteSpec, TableSpec
from headwater.engine import Answer, Question
from headwater.engines.postgres.engine import PostgresEngine
from headwater.errors import HeadwaterError, InvalidValue, StoreDamaged, TimedOut, TooLarge, UnknownResource
from tests.conformance.loading import expand, flip, load, stage
from tests.conformance.workbench import Store
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.feature("sql", "DynamoDB has no SQL over all tables")
ROWS = TableSpec(name="shop/rows", partition="id", fields=("id", "n", "price", "ok", "tags", "note"), ttl="ends")
PARTS = TableSpec(name="shop/box-parts", partition="box", sort="place", indexes=(IndexSpec("k", "kind"),))
KEYS = TableSpec(name="shop/keys", partition="id", fields=("id", "digest"))
CATALOG = (ROWS, PARTS, KEYS, QueueSpec(name="shop/q", max_receives=1), RouteSpec(source="shop/rows", target="shop/q"))
HIDDEN = {"shop/keys": ("digest",)}


@pytest.fixture
async def opened(store: Store) -> Store:
    return await store.open(*CATALOG)


async def ask(store: Store, statement: str, **options: Any) -> Answer:
    options.setdefault("hidden", HIDDEN)
    return await asyncio.wait_for(store.engine.ask(Question(statement=statement, **options)), PATIENCE_S)


async def rows(store: Store, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
    return (await ask(store, statement, parameters=parameters)).rows


async def test_the_fields_of_a_row_are_columns_with_their_types(opened: Store) -> None:
    version = await opened.put(
        "shop/rows", "a", {"id": "a", "n": 2**62, "price": 1.5, "ok": True, "tags": ["x"], "note": "it's", "more": 1}
    )
    answer = await ask(opened, 'SELECT * FROM "shop/rows"')
    assert answer.columns == ["id", "n", "price", "ok", "tags", "note", "_key", "_version", "_expires", "_body"]
    assert answer.rows[0][:9] == ("a", 2**62, 1.5, 1, '["x"]', "it's", "a", version, None)
    assert '"more":1' in answer.rows[0][9]
    assert await rows(opened, "SELECT typeof(n), typeof(price), typeof(note), typeof(ok) FROM shop_rows") == [
        ("integer", "real", "text", "integer")
    ]


async def test_rows_of_dicts_have_the_fields_that_occur_and_both_parts_of_a_key(opened: Store) -> None:
    await opened.put("shop/box-parts", ("b", 7), {"box": "b", "place": 7, "kind": "k"})
    await opened.put("shop/box-parts", ("b", 10), {"box": "b", "place": 10, "colour": "red"})
    answer = await ask(opened, "SELECT * FROM shop_box_parts ORDER BY place")
    assert [row[:5] for row in answer.rows] == [("b", 7, None, "k", '["b",7]'), ("b", 10, "red", None, '["b",10]')]
    assert answer.columns[:4] == ["box", "place", "colour", "kind"]


async def test_expired_rows_are_absent_and_parameters_are_bound(opened: Store) -> None:
    now_s = await opened.engine.now_ms() / 1000
    await opened.put("shop/rows", "a", {"id": "a", "n": 1, "ends": now_s + 10})
    await opened.put("shop/rows", "b", {"id": "b", "n": 2})
    assert await rows(opened, "SELECT id FROM shop_rows WHERE n < :most ORDER BY id", most=5) == [("a",), ("b",)]
    ((expires,),) = await rows(opened, "SELECT _expires FROM shop_rows WHERE id = 'a'")
    assert expires.endswith("Z")
    opened.clock.advance(11)
    assert await rows(opened, "SELECT id FROM shop_rows WHERE n < :most", most=5) == [("b",)]


@pytest.mark.parametrize("missing", ["delete", "expire"])
async def test_a_flipped_load_is_seen_as_table_reads_see_it(opened: Store, missing: Any) -> None:
    engine = opened.engine
    await load(engine, "shop/rows", {key: {"n": 1} for key in "abc"})
    new = {"a": {"n": 1}, "b": {"n": 2}, "d": {"n": 4}}
    staging, *_ = await stage(engine, "shop/rows", new, missing=missing, grace_ms=5000 * (missing == "expire"))
    seen = "SELECT id, n FROM shop_rows ORDER BY id"
    assert await rows(opened, seen) == [("a", 1), ("b", 1), ("c", 1)]
    await flip(engine, staging)
    merged = [("a", 1), ("b", 2), *[("c", 1)] * (missing == "expire"), ("d", 4)]
    assert await rows(opened, seen) == merged
    assert await rows(opened, "SELECT n FROM shop_rows WHERE id = 'b'") == [(2,)]
    await expand(engine, "shop/rows")
    assert await rows(opened, seen) == merged
    opened.clock.advance(6)
    assert ("c", 1) not in await rows(opened, seen)


async def test_events_messages_dead_letters_and_failures_are_views(opened: Store) -> None:
    await opened.put("shop/rows", "a", {"id": "a", "n": 1})
    await opened.put("shop/rows", "b", {"id": "b", "n": 2})
    assert await rows(opened, "SELECT source, type, subject, data ->> 'n' FROM events ORDER BY position") == [
        ("shop/rows", "inserted", "a", 1),
        ("shop/rows", "inserted", "b", 2),
    ]
    (first, _) = await opened.take("shop/q", 2)
    await opened.bury(first, "bad")
    assert await rows(opened, "SELECT queue, subject, reason, data ->> 'id' FROM dead_letters") == [
        ("shop/q", "a", "bad", "a")
    ]
    assert await rows(opened, "SELECT queue, subject FROM messages") == [("shop/q", "b")]
    assert await rows(opened, "SELECT queue, outcome, error FROM failures") == [("shop/q", "bury", "bad")]


REFUSED = {
    "a table of the store": 'SELECT body FROM record',
    "a table of the store by its alias": "SELECT r.envelope FROM event r",
    "the schema": "SELECT sql FROM sqlite_schema",
    "the schema of the views": "SELECT name FROM sqlite_temp_schema",
    "a common table named like a view": 'WITH "shop/rows" AS (SELECT * FROM record) SELECT * FROM "shop/rows"',
    "a row that is deleted": "DELETE FROM shop_rows",
    "a row of the store that is deleted": "DELETE FROM record",
    "a table that is made": "CREATE TABLE x (a)",
    "a temporary table": "CREATE TEMP TABLE x (a)",
    "another file": "ATTACH '/etc/passwd' AS other",
    "a copy": "VACUUM INTO '/tmp/copy'",
    "a pragma": "PRAGMA query_only = 0",
    "a pragma as a table": "SELECT * FROM pragma_table_list",
    "pages": "SELECT * FROM dbstat",
    "an extension": "SELECT load_extension('x')",
    "a transaction": "COMMIT",
    "two statements": "SELECT 1; SELECT 2",
    "no statement": "-- nothing",
    "a wrong statement": "SELEC 1",
    "an unknown column": "SELECT nowhere FROM shop_rows",
    "a parameter that is missing": "SELECT :x",
    "no text": "SELECT CAST(x'ff' AS TEXT)",
}  # fmt: skip


@pytest.mark.parametrize("statement", REFUSED.values(), ids=REFUSED.keys())
async def test_what_does_not_only_read_is_refused(opened: Store, statement: str) -> None:
    await opened.put("shop/rows", "a", {"id": "a"})
    with pytest.raises(InvalidValue) as refused:
        await ask(opened, statement)
    assert not re.search("[0-9a-f]{32}", str(refused.value)), "the name of a view that reads"
    assert await rows(opened, "SELECT id FROM shop_rows") == [("a",)]
    assert await opened.engine.check() == []


async def test_an_unknown_table_names_those_there_are(opened: Store) -> None:
    with pytest.raises(UnknownResource) as unknown:
        await ask(opened, "SELECT * FROM orders")
    assert unknown.value.resource == "orders"
    assert '"shop/rows"' in unknown.value.hint
    assert "events" in unknown.value.hint


async def test_hidden_fields_are_nowhere(opened: Store) -> None:
    await opened.put("shop/keys", "k", {"id": "k", "digest": "s3cret"})
    await opened.put("shop/keys", "k", {"id": "k", "digest": "s3cret2"})
    found = [await ask(opened, f"SELECT * FROM {view}") for view in ("shop_keys", "events")]
    assert len(found[0].rows) == 1
    assert len(found[1].rows) == 2
    assert "s3cret" not in repr(found)
    assert "s3cret" in repr(await ask(opened, "SELECT * FROM shop_keys", hidden={}))
    with pytest.raises(InvalidValue, match="no such column"):
        await ask(opened, "SELECT digest FROM shop_keys")


async def test_limits_of_rows_time_and_size(opened: Store) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT {} FROM n"
    answer = await ask(opened, endless.format("i"), limit=3)
    assert (answer.rows, answer.more) == ([(1,), (2,), (3,)], True)
    assert not (await ask(opened, "SELECT 1", limit=1)).more
    with pytest.raises(TimedOut):
        await ask(opened, endless.format("max(i)"), seconds=0.1)
    for large in ("SELECT randomblob(1 << 30)", endless.format("hex(zeroblob(1000000))")):
        with pytest.raises(TooLarge):
            await ask(opened, large, limit=100_000)


async def test_closing_ends_a_statement_that_runs(opened: Store) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    asking = asyncio.ensure_future(ask(opened, endless, seconds=60))
    await asyncio.sleep(0)
    await asyncio.wait_for(opened.engine.close(), PATIENCE_S)
    with pytest.raises(HeadwaterError):
        await asking


async def test_a_store_opened_to_read_answers_too(opened: Store) -> None:
    await opened.put("shop/rows", "a", {"id": "a", "n": 1})
    reader = opened.make(opened.clock, read_only=True)
    await reader.open()
    try:
        assert (await reader.ask(Question(statement="SELECT n FROM shop_rows"))).rows == [(1,)]
    finally:
        await reader.close()


async def test_damage_is_not_shown_as_a_row(opened: Store) -> None:
    await opened.put("shop/rows", "a", {"id": "a", "n": 1})
    if isinstance(opened.engine, PostgresEngine):
        await opened.engine.database.fetch("UPDATE @record SET crc = crc + 1")
    else:
        writer: Any = opened.engine
        await writer.writer.run(lambda connection: connection.execute("UPDATE record SET crc = crc + 1"))
    with pytest.raises(StoreDamaged):
        await ask(opened, "SELECT n FROM shop_rows")
