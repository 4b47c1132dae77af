from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from typing import Any

import pytest

from headwater.catalog import QueueSpec
from headwater.engine import MANY_GROUPS
from headwater.unit import new_commit
from tests.conformance.workbench import Store, data, emit, settle
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.anyio
FIFO = QueueSpec(name="shop/fifo", fifo=True, visibility_ms=1_000)


@pytest.fixture
async def shop(store: Store) -> Store:
    return await store.open(FIFO)


async def send(shop: Store, *items: str, **options: Any) -> None:
    """Each item in the group that its first letter names."""
    commit = new_commit()
    for item in items:
        emit(commit, "shop/fifo", item, queue="shop/fifo", group=item[0], **options)
    await shop.engine.commit(commit)


async def ready(shop: Store) -> list[str]:
    return [data(delivery) for delivery in await shop.ready("shop/fifo")]


async def test_one_lease_a_group_in_order(shop: Store) -> None:
    await send(shop, "a1", "a2", "b1", "a3", "c1", "b2")
    first = await shop.take("shop/fifo", 3)
    assert [data(delivery) for delivery in first] == ["a1", "b1", "c1"]
    assert await ready(shop) == []
    await shop.ack(first[0])
    assert await ready(shop) == ["a2"]
    await shop.ack(first[1], first[2])
    assert await ready(shop) == ["b2"]


async def test_grouped_receive_takes_several_of_a_group_in_order(shop: Store) -> None:
    await send(shop, "a1", "a2", "a3", "b1")
    found = await shop.take("shop/fifo", 4, grouped=True)
    await send(shop, "a4")
    assert sorted(data(delivery) for delivery in found) == ["a1", "a2", "a3", "b1"]
    assert [data(delivery) for delivery in found if delivery.group == "a"] == ["a1", "a2", "a3"]
    await shop.ack(found[0])
    assert await ready(shop) == []
    await shop.ack(*found[1:])
    assert await ready(shop) == ["a4"]


async def test_a_retried_head_of_a_grouped_receive_comes_before_the_rest(shop: Store) -> None:
    await send(shop, "a1", "a2", "a3")
    found = await shop.take("shop/fifo", 3, grouped=True)
    ready_ms = await shop.engine.now_ms() + 1_000
    await shop.commit(
        settles=[settle(x, outcome="retry", ready_ms=ready_ms if n == 1 else 0) for n, x in enumerate(found) if n]
    )
    assert await ready(shop) == []
    await shop.ack(found[0])
    assert await ready(shop) == []
    await shop.advance(1)
    assert await shop.drain("shop/fifo") == ["a2", "a3"]


async def test_a_parked_head_blocks_only_its_group(shop: Store) -> None:
    await send(shop, "a1", "a2", "b1", "b2")
    head, other = await shop.take("shop/fifo", 2)
    await shop.retry(head, 5)
    await shop.ack(other)
    assert await ready(shop) == ["b2"]
    await send(shop, "a3", "c1")
    assert await ready(shop) == ["c1"]
    await shop.advance(5)
    found = await shop.take("shop/fifo", 3)
    assert sorted(data(delivery) for delivery in found) == ["a1", "b2", "c1"]
    await shop.ack(*found)
    assert await shop.drain("shop/fifo") == ["a2", "a3"]


async def test_a_delayed_head_holds_back_its_group(shop: Store) -> None:
    await send(shop, "a1", delay_ms=2_000)
    await send(shop, "a2", "b1")
    assert await shop.drain("shop/fifo") == ["b1"]
    await shop.reopen()
    assert await shop.drain("shop/fifo") == []
    await shop.advance(2)
    assert await shop.drain("shop/fifo") == ["a1", "a2"]


async def test_a_buried_head_frees_its_group(shop: Store) -> None:
    await send(shop, "a1", "a2")
    (head,) = await shop.take("shop/fifo")
    await shop.bury(head)
    assert await ready(shop) == ["a2"]


async def test_an_expired_head_is_redelivered_before_its_group(shop: Store) -> None:
    await send(shop, "a1", "a2")
    await shop.take("shop/fifo")
    await shop.advance(1)
    assert await shop.drain("shop/fifo") == ["a1", "a2"]


