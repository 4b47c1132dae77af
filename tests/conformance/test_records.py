from __future__ import annotations

import asyncio
from typing import Any

import pytest

from headwater.catalog import IndexSpec, QueueSpec, RouteSpec, TableSpec
from headwater.engine import Query
from headwater.errors import InvalidValue, UnknownResource
from headwater.events import Envelope
from headwater.unit import Merge, Write, new_commit
from tests.conformance.workbench import Store, data, image, write

pytestmark = pytest.mark.anyio
ROWS = TableSpec(name="shop/rows", partition="id")
AGED = TableSpec(name="shop/aged", partition="id", ttl_ms=10_000)
DATED = TableSpec(name="shop/dated", partition="id", ttl="until", indexes=(IndexSpec("kind", "kind"),))
PAIRS = TableSpec(name="shop/pairs", partition="id", sort="n")
CHANGES = QueueSpec(name="shop/changes")
ROUTES = [RouteSpec(source=table, target="shop/changes") for table in ("shop/rows", "shop/aged", "shop/dated")]


@pytest.fixture
async def shop(store: Store) -> Store:
    return await store.open(ROWS, AGED, DATED, PAIRS, CHANGES, *ROUTES)


async def changes(shop: Store) -> list[Envelope]:
    found = []
    while deliveries := await shop.ready("shop/changes"):
        found += [delivery.event for delivery in deliveries]
        await shop.ack(*deliveries)
    return found


def shown(events: list[Envelope]) -> list[tuple[str, Any, Any]]:
    return [(event.type, image(event.old), image(event.data)) for event in events]


async def test_the_three_kinds_of_change(shop: Store) -> None:
    one, two = {"id": "a", "n": 1}, {"id": "a", "n": 2}
    versions = [await shop.put("shop/rows", "a", document) for document in (one, two, None)]
    found = await changes(shop)
    assert shown(found) == [("inserted", None, one), ("modified", one, two), ("removed", two, None)]
    assert [event.version for event in found] == versions
    assert {(event.source, event.subject, event.key) for event in found} == {("shop/rows", "a", ("a", ""))}
    assert len({event.id for event in found}) == 3


async def test_changes_carry_cause_trace_and_time(shop: Store) -> None:
    shop.clock.advance(5)
    committed = await shop.commit(
        lambda commit: write(commit, "shop/rows", "a", {"id": "a"}), cause="e1/shop/jobs", trace="t", depth=3
    )
    (event,) = await changes(shop)
    assert (event.cause, event.trace, event.depth, event.time_ms) == ("e1/shop/jobs", "t", 3, committed.time_ms)
    assert event.time_ms == shop.clock.wall_ms()


async def test_removing_what_is_absent_changes_nothing(shop: Store) -> None:
    await shop.put("shop/rows", "a", None)
    assert await changes(shop) == []
    assert await shop.engine.read("shop/rows", ("a", "")) is None


async def test_a_version_is_known_before_the_commit_and_new_for_each_write(shop: Store) -> None:
    first = await shop.put("shop/rows", "a", {"id": "a"})
    assert (await shop.record("shop/rows", "a")).version == first
    second = await shop.put("shop/rows", "a", {"id": "a"})
    assert second != first
    assert (await shop.record("shop/rows", "a")).version == second


async def test_equal_bytes_change_the_version_and_emit_nothing(shop: Store) -> None:
    await shop.put("shop/rows", "a", {"id": "a", "n": 1})
    await changes(shop)
    version = await shop.put("shop/rows", "a", {"n": 1, "id": "a"})
    assert (await shop.record("shop/rows", "a")).version == version
    assert await changes(shop) == []
    assert (await shop.stats("shop/changes")).sent == 1


async def test_writes_of_one_batch_emit_a_change_each(shop: Store) -> None:
    commits = [new_commit() for _ in range(3)]
    for n, commit in enumerate(commits):
        write(commit, "shop/rows", "a", {"id": "a", "n": n} if n < 2 else None)
    await asyncio.gather(*map(shop.engine.commit, commits))
    assert [event.type for event in await changes(shop)] == ["inserted", "modified", "removed"]


@pytest.mark.parametrize(
    ("images", "old", "new"), [("both", True, True), ("new", False, True), ("old", True, False), ("keys", False, False)]
)
async def test_images(store: Store, images: Any, old: bool, new: bool) -> None:
    table = TableSpec(name="shop/rows", partition="id", images=images)
    await store.open(table, CHANGES, ROUTES[0])
    one, two = {"id": "a", "n": 1}, {"id": "a", "n": 2}
    for document in (one, two, None):
        await store.put("shop/rows", "a", document)
    assert shown(await changes(store)) == [
        ("inserted", None, one if new else None),
        ("modified", one if old else None, two if new else None),
        ("removed", two if old else None, None),
    ]


