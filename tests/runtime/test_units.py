"""Units of work in handlers: one commit with the acknowledgement, own writes seen, conflicts re-run in place."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from headwater import (
    App,
    Change,
    ConditionFailed,
    Conflict,
    DeclarationError,
    Event,
    InvalidValue,
    QueueFull,
    TooLarge,
    UnitClosed,
    attempt,
)
from headwater.pytest_plugin import StartHarness
from headwater.unit import MAX_DOCUMENT, MAX_MESSAGE
from tests.runtime.samples import Item, Job, Part, refusal, waiting


async def test_a_handlers_writes_events_and_ack_are_one_commit(harness: StartHarness) -> None:
    app = App("shop")
    items, jobs, out = app.table("items", Item, key="id"), app.queue("jobs", Job), app.queue("out", Job)
    topic = app.topic("news", Job)
    news = app.queue("news-in", Job)
    topic.to(news)
    seen: list[Any] = []

    @app.on(jobs)
    async def work(event: Event[Job]) -> None:
        await items.put(Item(id="a", n=event.data.n))
        await out.send(Job(n=1))
        await topic.publish(Job(n=2))
        async with asyncio.TaskGroup() as group:
            check = group.create_task(h.supervisor.engine.read("shop/items", ("a", "")))
        seen.append((check.result(), await waiting(h, out), await waiting(h, news)))

    h = await harness(app)
    await jobs.send(Job(n=7))
    await h.run_until_idle()
    assert seen == [(None, [], [])]
    assert await items.get("a") == Item(id="a", n=7)
    assert [len(await waiting(h, queue)) for queue in (jobs, out, news)] == [0, 1, 1]
    events = await h.supervisor.engine.events(0)
    assert {event.event.time_ms for event in events[1:]} == {events[1].event.time_ms}
    commits = {event.event.id.rpartition("-")[0] for event in events[1:]}
    assert len(commits) == 1


async def test_an_exception_rolls_everything_back(harness: StartHarness) -> None:
    app = App("shop")
    items, jobs, out = app.table("items", Item, key="id"), app.queue("jobs", Job, max_receives=1), app.queue("out")

    @app.on(jobs)
    async def work(event: Event[Job]) -> None:
        await items.put(Item(id="a"))
        await out.send({"x": 1})
        raise ValueError("no")

    h = await harness(app)
    await jobs.send(Job())
    await h.run_until_idle()
    assert await items.get("a") is None
    assert await waiting(h, out) == []
    (letter,) = await h.dead_letters(jobs)
    assert letter.reason == "ValueError: no"


async def test_point_reads_see_the_units_own_writes(harness: StartHarness) -> None:
    app = App("shop")
    items = app.table("items", Item, key="id")
    await harness(app)
    await items.put(Item(id="b", n=10))
    async with app.transaction():
        first = await items.put(Item(id="a", n=1))
        found = await items.read("a")
        assert found is not None
        assert (found.value.n, found.version) == (1, first)
        second = await items.update("a", add={"n": 4}, append={"tags": ["x"]})
        found = await items.read("a")
        assert found is not None
        assert (found.value.n, found.value.tags, found.version) == (5, ["x"], second)
        await items.update("b", add={"n": 1})
        await items.update("b", set={"kind": "k"})
        assert await items.get("b") == Item(id="b", n=11, kind="k")
        await items.update("new", add={"n": 3})
        assert await items.get("new") == Item(id="new", n=3)
        await items.delete("a")
        assert await items.get("a") is None
        await items.update("a", add={"n": 2})
        assert await items.get("a") == Item(id="a", n=2)
        await items.delete("b")
        await items.put(Item(id="b", n=99))
        assert await items.get("b") == Item(id="b", n=99)
    assert await items.get("a") == Item(id="a", n=2)
    assert await items.get("b") == Item(id="b", n=99)
    assert await items.get("new") == Item(id="new", n=3)


async def test_several_writes_to_a_key_are_one_change(harness: StartHarness) -> None:
    app = App("shop")
    items = app.table("items", Item, key="id")
    seen: list[tuple[str, Any, Any]] = []

    @app.on(items)
    async def watch(change: Change[Item]) -> None:
        seen.append((change.type, change.old and change.old.n, change.new and change.new.n))

    h = await harness(app)
    await items.put(Item(id="a", n=1))
    async with app.transaction():
        await items.put(Item(id="a", n=2))
        await items.update("a", add={"n": 5})
        await items.update("a", add={"n": 1})
    async with app.transaction():
        await items.delete("a")
        await items.put(Item(id="a", n=8))
    version = await items.put(Item(id="a", n=8))
    found = await items.read("a")
    assert found is not None
    assert found.version == version
    await h.run_until_idle()
    assert seen == [("inserted", None, 1), ("modified", 1, 8)]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_queries_are_overlaid_with_own_writes_page_by_page(
    harness: StartHarness, reverse: bool, limit: int
) -> None:
    """What a unit reads page by page is what the same query reads after its commit."""
    app = App("shop")
    parts = app.table("parts", Part, key=("box", "place"), indexes={"kinds": ("kind", "place")})
    await harness(app)
    for place in (1, 3, 5, "b", "d"):
        await parts.put(Part(box="x", place=place, kind="k" if place != 3 else "z"))

    async def pages(*prefix: Any, **options: Any) -> list[Part]:
        found: list[Part] = []
        cursor = None
        while True:
            page = await parts.query(*prefix, limit=limit, cursor=cursor, reverse=reverse, **options)
            assert len(page.items) <= limit
            found += page.items
            cursor = page.cursor
            if cursor is None:
                return found

    async def everything() -> list[list[Part]]:
        return [
            await pages(),
            await pages("x"),
            await pages("x", between=(2, "c")),
            await pages("x", "d"),
            await pages("k", index="kinds"),
            await pages("z", index="kinds", between=(0, 4)),
            await pages(index="kinds"),
        ]

    async with app.transaction():
        before = await everything()
        for place in (0, 2, 4, "a", "dd"):
            await parts.put(Part(box="x", place=place, kind="k"))
        await parts.delete("x", 1)
        await parts.update("x", 5, set={"kind": "z"})
        await parts.update("x", 3, set={"kind": ""})
        await parts.put(Part(box="y", place=1, kind="z"))
        during = await everything()
    after = await everything()
    assert during == after != before
    assert len(after[0]) == 10


async def test_conditions_are_checked_at_the_call(harness: StartHarness) -> None:
    app = App("shop")
    items = app.table("items", Item, key="id")
    await harness(app)
    version = await items.put(Item(id="a", n=1, kind="k"), if_absent=True)
    for call in (
        lambda: items.put(Item(id="a"), if_absent=True),
        lambda: items.put(Item(id="a"), if_version="other"),
        lambda: items.put(Item(id="b"), if_version="*"),
        lambda: items.put(Item(id="b"), if_version=version),
        lambda: items.put(Item(id="a"), where={"kind": ["z"]}),
        lambda: items.update("a", set={"n": 2}, where={"n": [{"numeric": [">", 5]}]}),
        lambda: items.update("a", set={"n": 2}, if_version='"other"'),
        lambda: items.delete("a", if_version="other"),
        lambda: items.delete("a", where={"kind": ["z"]}),
    ):
        error = await refusal(call(), ConditionFailed)
        assert "shop/items" in str(error)
    assert (await items.get("a")) == Item(id="a", n=1, kind="k")
    for text in ("{}", '"{}"', 'W/"{}"', '"nope", "{}"', "*"):
        found = await items.read("a")
        assert found is not None
        await items.put(Item(id="a", n=found.value.n + 1, kind="k"), if_version=text.format(found.version))
    await items.put(Item(id="a", n=0, kind="k"), where={"kind": ["k"]})
    async with app.transaction():
        await items.delete("a", if_version="*")
        await items.put(Item(id="a", n=5), if_absent=True)
        with pytest.raises(ConditionFailed):
            await items.put(Item(id="a", n=6), if_absent=True)
    assert await items.get("a") == Item(id="a", n=5)


async def test_a_condition_that_fails_at_commit_is_rerun_in_place(harness: StartHarness) -> None:
    app = App("shop")
    items, jobs = app.table("items", Item, key="id"), app.queue("jobs", Job)
    receives: list[int] = []

    @app.on(jobs)
    async def work(event: Event[Job]) -> None:
        receives.append(event.attempt)
        found = await items.read("a")
        assert found is not None
        if len(receives) < 3:
            await outside(Item(id="a", n=found.value.n + 10))
        await items.put(Item(id="a", n=found.value.n + 1), if_version=found.version)

    async def outside(value: Item) -> None:
        """A commit of somebody else: from a task without the unit."""
        await asyncio.get_running_loop().run_in_executor(None, lambda: wait_for(items.put(value)))

    from headwater import wait as wait_for

    h = await harness(app)
    await items.put(Item(id="a", n=0))
    await jobs.send(Job())
    await h.run_until_idle()
    assert receives == [1, 1, 1]
    assert await items.get("a") == Item(id="a", n=21)
    consumer, *_ = h.supervisor.consumers.values()
    assert consumer.stats.conflicts == 2


async def test_after_five_reruns_a_conflict_is_a_failure_that_names_the_key(harness: StartHarness) -> None:
    app = App("shop")
    items, jobs = app.table("items", Item, key="id"), app.queue("jobs", Job, max_receives=1)
    runs: list[int] = []

    @app.on(jobs)
    async def work(event: Event[Job]) -> None:
        runs.append(event.attempt)
        await items.get("hot")
        await another_commit(app, items, Item(id="hot", n=len(runs)))
        await items.put(Item(id="mine"))

    h = await harness(app)
    await jobs.send(Job())
    await h.run_until_idle()
    assert runs == [1] * 6
    (letter,) = await h.dead_letters()
    assert letter.receives == 1
    assert "hot" in letter.reason
    assert await items.get("mine") is None


async def another_commit(app: App[Any], table: Any, value: Any) -> None:
    """Put a row in a commit that is not the current unit's."""
    from contextvars import Context

    await asyncio.get_running_loop().create_task(table.put(value), context=Context())


