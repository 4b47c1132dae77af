from __future__ import annotations

import asyncio
from typing import Any

import pytest

from headwater.catalog import QueueSpec, RouteSpec, TableSpec
from headwater.errors import DeclarationError, UnknownResource
from headwater.events import MAX_DEPTH
from headwater.unit import new_commit
from tests.conformance.workbench import Store, catalog, data, emit

pytestmark = pytest.mark.anyio
ROWS = TableSpec(name="shop/rows", partition="id")
JOBS, MORE = QueueSpec(name="shop/jobs"), QueueSpec(name="shop/more")
FIFO = QueueSpec(name="shop/fifo", fifo=True)
TOPIC = "shop/topic"


def route(source: str, target: str, **options: Any) -> RouteSpec:
    return RouteSpec(source=source, target=target, **options)


async def test_fan_out_is_one_event_in_many_queues(store: Store) -> None:
    await store.open(TOPIC, JOBS, MORE, FIFO, *(route(TOPIC, queue.name) for queue in (JOBS, MORE, FIFO)))
    event = await store.publish(TOPIC, {"n": 1})
    ids = {(await store.take(queue.name))[0].message_id for queue in (JOBS, MORE, FIFO)}
    assert ids == {f"{event.id}/{queue.name}" for queue in (JOBS, MORE, FIFO)}
    assert len(await store.engine.events(0)) == 1


async def test_an_event_without_routes_is_history_only(store: Store) -> None:
    await store.open(TOPIC, JOBS)
    event = await store.publish(TOPIC, 1)
    assert (await store.stats("shop/jobs")).depth == 0
    traced = await store.engine.event(event.id)
    assert traced is not None
    assert traced.messages == {}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"types": ("inserted",)}, ["a1"]),
        ({"types": ("modified", "removed")}, ["a2", "a2"]),
        ({"match": {"n": [2]}}, ["a2", "a2"]),
        ({"old": {"n": [1]}}, ["a2"]),
        ({"new": {"n": [{"numeric": [">", 0]}]}}, ["a1", "a2"]),
        ({"old": {"n": [1]}, "new": {"n": [1]}}, []),
        ({"types": ("removed",), "match": {"n": [{"numeric": ["<", 2]}]}}, []),
    ],
)
async def test_patterns_on_changes(store: Store, options: dict[str, Any], expected: list[str]) -> None:
    await store.open(ROWS, JOBS, route("shop/rows", "shop/jobs", **options))
    for document in ({"id": "a", "n": 1}, {"id": "a", "n": 2}, None):
        await store.put("shop/rows", "a", document)
    found = [delivery.event for delivery in await store.ready("shop/jobs")]
    shown = [data(event) or {"id": "a", "n": 2} for event in found]
    assert [f"{image['id']}{image['n']}" for image in shown] == expected


async def test_topics_are_chained_and_all_patterns_on_the_way_must_hold(store: Store) -> None:
    routes = [
        route(TOPIC, "shop/second", match={"a": [1]}),
        route("shop/second", "shop/third", match={"b": [1]}),
        route("shop/third", "shop/jobs", match={"c": [1]}),
        route("shop/second", "shop/more"),
    ]
    await store.open(TOPIC, "shop/second", "shop/third", JOBS, MORE, *routes)
    for item in ({"a": 1, "b": 1, "c": 1}, {"a": 1, "b": 2, "c": 1}, {"a": 2, "b": 1, "c": 1}):
        await store.publish(TOPIC, item)
    assert await store.drain("shop/jobs") == [{"a": 1, "b": 1, "c": 1}]
    assert [item["b"] for item in await store.drain("shop/more")] == [1, 2]


async def test_an_event_comes_to_a_queue_once_whatever_the_ways(store: Store) -> None:
    routes = [route(TOPIC, "shop/jobs"), route(TOPIC, "shop/second"), route("shop/second", "shop/jobs")]
    await store.open(TOPIC, "shop/second", JOBS, *routes)
    await store.publish(TOPIC, 1)
    assert await store.drain("shop/jobs") == [1]


@pytest.mark.parametrize("length", [1, 2, 3])
async def test_cycles_are_refused(store: Store, length: int) -> None:
    topics = [f"shop/t{n}" for n in range(length)]
    routes = [route(topics[n], topics[(n + 1) % length]) for n in range(length)]
    await store.open()
    with pytest.raises(DeclarationError):
        await store.engine.install(catalog(*topics, *routes))
    assert (await store.engine.catalog()).routes == ()


