"""The SQLite engine's bounded memory: the same order and completeness when queues outgrow it."""

from __future__ import annotations

import random

import pytest

from headwater.catalog import QueueSpec
from headwater.engines.sqlite import fifo, window
from headwater.errors import LeaseLost
from tests.conformance.crash import crash
from tests.conformance.workbench import Store, data

pytestmark = pytest.mark.anyio
JOBS, FIFO = QueueSpec(name="shop/jobs", visibility_ms=1_000), QueueSpec(name="shop/fifo", fifo=True)


@pytest.fixture
async def shop(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(window, "READY_MAX", 8)
    monkeypatch.setattr(window, "DELAYED_MAX", 12)
    monkeypatch.setattr(window, "CHUNK", 5)
    monkeypatch.setattr(fifo, "HELD_MAX", 10)
    monkeypatch.setattr(fifo, "GROUP_MAX", 3)
    monkeypatch.setattr(fifo, "CHUNK", 4)
    monkeypatch.setattr(fifo, "RUN", 6)
    return await store.open(JOBS, FIFO)


async def test_more_ready_messages_than_the_window_holds(shop: Store) -> None:
    await shop.ready("shop/jobs")
    for n in range(60):
        await shop.send("shop/jobs", n)
    assert await shop.drain("shop/jobs") == list(range(60))


async def test_more_delayed_messages_than_the_window_holds(shop: Store) -> None:
    delays = list(range(1, 101))
    random.Random(1).shuffle(delays)
    await shop.ready("shop/jobs")
    for delay in delays:
        await shop.send("shop/jobs", delay, delay_ms=1000 * delay)
    seen = []
    for _ in range(100):
        await shop.advance(1)
        seen += await shop.drain("shop/jobs")
    assert seen == list(range(1, 101))


async def test_many_delayed_messages_due_at_once(shop: Store) -> None:
    await shop.send("shop/jobs", *range(60), delay_ms=1000)
    await shop.reopen()
    await shop.advance(1)
    assert await shop.drain("shop/jobs") == list(range(60))


async def test_new_messages_after_a_purge_of_a_full_window(shop: Store) -> None:
    await shop.ready("shop/jobs")
    await shop.send("shop/jobs", *range(30))
    held = await shop.take("shop/jobs", 2)
    assert await shop.engine.purge("shop/jobs") == 28
    await shop.send("shop/jobs", "new")
    assert [data(delivery) for delivery in await shop.take("shop/jobs")] == ["new"]
    await shop.ack(*held)


async def test_retries_of_a_full_window(shop: Store) -> None:
    await shop.ready("shop/jobs")
    await shop.send("shop/jobs", *range(40))
    for _ in range(2):
        for delivery in await shop.take("shop/jobs", 40):
            await shop.retry(delivery, 1)
        assert await shop.ready("shop/jobs") == []
        await shop.advance(1)
    found = await shop.take("shop/jobs", 40)
    assert {delivery.receives for delivery in found} == {3}
    await shop.ack(*found)
    assert await shop.ready("shop/jobs") == []


async def test_a_lease_that_is_read_again_is_not_handed_out_again(shop: Store) -> None:
    """Messages that were leased as suspects are read from the disk again by the window."""
    await shop.send("shop/jobs", *range(12))
    for delivery in await shop.take("shop/jobs", 3):
        shop.engine.begin(delivery)
    await crash(shop)
    suspects = await shop.engine.suspects("shop/jobs")
    assert [(data(delivery), delivery.receives) for delivery in suspects] == [(0, 2), (1, 2), (2, 2)]
    (first,) = await shop.take("shop/jobs")
    assert data(first) == 3
    await shop.ack(suspects[0])
    await shop.retry(suspects[1], 5)
    await shop.engine.release([suspects[2]])
    rest = await shop.take("shop/jobs", 9)
    assert sorted(data(delivery) for delivery in rest) == [2, *range(4, 12)]
    assert await shop.ready("shop/jobs") == []
    await shop.ack(first, *rest)
    await shop.advance(5)
    (last,) = await shop.take("shop/jobs")
    assert (data(last), last.receives) == (1, 3)


async def test_a_suspect_behind_others_is_not_handed_out_again(shop: Store) -> None:
    await shop.send("shop/jobs", *range(4))
    *before, running = await shop.take("shop/jobs", 3)
    shop.engine.begin(running)
    await crash(shop)
    (suspect,) = await shop.engine.suspects("shop/jobs")
    (first,) = await shop.take("shop/jobs")
    await shop.ack(suspect)
    await shop.ack(first)
    assert await shop.drain("shop/jobs") == [1, 3]
    assert [data(delivery) for delivery in before] == [0, 1]


async def test_a_suspect_behind_others_waits_for_its_retry(shop: Store) -> None:
    await shop.send("shop/jobs", *range(4))
    shop.engine.begin((await shop.take("shop/jobs", 3))[2])
    await crash(shop)
    (suspect,) = await shop.engine.suspects("shop/jobs")
    await shop.take("shop/jobs")
    await shop.retry(suspect, 0.5)
    assert await shop.drain("shop/jobs") == [1, 3]
    await shop.advance(0.5)
    assert [delivery.receives for delivery in await shop.take("shop/jobs")] == [3]


async def test_a_suspect_holds_back_its_group(shop: Store) -> None:
    for item in ("a1", "a2", "b1"):
        await shop.send("shop/fifo", item, group=item[0])
    (head, _) = await shop.take("shop/fifo", 2)
    shop.engine.begin(head)
    await crash(shop)
    (suspect,) = await shop.engine.suspects("shop/fifo")
    assert (data(suspect), suspect.receives) == ("a1", 2)
    assert await shop.engine.suspects("shop/fifo") == []
    assert [data(delivery) for delivery in await shop.ready("shop/fifo")] == ["b1"]
    with pytest.raises(LeaseLost):
        await shop.ack(head)
    await shop.ack(suspect)
    assert await shop.drain("shop/fifo") == ["a2"]


async def test_an_ended_delivery_is_no_suspect(shop: Store) -> None:
    await shop.send("shop/jobs", 1)
    (delivery,) = await shop.take("shop/jobs")
    shop.engine.begin(delivery)
    shop.engine.end(delivery)
    await crash(shop)
    assert await shop.engine.suspects("shop/jobs") == []
    assert [delivery.receives for delivery in await shop.take("shop/jobs")] == [1]


async def test_groups_longer_than_the_window(shop: Store) -> None:
    expected = {group: [f"{group}{n}" for n in range(25)] for group in "abc"}
    for n in range(25):
        for group in "abc":
            await shop.send("shop/fifo", f"{group}{n}", group=group)
        if n % 3 == 0:
            for delivery in await shop.ready("shop/fifo", 2):
                await shop.retry(delivery, 1 if n % 2 else 0)
    await shop.advance(1)
    found = await shop.drain("shop/fifo")
    assert {group: [item for item in found if item[0] == group] for group in "abc"} == expected


async def test_sending_to_a_long_group_while_it_is_consumed(shop: Store) -> None:
    await shop.ready("shop/fifo")
    seen = []
    for n in range(0, 40, 4):
        await shop.send("shop/fifo", *range(n, n + 4), group="g")
        for _ in range(2):
            (delivery,) = await shop.take("shop/fifo")
            seen.append(data(delivery))
            await shop.ack(delivery)
    assert seen + await shop.drain("shop/fifo") == list(range(40))


async def test_more_parked_groups_than_the_window_holds(shop: Store) -> None:
    for n in range(30):
        await shop.send("shop/fifo", n, group=f"{n}", delay_ms=1000)
    await shop.send("shop/fifo", "ready", group="x")
    assert await shop.drain("shop/fifo") == ["ready"]
    await shop.advance(1)
    assert await shop.drain("shop/fifo") == list(range(30))


async def test_purging_long_groups(shop: Store) -> None:
    for n in range(40):
        await shop.send("shop/fifo", n, group=str(n % 2))
    held = await shop.take("shop/fifo", 2)
    assert await shop.engine.purge("shop/fifo") == 38
    await shop.send("shop/fifo", "new", group="0")
    assert await shop.ready("shop/fifo") == []
    await shop.ack(*held)
    assert await shop.drain("shop/fifo") == ["new"]


async def test_groups_that_are_all_leased_hide_no_group_behind_them(shop: Store) -> None:
    for group in "abcde":
        await shop.send("shop/fifo", *(f"{group}{n}" for n in range(9)), group=group)
    await shop.send("shop/fifo", "x", group="x")
    held = await shop.take("shop/fifo", 6)
    assert sorted(data(delivery) for delivery in held) == ["a0", "b0", "c0", "d0", "e0", "x"]