async def test_merges_apply_to_the_present_document(shop: Store) -> None:
    await shop.put("shop/rows", "a", {"id": "a", "n": 1, "tags": ["x"], "gone": True})
    merge = Merge(
        set={"name": "n"}, add={"n": 4, "new": 1.5}, append={"tags": ["y", "z"], "list": [1]}, unset=("gone",)
    )
    await shop.merge("shop/rows", "a", merge, Merge(add={"n": -2}))
    expected = {"id": "a", "n": 3, "tags": ["x", "y", "z"], "name": "n", "new": 1.5, "list": [1]}
    assert await shop.read("shop/rows", "a") == expected
    assert [event.type for event in await changes(shop)] == ["inserted", "modified"]


async def test_a_merge_of_an_absent_record_starts_from_its_key(shop: Store) -> None:
    await shop.merge("shop/pairs", ("a", 7), Merge(add={"count": 1}))
    assert await shop.read("shop/pairs", ("a", 7)) == {"id": "a", "n": 7, "count": 1}


async def test_a_put_with_merges_applies_them_to_its_body(shop: Store) -> None:
    await shop.put("shop/rows", "a", {"id": "a", "n": 100})
    await shop.commit(lambda commit: write(commit, "shop/rows", "a", {"id": "a", "n": 1}, Merge(add={"n": 1})))
    assert await shop.read("shop/rows", "a") == {"id": "a", "n": 2}


async def test_concurrent_merges_never_conflict_and_lose_nothing(shop: Store) -> None:
    await asyncio.gather(*(shop.merge("shop/rows", "a", Merge(add={"n": 1}, append={"l": [n]})) for n in range(40)))
    found = await shop.read("shop/rows", "a")
    assert found["n"] == 40
    assert sorted(found["l"]) == list(range(40))


@pytest.mark.parametrize(
    ("present", "merge"),
    [
        ("text", Merge(add={"x": 1})),
        (True, Merge(add={"x": 1})),
        ([1], Merge(add={"x": 1})),
        ("text", Merge(append={"x": [1]})),
        (5, Merge(append={"x": [1]})),
        (2**63 - 1, Merge(add={"x": 1})),
        (1.7e308, Merge(add={"x": 1.7e308})),
    ],
)
async def test_a_merge_of_the_wrong_type_is_refused(shop: Store, present: Any, merge: Merge) -> None:
    await shop.put("shop/rows", "a", {"id": "a", "x": present})
    with pytest.raises(InvalidValue):
        await shop.merge("shop/rows", "a", merge)
    assert await shop.read("shop/rows", "a") == {"id": "a", "x": present}


async def test_an_expired_record_is_absent_at_once(shop: Store) -> None:
    version = await shop.put("shop/aged", "a", {"id": "a"})
    await shop.advance(9.999)
    assert (await shop.record("shop/aged", "a")).version == version
    await shop.advance(0.001)
    assert await shop.engine.read("shop/aged", ("a", "")) is None
    assert (await shop.engine.query(Query(table="shop/aged"))).records == []
    await shop.commit(reads=shop.reading("shop/aged", "a", None))


async def test_a_write_renews_the_age_limit(shop: Store) -> None:
    await shop.put("shop/aged", "a", {"id": "a"})
    await shop.advance(6)
    await shop.put("shop/aged", "a", {"id": "a"})
    await shop.advance(6)
    assert await shop.engine.expire_records(10) == 0
    assert await shop.read("shop/aged", "a") == {"id": "a"}


@pytest.mark.parametrize(
    "until", ["2023-11-14T22:13:30Z", "2023-11-14T22:13:30", "2023-11-14T23:13:30+01:00", 1_700_000_010]
)
async def test_a_record_expires_at_the_time_in_its_field(shop: Store, until: str | int) -> None:
    await shop.put("shop/dated", "a", {"id": "a", "until": until, "kind": "k"})
    await shop.put("shop/dated", "b", {"id": "b", "kind": "k"})
    by_kind = Query(table="shop/dated", index="kind", partition="k")
    await shop.advance(9.999)
    assert len((await shop.engine.query(by_kind)).records) == 2
    await shop.advance(0.001)
    assert [record.key[0] for record in (await shop.engine.query(by_kind)).records] == ["b"]
    assert await shop.read("shop/dated", "a") is None


@pytest.mark.parametrize("until", ["tomorrow", 1e300])
async def test_a_field_that_is_no_time_is_refused(shop: Store, until: object) -> None:
    with pytest.raises(InvalidValue):
        await shop.put("shop/dated", "a", {"id": "a", "until": until})


async def test_expiry_is_a_removal_marked_expired(shop: Store) -> None:
    for key in ("a", "b", "c"):
        await shop.put("shop/aged", key, {"id": key})
    await changes(shop)
    await shop.advance(10)
    assert await shop.engine.expire_records(2) == 2
    assert await shop.engine.expire_records(2) == 1
    assert await shop.engine.expire_records(2) == 0
    found = await changes(shop)
    assert shown(found) == [("removed", {"id": key}, None) for key in ("a", "b", "c")]
    assert all(event.expired for event in found)


