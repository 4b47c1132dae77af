from __future__ import annotations

import pytest

from headwater.catalog import QueueSpec, RouteSpec, TableSpec
from headwater.unit import new_commit
from tests.conformance.workbench import Store, data, emit, settle, write

pytestmark = pytest.mark.anyio
DAY_S = 86_400
ROWS = TableSpec(name="shop/rows", partition="id")
JOBS, MORE = QueueSpec(name="shop/jobs"), QueueSpec(name="shop/more")
ROUTES = [RouteSpec(source="shop/topic", target="shop/jobs"), RouteSpec(source="shop/rows", target="shop/more")]


@pytest.fixture
async def shop(store: Store) -> Store:
    return await store.open(ROWS, "shop/topic", JOBS, MORE, *ROUTES)


async def test_a_trace_tells_the_states_of_its_messages(shop: Store) -> None:
    first = await shop.publish("shop/topic", 1)
    (delivery,) = await shop.take("shop/jobs")
    commit = new_commit(cause=delivery.message_id, trace=first.trace, depth=1)
    write(commit, "shop/rows", "a", {"id": "a"})
    commit.settles.append(settle(delivery))
    await shop.engine.commit(commit)
    await shop.publish("shop/topic", "another")
    found = await shop.engine.trace(first.trace)
    assert [(traced.event.source, traced.messages) for traced in found] == [
        ("shop/topic", {"shop/jobs": "done"}),
        ("shop/rows", {"shop/more": "waiting"}),
    ]
    assert [traced.event.cause for traced in found] == [None, delivery.message_id]
    await shop.bury((await shop.take("shop/more"))[0])
    change = await shop.engine.event(found[1].event.id)
    assert change is not None
    assert change.messages == {"shop/more": "dead"}
    await shop.redrive((await shop.engine.dead_letters())[0].id)
    change = await shop.engine.event(found[1].event.id)
    assert change is not None
    assert change.messages == {"shop/more": "waiting"}
    await shop.drain("shop/more")
    assert [traced.messages for traced in await shop.engine.trace(first.trace)] == [
        {"shop/jobs": "done"},
        {"shop/more": "done"},
    ]
    assert await shop.engine.event("none") is None
    assert await shop.engine.trace("none") == []


async def test_events_in_commit_order_and_in_pages(shop: Store) -> None:
    commit = new_commit()
    write(commit, "shop/rows", "a", {"n": 0})
    emit(commit, "shop/topic", 1)
    await shop.engine.commit(commit)
    for n in range(2, 6):
        await shop.publish("shop/topic", n)
    everything = await shop.engine.events(0)
    assert [data(traced) for traced in everything] == [{"n": 0}, 1, 2, 3, 4, 5]
    positions = [traced.position for traced in everything]
    assert positions == sorted(set(positions))
    assert await shop.engine.events(positions[1], 2) == everything[2:4]
    assert await shop.engine.events(positions[-1]) == []
    assert await shop.engine.events(-1, 2) == everything[-2:]


@pytest.mark.feature("sweeps", "the history has a time to live")
async def test_sweeping_keeps_young_events_and_those_that_messages_need(shop: Store) -> None:
    await shop.send("shop/jobs", *range(20))
    await shop.ack(*await shop.take("shop/jobs", 10))
    await shop.bury((await shop.take("shop/jobs"))[0])
    await shop.advance(7 * DAY_S)
    await shop.publish("shop/topic", "young")
    assert await shop.engine.sweep(7 * DAY_S * 1000 + 1, 100) == 0
    assert await shop.engine.sweep(7 * DAY_S * 1000, 100) == 11
    assert [data(traced) for traced in await shop.engine.events(0)] == [*range(11, 20), "young"]
    (letter,) = await shop.engine.dead_letters()
    assert data(letter) == 10
    assert len(letter.failures) == 1
    await shop.reopen()
    assert await shop.drain("shop/jobs") == [*range(11, 20), "young"]
    await shop.redrive(letter.id)
    assert await shop.drain("shop/jobs") == [10]
    assert await shop.engine.check() == []


@pytest.mark.feature("sweeps", "the history has a time to live")
async def test_sweeping_passes_what_is_needed(shop: Store) -> None:
    await shop.send("shop/jobs", *range(10))
    await shop.send("shop/more", *range(10))
    await shop.drain("shop/more")
    await shop.advance(DAY_S)
    swept = [await shop.engine.sweep(DAY_S * 1000, 4) for _ in range(12)]
    assert sum(swept) == 10
    assert max(swept) <= 4
    await shop.drain("shop/jobs")
    swept = [await shop.engine.sweep(0, 4) for _ in range(12)]
    assert sum(swept) == 10
    assert await shop.engine.events(0) == []


@pytest.mark.feature("sweeps", "the history has a time to live")
async def test_sweeping_keeps_only_the_newest(shop: Store) -> None:
    await shop.send("shop/jobs", *range(10))
    await shop.send("shop/more", "needed")
    await shop.drain("shop/jobs")
    assert await shop.engine.sweep(DAY_S * 1000, 100, most=11) == 0
    assert await shop.engine.sweep(DAY_S * 1000, 100, most=4) == 7
    assert len(await shop.engine.events(0)) == 4
    assert await shop.engine.sweep(DAY_S * 1000, 100, most=0) == 3
    assert [traced.messages for traced in await shop.engine.events(0)] == [{"shop/more": "waiting"}]


@pytest.mark.feature("sweeps", "the history has a time to live")
async def test_sweeping_removes_expired_claims_only(shop: Store) -> None:
    await shop.claim("s", "short", 10, b"1")
    await shop.claim("s", "long", 20, b"2")
    await shop.advance(10)
    assert await shop.engine.sweep(DAY_S * 1000, 100) == 1
    assert await shop.engine.sweep(DAY_S * 1000, 100) == 0
    assert await shop.engine.claimed("s", "long") == b"2"
