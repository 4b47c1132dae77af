from __future__ import annotations

import pytest

from headwater.catalog import QueueSpec, RouteSpec
from headwater.codec import encode_json
from headwater.unit import Failure, Redrive
from tests.conformance.workbench import Store, catalog, data, settle

pytestmark = pytest.mark.anyio
JOBS, FIFO = QueueSpec(name="shop/jobs"), QueueSpec(name="shop/fifo", fifo=True)


@pytest.fixture
async def shop(store: Store) -> Store:
    return await store.open(JOBS, FIFO, "shop/topic", RouteSpec(source="shop/topic", target="shop/jobs"))


async def test_a_buried_message_is_listed_with_what_happened(shop: Store) -> None:
    event = await shop.publish("shop/topic", {"n": 1}, subject="s")
    (delivery,) = await shop.take("shop/jobs")
    await shop.commit(settles=[settle(delivery, outcome="retry", failure=Failure(error="first"))])
    (delivery,) = await shop.take("shop/jobs")
    shop.clock.advance(1)
    failure = Failure(error="second", traceback="here", started_ms=3, ended_ms=4)
    await shop.commit(settles=[settle(delivery, outcome="bury", reason="too often", failure=failure)])
    await shop.reopen()
    (letter,) = await shop.engine.dead_letters("shop/jobs")
    assert letter.event == delivery.event
    assert (letter.queue, letter.message_id, letter.receives) == ("shop/jobs", f"{event.id}/shop/jobs", 2)
    assert (letter.reason, letter.died_ms) == ("too often", shop.clock.wall_ms())
    assert [(item["receive"], item["outcome"], item["error"]) for item in letter.failures] == [
        (1, "retry", "first"),
        (2, "bury", "second"),
    ]
    assert await shop.counts("shop/jobs") == (0, 0, 0, 1)


async def test_listing_by_queue_and_in_pages(shop: Store) -> None:
    for queue in ("shop/jobs", "shop/fifo", "shop/jobs"):
        await shop.send(queue, queue)
        await shop.bury((await shop.take(queue))[0])
    letters = await shop.engine.dead_letters()
    assert [letter.queue for letter in letters] == ["shop/jobs", "shop/fifo", "shop/jobs"]
    assert await shop.engine.dead_letters("shop/jobs") == letters[::2]
    assert await shop.engine.dead_letters(limit=1) == letters[:1]
    assert await shop.engine.dead_letters(after=letters[0].id, limit=5) == letters[1:]


@pytest.mark.feature("times_messages", "SQS goes by its own clock")
async def test_a_redriven_message_joins_the_tail_marked(shop: Store) -> None:
    (event,) = await shop.send("shop/fifo", "first", group="g")
    (delivery,) = await shop.take("shop/fifo")
    await shop.bury(delivery)
    await shop.send("shop/fifo", "second", group="g")
    shop.clock.advance(5)
    (letter,) = await shop.engine.dead_letters()
    committed = await shop.redrive(letter.id)
    assert committed.missing == ()
    assert await shop.engine.dead_letters() == []
    (second,) = await shop.take("shop/fifo")
    assert (data(second), second.redriven) == ("second", False)
    await shop.ack(second)
    (again,) = await shop.take("shop/fifo")
    assert (data(again), again.redriven, again.receives, again.group) == ("first", True, 1, "g")
    assert (again.event.id, again.message_id, again.sent_ms) == (event.id, delivery.message_id, shop.clock.wall_ms())
    await shop.reopen()
    (again,) = await shop.take("shop/fifo")
    assert again.redriven
    await shop.ack(again)
    assert await shop.counts("shop/fifo") == (0, 0, 0, 0)


async def test_a_redrive_goes_to_its_queue_only(store: Store) -> None:
    more = QueueSpec(name="shop/more")
    routes = [RouteSpec(source="shop/topic", target=queue) for queue in ("shop/jobs", "shop/more")]
    await store.open("shop/topic", JOBS, more, *routes)
    await store.publish("shop/topic", 1)
    await store.drain("shop/more")
    await store.bury((await store.take("shop/jobs"))[0])
    (letter,) = await store.engine.dead_letters()
    await store.redrive(letter.id)
    assert await store.drain("shop/more") == []
    assert await store.drain("shop/jobs") == [1]