async def test_a_record_rewritten_meanwhile_is_not_expired(shop: Store) -> None:
    await shop.put("shop/aged", "a", {"id": "a", "n": 1})
    await shop.advance(10)
    rewriting = asyncio.ensure_future(shop.put("shop/aged", "a", {"id": "a", "n": 2}))
    expiring = asyncio.ensure_future(shop.engine.expire_records(10))
    await asyncio.gather(rewriting, expiring)
    assert await shop.read("shop/aged", "a") == {"id": "a", "n": 2}
    assert [(event.type, event.expired) for event in await changes(shop)] == [
        ("inserted", False),
        ("removed", True),
        ("inserted", False),
    ]


async def test_a_late_expiry_leaves_a_record_with_time_left(shop: Store) -> None:
    await shop.put("shop/aged", "a", {"id": "a"})
    await shop.commit(lambda commit: commit.writes.append(Write("shop/aged", ("a", ""), "v", expired=True)))
    assert await shop.read("shop/aged", "a") == {"id": "a"}


@pytest.mark.parametrize("equal", [True, False])
async def test_a_put_over_an_expired_record_tells_both(shop: Store, equal: bool) -> None:
    old = {"id": "a", "n": 1}
    new = old if equal else {"id": "a", "n": 2}
    await shop.put("shop/aged", "a", old)
    await shop.advance(10)
    await shop.put("shop/aged", "a", new)
    found = await changes(shop)
    assert shown(found) == [("inserted", None, old), ("removed", old, None), ("inserted", None, new)]
    assert [event.expired for event in found] == [False, True, False]
    assert len({event.id for event in found}) == 3
    assert await shop.engine.expire_records(10) == 0


async def test_removing_an_expired_record_tells_its_end_once(shop: Store) -> None:
    await shop.put("shop/aged", "a", {"id": "a"})
    await shop.advance(10)
    await shop.put("shop/aged", "a", None)
    await shop.put("shop/aged", "a", None)
    assert await shop.engine.expire_records(10) == 0
    assert [(event.type, event.expired) for event in await changes(shop)] == [("inserted", False), ("removed", True)]


async def test_history_of_a_key_newest_first(shop: Store) -> None:
    for n in range(4):
        await shop.put("shop/rows", "a", {"id": "a", "n": n})
    await shop.put("shop/rows", "b", {"id": "b"})
    await shop.engine.replay("shop/rows", "shop/changes")
    await shop.put("shop/rows", "a", None)
    found = await shop.engine.history("shop/rows", ("a", ""), 3)
    assert [(event.type, data(event)) for event in found] == [
        ("removed", None),
        ("modified", {"id": "a", "n": 3}),
        ("modified", {"id": "a", "n": 2}),
    ]
    assert len(await shop.engine.history("shop/rows", ("a", ""), 100)) == 5


async def test_unknown_tables_are_refused(shop: Store) -> None:
    with pytest.raises(UnknownResource):
        await shop.engine.read("shop/none", ("a", ""))
    with pytest.raises(UnknownResource):
        await shop.engine.query(Query(table="shop/rows", index="none"))


@pytest.mark.parametrize("odd", ["\0", "a\0b", "\1", "\1\2", "\0\1\1\2\0"])
async def test_every_character_is_kept(store: Store, odd: str) -> None:
    """In keys, their subjects, FIFO groups, claims and deduplication ids."""
    jobs = QueueSpec(name="shop/fifo", fifo=True)
    await store.open(TableSpec(name="shop/odd", partition="id"), jobs, RouteSpec(source="shop/odd", target="shop/fifo"))
    for key in (odd, odd.replace("\0", "\1\2")):
        await store.put("shop/odd", key, {"id": key})
        assert await store.read("shop/odd", key) == {"id": key}
        assert len(await store.engine.history("shop/odd", (key, ""), 10)) >= 1
    same = odd == odd.replace("\0", "\1\2")
    found = await store.take("shop/fifo", 1 if same else 2)
    assert found[0].group == odd
    assert found[0].event.subject == odd
    await store.ack(*found)
    await store.claim(odd, odd, 10, b"taken")
    assert await store.engine.claimed(odd, odd) == b"taken"
    assert await store.engine.claimed(odd, f"{odd}!") is None
    await store.send("shop/fifo", 1, group=odd, dedup=odd)
    await store.send("shop/fifo", 1, group=odd, dedup=odd)
    (delivery,) = await store.take("shop/fifo")
    await store.bury(delivery, odd)
    (letter,) = await store.engine.dead_letters()
    assert (letter.group, letter.reason) == (odd, odd)


@pytest.mark.feature("peeks", "SQS shows a message only to who receives it")
@pytest.mark.parametrize("odd", ["\0", "\1\2"])
async def test_every_character_of_a_group_is_shown(store: Store, odd: str) -> None:
    await store.open(QueueSpec(name="shop/fifo", fifo=True))
    await store.send("shop/fifo", 1, group=odd, dedup=odd)
    assert [waiting.group for waiting in await store.engine.peek("shop/fifo", 10)] == [odd]