async def test_order_holds_when_reopened(shop: Store) -> None:
    await send(shop, *(f"{group}{n}" for n in range(20) for group in "abc"))
    for delivery in await shop.take("shop/fifo", 2):
        await shop.retry(delivery, 60)
    await shop.reopen()
    assert await shop.drain("shop/fifo") == [f"c{n}" for n in range(20)]
    await shop.advance(60)
    found = await shop.drain("shop/fifo")
    assert [item for item in found if item[0] == "a"] == [f"a{n}" for n in range(20)]
    assert [item for item in found if item[0] == "b"] == [f"b{n}" for n in range(20)]


async def test_purging_leaves_the_leased_head_and_a_group_that_works(shop: Store) -> None:
    await send(shop, "a1", "a2", "a3", "b1")
    (head,) = await shop.take("shop/fifo")
    assert await shop.engine.purge("shop/fifo") == 3
    await send(shop, "a4", "b2")
    assert await ready(shop) == ["b2"]
    await shop.ack(head)
    assert await ready(shop) == ["a4"]


async def test_purging_a_parked_head(shop: Store) -> None:
    await send(shop, "a1", "a2", "a3")
    (head,) = await shop.take("shop/fifo")
    await shop.retry(head, 60)
    assert await shop.engine.purge("shop/fifo") == 3
    await send(shop, "a4", "a5")
    assert await shop.drain("shop/fifo") == ["a4", "a5"]
    assert await shop.counts("shop/fifo") == (0, 0, 0, 0)


async def test_a_receive_during_a_purge_blocks_no_group(shop: Store) -> None:
    for _ in range(20):
        await send(shop, *(f"{group}{n}" for n in range(30) for group in "abc"))
        purging = asyncio.ensure_future(shop.engine.purge("shop/fifo"))
        found = []
        while not purging.done():
            receiving = asyncio.ensure_future(shop.engine.receive("shop/fifo", 1))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            receiving.cancel()
            await asyncio.wait([receiving])
            if not receiving.cancelled():
                found += receiving.result()
        await shop.ack(*found)
        await send(shop, "a", "b", "c")
        rest = await shop.drain("shop/fifo")
        assert {"a", "b", "c"} <= set(rest)
        assert (await shop.stats("shop/fifo")).depth == 0


