from __future__ import annotations

import pytest

from headwater.catalog import IndexSpec, QueueSpec, RouteSpec, TableSpec
from headwater.engine import Query
from headwater.errors import DeclarationError, StoreError, StoreLocked, UnknownResource
from headwater.unit import new_commit
from tests.conformance.workbench import MakeEngine, Store, catalog, data

pytestmark = pytest.mark.anyio
ROWS = TableSpec(name="shop/rows", partition="id", sort="n", indexes=(IndexSpec("kind", "kind"),))
JOBS, MORE = QueueSpec(name="shop/jobs"), QueueSpec(name="shop/more")
ROUTE = RouteSpec(source="shop/topic", target="shop/jobs", match={"n": [{"numeric": [">", 0]}]})


async def test_the_same_catalog_keeps_the_revision(store: Store) -> None:
    await store.open()
    first = await store.engine.install(catalog(ROWS, JOBS, "shop/topic", ROUTE))
    assert await store.engine.install(catalog(ROWS, JOBS, "shop/topic", ROUTE)) == first
    await store.reopen()
    assert await store.engine.install(catalog(ROWS, JOBS, "shop/topic", ROUTE)) == first
    assert await store.engine.install(catalog(ROWS, JOBS, MORE, "shop/topic", ROUTE)) > first


async def test_the_same_catalog_keeps_the_revision_beside_a_kept_queue(store: Store) -> None:
    await store.open(JOBS, MORE)
    await store.send("shop/more", 1)
    first = await store.engine.install(catalog(JOBS))
    assert await store.engine.install(catalog(JOBS)) == first
    await store.reopen()
    assert await store.engine.install(catalog(JOBS)) == first


async def test_the_merged_catalog_of_two_apps(store: Store) -> None:
    await store.open(ROWS, JOBS, "shop/topic", ROUTE)
    bill = QueueSpec(name="bill/invoices")
    foreign = RouteSpec(source="shop/topic", target="bill/invoices")
    await store.engine.install(catalog(bill, foreign, app="bill"))
    await store.publish("shop/topic", {"n": 1})
    assert await store.drain("bill/invoices") == [{"n": 1}]
    assert await store.drain("shop/jobs") == [{"n": 1}]
    await store.engine.install(catalog(ROWS, JOBS, "shop/topic"))
    await store.reopen()
    merged = await store.engine.catalog()
    assert merged.apps == ("bill", "shop")
    assert set(merged.queues) == {"bill/invoices", "shop/jobs"}
    assert [route.target for route in merged.routes] == ["bill/invoices"]
    await store.publish("shop/topic", {"n": 2})
    assert await store.drain("bill/invoices") == [{"n": 2}]
    assert await store.drain("shop/jobs") == []


async def test_a_changed_key_is_refused(store: Store) -> None:
    await store.open(ROWS)
    for other in (TableSpec(name="shop/rows", partition="id"), TableSpec(name="shop/rows", partition="x", sort="n")):
        with pytest.raises(DeclarationError) as caught:
            await store.engine.install(catalog(other, MORE))
        assert caught.value.resource == "shop/rows"
    assert (await store.engine.catalog()).tables == {"shop/rows": ROWS}
    assert (await store.engine.catalog()).queues == {}


@pytest.mark.feature("renames_queues", "a renamed queue is another one in SQS, and keeps its messages")
async def test_a_renamed_queue_keeps_its_messages(store: Store) -> None:
    await store.open(JOBS)
    await store.send("shop/jobs", 1, 2)
    await store.bury((await store.take("shop/jobs"))[0])
    await store.engine.pause("shop/jobs", True)
    await store.engine.install(catalog(QueueSpec(name="shop/work"), renamed={"shop/jobs": "shop/work"}))
    for _ in range(2):
        assert await store.counts("shop/work") == (1, 0, 0, 1)
        assert (await store.stats("shop/work")).paused
        assert [data(letter) for letter in await store.engine.dead_letters("shop/work")] == [1]
        with pytest.raises(UnknownResource):
            await store.engine.peek("shop/jobs", 1)
        await store.reopen()
    await store.engine.pause("shop/work", False)
    assert await store.drain("shop/work") == [2]