async def test_an_unknown_target_is_refused(store: Store) -> None:
    await store.open()
    with pytest.raises(DeclarationError):
        await store.engine.install(catalog(TOPIC, route(TOPIC, "shop/none")))
    assert (await store.engine.catalog()).topics == {}


async def test_groups_of_routed_messages(store: Store) -> None:
    by = QueueSpec(name="shop/by", fifo=True)
    routes = [route("shop/rows", "shop/fifo"), route("shop/rows", "shop/by", group="owner")]
    await store.open(ROWS, FIFO, by, *routes)
    for id, owner in (("a", "x"), ("b", "x"), ("c", 7), ("d", None)):
        await store.put("shop/rows", id, {"id": id, "owner": owner})
    found = await store.take("shop/fifo", 4)
    assert [delivery.group for delivery in found] == ["a", "b", "c", "d"]
    assert [delivery.group for delivery in await store.take("shop/by", 3)] == ["x", "7", ""]


@pytest.mark.feature("times_messages", "SQS goes by its own clock")
async def test_delays_of_queue_route_and_send(store: Store) -> None:
    slow = QueueSpec(name="shop/slow", delay_ms=5_000)
    routes = [route(TOPIC, "shop/slow"), route(TOPIC, "shop/jobs", delay_ms=3_000)]
    await store.open(TOPIC, "shop/other", slow, JOBS, *routes, route("shop/other", "shop/slow", delay_ms=0))
    await store.publish(TOPIC, "routed")
    await store.publish("shop/other", "at once")
    await store.send("shop/slow", "sent")
    await store.send("shop/slow", "sent early", delay_ms=1_000)
    seen = []
    for _ in range(6):
        seen.append([await store.drain("shop/slow"), await store.drain("shop/jobs")])
        await store.advance(1)
    assert seen[0] == [["at once"], []]
    assert seen[1] == [["sent early"], []]
    assert seen[3] == [[], ["routed"]]
    assert seen[5] == [["routed", "sent"], []]
    assert seen[2] == seen[4] == [[], []]


async def test_a_waiting_consumer_gets_a_delayed_message_when_it_is_due(store: Store) -> None:
    await store.open(JOBS)
    await store.send("shop/jobs", "late", delay_ms=5_000)
    receiving = asyncio.ensure_future(store.engine.receive("shop/jobs", 1))
    await store.advance(4.9)
    await store.send("shop/jobs", "soon", delay_ms=50)
    assert not receiving.done()
    await store.advance(0.05)
    assert [data(delivery) for delivery in await receiving] == ["soon"]
    receiving = asyncio.ensure_future(store.engine.receive("shop/jobs", 1))
    await store.advance(0.05)
    assert [data(delivery) for delivery in await receiving] == ["late"]


async def test_an_event_too_deep_becomes_a_dead_letter(store: Store) -> None:
    await store.open(TOPIC, JOBS, MORE, route(TOPIC, "shop/jobs"), route(TOPIC, "shop/more"))
    await store.publish(TOPIC, "deep", depth=MAX_DEPTH)
    await store.publish(TOPIC, "deeper", depth=MAX_DEPTH + 1)
    assert await store.drain("shop/jobs") == ["deep"]
    letters = await store.engine.dead_letters()
    assert [(data(letter), letter.queue, letter.receives) for letter in letters] == [
        ("deeper", "shop/jobs", 0),
        ("deeper", "shop/more", 0),
    ]
    assert str(MAX_DEPTH) in letters[0].reason
    assert await store.counts("shop/jobs") == (0, 0, 0, 1)
    await store.redrive(letters[0].id)
    assert await store.drain("shop/jobs") == ["deeper"]