@pytest.mark.parametrize("size", [63, 64, 65, 129, 700])
async def test_long_groups(shop: Store, size: int) -> None:
    items = [f"a{n}" for n in range(size)]
    await shop.ready("shop/fifo")
    await send(shop, *items[: size // 2])
    await send(shop, "b", *items[size // 2 :])
    seen = []
    while deliveries := await shop.ready("shop/fifo"):
        assert len({delivery.group for delivery in deliveries}) == len(deliveries)
        seen += [data(delivery) for delivery in deliveries]
        await shop.ack(*deliveries)
    assert [item for item in seen if item != "b"] == items
    assert seen.index("b") < 3


async def test_more_messages_than_memory_holds(shop: Store) -> None:
    for start in range(0, 9_000, 3_000):
        await send(shop, *(f"a{n}" for n in range(start, start + 3_000)))
    await send(shop, "b")
    seen: list[str] = []
    while deliveries := await _grouped(shop):
        seen += deliveries
    assert sorted(seen) == sorted(["b", *(f"a{n}" for n in range(9_000))])
    assert [item for item in seen if item != "b"] == [f"a{n}" for n in range(9_000)]


async def _grouped(shop: Store) -> list[str]:
    if not (await shop.stats("shop/fifo")).depth:
        return []
    deliveries = await asyncio.wait_for(shop.engine.receive("shop/fifo", 200, grouped=True), PATIENCE_S)
    await shop.ack(*deliveries)
    return [data(delivery) for delivery in deliveries]


@pytest.mark.parametrize("reopened", [False, True])
async def test_a_long_group_delays_no_other(shop: Store, reopened: bool) -> None:
    """One consumer, one message at a time: how often it gets the long group before it gets each other one."""
    await send(shop, *(f"a{n}" for n in range(3_000)))
    await send(shop, "b1", "c1", "b2")
    if reopened:
        await shop.reopen()
    seen = []
    for _ in range(10):
        (delivery,) = await shop.take("shop/fifo")
        seen.append(data(delivery))
        await shop.ack(delivery)
        await shop.advance(0.001)
    assert {"b1", "c1", "b2"} <= set(seen)
    assert [item for item in seen if item[0] == "a"] == [f"a{n}" for n in range(7)]


@pytest.mark.parametrize("reopened", [False, True])
async def test_a_long_group_whose_head_is_in_back_off_stops_no_other(shop: Store, reopened: bool) -> None:
    await send(shop, *(f"a{n}" for n in range(3_000)))
    (head,) = await shop.take("shop/fifo")
    await shop.retry(head, 60)
    await send(shop, *(f"{group}{n}" for n in range(3) for group in "bcd"))
    if reopened:
        await shop.reopen()
    found = await shop.drain("shop/fifo")
    assert sorted(found) == sorted(f"{group}{n}" for n in range(3) for group in "bcd")
    await shop.advance(60)
    assert [data(delivery) for delivery in await shop.take("shop/fifo")] == ["a0"]


@pytest.mark.parametrize("seed", range(6))
async def test_order_and_exclusion_under_retries_expiry_and_crowding(shop: Store, seed: int) -> None:
    """Whatever consumers do, the last and accepted attempts of each group are in the order of sending."""
    rolls = random.Random(seed)
    sent: dict[str, list[str]] = defaultdict(list)
    done: dict[str, list[str]] = defaultdict(list)
    held: dict[str, Any] = {}
    for step in range(150):
        if step < 60:
            items = [f"{rolls.choice('abcdefgh')}{step}-{n}" for n in range(rolls.randint(0, 6))]
            for item in items:
                sent[item[0]].append(item)
            if items:
                await send(shop, *items)
        for delivery in await shop.ready("shop/fifo", rolls.randint(1, 5)):
            assert delivery.group not in held
            held[delivery.group or ""] = delivery
        for group, delivery in list(held.items()):
            match rolls.randint(0, 9):
                case 0:
                    await shop.retry(delivery, rolls.choice([0, 0.2, 2]))
                case 1:
                    await shop.engine.release([delivery])
                case 2:
                    continue
                case _:
                    await shop.ack(delivery)
                    done[group].append(data(delivery))
            del held[group]
        if rolls.random() < 0.1:
            await shop.advance(1)
            held.clear()
    await shop.advance(5)
    for item in await shop.drain("shop/fifo"):
        done[item[0]].append(item)
    assert done == sent


async def groups(shop: Store) -> int | None:
    return (await shop.stats("shop/fifo")).groups


async def test_ready_and_leased_groups_are_counted(shop: Store) -> None:
    assert await groups(shop) == 0
    await send(shop, "a1", "a2", "b1", "a3", "c1", "b2")
    await send(shop, "d1", delay_ms=2_000)
    assert await groups(shop) == 3
    held = await shop.take("shop/fifo", 2)
    assert await groups(shop) == 3
    await shop.commit(settles=[settle(held[0], outcome="retry", ready_ms=await shop.engine.now_ms() + 1_500)])
    assert await groups(shop) == 2
    await shop.ack(held[1])
    assert await groups(shop) == 2
    await shop.advance(1.5)
    assert await groups(shop) == 3
    await shop.advance(0.5)
    assert await groups(shop) == 4
    await shop.engine.purge("shop/fifo")
    assert await groups(shop) == 0


async def test_several_leases_of_a_group_are_one_group(shop: Store) -> None:
    await send(shop, "a1", "a2", "b1")
    assert len(await shop.take("shop/fifo", 2, grouped=True)) == 2
    assert await groups(shop) == 2


async def test_groups_behind_a_long_one_are_counted_after_a_start_too(shop: Store) -> None:
    await send(shop, *(f"a{n}" for n in range(2_000)), "b1", "c1")
    assert await groups(shop) == 3
    await shop.reopen()
    assert await groups(shop) == 3


async def test_many_groups_are_many(shop: Store) -> None:
    commit = new_commit()
    for n in range(2 * MANY_GROUPS):
        emit(commit, "shop/fifo", str(n), queue="shop/fifo", group=str(n))
    await shop.engine.commit(commit)
    assert (await groups(shop) or 0) >= MANY_GROUPS


async def test_a_queue_without_groups_has_none(store: Store) -> None:
    shop = await store.open(QueueSpec(name="shop/plain"))
    assert (await shop.stats("shop/plain")).groups is None
