from __future__ import annotations

import asyncio

import pytest

from headwater.catalog import QueueSpec
from tests.conformance.workbench import Store, data
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.anyio
JOBS, FIFO = QueueSpec(name="shop/jobs", visibility_ms=1_000), QueueSpec(name="shop/fifo", fifo=True)


@pytest.fixture
async def shop(store: Store) -> Store:
    return await store.open(JOBS, FIFO)


async def test_a_paused_queue_hands_out_nothing_until_resumed(shop: Store) -> None:
    receiving = asyncio.ensure_future(shop.engine.receive("shop/jobs", 1))
    await shop.send("shop/fifo", "leased")
    (leased,) = await shop.take("shop/fifo")
    for queue in ("shop/jobs", "shop/fifo"):
        await shop.engine.pause(queue, True)
        await shop.engine.pause(queue, True)
    await shop.send("shop/jobs", 1)
    assert not receiving.done()
    await shop.ack(leased)
    assert (await shop.stats("shop/jobs")).paused
    await shop.engine.pause("shop/jobs", False)
    assert [data(delivery) for delivery in await asyncio.wait_for(receiving, PATIENCE_S)] == [1]
    assert not (await shop.stats("shop/jobs")).paused


async def test_a_pause_is_durable(shop: Store) -> None:
    await shop.engine.pause("shop/jobs", True)
    await shop.send("shop/jobs", 1)
    await shop.reopen()
    assert (await shop.stats("shop/jobs")).paused
    assert await shop.ready("shop/jobs") == []
    await shop.engine.pause("shop/jobs", False)
    await shop.reopen()
    assert await shop.drain("shop/jobs") == [1]


async def test_resuming_wakes_every_receiver(shop: Store) -> None:
    await shop.engine.pause("shop/jobs", True)
    await shop.send("shop/jobs", 1, 2, 3)
    receivers = [asyncio.ensure_future(shop.engine.receive("shop/jobs", 1)) for _ in range(3)]
    await shop.barrier()
    await shop.engine.pause("shop/jobs", False)
    found = await asyncio.wait_for(asyncio.gather(*receivers), PATIENCE_S)
    assert sorted(data(delivery) for (delivery,) in found) == [1, 2, 3]


@pytest.mark.feature("times_messages", "SQS goes by its own clock")
async def test_purging_removes_all_that_is_not_leased(shop: Store) -> None:
    await shop.send("shop/jobs", *range(1200))
    await shop.send("shop/jobs", "late", delay_ms=5_000)
    leased = await shop.take("shop/jobs", 2)
    assert await shop.engine.purge("shop/jobs") == 1199
    assert await shop.counts("shop/jobs") == (2, 2, 0, 0)
    assert await shop.ready("shop/jobs") == []
    await shop.ack(leased[0])
    await shop.retry(leased[1])
    assert await shop.drain("shop/jobs") == [1]
    await shop.advance(5)
    assert await shop.ready("shop/jobs") == []
    await shop.send("shop/jobs", "new")
    assert await shop.drain("shop/jobs") == ["new"]
    assert await shop.engine.purge("shop/jobs") == 0


async def test_a_cancelled_purge_leaves_a_queue_that_works(shop: Store) -> None:
    await shop.send("shop/fifo", *range(10), group="g")
    purging = asyncio.ensure_future(shop.engine.purge("shop/fifo"))
    await asyncio.sleep(0)
    purging.cancel()
    await asyncio.wait([purging])
    await shop.barrier()
    await shop.send("shop/fifo", "new", group="g")
    assert (await shop.drain("shop/fifo"))[-1] == "new"
    assert await shop.counts("shop/fifo") == (0, 0, 0, 0)


@pytest.mark.feature("peeks", "SQS shows a message only to who receives it")
@pytest.mark.parametrize("queue", ["shop/jobs", "shop/fifo"])
async def test_peek_leases_nothing(shop: Store, queue: str) -> None:
    await shop.send(queue, *"abc", group="g")
    await shop.send(queue, "d", delay_ms=5_000, group="h")
    found = await shop.engine.peek(queue, 10)
    assert [data(waiting) for waiting in found] == list("abcd")
    assert [waiting.receives for waiting in found] == [0] * 4
    assert found[3].ready_ms == await shop.engine.now_ms() + 5_000
    assert {waiting.group for waiting in found} == ({"g", "h"} if queue == "shop/fifo" else {None})
    assert await shop.engine.peek(queue, 2) == found[:2]
    assert await shop.engine.peek(queue, 10, after=found[1].position) == found[2:]
    assert await shop.counts(queue) == (4, 0, 1, 0)
    assert await shop.drain(queue) == list("abc")


@pytest.mark.feature("times_messages", "SQS goes by its own clock")
async def test_stats_are_exact_at_each_step(shop: Store) -> None:
    queue = "shop/jobs"
    assert await shop.counts(queue) == (0, 0, 0, 0)
    await shop.send(queue, *range(5))
    await shop.send(queue, "late", delay_ms=2_000)
    assert await shop.counts(queue) == (6, 0, 1, 0)
    first, second, third = await shop.take(queue, 3)
    assert await shop.counts(queue) == (6, 3, 1, 0)
    await shop.ack(first)
    assert await shop.counts(queue) == (5, 2, 1, 0)
    await shop.retry(second, 2)
    assert await shop.counts(queue) == (5, 1, 2, 0)
    await shop.bury(third)
    assert await shop.counts(queue) == (4, 0, 2, 1)
    await shop.take(queue)
    await shop.advance(1)
    assert await shop.counts(queue) == (4, 0, 2, 1)
    (held,) = await shop.take(queue)
    await shop.engine.release([held])
    assert await shop.counts(queue) == (4, 0, 2, 1)
    await shop.advance(1)
    assert await shop.counts(queue) == (4, 0, 0, 1)
    await shop.redrive((await shop.engine.dead_letters())[0].id)
    assert await shop.counts(queue) == (5, 0, 0, 0)
    stats = await shop.stats(queue)
    assert (stats.sent, stats.settled, stats.retried, stats.oldest_age_ms) == (7, 2, 1, 2_000)
    await shop.reopen()
    assert await shop.counts(queue) == (5, 0, 0, 0)
    assert await shop.engine.purge(queue) == 5
    assert await shop.counts(queue) == (0, 0, 0, 0)
    assert (await shop.stats(queue)).oldest_age_ms == 0


async def test_stats_name_every_queue(shop: Store) -> None:
    assert [stats.queue for stats in await shop.engine.stats()] == ["shop/fifo", "shop/jobs"]