@pytest.mark.parametrize("state", ["waiting", "dead"])
async def test_a_queue_without_declaration_is_kept_while_it_holds_something(store: Store, state: str) -> None:
    await store.open(JOBS, MORE)
    await store.send("shop/jobs", 1)
    if state == "dead":
        await store.bury((await store.take("shop/jobs"))[0])
    await store.engine.install(catalog(MORE))
    await store.reopen()
    assert set((await store.engine.catalog()).queues) == {"shop/jobs", "shop/more"}
    if state == "dead":
        await store.redrive((await store.engine.dead_letters())[0].id)
    assert await store.drain("shop/jobs") == [1]


async def test_an_empty_queue_without_declaration_goes(store: Store) -> None:
    await store.open(JOBS, MORE)
    await store.engine.install(catalog(MORE))
    assert set((await store.engine.catalog()).queues) == {"shop/more"}
    with pytest.raises(UnknownResource):
        await store.send("shop/jobs", 1)


async def test_reopening_keeps_everything(store: Store) -> None:
    await store.open(ROWS, JOBS, MORE, "shop/topic", ROUTE)
    version = await store.put("shop/rows", ("a", 1), {"id": "a", "n": 1, "kind": "k"})
    await store.publish("shop/topic", {"n": 1})
    await store.send("shop/more", "dead", "waiting")
    await store.bury((await store.take("shop/more"))[0])
    await store.claim("s", "c", 60, b"result")
    await store.engine.subscribe(RouteSpec(source="shop/topic", target="shop/more"))

    async def everything() -> list[object]:
        engine = store.engine
        stats = [(x.queue, x.depth, x.dead) for x in await engine.stats()]
        waiting = [await store.waiting(queue) for queue in ("shop/jobs", "shop/more")]
        records = [await engine.query(Query(table="shop/rows", index=index)) for index in ("", "kind")]
        letters, events = await engine.dead_letters(), await engine.events(0)
        return [stats, waiting, records, letters, events, await engine.catalog(), await engine.claimed("s", "c")]

    before = await everything()
    for _ in range(2):
        await store.reopen()
        assert await everything() == before
    assert (await store.record("shop/rows", ("a", 1))).version == version
    assert await store.engine.check() == []


async def test_closing_finishes_the_commits_in_flight(store: Store) -> None:
    await store.open(JOBS)
    commits = [store.engine.commit(new_commit()) for _ in range(20)]
    await store.engine.close()
    await store.engine.close()
    assert all(commit.done() and commit.exception() is None for commit in commits)


async def test_one_owner_at_a_time(store: Store, make: MakeEngine) -> None:
    await store.open(JOBS)
    if store.engine.features.single_process:
        with pytest.raises(StoreLocked):
            await make(store.clock).open()
    await store.send("shop/jobs", 1)


async def test_a_read_only_store_answers_and_writes_nothing(store: Store, make: MakeEngine) -> None:
    await store.open(ROWS, JOBS)
    await store.put("shop/rows", ("a", 1), {"id": "a", "n": 1})
    await store.send("shop/jobs", 1)
    reader = make(store.clock, read_only=True)
    await reader.open()
    try:
        await store.send("shop/jobs", 2)
        record = await reader.read("shop/rows", ("a", 1))
        assert record is not None
        assert [(x.queue, x.depth) for x in await reader.stats()] == [("shop/jobs", 2)]
        if reader.features.peeks:
            assert [data(waiting) for waiting in await reader.peek("shop/jobs", 10)] == [1, 2]
        with pytest.raises(StoreError):
            await reader.commit(new_commit())
        with pytest.raises(StoreError):
            await reader.pause("shop/jobs", True)
        with pytest.raises(StoreError):
            await reader.receive("shop/jobs", 1)
    finally:
        await reader.close()
    assert await store.drain("shop/jobs") == [1, 2]


async def test_reading_a_store_that_is_not_there_is_an_error(store: Store, make: MakeEngine) -> None:
    with pytest.raises((StoreError, UnknownResource)):
        await make(store.clock, read_only=True).open()