async def test_deduplication_reports_the_first_and_ends_with_its_window(store: Store) -> None:
    await store.open(TOPIC, JOBS, MORE, route(TOPIC, "shop/more"))
    (first,) = await store.send("shop/jobs", 1, dedup="d")
    commit = new_commit()
    emit(commit, "shop/jobs", 2, queue="shop/jobs")
    emit(commit, "shop/jobs", 3, queue="shop/jobs", dedup="d")
    emit(commit, "shop/jobs", 4, queue="shop/jobs", dedup="e")
    emit(commit, TOPIC, 5, dedup="d")
    committed = await store.engine.commit(commit)
    assert committed.duplicates == {1: first.id}
    assert await store.drain("shop/jobs") == [1, 2, 4]
    assert await store.drain("shop/more") == [5]
    await store.advance(299.999)
    await store.reopen()
    await store.send("shop/jobs", 6, dedup="d")
    assert await store.drain("shop/jobs") == []
    await store.advance(0.001)
    await store.send("shop/jobs", 7, dedup="d")
    assert await store.drain("shop/jobs") == [7]


async def test_deduplication_inside_one_commit_and_batch(store: Store) -> None:
    await store.open(JOBS)
    commits = [new_commit() for _ in range(2)]
    for commit in commits:
        for n in range(2):
            emit(commit, "shop/jobs", n, queue="shop/jobs", dedup="d")
    first, second = await asyncio.gather(*map(store.engine.commit, commits))
    winner = commits[0].emits[0].event.id
    assert first.duplicates == {1: winner}
    assert second.duplicates == {0: winner, 1: winner}
    assert await store.drain("shop/jobs") == [0]


async def test_subscribing_and_unsubscribing_at_run_time(store: Store) -> None:
    await store.open(TOPIC, JOBS)
    wanted = route(TOPIC, "shop/jobs", match={"n": [{"numeric": [">", 1]}]})
    first, again = await asyncio.gather(store.engine.subscribe(wanted), store.engine.subscribe(wanted))
    assert again == first
    assert await store.engine.subscribe(wanted) == first
    for n in (1, 2):
        await store.publish(TOPIC, {"n": n})
    await store.reopen()
    assert await store.engine.subscribe(wanted) == first
    await store.publish(TOPIC, {"n": 3})
    assert await store.drain("shop/jobs") == [{"n": 2}, {"n": 3}]
    assert [found.id for found in (await store.engine.catalog()).routes] == [first.id]
    assert await store.engine.unsubscribe(first.id)
    assert not await store.engine.unsubscribe(first.id)
    await store.publish(TOPIC, {"n": 4})
    assert await store.drain("shop/jobs") == []


async def test_wrong_subscriptions_are_refused(store: Store) -> None:
    await store.open(TOPIC, "shop/second", JOBS, route(TOPIC, "shop/second"))
    with pytest.raises(UnknownResource):
        await store.engine.subscribe(route(TOPIC, "shop/none"))
    with pytest.raises(UnknownResource):
        await store.engine.subscribe(route("shop/none", "shop/jobs"))
    with pytest.raises(DeclarationError):
        await store.engine.subscribe(route(TOPIC, "shop/jobs", match={"n": "no list"}))
    assert len((await store.engine.catalog()).routes) == 1


async def test_replay_sends_present_records_to_one_queue(store: Store) -> None:
    aged = TableSpec(name="shop/aged", partition="id", ttl_ms=1_000)
    await store.open(ROWS, aged, JOBS, FIFO, MORE, route("shop/rows", "shop/more"))
    await store.put("shop/aged", "a", {"id": "a"})
    await store.advance(1)
    await store.put("shop/aged", "b", {"id": "b"})
    versions = [await store.put("shop/rows", f"{n:04}", {"id": f"{n:04}"}) for n in range(3)]
    assert await store.engine.replay("shop/aged", "shop/jobs") == 1
    assert await store.drain("shop/jobs") == [{"id": "b"}]
    assert await store.engine.replay("shop/rows", "shop/fifo") == 3
    found = await store.take("shop/fifo", 3)
    assert [(x.event.type, x.event.version, x.group) for x in found] == [
        ("inserted", version, f"{n:04}") for n, version in enumerate(versions)
    ]
    assert (await store.stats("shop/more")).depth == 3


async def test_replaying_many_records(store: Store) -> None:
    await store.open(ROWS, JOBS)
    assert await store.engine.replay("shop/rows", "shop/jobs") == 0
    await asyncio.gather(*(store.put("shop/rows", f"{n:04}", {"id": f"{n:04}"}) for n in range(1001)))
    assert await store.engine.replay("shop/rows", "shop/jobs") == 1001
    assert [item["id"] for item in await store.drain("shop/jobs")] == [f"{n:04}" for n in range(1001)]
