"""Bulk loads: staged unseen, flipped as a whole, expanded into one event a change, whatever comes between."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from headwater.catalog import IndexSpec, QueueSpec, RouteSpec, TableSpec
from headwater.codec import decode_json
from headwater.engine import Differences, Query, RecordPage
from headwater.errors import Conflict, InvalidValue, LoadRefused, UnknownResource
from headwater.events import Caller, Envelope
from headwater.unit import Merge, Read, Write, new_commit
from tests.conformance.crash import crash
from tests.conformance.loading import documents, expand, flip, load, stage
from tests.conformance.workbench import Store, catalog, emit, key_of, write

TABLE, CHANGES = "shop/rows", "shop/changes"
ROWS = TableSpec(name=TABLE, partition="id", indexes=(IndexSpec("by-kind", "kind", "n"),))
CATALOG = (ROWS, QueueSpec(name=CHANGES, fifo=True), RouteSpec(source=TABLE, target=CHANGES))
DAY_MS = 86_400_000
WHOLE = pytest.mark.feature("whole_loads", "rows are seen as they get into place (tests/aws/test_bulk_loads.py)")


def row(n: int, kind: str = "k") -> dict[str, Any]:
    return {"n": n, "kind": kind}


def rows_of(page: RecordPage) -> dict[str, int]:
    return {record.key[0]: decode_json(record.body)["n"] for record in page.records}


async def seen(store: Store, **query: Any) -> dict[str, int]:
    return rows_of(await store.engine.query(Query(table=TABLE, limit=query.pop("limit", 1000), **query)))


async def changes(store: Store) -> list[tuple[str, str, Any, Any]]:
    """The events since the last call, in order: (subject, kind, old n, new n)."""
    return [told(event) for event in await events(store)]


async def events(store: Store) -> list[Envelope]:
    found: list[Envelope] = []
    while deliveries := await store.ready(CHANGES):
        found += [delivery.event for delivery in deliveries]
        await store.ack(*deliveries)
    return found


def told(event: Envelope) -> tuple[str, str, Any, Any]:
    old, new = (None if image is None else decode_json(image)["n"] for image in (event.old, event.data))
    return event.subject, event.type + (" expired" if event.expired else ""), old, new


@pytest.fixture
async def opened(store: Store) -> Store:
    return await store.open(*CATALOG)


@pytest.fixture
async def merging(opened: Store) -> Store:
    """A dataset a, b, c, d of which b has changed, c has gone and e has come; flipped, nothing in place yet."""
    await load(opened.engine, TABLE, {name: row(1) for name in "abcd"})
    await changes(opened)
    staging, *_ = await stage(opened.engine, TABLE, {"a": row(1), "b": row(2), "d": row(1), "e": row(5, "other")})
    await flip(opened.engine, staging)
    return opened


OLD, NEW = dict.fromkeys("abcd", 1), {"a": 1, "b": 2, "d": 1, "e": 5}
NEWS = [("b", "modified", 1, 2), ("c", "removed", 1, None), ("e", "inserted", None, 5)]


@WHOLE
async def test_a_staged_load_is_seen_by_nobody_until_its_flip_and_then_as_a_whole(opened: Store) -> None:
    await load(opened.engine, TABLE, {name: row(1) for name in "abcd"})
    await changes(opened)
    staging, differences, vanished = await stage(opened.engine, TABLE, {k: row(n) for k, n in NEW.items()})
    assert (differences, vanished) == (Differences(inserted=1, modified=1, unchanged=2), 1)
    assert await seen(opened) == OLD
    assert await seen(opened, index="by-kind", partition="k") == OLD
    assert await opened.read(TABLE, "e") is None
    await flip(opened.engine, staging)
    assert await seen(opened) == NEW
    assert await seen(opened, index="by-kind", partition="k") == NEW
    assert await opened.read(TABLE, "c") is None
    assert await opened.read(TABLE, "b") == {"id": "b", **row(2)}
    assert await changes(opened) == []
    assert await expand(opened.engine, TABLE) == 3
    assert await seen(opened) == NEW
    assert await changes(opened) == NEWS


@WHOLE
async def test_every_query_sees_staged_rows_in_their_places(merging: Store) -> None:
    async def look() -> list[Any]:
        found: list[Any] = [
            await seen(merging, partition="e"),
            await seen(merging, low="b", high="d"),
            await seen(merging, prefix="b"),
            list(await seen(merging, reverse=True)),
            await seen(merging, index="by-kind", partition="other"),
            list(await seen(merging, index="by-kind", partition="k", reverse=True)),
            await seen(merging, index="by-kind", partition="k", low=2),
        ]
        after, pages = None, []
        while True:
            page = await merging.engine.query(Query(table=TABLE, limit=1, after=after))
            pages.append(rows_of(page))
            after = page.next
            if after is None:
                return [*found, pages]

    expected = [
        {"e": 5},
        {"b": 2, "d": 1},
        {"b": 2},
        ["e", "d", "b", "a"],
        {"e": 5},
        ["b", "d", "a"],
        {"b": 2},
        [{"a": 1}, {"b": 2}, {"d": 1}, {"e": 5}],
    ]
    assert await look() == expected
    await expand(merging.engine, TABLE)
    assert await look() == expected


@WHOLE
async def test_changes_are_caused_by_the_commit_that_flipped(opened: Store) -> None:
    staging, *_ = await stage(opened.engine, TABLE, {"a": row(1)})
    commit = new_commit("load-1/shop/loads", Caller(subject="ann"), depth=3)
    await flip(opened.engine, staging, commit)
    record = await opened.record(TABLE, "a")
    await expand(opened.engine, TABLE)
    (event,) = await events(opened)
    assert (event.cause, event.caller, event.depth) == ("load-1/shop/loads", Caller(subject="ann"), 3)
    assert (event.trace, event.version) == (commit.trace, record.version)
    assert (await opened.record(TABLE, "a")).version == record.version


async def test_the_same_rows_again_stage_nothing(opened: Store) -> None:
    rows = {f"k{n:04}": row(n) for n in range(700)}
    await load(opened.engine, TABLE, rows)
    assert len(await changes(opened)) == 700
    assert await opened.engine.unchanged_since_load(TABLE, "")
    staging, differences, vanished = await stage(opened.engine, TABLE, rows)
    assert (staging.staged, differences, vanished) == (0, Differences(unchanged=700), 0)
    assert await seen(opened) == {key: value["n"] for key, value in rows.items()}


async def test_rows_that_others_wrote_are_compared_by_their_content(opened: Store) -> None:
    await opened.put(TABLE, "mine", {"id": "mine", **row(7)})
    await load(opened.engine, TABLE, {"a": row(1), "b": row(1), "c": row(1)})
    await opened.put(TABLE, "a", {"id": "a", **row(1)})
    await opened.put(TABLE, "b", {"id": "b", **row(9)})
    await opened.put(TABLE, "c", None)
    assert not await opened.engine.unchanged_since_load(TABLE, "")
    await changes(opened)
    differences, vanished = await load(opened.engine, TABLE, {"a": row(1), "b": row(1), "c": row(1), "mine": row(7)})
    assert (differences, vanished) == (Differences(inserted=1, modified=1, unchanged=2), 0)
    assert await changes(opened) == [("b", "modified", 9, 1), ("c", "inserted", None, 1)]
    differences, vanished = await load(opened.engine, TABLE, {})
    assert vanished == 4, "a row that a load has brought belongs to its scope, whoever wrote it first"
    assert await seen(opened) == {}


async def test_rows_that_no_load_brought_stay(opened: Store) -> None:
    await opened.put(TABLE, "mine", {"id": "mine", **row(7)})
    await load(opened.engine, TABLE, {"a": row(1)}, scope="one")
    await load(opened.engine, TABLE, {"b": row(1)}, scope="two")
    await load(opened.engine, TABLE, {}, scope="one")
    assert await seen(opened) == {"mine": 7, "b": 1}


@WHOLE
async def test_a_write_comes_after_what_the_load_changed_for_its_key(merging: Store) -> None:
    await merging.put(TABLE, "b", {"id": "b", **row(8)})
    await merging.merge(TABLE, "e", Merge(add={"n": 10}))
    await merging.put(TABLE, "c", {"id": "c", **row(3)})
    await merging.put(TABLE, "a", None)
    expected = {"b": 8, "c": 3, "d": 1, "e": 15}
    assert await seen(merging) == expected
    found = await changes(merging)
    assert [change for change in found if change[0] == "b"] == [("b", "modified", 1, 2), ("b", "modified", 2, 8)]
    assert [change for change in found if change[0] == "c"] == [("c", "removed", 1, None), ("c", "inserted", None, 3)]
    assert [change for change in found if change[0] == "e"] == [("e", "inserted", None, 5), ("e", "modified", 5, 15)]
    await expand(merging.engine, TABLE)
    assert await changes(merging) == []
    assert await seen(merging) == expected
    differences, _ = await load(merging.engine, TABLE, {name: row(1) for name in "abcd"})
    assert differences == Differences(inserted=1, modified=2, unchanged=1)


@WHOLE
async def test_reads_before_a_flip_are_stale_after_it(opened: Store) -> None:
    await load(opened.engine, TABLE, {"a": row(1), "b": row(1)})
    versions = {key: (await opened.record(TABLE, key)).version for key in "ab"}
    staging, *_ = await stage(opened.engine, TABLE, {"a": row(2), "c": row(3), "b": row(1)})
    await flip(opened.engine, staging)
    for key, version in (("a", versions["a"]), ("c", None)):
        with pytest.raises(Conflict):
            await opened.commit(reads=[Read(TABLE, key_of(key), version)])
    await opened.commit(reads=[Read(TABLE, key_of("b"), versions["b"])])
    await opened.commit(reads=[Read(TABLE, key_of("a"), (await opened.record(TABLE, "a")).version)])


async def test_a_load_based_on_an_older_one_is_refused(opened: Store) -> None:
    first, *_ = await stage(opened.engine, TABLE, {"a": row(1)})
    second, *_ = await stage(opened.engine, TABLE, {"a": row(2)})
    await flip(opened.engine, first)
    with pytest.raises(Conflict):
        await flip(opened.engine, second)
    await expand(opened.engine, TABLE)
    with pytest.raises(Conflict):
        await flip(opened.engine, second)
    assert await seen(opened) == {"a": 1}


async def test_a_load_that_begins_while_another_one_is_flipped_misses_none_of_its_rows(opened: Store) -> None:
    first, *_ = await stage(opened.engine, TABLE, {"a": row(1), "b": row(1)})
    _, second = await asyncio.gather(flip(opened.engine, first), opened.engine.begin_load(TABLE, ""))
    await second.add(documents({"a": row(2)}))
    await second.finish("delete", 0, 1.0)
    second.close()
    try:
        await flip(opened.engine, second)
    except Conflict:
        assert await seen(opened) == {"a": 1, "b": 1}
    else:
        assert await seen(opened) == {"a": 2}


async def test_a_key_of_another_scope_is_refused_until_that_scope_leaves_it(opened: Store) -> None:
    await load(opened.engine, TABLE, {"a": row(1), "b": row(1)}, scope="one")
    with pytest.raises(InvalidValue, match="'b', which belongs to the scope 'one'") as refused:
        await stage(opened.engine, TABLE, {"b": row(2), "c": row(2)}, scope="two")
    assert refused.value.hint
    assert await seen(opened) == {"a": 1, "b": 1}
    await load(opened.engine, TABLE, {"a": row(1)}, scope="one", missing="keep")
    with pytest.raises(InvalidValue):
        await stage(opened.engine, TABLE, {"b": row(2)}, scope="two")
    await load(opened.engine, TABLE, {"a": row(1)}, scope="one", missing="expire", grace_ms=60_000)
    await load(opened.engine, TABLE, {"b": row(2), "c": row(2)}, scope="two")
    await load(opened.engine, TABLE, {"a": row(3)}, scope="one")
    await opened.advance(120)
    assert await seen(opened) == {"a": 3, "b": 2, "c": 2}


async def test_two_scopes_that_stage_the_same_key_at_once_do_not_both_get_it(opened: Store) -> None:
    second = await opened.engine.begin_load(TABLE, "two")
    await second.add(documents({"a": row(2), "b": row(2)}))
    first, *_ = await stage(opened.engine, TABLE, {"b": row(1)}, scope="one")
    await flip(opened.engine, first)
    with pytest.raises(InvalidValue, match="'b', which belongs to the scope 'one'"):
        await second.finish("delete", 0, 1.0)
    second.close()
    assert await seen(opened) == {"b": 1}


@WHOLE
async def test_another_scope_waits_for_the_rows_to_be_in_place(opened: Store) -> None:
    one, *_ = await stage(opened.engine, TABLE, {"a": row(1)}, scope="one")
    two, *_ = await stage(opened.engine, TABLE, {"b": row(2)}, scope="two")
    await flip(opened.engine, one)
    with pytest.raises(Conflict):
        await flip(opened.engine, two)
    await expand(opened.engine, TABLE)
    await flip(opened.engine, two)
    assert await seen(opened) == {"a": 1, "b": 2}


@WHOLE
async def test_of_two_flips_in_one_batch_one_wins(opened: Store) -> None:
    stagings = [(await stage(opened.engine, TABLE, {"a": row(n), f"only-{n}": row(n)}))[0] for n in (1, 2)]
    outcomes = await asyncio.gather(*(flip(opened.engine, x) for x in stagings), return_exceptions=True)
    assert isinstance(outcomes[1], Conflict)
    assert await seen(opened) == {"a": 1, "only-1": 1}
    await expand(opened.engine, TABLE)
    assert await seen(opened) == {"a": 1, "only-1": 1}


@WHOLE
async def test_a_refused_commit_flips_nothing_and_its_load_can_be_flipped_later(opened: Store) -> None:
    staging, *_ = await stage(opened.engine, TABLE, {"a": row(1)})
    commit = new_commit()
    commit.reads.append(Read(TABLE, key_of("x"), "stale"))
    commit.flips.append(staging.flip)
    late = new_commit()
    write(late, TABLE, "a", {"id": "a", **row(9)})
    refused, _ = await asyncio.gather(opened.engine.commit(commit), opened.engine.commit(late), return_exceptions=True)
    assert isinstance(refused, Conflict)
    assert await seen(opened) == {"a": 9}
    await flip(opened.engine, staging)
    assert await seen(opened) == {"a": 1}


async def test_a_commit_that_is_refused_for_what_else_it_does_flips_nothing(opened: Store) -> None:
    staging, *_ = await stage(opened.engine, TABLE, {"a": row(1)})
    commit, late = new_commit(), new_commit()
    commit.flips.append(staging.flip)
    emit(commit, "shop/nowhere", 1)
    write(late, TABLE, "b", {"id": "b", **row(2)})
    outcomes = await asyncio.gather(opened.engine.commit(commit), opened.engine.commit(late), return_exceptions=True)
    assert isinstance(outcomes[0], UnknownResource)
    assert await seen(opened) == {"b": 2}
    assert await expand(opened.engine, TABLE) == 0


@WHOLE
async def test_writes_of_the_flipping_commit_and_of_its_batch_come_after_the_load(opened: Store) -> None:
    staging, *_ = await stage(opened.engine, TABLE, {"a": row(1), "b": row(1), "c": row(1)})
    commit = new_commit()
    write(commit, TABLE, "a", {"id": "a", **row(2)})
    late = new_commit()
    write(late, TABLE, "b", None, Merge(add={"n": 10}), blind=True)
    commit.flips.append(staging.flip)
    await asyncio.gather(opened.engine.commit(commit), opened.engine.commit(late))
    assert await seen(opened) == {"a": 2, "b": 11, "c": 1}
    await expand(opened.engine, TABLE)
    assert await seen(opened) == {"a": 2, "b": 11, "c": 1}
    assert sorted(await changes(opened), key=lambda change: change[0]) == [
        ("a", "inserted", None, 1),
        ("a", "modified", 1, 2),
        ("b", "inserted", None, 1),
        ("b", "modified", 1, 11),
        ("c", "inserted", None, 1),
    ]


async def test_rows_that_vanish_are_kept(opened: Store) -> None:
    await load(opened.engine, TABLE, {name: row(1) for name in "abc"})
    _, vanished = await load(opened.engine, TABLE, {"a": row(1)}, missing="keep", max_removed=0)
    assert vanished == 2
    assert await seen(opened) == dict.fromkeys("abc", 1)
    _, vanished = await load(opened.engine, TABLE, {"a": row(1)}, missing="delete")
    assert vanished == 2
    assert await seen(opened) == {"a": 1}


@WHOLE
async def test_rows_that_vanish_expire_after_a_grace_period(opened: Store) -> None:
    await load(opened.engine, TABLE, {name: row(1) for name in "abcd"})
    await changes(opened)
    version = (await opened.record(TABLE, "b")).version
    _, vanished = await load(opened.engine, TABLE, {"a": row(1)}, missing="expire", grace_ms=7 * DAY_MS)
    assert vanished == 3
    assert await seen(opened) == dict.fromkeys("abcd", 1)
    assert (await opened.record(TABLE, "b")).version == version
    await opened.advance(3 * 86_400)
    differences, vanished = await load(
        opened.engine, TABLE, {"a": row(1), "c": row(1)}, missing="expire", grace_ms=7 * DAY_MS
    )
    assert (differences, vanished) == (Differences(unchanged=2), 0), "what has gone before does not go again"
    await opened.put(TABLE, "d", {"id": "d", **row(1)})
    await opened.advance(4 * 86_400)
    assert await seen(opened) == dict.fromkeys("acd", 1), "c came back in time, d was written by somebody"
    assert await opened.engine.expire_records(100) == 1
    assert await changes(opened) == [("b", "removed expired", 1, None)]


async def test_a_grace_period_does_not_lengthen_a_life(store: Store) -> None:
    await store.open(TableSpec(name=TABLE, partition="id", ttl="ends"), *CATALOG[1:])
    ends_s = await store.engine.now_ms() / 1000 + 60
    await load(store.engine, TABLE, {"a": {**row(1), "ends": ends_s}, "b": {**row(1), "ends": ends_s + 3600}})
    await load(store.engine, TABLE, {}, missing="expire", grace_ms=1_000_000)
    await store.advance(61)
    assert await seen(store) == {"b": 1}
    await store.advance(1_000)
    assert await seen(store) == {}


@WHOLE
async def test_a_row_that_expires_while_it_is_staged_is_gone_at_once(opened: Store) -> None:
    await load(opened.engine, TABLE, {name: row(1) for name in "ab"})
    await changes(opened)
    staging, *_ = await stage(opened.engine, TABLE, {"a": row(1)}, missing="expire", grace_ms=5_000)
    await flip(opened.engine, staging)
    assert await seen(opened) == {"a": 1, "b": 1}
    await opened.advance(5)
    assert await seen(opened) == {"a": 1}
    assert await seen(opened, index="by-kind", partition="k") == {"a": 1}
    assert await opened.read(TABLE, "b") is None
    await expand(opened.engine, TABLE)
    await opened.engine.expire_records(100)
    assert await changes(opened) == [("b", "removed expired", 1, None)]


@WHOLE
async def test_a_load_over_expired_rows_tells_both(store: Store) -> None:
    await store.open(TableSpec(name=TABLE, partition="id", ttl_ms=1_000), *CATALOG[1:])
    await load(store.engine, TABLE, {"a": row(1)})
    await store.advance(0.5)
    staging, *_ = await stage(store.engine, TABLE, {"a": row(1), "b": row(2)})
    assert staging.staged == 2, "each row of a load is as freshly written"
    await flip(store.engine, staging)
    await store.advance(1)
    assert await seen(store) == {}
    await expand(store.engine, TABLE)
    await store.engine.expire_records(100)
    assert sorted(await changes(store)) == [
        ("a", "inserted", None, 1),
        ("a", "inserted", None, 1),
        ("a", "removed expired", 1, None),
        ("a", "removed expired", 1, None),
        ("b", "inserted", None, 2),
        ("b", "removed expired", 2, None),
    ]


async def test_a_load_keeps_rows_of_a_table_with_an_age_limit_alive(store: Store) -> None:
    await store.open(TableSpec(name=TABLE, partition="id", ttl_ms=10_000), *CATALOG[1:])
    for _ in range(3):
        await load(store.engine, TABLE, {"a": row(1)})
        await store.advance(6)
    assert await seen(store) == {"a": 1}
    assert await changes(store) == [("a", "inserted", None, 1)]


@WHOLE
async def test_expiry_does_not_take_a_row_that_its_load_has_renewed(opened: Store) -> None:
    await load(opened.engine, TABLE, {"a": row(1), "b": row(1)})
    await load(opened.engine, TABLE, {"a": row(1)}, missing="expire", grace_ms=5_000)
    await changes(opened)
    staging, *_ = await stage(opened.engine, TABLE, {"a": row(1), "b": row(2)})
    await flip(opened.engine, staging)
    await opened.advance(4)
    commit = new_commit()
    commit.writes.append(Write(TABLE, key_of("b"), f"{commit.id}-0", expired=True))
    await opened.engine.commit(commit)
    assert await seen(opened) == {"a": 1, "b": 2}
    assert await changes(opened) == [("b", "modified", 1, 2)]


async def test_a_load_that_would_remove_too_much_is_refused(opened: Store) -> None:
    await load(opened.engine, TABLE, {f"k{n}": row(1) for n in range(10)})
    rows = {f"k{n}": row(2) for n in range(7)}
    with pytest.raises(LoadRefused, match="10 rows"):
        await stage(opened.engine, TABLE, rows, max_removed=0.29)
    with pytest.raises(LoadRefused):
        await stage(opened.engine, TABLE, rows, missing="expire", grace_ms=1, max_removed=0.29)
    assert await seen(opened) == {f"k{n}": 1 for n in range(10)}
    await load(opened.engine, TABLE, rows, max_removed=0.3)
    assert await seen(opened) == {f"k{n}": 2 for n in range(7)}


@pytest.mark.parametrize("between", [0, 300])
async def test_a_key_that_comes_twice_is_refused_by_name(opened: Store, between: int) -> None:
    staging = await opened.engine.begin_load(TABLE, "")
    rows = [*documents({"a": row(1)}), *documents({f"k{n}": row(1) for n in range(between)}), *documents({"a": row(2)})]
    with pytest.raises(InvalidValue, match="'a' twice"):
        await staging.add(rows)
    staging.close()


@WHOLE
async def test_an_abandoned_load_is_swept_and_can_be_flipped_no_more(opened: Store) -> None:
    staging = await opened.engine.begin_load(TABLE, "")
    await staging.add(documents({f"k{n}": row(n) for n in range(30)}))
    await staging.finish("keep", 0, 1.0)
    assert await opened.engine.sweep_loads(10) == 0, "it may still be flipped"
    opened.engine.abandon(staging.flip.load)
    assert await opened.engine.sweep_loads(10) == 10
    with pytest.raises(Conflict, match="given up"):
        await flip(opened.engine, staging)
    await staging.add(documents({"late": row(1)}))
    with pytest.raises(Conflict, match="given up"):
        await staging.finish("keep", 0, 1.0)
    staging.close()
    swept = 10
    while more := await opened.engine.sweep_loads(100):
        swept += more
    assert swept == 60, "30 rows and 30 index entries"
    assert await opened.engine.sweep_loads(100) == 0


@WHOLE
async def test_a_flipped_load_is_never_swept(merging: Store) -> None:
    for number in range(10):
        merging.engine.abandon(number)
    assert [await merging.engine.sweep_loads(1000) for _ in range(5)] == [0] * 5
    assert await seen(merging) == NEW


@WHOLE
async def test_a_forgotten_load_is_swept_in_the_end(opened: Store) -> None:
    staging, *_ = await stage(opened.engine, TABLE, {"a": row(1)})
    await opened.advance(3 * 3600)
    assert await opened.engine.sweep_loads(100) == 2
    with pytest.raises(Conflict):
        await flip(opened.engine, staging)


@WHOLE
async def test_a_load_that_goes_on_for_hours_is_not_swept(opened: Store) -> None:
    staging = await opened.engine.begin_load(TABLE, "")
    for n in range(4):
        await opened.advance(3000)
        await staging.add(documents({f"k{n}": row(n)}))
        assert await opened.engine.sweep_loads(100) == 0
    await staging.finish("keep", 0, 1.0)
    staging.close()
    await flip(opened.engine, staging)
    assert await seen(opened) == {f"k{n}": n for n in range(4)}


@WHOLE
@pytest.mark.parametrize("die", [True, False])
async def test_a_load_that_was_staged_is_abandoned_with_its_process(opened: Store, die: bool) -> None:
    staging, *_ = await stage(opened.engine, TABLE, {"a": row(1)})
    await (crash(opened) if die else opened.reopen())
    assert await seen(opened) == {}
    assert await opened.engine.sweep_loads(100) == 2
    with pytest.raises(Conflict):
        await flip(opened.engine, staging)


@WHOLE
@pytest.mark.parametrize("die", [True, False])
async def test_a_flipped_load_stands_through_a_restart(merging: Store, die: bool) -> None:
    await merging.put(TABLE, "b", {"id": "b", **row(8)})
    await (crash(merging) if die else merging.reopen())
    assert await seen(merging) == {**NEW, "b": 8}
    assert await seen(merging, index="by-kind", partition="other") == {"e": 5}
    await expand(merging.engine, TABLE)
    assert await seen(merging) == {**NEW, "b": 8}
    assert sorted(await changes(merging)) == sorted([*NEWS, ("b", "modified", 2, 8)])
    await merging.reopen()
    assert await expand(merging.engine, TABLE) == 0
    assert await merging.engine.check() == []


@WHOLE
async def test_each_change_is_told_once_however_many_expand(opened: Store) -> None:
    rows = {f"k{n:04}": row(n) for n in range(1_000)}
    staging, *_ = await stage(opened.engine, TABLE, rows)
    await flip(opened.engine, staging)
    writes = asyncio.gather(*(opened.put(TABLE, f"k{n:04}", {"id": "", **row(-1)}) for n in range(0, 1000, 7)))
    await asyncio.gather(*(expand(opened.engine, TABLE) for _ in range(3)), writes)
    found = await changes(opened)
    inserted = [subject for subject, kind, _, _ in found if kind == "inserted"]
    assert sorted(inserted) == sorted(rows)
    assert [change for change in found if change[1] == "modified"] != []
    assert sorted(subject for subject, kind, _, _ in found if kind == "modified") == [
        f"k{n:04}" for n in range(0, 1000, 7)
    ]


@WHOLE
async def test_replay_gives_the_flipped_rows(merging: Store) -> None:
    await changes(merging)
    assert await merging.engine.replay(TABLE, CHANGES) == 4
    assert {(subject, new) for subject, _, _, new in await changes(merging)} == set(NEW.items())


@WHOLE
async def test_an_index_made_meanwhile_has_the_staged_rows(merging: Store) -> None:
    wider = TableSpec(name=TABLE, partition="id", indexes=(*ROWS.indexes, IndexSpec("by-n", "n")))
    await merging.engine.install(catalog(wider, *CATALOG[1:]))
    assert await seen(merging, index="by-n") == {"a": 1, "d": 1, "b": 2, "e": 5}
    await expand(merging.engine, TABLE)
    assert await seen(merging, index="by-n") == {"a": 1, "d": 1, "b": 2, "e": 5}


@WHOLE
async def test_a_reader_of_the_files_sees_the_flipped_dataset(merging: Store) -> None:
    await merging.engine.close()
    reader = merging.make(merging.clock, read_only=True)
    await reader.open()
    assert rows_of(await reader.query(Query(table=TABLE))) == NEW
    await reader.close()


@WHOLE
async def test_no_reader_sees_a_mixture_while_datasets_change(opened: Store) -> None:
    names = [f"k{n:03}" for n in range(600)]
    looks = 0

    async def look() -> None:
        nonlocal looks
        while not done.is_set():
            found = set((await seen(opened)).values())
            assert len(found) <= 1, found
            looks += bool(found)
            await asyncio.sleep(0)

    done = asyncio.Event()
    reading = asyncio.create_task(look())
    for generation in range(6):
        await load(opened.engine, TABLE, {name: row(generation) for name in names})
    done.set()
    await reading
    assert looks > 20