async def test_an_edited_redrive_is_a_new_event(shop: Store) -> None:
    (event,) = await shop.send("shop/jobs", {"n": "bad"})
    await shop.bury((await shop.take("shop/jobs"))[0])
    (letter,) = await shop.engine.dead_letters()
    await shop.redrive(letter.id, data=encode_json({"n": 1}))
    (delivery,) = await shop.take("shop/jobs")
    assert data(delivery) == {"n": 1}
    assert delivery.event.id != event.id
    assert delivery.event.cause == event.id
    assert delivery.event.attributes == {"redriven-from": event.id}
    assert delivery.redriven


async def test_discarding_and_missing_dead_letters(shop: Store) -> None:
    await shop.send("shop/jobs", 1, 2)
    for delivery in await shop.take("shop/jobs", 2):
        await shop.bury(delivery)
    first, second = await shop.engine.dead_letters()
    redrives = [Redrive(first.id, discard=True, reason="old"), Redrive(999), Redrive(second.id), Redrive(second.id)]
    committed = await shop.commit(redrives=redrives)
    assert committed.missing == (999, second.id)
    assert await shop.drain("shop/jobs") == [2]
    assert await shop.counts("shop/jobs") == (0, 0, 0, 0)
    assert (await shop.redrive(first.id)).missing == (first.id,)


async def test_a_redriven_message_can_die_again(shop: Store) -> None:
    await shop.send("shop/jobs", 1)
    for _ in range(3):
        await shop.bury((await shop.take("shop/jobs"))[0])
        (letter,) = await shop.engine.dead_letters()
        assert len(letter.failures) > 0
        await shop.redrive(letter.id)
    assert await shop.drain("shop/jobs") == [1]


@pytest.mark.feature("renames_queues", "a renamed queue is another one in SQS, and keeps its dead letters")
async def test_redriving_after_a_rename(shop: Store) -> None:
    await shop.send("shop/jobs", 1)
    await shop.bury((await shop.take("shop/jobs"))[0])
    renamed = catalog(QueueSpec(name="shop/work"), FIFO, "shop/topic", renamed={"shop/jobs": "shop/work"})
    await shop.engine.install(renamed)
    (letter,) = await shop.engine.dead_letters("shop/work")
    await shop.redrive(letter.id)
    assert await shop.drain("shop/work") == [1]


@pytest.mark.feature("times_messages", "SQS goes by its own clock")
async def test_retention_moves_old_messages_to_the_dead_letters(store: Store) -> None:
    jobs = QueueSpec(name="shop/jobs", retention_ms=10_000, visibility_ms=60_000)
    fifo = QueueSpec(name="shop/fifo", retention_ms=10_000, fifo=True)
    shop = await store.open(jobs, fifo, JOBS.__class__(name="shop/long"))
    await shop.send("shop/jobs", "leased", "old", "older")
    await shop.send("shop/fifo", "f1", "f2", group="g")
    await shop.send("shop/long", "kept")
    (leased,) = await shop.take("shop/jobs")
    await shop.advance(5)
    await shop.send("shop/jobs", "young")
    await shop.send("shop/fifo", "f3", group="g")
    await shop.advance(4.999)
    assert await shop.engine.expire_messages(10) == 0
    await shop.advance(0.001)
    assert [await shop.engine.expire_messages(3), await shop.engine.expire_messages(3)] == [3, 1]
    letters = await shop.engine.dead_letters()
    assert sorted(data(letter) for letter in letters) == ["f1", "f2", "old", "older"]
    assert all("retention" in letter.reason for letter in letters)
    assert await shop.counts("shop/jobs") == (2, 1, 0, 2)
    assert await shop.counts("shop/fifo") == (1, 0, 0, 2)
    assert await shop.drain("shop/jobs") == ["young"]
    assert await shop.drain("shop/fifo") == ["f3"]
    assert await shop.drain("shop/long") == ["kept"]
    await shop.ack(leased)
    await shop.redrive(letters[0].id)
    assert await shop.engine.expire_messages(10) == 0