async def test_an_exception_after_a_stale_read_is_no_failure(harness: StartHarness) -> None:
    app = App("shop")
    items, jobs = app.table("items", Item, key="id"), app.queue("jobs", Job, max_receives=1)
    runs: list[int] = []

    @app.on(jobs)
    async def work(event: Event[Job]) -> None:
        runs.append(event.attempt)
        found = await items.get("a")
        if found is None:
            await another_commit(app, items, Item(id="a"))
            raise LookupError("a is absent")
        await items.put(Item(id="done"))

    h = await harness(app)
    await jobs.send(Job())
    await h.run_until_idle()
    assert runs == [1, 1]
    assert await h.dead_letters() == []
    assert await items.get("done") is not None


@pytest.mark.parametrize("writes", [True, False])
@pytest.mark.parametrize("validate", [True, False])
async def test_reads_are_validated_only_by_units_that_write(
    harness: StartHarness, writes: bool, validate: bool
) -> None:
    app = App("shop")
    items, jobs = app.table("items", Item, key="id"), app.queue("jobs", Job)
    runs = []

    @app.on(jobs)
    async def work(event: Event[Job]) -> None:
        runs.append(event.attempt)
        await items.get("a", validate=validate)
        if len(runs) == 1:
            await another_commit(app, items, Item(id="a"))
        if writes:
            await items.put(Item(id="b"))

    h = await harness(app)
    await jobs.send(Job())
    await h.run_until_idle()
    assert len(runs) == (2 if writes and validate else 1)


