"""Bulk loads with several processes that have the store open: two engines on one schema."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from headwater.codec import decode_json
from headwater.engine import Query
from headwater.engines.postgres import prefetch
from headwater.engines.postgres import staging as loads
from headwater.engines.postgres.beats import LIFE_MS
from headwater.engines.postgres.engine import PostgresEngine
from headwater.errors import Conflict
from headwater.unit import Committed, Merge, Read
from tests.conformance.crash import crash
from tests.conformance.loading import documents, expand, flip, load, stage
from tests.conformance.test_loads import CATALOG, TABLE, changes, row
from tests.conformance.workbench import Store, at_rest, key_of
from tests.patience import PATIENCE_S
from tests.postgres.server import Server

_LARGE = ("staged", "staged_entry", "member", "record")
_READ = (
    "SELECT s.relname, s.seq_tup_read + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes i WHERE i.relid = s.relid)"
    " FROM pg_stat_user_tables s WHERE s.schemaname = $1 AND s.relname = ANY ($2) AND EXISTS (SELECT"
    " FROM pg_stat_user_tables r WHERE r.schemaname = $1 AND r.relname = 'record' AND r.n_tup_ins >= 2000)"
)


@pytest.fixture
async def two(postgres_url: str) -> AsyncIterator[tuple[Store, Store]]:
    """Two processes; the second hears of nothing that the first does."""

    def make(clock: Any, **_: Any) -> PostgresEngine:
        return PostgresEngine(f"{postgres_url}&listen=off", clock=clock)

    one, other = Store(make), Store(make)
    other.clock = one.clock
    other.engine = make(one.clock)
    await one.open(*CATALOG)
    await other.open()
    yield one, other
    await other.engine.close()
    await one.engine.close()


async def seen(store: Store) -> dict[str, int]:
    page = await store.engine.query(Query(table=TABLE, limit=2_000))
    return {record.key[0]: decode_json(record.body)["n"] for record in page.records}


def engine_of(store: Store) -> PostgresEngine:
    assert isinstance(store.engine, PostgresEngine)
    return store.engine


async def test_a_process_that_was_not_told_of_a_flip_writes_after_it(two: tuple[Store, Store]) -> None:
    one, other = two
    await load(one.engine, TABLE, {"a": row(1), "b": row(1)})
    await changes(one)
    staging, *_ = await stage(one.engine, TABLE, {"a": row(2), "b": row(2), "c": row(2)})
    await flip(one.engine, staging)
    await other.merge(TABLE, "b", Merge(add={"n": 10}))
    await other.put(TABLE, "c", None)
    assert await seen(one) == await seen(other) == {"a": 2, "b": 12}
    await expand(one.engine, TABLE)
    assert sorted(await changes(one)) == [
        ("a", "modified", 1, 2),
        ("b", "modified", 1, 2),
        ("b", "modified", 2, 12),
        ("c", "inserted", None, 2),
        ("c", "removed", 2, None),
    ]
    assert await expand(other.engine, TABLE) == 0


async def test_what_a_process_has_read_is_stale_after_a_flip_that_it_was_not_told_of(two: tuple[Store, Store]) -> None:
    one, other = two
    await load(one.engine, TABLE, {"a": row(1)})
    version = (await other.record(TABLE, "a")).version
    staging, *_ = await stage(one.engine, TABLE, {"a": row(2)})
    await flip(one.engine, staging)
    with pytest.raises(Conflict):
        await other.commit(reads=[Read(TABLE, key_of("a"), version)])


async def test_processes_that_expand_at_once_tell_each_change_once(two: tuple[Store, Store]) -> None:
    one, other = two
    names = [f"k{n:04}" for n in range(1_000)]
    await load(one.engine, TABLE, dict.fromkeys(names[:600], row(1)))
    await changes(one)
    # 300 rows change, 300 go, of which the first 100 are gone already; 400 come.
    for name in names[:100]:
        await one.put(TABLE, name, None)
    await changes(one)
    staging, *_ = await stage(one.engine, TABLE, dict.fromkeys(names[300:], row(2)))
    await flip(one.engine, staging)
    moving = [expand(engine.engine, TABLE) for engine in (one, other, other)]
    writing = [other.merge(TABLE, name, Merge(add={"n": 1})) for name in names[300::25]]
    await asyncio.gather(*moving, *writing)
    found = await changes(one)
    kinds = {kind: sorted(subject for subject, k, _, new in found if k == kind) for _, kind, _, _ in found}
    assert kinds["inserted"] == names[600:]
    assert kinds["removed"] == names[100:300]
    assert kinds["modified"] == sorted([*names[300:600], *names[300::25]])
    assert set((await seen(other)).values()) == {2, 3}
    differences, vanished = await load(other.engine, TABLE, dict.fromkeys(names[300:], row(2)))
    assert (differences.modified, differences.unchanged, vanished) == (28, 672, 0)


async def test_any_process_expands_without_being_told(two: tuple[Store, Store]) -> None:
    one, other = two
    staging, *_ = await stage(one.engine, TABLE, {"a": row(1)})
    await flip(one.engine, staging)
    assert await other.engine.expand(TABLE) == 1
    staging, *_ = await stage(other.engine, TABLE, {"a": row(2), "c": row(2)})
    await flip(other.engine, staging)
    await one.put(TABLE, "a", {"id": "a", **row(3)})
    assert engine_of(one).state.merging != {}
    assert await expand(other.engine, TABLE) == 1
    await one.put(TABLE, "a", {"id": "a", **row(4)})
    assert engine_of(one).state.merging == {}, "its commits need not look at staged rows any more"
    assert await seen(one) == {"a": 4, "c": 2}
    assert await one.engine.expand(TABLE) == 0


async def test_a_load_that_begins_just_before_another_is_flipped_is_refused(
    two: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = two
    first, *_ = await stage(one.engine, TABLE, {"a": row(1), "b": row(1)})
    expand_now = engine_of(other).expand
    pending = [first]

    async def flipped_after(table: str) -> int:
        moved = await expand_now(table)
        if pending:
            await flip(one.engine, pending.pop())
        return moved

    monkeypatch.setattr(other.engine, "expand", flipped_after)
    second, *_ = await stage(other.engine, TABLE, {"a": row(2)})
    with pytest.raises(Conflict):
        await flip(other.engine, second)
    assert await seen(one) == {"a": 1, "b": 1}


async def test_a_load_of_a_dead_process_is_swept_by_another(two: tuple[Store, Store]) -> None:
    one, other = two
    alive, *_ = await stage(other.engine, TABLE, {"b": row(1)}, scope="alive")
    staging, *_ = await stage(one.engine, TABLE, {"a": row(1)})
    assert await other.engine.sweep_loads(100) == 0
    await crash(one)
    await other.advance(LIFE_MS / 1000)
    await flip(other.engine, alive)
    assert await other.engine.sweep_loads(100) == 2
    with pytest.raises(Conflict):
        await flip(one.engine, staging)
    assert await seen(one) == {"b": 1}


async def test_a_load_is_flipped_or_given_up(two: tuple[Store, Store]) -> None:
    one, other = two
    present = 0
    for n in range(1, 13):
        staging, *_ = await stage(one.engine, TABLE, {"a": row(n)})
        other.engine.abandon(staging.flip.load)
        flipping, sweeping = flip(one.engine, staging), other.engine.sweep_loads(1)
        outcome, _ = await asyncio.gather(flipping, sweeping, return_exceptions=True)
        if not isinstance(outcome, Conflict):
            assert isinstance(outcome, Committed)
            present = n
        assert (await seen(one)).get("a", 0) == present
        await expand(other.engine, TABLE)


async def test_a_process_that_can_not_say_that_it_gives_a_load_up_goes_on(two: tuple[Store, Store]) -> None:
    _, other = two
    engine = engine_of(other)
    await engine.database.close()
    engine.abandon(1)
    await at_rest(engine)
    assert not engine.broken_by.done()


async def test_the_death_of_the_server_costs_a_load_nothing(
    start_postgres: Callable[..., Server],
) -> None:
    server, rows = await asyncio.to_thread(start_postgres), {f"k{n:05}": row(n) for n in range(6_000)}
    store = Store(lambda clock, **_: PostgresEngine(server.url, clock=clock))

    async def kill_when(table: str, found: int) -> None:
        engine, statement = engine_of(store), f"SELECT count(*) >= {found} FROM @{table}"
        async with asyncio.timeout(PATIENCE_S):
            while not (await engine.database.fetch(statement))[0][0]:
                pass
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)

    await store.open(*CATALOG)
    (staging, differences, _), _ = await asyncio.gather(stage(store.engine, TABLE, rows), kill_when("staged", 2_000))
    assert (staging.staged, differences.inserted) == (6_000, 6_000)
    await flip(store.engine, staging)
    await asyncio.gather(expand(store.engine, TABLE), kill_when("record", 2_000))
    await expand(store.engine, TABLE)
    assert await changes(store) == [(key, "inserted", None, n) for n, key in enumerate(rows)]
    assert await store.engine.check() == []
    await store.engine.close()


async def test_a_slice_that_comes_late_stages_nothing(two: tuple[Store, Store]) -> None:
    one, _ = two
    staging = await one.engine.begin_load(TABLE, "")
    database, sent = engine_of(one).database, []
    fetch = database.fetch

    async def noted(statement: str, *arguments: Any) -> Any:
        if statement == loads._STAGE:
            sent.append(arguments)
        return await fetch(statement, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "fetch", noted)
        await staging.add(documents({"a": row(1), "b": row(1)}))
        await staging.finish("delete", 0, 1.0)
    staging.close()
    (slice,) = sent
    assert await fetch(loads._STAGE, *slice), "it may come twice"
    await flip(one.engine, staging)
    await one.put(TABLE, "a", {"id": "a", **row(5)})
    assert await fetch(loads._STAGE, *slice) == []
    assert await expand(one.engine, TABLE) == 1
    assert await seen(one) == {"a": 5, "b": 1}


async def test_a_row_that_got_into_place_is_not_put_over_what_was_written_since(
    two: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = two
    staging, *_ = await stage(one.engine, TABLE, {"a": row(1), "b": row(1)})
    await flip(one.engine, staging)
    read_records, pending = prefetch._read_records, ["once"]

    async def read_later(*arguments: Any) -> None:
        """The staged row was read; now another process is quick."""
        if pending.pop() if pending else "":
            await other.put(TABLE, "a", {"id": "a", **row(5)})
        await read_records(*arguments)

    monkeypatch.setattr(prefetch, "_read_records", read_later)
    await expand(one.engine, TABLE)
    assert await seen(one) == {"a": 5, "b": 1}
    assert sorted(await changes(one)) == [
        ("a", "inserted", None, 1),
        ("a", "modified", 1, 5),
        ("b", "inserted", None, 1),
    ]


@pytest.mark.parametrize("vacuumed", [True, False])
async def test_a_large_load_after_small_ones_goes_by_the_indexes(
    two: tuple[Store, Store], vacuumed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plans made for empty tables would read all of them, for each slice."""
    one, other = two
    monkeypatch.setattr(loads, "COMPARED_ROWS", 50)
    for n in range(8):
        await load(one.engine, TABLE, {"a": row(n)} if n else {})
        if n == 0 and vacuumed:
            for table in _LARGE:
                await engine_of(one).database.fetch(f"VACUUM @{table}")
    rows = {f"k{n:05}": row(1) for n in range(2_000)}
    for _ in range(2):
        await load(one.engine, TABLE, rows)
    await load(one.engine, TABLE, {})
    await one.engine.close()
    database, read = engine_of(other).database, dict[str, int]()
    while not read:  # a connection's counts are there when it has ended
        read |= {row[0]: row[1] for row in await database.fetch(_READ, database.address.schema, _LARGE)}
    assert max(read.values()) < 20 * len(rows), read
