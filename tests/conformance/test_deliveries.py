from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from headwater.catalog import QueueSpec, TableSpec
from headwater.engine import Engine
from headwater.errors import LeaseLost, UnknownResource
from headwater.events import Delivery
from headwater.unit import Failure, new_commit
from tests.conformance.workbench import Store, data, emit, settle, write
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.anyio
JOBS = QueueSpec(name="shop/jobs", visibility_ms=30_000)
FAST = QueueSpec(name="shop/fast", visibility_ms=1_000)
FIFO = QueueSpec(name="shop/fifo", fifo=True)


@pytest.fixture
async def shop(store: Store) -> Store:
    return await store.open(JOBS, FAST, FIFO)


async def test_receive_hands_out_each_message_once_in_order(shop: Store) -> None:
    await shop.send("shop/jobs", *range(5))
    first = await shop.engine.receive("shop/jobs", 3)
    second = await shop.engine.receive("shop/jobs", 3)
    assert [data(delivery) for delivery in first + second] == list(range(5))
    assert {delivery.receives for delivery in first + second} == {1}
    assert not {delivery.fence for delivery in first} & {delivery.fence for delivery in second}
    assert await shop.ready("shop/jobs") == []


async def test_receive_waits_for_a_message(shop: Store) -> None:
    receiving = asyncio.ensure_future(shop.engine.receive("shop/jobs", 10))
    await shop.barrier()
    assert not receiving.done()
    await shop.send("shop/jobs", "x")
    assert [data(delivery) for delivery in await receiving] == ["x"]


async def test_acknowledged_messages_are_gone(shop: Store) -> None:
    await shop.send("shop/jobs", 1, 2)
    await shop.ack(*await shop.take("shop/jobs", 2))
    await shop.reopen()
    assert await shop.ready("shop/jobs") == []
    assert await shop.counts("shop/jobs") == (0, 0, 0, 0)


@pytest.mark.parametrize("outcome", ["ack", "discard", "filter", "bury", "retry"])
async def test_a_lease_settles_once(shop: Store, outcome: Any) -> None:
    await shop.send("shop/jobs", 1)
    (delivery,) = await shop.take("shop/jobs")
    futures = [shop.engine.commit(_settling(delivery, outcome)) for _ in range(2)]
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert [isinstance(result, LeaseLost) for result in results] == [False, True]
    with pytest.raises(LeaseLost):
        await shop.ack(delivery)


def _settling(delivery: Delivery, outcome: Any) -> Any:
    commit = new_commit()
    commit.settles.append(settle(delivery, outcome=outcome))
    return commit


async def test_a_tolerant_commit_skips_lost_leases_and_settles_the_rest(shop: Store) -> None:
    await shop.send("shop/jobs", 1, 2, 3)
    first, second, third = await shop.take("shop/jobs", 3)
    await shop.ack(first)
    await shop.engine.release([second])
    (again,) = await shop.take("shop/jobs")
    done = await shop.commit(settles=[settle(delivery) for delivery in (first, second, third)], tolerant=True)
    assert done.lost == (0, 1)
    assert await shop.counts("shop/jobs") == (1, 1, 0, 0)
    await shop.ack(again)


async def test_fence_only_checks_the_lease(shop: Store) -> None:
    await shop.send("shop/jobs", 1)
    (delivery,) = await shop.take("shop/jobs")
    for _ in range(2):
        await shop.commit(settles=[settle(delivery, outcome="fence")])
    await shop.ack(delivery)
    with pytest.raises(LeaseLost):
        await shop.commit(settles=[settle(delivery, outcome="fence")])


@pytest.mark.feature("times_messages", "SQS goes by its own clock")
@pytest.mark.parametrize("queue", ["shop/jobs", "shop/fifo"])
async def test_retries_are_ready_at_their_time_and_count(shop: Store, queue: str) -> None:
    await shop.send(queue, "x")
    for n, after in enumerate((5.0, 0.5, 0.0), 1):
        (delivery,) = await shop.take(queue)
        assert delivery.receives == n
        await shop.retry(delivery, after)
        if after:
            assert await shop.counts(queue) == (1, 0, 1, 0)
            await shop.advance(after - 0.001)
            assert await shop.ready(queue) == []
            await shop.advance(0.001)
    (delivery,) = await shop.take(queue)
    assert delivery.receives == 4
    assert (await shop.stats(queue)).retried == 3