async def test_the_first_read_of_a_key_is_kept_and_concurrent_reads_all_count(harness: StartHarness) -> None:
    app = App("shop")
    items = app.table("items", Item, key="id")
    await harness(app)
    await items.put(Item(id="a", n=1))

    async def read_and_write() -> None:
        async with app.transaction():
            values = await asyncio.gather(*(items.get(id) for id in ("x", "a", "y", "a")))
            assert values[1] == values[3] == Item(id="a", n=1)
            await another_commit(app, items, Item(id="a", n=2))
            assert await items.get("a") == Item(id="a", n=1)
            await items.put(Item(id="b"))

    assert "'a' changed" in str(await refusal(read_and_write(), Conflict))
    assert await items.get("b") is None


async def test_increments_and_appends_never_conflict(harness: StartHarness) -> None:
    app = App("shop")
    items, jobs = app.table("items", Item, key="id"), app.queue("jobs", Job)

    @app.on(jobs)
    async def work(event: Event[Job]) -> None:
        await items.update("sum", add={"n": event.data.n}, append={"tags": [str(event.data.n)]})

    h = await harness(app)
    await asyncio.gather(*(jobs.send(Job(n=n)) for n in range(50)))
    await h.run_until_idle()
    found = await items.get("sum")
    assert found is not None
    assert found.n == sum(range(50))
    assert sorted(found.tags, key=int) == [str(n) for n in range(50)]
    consumer, *_ = h.supervisor.consumers.values()
    assert consumer.stats.conflicts == 0


async def test_transactions_commit_as_a_whole_or_not_at_all(harness: StartHarness) -> None:
    app = App("shop")
    items, out = app.table("items", Item, key="id"), app.queue("out", Job)
    h = await harness(app)

    async def fail() -> None:
        async with app.transaction():
            await items.put(Item(id="a"))
            await out.send(Job())
            raise KeyError

    await refusal(fail(), KeyError)
    assert await items.get("a") is None
    async with app.transaction():
        await items.put(Item(id="a"))
        await out.send(Job())
        assert await waiting(h, out) == []
        with pytest.raises(DeclarationError, match="open already"):
            async with app.transaction():
                pass
    assert await items.get("a") is not None
    assert len(await waiting(h, out)) == 1


