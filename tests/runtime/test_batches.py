"""Batches, FIFO groups and the order of a key's changes, under failures."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

import pytest

from headwater import App, Change, Discard, Event, attempt
from headwater.pytest_plugin import StartHarness
from tests.runtime.samples import Item, Job, waiting


async def test_a_batch_is_one_unit(harness: StartHarness) -> None:
    app = App("shop")
    items, jobs = app.table("items", Item, key="id"), app.queue("jobs", Job)
    sizes: list[int] = []

    @app.on(jobs, batch=10, concurrency=1)
    async def work(events: list[Event[Job]]) -> None:
        sizes.append(len(events))
        for event in events:
            await items.update("sum", add={"n": event.data.n})

    h = await harness(app)
    await h.supervisor.engine.pause("shop/jobs", True)
    for n in range(25):
        await jobs.send(Job(n=n))
    await h.run_until_idle()
    assert sizes == []
    await h.supervisor.engine.pause("shop/jobs", False)
    await h.run_until_idle()
    assert sizes == [10, 10, 5]
    assert await items.get("sum") == Item(id="sum", n=300)
    history = await items.history("sum")
    assert len(history) == 3


async def test_a_batch_that_raises_is_run_event_by_event(harness: StartHarness) -> None:
    app = App("shop")
    items, jobs = app.table("items", Item, key="id"), app.queue("jobs", Job, max_receives=2, backoff="1s")
    batches: list[list[int]] = []

    @app.on(jobs, batch=10, concurrency=1)
    async def work(events: list[Event[Job]]) -> None:
        batches.append([event.data.n for event in events])
        for event in events:
            await items.update("sum", add={"n": 1})
            if event.data.n == 2:
                raise ValueError("two")

    h = await harness(app)
    await h.supervisor.engine.pause("shop/jobs", True)
    for n in range(4):
        await jobs.send(Job(n=n))
    await h.supervisor.engine.pause("shop/jobs", False)
    await h.run_until_idle()
    assert batches == [[0, 1, 2, 3], [0], [1], [2], [3]]
    assert await items.get("sum") == Item(id="sum", n=3)
    await h.advance(seconds=5)
    (letter,) = await h.dead_letters()
    assert letter.receives == 2
    assert letter.event.data == b'{"id":"","n":2}'
    assert len(letter.failures) == 2


async def test_attempt_undoes_and_fails_one_event(harness: StartHarness) -> None:
    app = App("shop")
    items, jobs, out = app.table("items", Item, key="id"), app.queue("jobs", Job, max_receives=1), app.queue("out", Job)

    @app.on(jobs, batch=10, concurrency=1)
    async def work(events: list[Event[Job]]) -> None:
        for event in events:
            async with attempt(event):
                await items.put(Item(id=f"k{event.data.n}"))
                await items.update("sum", add={"n": 1})
                await out.send(event.data)
                if event.data.n == 1:
                    raise ValueError("one")
                if event.data.n == 2:
                    raise Discard("two")

    h = await harness(app)
    await h.supervisor.engine.pause("shop/jobs", True)
    for n in range(5):
        await jobs.send(Job(n=n))
    await h.supervisor.engine.pause("shop/jobs", False)
    await h.run_until_idle()
    assert [item.id for item in (await items.query()).items] == ["k0", "k3", "k4", "sum"]
    assert await items.get("sum") == Item(id="sum", n=3)
    assert sorted(job["n"] for job in await waiting(h, out)) == [0, 3, 4]
    (letter,) = await h.dead_letters()
    assert letter.reason == "ValueError: one"
    assert await waiting(h, jobs) == []


async def test_what_a_block_sends_is_caused_by_its_event(harness: StartHarness) -> None:
    app = App("shop")
    jobs, out = app.queue("jobs", Job), app.queue("out", Job)

    @app.on(jobs, batch=10)
    async def work(events: list[Event[Job]]) -> None:
        for event in events:
            async with attempt(event):
                await out.send(event.data)

    h = await harness(app)
    await h.supervisor.engine.pause("shop/jobs", True)
    ids = [await jobs.send(Job(n=n)) for n in range(3)]
    await h.supervisor.engine.pause("shop/jobs", False)
    await h.run_until_idle()
    found = sorted(await h.messages(out), key=lambda message: message.event.data or b"")
    assert [message.event.cause for message in found] == [f"{id}/shop/jobs" for id in ids]
    assert len({message.event.trace for message in found}) == 3


@pytest.mark.parametrize("style", ["attempt", "attempt-raises-again", "raise"])
async def test_in_a_batch_the_later_ones_of_a_failed_group_wait_and_keep_their_order(
    harness: StartHarness, style: str
) -> None:
    app = App("shop")
    items = app.table("items", Item, key="id")
    jobs = app.queue("jobs", Job, fifo=True, backoff="1s", max_receives=5)
    tries: list[int] = []

    async def effect(event: Event[Job]) -> None:
        if event.data.id == "a" and event.data.n == 1 and event.attempt < 3:
            tries.append(event.attempt)
            raise ValueError("not yet")
        if style == "attempt-raises-again" and event.data.id == "a" and len(tries) < 2 and event.data.n > 1:
            raise ValueError("not before the first")
        await items.update(event.data.id, append={"tags": [str(event.data.n)]})

    @app.on(jobs, batch=20, concurrency=2)
    async def work(events: list[Event[Job]]) -> None:
        for event in events:
            if style == "raise":
                await effect(event)
            else:
                async with attempt(event):
                    await effect(event)

    h = await harness(app)
    await h.supervisor.engine.pause("shop/jobs", True)
    for n in range(4):
        for group in "ab":
            await jobs.send(Job(id=group, n=n), group=group)
    await h.supervisor.engine.pause("shop/jobs", False)
    await h.run_until_idle()
    assert (await items.get("b")) == Item(id="b", tags=["0", "1", "2", "3"])
    assert (await items.get("a")) == Item(id="a", tags=["0"])
    await h.advance(seconds=30)
    assert (await items.get("a")) == Item(id="a", tags=["0", "1", "2", "3"])
    assert tries == ([1, 1, 2, 2] if style == "raise" else [1, 2])
    assert await h.dead_letters() == []
    consumer, *_ = h.supervisor.consumers.values()
    assert not consumer.busy


async def test_a_failing_head_blocks_its_group_until_it_is_dead(harness: StartHarness) -> None:
    app = App("shop")
    jobs = app.queue("jobs", Job, fifo=True, max_receives=3, backoff="10s")
    done: list[tuple[str, int, float]] = []

    @app.on(jobs)
    async def work(event: Event[Job]) -> None:
        if event.data.n == 0 and event.data.id == "a":
            raise ValueError("never")
        done.append((event.data.id, event.data.n, h.clock.monotonic()))

    h = await harness(app)
    for n in range(3):
        for group in "ab":
            await jobs.send(Job(id=group, n=n), group=group)
    await h.run_until_idle()
    assert [entry[:2] for entry in done] == [("b", 0), ("b", 1), ("b", 2)]
    await h.advance(minutes=2)
    assert [entry[:2] for entry in done[3:]] == [("a", 1), ("a", 2)]
    assert done[3][2] >= 15
    assert len(await h.dead_letters()) == 1


async def test_changes_of_a_key_arrive_in_commit_order_under_failures(harness: StartHarness) -> None:
    app = App("shop")
    items = app.table("items", Item, key="id")
    seen: dict[str, list[int]] = defaultdict(list)
    failed: set[tuple[str, int]] = set()

    @app.on(items, backoff="1s", concurrency=8)
    async def watch(change: Change[Item]) -> None:
        place = (change.subject, change.data.n)
        await asyncio.sleep(0.001 * (change.data.n % 3))
        if change.data.n % 4 == 0 and place not in failed:
            failed.add(place)
            raise ValueError("once")
        seen[change.subject].append(change.data.n)

    h = await harness(app)
    for n in range(1, 9):
        for id in "abc":
            await items.put(Item(id=id, n=n))
    await h.advance(seconds=30)
    assert seen == {id: list(range(1, 9)) for id in "abc"}


async def test_undecodable_ones_of_a_batch_die_alone(harness: StartHarness) -> None:
    sender, receiver = App("shop"), App("till")
    topic = sender.topic("news")
    inbox = receiver.queue("inbox", Job)
    receiver.foreign("shop/news", Job).to(inbox)
    seen: list[int] = []

    @receiver.on(inbox, batch=10)
    async def work(events: list[Event[Job]]) -> None:
        seen.extend(event.data.n for event in events)

    h = await harness(sender, receiver)
    await h.supervisor.engine.pause("till/inbox", True)
    for n in (1, "x", 3):
        await topic.publish({"n": n})
    await h.supervisor.engine.pause("till/inbox", False)
    await h.run_until_idle()
    assert seen == [1, 3]
    assert len(await h.dead_letters()) == 1


async def test_conflicts_rerun_the_whole_batch(harness: StartHarness) -> None:
    app = App("shop")
    items, jobs = app.table("items", Item, key="id"), app.queue("jobs", Job)
    runs: list[Any] = []

    @app.on(jobs, batch=10, concurrency=1)
    async def work(events: list[Event[Job]]) -> None:
        runs.append(len(events))
        found = await items.get("a") or Item(id="a")
        if len(runs) == 1:
            from contextvars import Context

            await asyncio.get_running_loop().create_task(items.put(Item(id="a", n=100)), context=Context())
        await items.put(Item(id="a", n=found.n + len(events)))

    h = await harness(app)
    await h.supervisor.engine.pause("shop/jobs", True)
    for n in range(3):
        await jobs.send(Job(n=n))
    await h.supervisor.engine.pause("shop/jobs", False)
    await h.run_until_idle()
    assert runs == [3, 3]
    assert await items.get("a") == Item(id="a", n=103)