@pytest.mark.feature("times_messages", "SQS goes by its own clock")
async def test_a_retry_keeps_its_time_and_count_when_reopened(shop: Store) -> None:
    await shop.send("shop/jobs", "x")
    (delivery,) = await shop.take("shop/jobs")
    failure = Failure(error="boom", traceback="line 1", started_ms=1, ended_ms=2)
    ready_ms = await shop.engine.now_ms() + 5_000
    await shop.commit(settles=[settle(delivery, outcome="retry", ready_ms=ready_ms, failure=failure)])
    await shop.reopen()
    assert await shop.ready("shop/jobs") == []
    (waiting,) = await shop.engine.peek("shop/jobs", 10)
    assert (waiting.receives, waiting.ready_ms) == (1, ready_ms)
    assert waiting.failures == (
        {"receive": 1, "outcome": "retry", "error": "boom", "traceback": "line 1", "started_ms": 1, "ended_ms": 2},
    )
    await shop.advance(5)
    assert [delivery.receives for delivery in await shop.take("shop/jobs")] == [2]


@pytest.mark.parametrize("queue", ["shop/fast", "shop/fifo"])
async def test_an_expired_lease_is_redelivered_once_and_the_late_commit_refused(store: Store, queue: str) -> None:
    shop = await store.open(FAST, QueueSpec(name="shop/fifo", fifo=True, visibility_ms=1_000))
    await shop.send(queue, "x")
    (late,) = await shop.take(queue)
    await shop.advance(0.999)
    assert await shop.ready(queue) == []
    await shop.advance(0.001)
    (present,) = await shop.take(queue)
    assert (present.receives, present.message_id) == (2, late.message_id)
    assert await shop.ready(queue) == []
    with pytest.raises(LeaseLost):
        await shop.ack(late)
    await shop.ack(present)
    assert await shop.ready(queue) == []
    assert await shop.counts(queue) == (0, 0, 0, 0)


async def test_a_late_commit_leaves_nothing(store: Store) -> None:
    shop = await store.open(FAST, TableSpec(name="shop/rows", partition="id"))
    await shop.send("shop/fast", "x")
    (late,) = await shop.take("shop/fast")
    await shop.advance(1)
    commit = _settling(late, "ack")
    write(commit, "shop/rows", "a", {"id": "a"})
    with pytest.raises(LeaseLost):
        await shop.engine.commit(commit)
    assert await shop.read("shop/rows", "a") is None


async def test_a_short_lease_expires_beside_a_long_one(shop: Store) -> None:
    await shop.send("shop/jobs", "long")
    await shop.send("shop/fast", "short")
    (long,) = await shop.take("shop/jobs")
    await shop.take("shop/fast")
    await shop.advance(1)
    assert [data(delivery) for delivery in await shop.take("shop/fast")] == ["short"]
    await shop.advance(28.9)
    assert await shop.ready("shop/jobs") == []
    await shop.ack(long)


async def test_extending_holds_a_lease(shop: Store) -> None:
    await shop.send("shop/fast", 1, 2)
    held, lost = await shop.take("shop/fast", 2)
    for _ in range(5):
        await shop.advance(0.8)
        await shop.engine.extend([held])
    assert [data(delivery) for delivery in await shop.take("shop/fast")] == [2]
    await shop.engine.extend([lost])
    await shop.ack(held)
    with pytest.raises(LeaseLost):
        await shop.ack(lost)


@pytest.mark.parametrize("queue", ["shop/jobs", "shop/fifo"])
async def test_releasing_gives_back_at_once_and_does_not_count(shop: Store, queue: str) -> None:
    await shop.send(queue, "x")
    for _ in range(3):
        (delivery,) = await shop.take(queue)
        assert delivery.receives == 1
        await shop.engine.release([delivery])
        with pytest.raises(LeaseLost):
            await shop.ack(delivery)
    (delivery,) = await shop.take(queue)
    await shop.engine.release([])
    await shop.ack(delivery)