async def test_code_that_outlives_its_unit_gets_unit_closed(harness: StartHarness) -> None:
    app = App("shop")
    items, jobs, out = app.table("items", Item, key="id"), app.queue("jobs", Job), app.queue("out", Job)
    go = asyncio.Event()
    errors: list[UnitClosed] = []
    tasks: list[asyncio.Task[None]] = []

    async def later() -> None:
        await go.wait()
        for call in (
            lambda: items.put(Item(id="late")),
            lambda: items.update("late", add={"n": 1}),
            lambda: items.get("late"),
            items.query,
            lambda: out.send(Job()),
        ):
            errors.append(await refusal(call(), UnitClosed))  # type: ignore[arg-type]
        async with app.transaction():
            await items.put(Item(id="own"))

    @app.on(jobs)
    async def work(event: Event[Job]) -> None:
        tasks.append(asyncio.create_task(later()))
        await items.put(Item(id="in-time"))

    h = await harness(app)
    await jobs.send(Job())
    await h.run_until_idle()
    go.set()
    await tasks[0]
    assert len(errors) == 5
    assert "app.transaction()" in errors[0].hint
    assert await items.get("in-time") is not None
    assert await items.get("late") is None
    assert await items.get("own") is not None


async def test_limits_are_clear_errors(harness: StartHarness) -> None:
    app = App("shop")
    items, jobs = app.table("items", Item, key="id"), app.queue("jobs", Job)
    big, out = app.queue("big"), app.queue("out", max_depth=2)
    await harness(app)
    room = MAX_DOCUMENT - len(b'{"id":"a","kind":"","n":0,"tags":[]}')
    await items.put(Item(id="a", kind="x" * room))
    error = await refusal(items.put(Item(id="a", kind="x" * (room + 1))), TooLarge)
    assert "shop/items" in str(error)
    await refusal(items.update("a", append={"tags": ["y"]}), TooLarge)
    await big.send({"x": "y" * (MAX_MESSAGE - 8)})
    error = await refusal(big.send({"x": "y" * (MAX_MESSAGE - 7)}), TooLarge)
    assert "shop/big" in str(error)
    await out.send({})
    await out.send({})
    await refusal(out.send({}), QueueFull)

    async def write_much() -> None:
        async with app.transaction():
            for n in range(10_001):
                await items.put(Item(id=f"k{n}"))

    assert "10001 operations" in str(await refusal(write_much(), TooLarge))
    assert (await items.query(limit=10)).items[-1].id == "a"
    assert isinstance(await refusal(items.get(""), InvalidValue), InvalidValue)
    del jobs


async def test_a_unit_costs_its_operations_and_no_more(harness: StartHarness) -> None:
    app = App("shop")
    items = app.table("items", Item, key="id")
    await harness(app)
    begin = time.process_time()
    async with app.transaction():
        for n in range(4_000):
            await items.update(f"k{n}", add={"n": 1})
            await items.get(f"k{n}")
    assert time.process_time() - begin < 5
    assert (await items.get("k3999")) == Item(id="k3999", n=1)


@pytest.mark.parametrize("inside", [True, False])
async def test_direct_sends_are_deduplicated(harness: StartHarness, inside: bool) -> None:
    app = App("shop")
    jobs, topic, news = app.queue("jobs", Job), app.topic("news", Job), app.queue("in", Job)
    topic.to(news)
    h = await harness(app)

    async def send(n: int, **options: Any) -> str:
        if not inside:
            return await jobs.send(Job(n=n), **options)
        async with app.transaction():
            return await jobs.send(Job(n=n), **options)

    first = await send(1, dedup="a")
    second = await send(2, dedup="a")
    assert (first == second) is not inside
    await send(3, dedup="content")
    await send(3, dedup="content")
    await send(4, dedup="content")
    assert [job["n"] for job in await waiting(h, jobs)] == [1, 3, 4]
    for _ in range(2):
        await topic.publish(Job(), dedup="p")
    assert len(await waiting(h, news)) == 1
    await h.advance(minutes=5)
    await send(5, dedup="a")
    assert len(await waiting(h, jobs)) == 4


async def test_attempt_outside_of_a_batch_fails_the_message(harness: StartHarness) -> None:
    app = App("shop")
    items, jobs = app.table("items", Item, key="id"), app.queue("jobs", Job, max_receives=1)

    @app.on(jobs)
    async def work(event: Event[Job]) -> None:
        async with attempt(event):
            await items.put(Item(id="a"))
            raise ValueError("inside")

    h = await harness(app)
    await jobs.send(Job())
    await h.run_until_idle()
    (letter,) = await h.dead_letters()
    assert letter.reason == "ValueError: inside"
    assert await items.get("a") is None