async def test_releasing_a_lost_lease_does_nothing(shop: Store) -> None:
    await shop.send("shop/fast", "x")
    (late,) = await shop.take("shop/fast")
    await shop.advance(1)
    (present,) = await shop.take("shop/fast")
    await shop.engine.release([late])
    assert await shop.ready("shop/fast") == []
    await shop.ack(present)


@pytest.mark.feature("times_messages", "SQS goes by its own clock")
@pytest.mark.parametrize("queue", ["shop/jobs", "shop/fifo"])
async def test_a_receive_cancelled_as_it_wakes_loses_nothing(shop: Store, queue: str) -> None:
    receivers = [asyncio.ensure_future(shop.engine.receive(queue, 1)) for _ in range(4)]
    await shop.barrier()
    commit = new_commit()
    emit(commit, queue, "x", queue=queue)
    sending = shop.engine.commit(commit)
    sending.add_done_callback(lambda _: [receiver.cancel() for receiver in receivers[:3]])
    found = await asyncio.wait_for(receivers[3], PATIENCE_S)
    assert [data(delivery) for delivery in found] == ["x"]
    assert all(receiver.cancelled() for receiver in receivers[:3])


async def test_receivers_cancelled_at_random_lose_nothing(shop: Store) -> None:
    rolls = random.Random(7)
    seen: list[int] = []

    async def consume() -> None:
        deliveries = await shop.engine.receive("shop/jobs", rolls.randint(1, 3))
        seen.extend(data(delivery) for delivery in deliveries)
        await asyncio.shield(shop.ack(*deliveries))

    for round in range(60):
        consumers = [asyncio.ensure_future(consume()) for _ in range(4)]
        sending = asyncio.ensure_future(shop.send("shop/jobs", 2 * round, 2 * round + 1))
        for _ in range(rolls.randint(0, 12)):
            await asyncio.sleep(0)
        for consumer in rolls.sample(consumers, 3):
            consumer.cancel()
        await sending
        for _ in range(rolls.randint(0, 3)):
            await asyncio.sleep(0)
        for consumer in consumers:
            consumer.cancel()
        await asyncio.wait(consumers)
    seen += await shop.drain("shop/jobs")
    assert sorted(seen) == list(range(120))


async def test_several_receivers_share_a_queue(shop: Store) -> None:
    seen: list[int] = []

    async def consume() -> None:
        while len(seen) < 200:
            deliveries = await shop.engine.receive("shop/jobs", 3)
            seen.extend(data(delivery) for delivery in deliveries)
            await shop.ack(*deliveries)

    consumers = [asyncio.ensure_future(consume()) for _ in range(5)]
    await shop.barrier()
    await asyncio.gather(*(shop.send("shop/jobs", 2 * n, 2 * n + 1) for n in range(100)))
    await asyncio.wait(consumers, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
    for consumer in consumers:
        consumer.cancel()
    await asyncio.wait(consumers)
    assert sorted(seen) == list(range(200))


async def test_every_waiting_receiver_is_woken(shop: Store) -> None:
    receivers = [asyncio.ensure_future(shop.engine.receive("shop/jobs", 1)) for _ in range(3)]
    await shop.barrier()
    await shop.send("shop/jobs", 1, 2, 3)
    found = await asyncio.wait_for(asyncio.gather(*receivers), PATIENCE_S)
    assert sorted(data(delivery) for (delivery,) in found) == [1, 2, 3]


async def test_leases_end_with_the_store(shop: Store) -> None:
    await shop.send("shop/jobs", 1, 2)
    old = await shop.take("shop/jobs", 2)
    await shop.reopen()
    new = await shop.take("shop/jobs", 2)
    assert [delivery.position for delivery in new] == [delivery.position for delivery in old]
    with pytest.raises(LeaseLost):
        await shop.ack(old[0])
    await shop.ack(*new)


async def test_unknown_queues_are_refused(shop: Store) -> None:
    calls: list[Any] = [
        lambda engine: engine.receive("shop/none", 1),
        lambda engine: engine.peek("shop/none", 1),
        lambda engine: engine.pause("shop/none", True),
        lambda engine: engine.purge("shop/none"),
        lambda engine: engine.dead_letters("shop/none"),
    ]
    for call in calls:
        with pytest.raises(UnknownResource):
            await _awaited(call, shop.engine)


async def _awaited(call: Any, engine: Engine) -> Any:
    return await call(engine)
