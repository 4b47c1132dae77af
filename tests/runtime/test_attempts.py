"""The life of a message: retries, dead letters, filters, time-outs, threads, steps, depth, leases and crashes."""

from __future__ import annotations

import asyncio
import itertools
import threading
from typing import Any

import pytest

from headwater import App, Discard, Event, HeadwaterError, Retry, Undeliverable, UnitClosed, step, wait
from headwater.pytest_plugin import StartHarness
from headwater.unit import MAX_DOCUMENT
from tests.patience import PATIENCE_S
from tests.runtime.samples import Item, Job, until, waiting


async def test_failures_are_retried_with_growing_pauses_then_dead_with_every_error(harness: StartHarness) -> None:
    app = App("shop")
    jobs = app.queue("jobs", Job, max_receives=4, backoff="10s")
    times: list[float] = []

    @app.on(jobs)
    async def work(event: Event[Job]) -> None:
        times.append(h.clock.monotonic())
        raise ValueError(f"attempt {event.attempt}")

    h = await harness(app)
    await jobs.send(Job(n=3))
    await h.advance(minutes=5)
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert [low <= pause <= 2 * low for low, pause in zip((5, 10, 20), pauses, strict=True)] == [True] * 3
    (letter,) = await h.dead_letters(jobs)
    assert (letter.receives, letter.reason) == (4, "ValueError: attempt 4")
    assert [failure["error"] for failure in letter.failures] == [f"ValueError: attempt {n}" for n in (1, 2, 3, 4)]
    assert all("test_attempts.py" in failure["traceback"] for failure in letter.failures)
    assert await waiting(h, jobs) == []


async def test_retry_waits_as_told_and_counts(harness: StartHarness) -> None:
    app = App("shop")
    jobs = app.queue("jobs", Job, max_receives=3)
    times: list[tuple[int, float]] = []

    @app.on(jobs)
    async def work(event: Event[Job]) -> None:
        times.append((event.attempt, h.clock.monotonic()))
        if event.attempt < 3:
            raise Retry(after="1h", reason="later")

    h = await harness(app)
    await jobs.send(Job())
    await h.advance(hours=2)
    assert times == [(1, 0), (2, 3600), (3, 7200)]
    assert await h.dead_letters() == []


async def test_a_retry_with_a_senseless_pause_is_still_a_retry(harness: StartHarness) -> None:
    app = App("shop")
    jobs = app.queue("jobs", Job, max_receives=2)
    runs: list[int] = []

    @app.on(jobs)
    async def work(event: Event[Job]) -> None:
        runs.append(event.attempt)
        raise Retry(after="soon")

    h = await harness(app)
    await jobs.send(Job())
    await h.advance(minutes=5)
    assert runs == [1, 2]
    assert len(await h.dead_letters()) == 1


async def test_discard_acknowledges_without_effect(harness: StartHarness) -> None:
    app = App("shop")
    items, jobs = app.table("items", Item, key="id"), app.queue("jobs", Job)
    runs: list[str] = []

    @app.on(jobs)
    async def work(event: Event[Job]) -> None:
        runs.append(event.id)
        await items.put(Item(id="a"))
        raise Discard("not for us")

    h = await harness(app)
    await jobs.send(Job())
    await h.advance(hours=1)
    assert len(runs) == 1
    assert await items.get("a") is None
    assert await h.dead_letters() == []


async def test_what_is_undeliverable_is_a_dead_letter_at_once_without_effect(harness: StartHarness) -> None:
    app = App("shop")
    items, jobs = app.table("items", Item, key="id"), app.queue("jobs", Job, max_receives=9)

    @app.on(jobs)
    async def work(event: Event[Job]) -> None:
        await items.put(Item(id="a"))
        raise Undeliverable("nobody can")

    h = await harness(app)
    await jobs.send(Job())
    await h.run_until_idle()
    (letter,) = await h.dead_letters(jobs)
    assert (letter.receives, letter.reason) == (1, "Undeliverable: nobody can")
    assert await items.get("a") is None


async def test_what_cannot_be_decoded_goes_straight_to_the_dead_letters(harness: StartHarness) -> None:
    sender, receiver = App("shop"), App("till")
    topic = sender.topic("news")
    inbox = receiver.queue("inbox", Job)
    receiver.foreign("shop/news", Job).to(inbox)
    runs: list[int] = []

    @receiver.on(inbox)
    async def work(event: Event[Job]) -> None:
        runs.append(event.data.n)

    h = await harness(sender, receiver)
    for n in (1, "many", 2):
        await topic.publish({"n": n})
    await h.run_until_idle()
    assert runs == [1, 2]
    (letter,) = await h.dead_letters()
    assert letter.receives == 1
    assert "Job" in letter.reason
    assert "n" in letter.failures[0]["error"]


@pytest.mark.parametrize("batch", [0, 5])
async def test_a_predicate_filters_at_the_consumer(harness: StartHarness, batch: int) -> None:
    app = App("shop")
    jobs = app.queue("jobs", Job)
    runs: list[int] = []

    def odd(event: Event[Job]) -> bool:
        return bool(event.data.n % 2)

    if batch:

        @app.on(jobs, batch=batch, when=odd)
        async def many(events: list[Event[Job]]) -> None:
            runs.extend(event.data.n for event in events)
    else:

        @app.on(jobs, when=odd)
        async def work(event: Event[Job]) -> None:
            runs.append(event.data.n)

    h = await harness(app)
    for n in range(6):
        await jobs.send(Job(n=n))
    await h.run_until_idle()
    assert sorted(runs) == [1, 3, 5]
    assert await waiting(h, jobs) == []
    assert await h.dead_letters() == []


async def test_a_predicate_that_raises_is_a_failure(harness: StartHarness) -> None:
    app = App("shop")
    jobs = app.queue("jobs", Job, max_receives=1)

    @app.on(jobs, when=lambda event: bool(1 // event.data.n))
    async def work(event: Event[Job]) -> None:
        pass

    h = await harness(app)
    await jobs.send(Job(n=0))
    await h.run_until_idle()
    (letter,) = await h.dead_letters()
    assert "ZeroDivisionError" in letter.reason


async def test_an_async_handler_is_timed_out(harness: StartHarness) -> None:
    app = App("shop")
    items, jobs = app.table("items", Item, key="id"), app.queue("jobs", Job, max_receives=1)
    stubborn = app.queue("stubborn", Job, max_receives=1)

    @app.on(jobs, timeout="5s")
    async def work(event: Event[Job]) -> None:
        await items.put(Item(id="a"))
        await h.clock.sleep(60)

    @app.on(stubborn, timeout="5s")
    async def swallow(event: Event[Job]) -> None:
        try:
            await h.clock.sleep(60)
        except asyncio.CancelledError:
            await items.put(Item(id="b"))

    h = await harness(app)
    await jobs.send(Job())
    await stubborn.send(Job())
    await asyncio.sleep(0.02)
    h.clock.move_to(5)
    await h.run_until_idle()
    letters = await h.dead_letters()
    assert [letter.reason for letter in letters] == ["HandlerTimeout: the handler ran longer than 5 s"] * 2
    assert (await items.query()).items == []


async def test_a_thread_handler_is_timed_out_and_its_later_writes_are_refused(harness: StartHarness) -> None:
    app = App("shop")
    items, jobs = app.table("items", Item, key="id"), app.queue("jobs", Job, max_receives=1)
    go, started = threading.Event(), threading.Event()
    errors: list[Exception] = []

    @app.on(jobs, timeout="5s")
    def work(event: Event[Job]) -> None:
        started.set()
        go.wait(PATIENCE_S)
        try:
            wait(items.put(Item(id="late")))
        except HeadwaterError as error:
            errors.append(error)

    h = await harness(app)
    await jobs.send(Job())
    await until(started.is_set)
    h.clock.move_to(5)
    await h.run_until_idle()
    go.set()
    await until(lambda: bool(errors))
    assert isinstance(errors[0], UnitClosed)
    assert len(await h.dead_letters()) == 1
    assert await items.get("late") is None


async def test_thread_handlers_write_in_their_unit(harness: StartHarness) -> None:
    app = App("shop")
    items, jobs = app.table("items", Item, key="id"), app.queue("jobs", Job, max_receives=1)

    @app.on(jobs)
    def work(event: Event[Job]) -> None:
        assert threading.current_thread() is not threading.main_thread()
        wait(items.update("sum", add={"n": event.data.n}))
        found = wait(items.get("sum", validate=False))
        assert found is not None
        if event.data.n == 3:
            raise ValueError("three")

    h = await harness(app)
    for n in range(5):
        await jobs.send(Job(n=n))
    await h.run_until_idle()
    assert await items.get("sum") == Item(id="sum", n=7)
    assert len(await h.dead_letters()) == 1


@pytest.mark.parametrize("in_thread", [False, True])
async def test_concurrency_is_bounded_and_real(harness: StartHarness, in_thread: bool) -> None:
    app = App("shop")
    jobs = app.queue("jobs", Job)
    running, most = 0, 0
    lock = threading.Lock()
    gate, opened = asyncio.Event(), threading.Event()

    def enter(step: int) -> None:
        nonlocal running, most
        with lock:
            running += step
            most = max(most, running)

    if in_thread:

        @app.on(jobs, concurrency=3)
        def threaded(event: Event[Job]) -> None:
            enter(1)
            opened.wait(PATIENCE_S)
            enter(-1)
    else:

        @app.on(jobs, concurrency=3)
        async def work(event: Event[Job]) -> None:
            enter(1)
            await gate.wait()
            enter(-1)

    h = await harness(app)
    for n in range(10):
        await jobs.send(Job(n=n))
        await asyncio.sleep(0.001)
    await until(lambda: running == 3)
    await asyncio.sleep(0.02)
    assert (running, most) == (3, 3)
    gate.set()
    opened.set()
    await h.run_until_idle()
    assert most == 3
    assert running == 0


async def test_a_slow_handler_does_not_hold_up_what_comes_after_it(harness: StartHarness) -> None:
    app = App("shop")
    jobs = app.queue("jobs", Job)
    gate, done = asyncio.Event(), []

    @app.on(jobs, concurrency=2)
    async def work(event: Event[Job]) -> None:
        if event.data.n == 0:
            await gate.wait()
        done.append(event.data.n)

    h = await harness(app)
    await jobs.send(Job(n=0))
    await asyncio.sleep(0.02)
    for n in (1, 2, 3):
        await jobs.send(Job(n=n))
    await until(lambda: len(done) == 3)
    gate.set()
    await h.run_until_idle()
    assert done == [1, 2, 3, 0]


async def test_reruns_stay_within_the_concurrency(harness: StartHarness) -> None:
    app = App("shop")
    items, jobs = app.table("items", Item, key="id"), app.queue("jobs", Job)
    running = most = 0

    @app.on(jobs, concurrency=2)
    async def work(event: Event[Job]) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        found = await items.get("hot") or Item(id="hot")
        await asyncio.sleep(0.001)
        await items.put(Item(id="hot", n=found.n + 1))
        running -= 1

    h = await harness(app)
    for n in range(12):
        await jobs.send(Job(n=n))
    await h.advance(minutes=10)
    assert await items.get("hot") == Item(id="hot", n=12)
    consumer, *_ = h.supervisor.consumers.values()
    assert consumer.stats.conflicts > 0
    assert most == 2


async def test_slots_are_started_as_needed_and_do_not_leak(harness: StartHarness) -> None:
    app = App("shop")
    jobs = app.queue("jobs", Job)

    @app.on(jobs, concurrency=8)
    async def work(event: Event[Job]) -> None:
        await asyncio.sleep(0)

    h = await harness(app)
    before = len(asyncio.all_tasks())
    for _ in range(5):
        await asyncio.gather(*(jobs.send(Job(n=n)) for n in range(100)))
        await h.run_until_idle()
    assert len(asyncio.all_tasks()) <= before + 8
    consumer, *_ = h.supervisor.consumers.values()
    assert (consumer.stats.handled, consumer.stats.running) == (500, 0)


async def test_a_step_runs_once_per_message(harness: StartHarness) -> None:
    app = App("shop")
    items, jobs = app.table("items", Item, key="id"), app.queue("jobs", Job)
    calls: list[int] = []
    results: list[Any] = []

    @app.on(jobs)
    async def work(event: Event[Job]) -> None:
        async def charge() -> dict[str, int]:
            calls.append(event.attempt)
            await items.update("charges", add={"n": 1})
            return {"receipt": event.attempt}

        results.append(await step("charge", charge))
        await items.put(Item(id=f"attempt-{event.attempt}"))
        if event.attempt < 3:
            raise ValueError("later")

    h = await harness(app)
    await jobs.send(Job())
    await h.advance(minutes=5)
    assert calls == [1]
    assert results == [{"receipt": 1}] * 3
    assert await items.get("charges") == Item(id="charges", n=1)
    assert await items.get("attempt-1") is None
    assert await items.get("attempt-3") is not None


async def test_a_step_that_raises_is_not_kept(harness: StartHarness) -> None:
    app = App("shop")
    items, jobs = app.table("items", Item, key="id"), app.queue("jobs", Job)

    @app.on(jobs)
    async def work(event: Event[Job]) -> None:
        async def charge() -> int:
            await items.put(Item(id="charged", n=event.attempt))
            if event.attempt == 1:
                raise ValueError("declined")
            return 5

        assert await step("charge", charge) == 5

    h = await harness(app)
    await jobs.send(Job())
    await h.run_until_idle()
    assert await items.get("charged") is None
    await h.advance(minutes=1)
    assert await items.get("charged") == Item(id="charged", n=2)


async def test_a_late_attempt_has_no_effect_and_neither_have_its_steps(harness: StartHarness) -> None:
    """The event loop was blocked beyond the visibility time-out: the message runs again, the first run is refused."""
    app = App("shop")
    items, jobs = app.table("items", Item, key="id"), app.queue("jobs", Job)
    gates = [asyncio.Event(), asyncio.Event()]
    errors: list[str] = []

    @app.on(jobs, concurrency=4)
    async def work(event: Event[Job]) -> None:
        await items.update("effects", add={"n": 1})
        await gates[event.attempt - 1].wait()

        async def charge() -> int:
            await items.update("charges", add={"n": 1})
            return 1

        try:
            await step("charge", charge)
        except HeadwaterError as error:
            errors.append(type(error).__name__)
            raise

    h = await harness(app)
    await jobs.send(Job())
    await asyncio.sleep(0.02)
    h.clock.move_to(31)
    await asyncio.sleep(0.02)
    consumer, *_ = h.supervisor.consumers.values()
    assert consumer.stats.running == 2
    gates[0].set()
    await until(lambda: consumer.stats.running == 1)
    assert consumer.busy
    assert await items.get("charges") is None
    gates[1].set()
    await h.run_until_idle()
    assert errors == ["LeaseLost"]
    assert await items.get("effects") == Item(id="effects", n=1)
    assert await items.get("charges") == Item(id="charges", n=1)
    assert not consumer.busy


async def test_leases_are_extended_while_a_handler_lives(harness: StartHarness) -> None:
    app = App("shop")
    jobs = app.queue("jobs", Job, visibility="30s")
    gate, runs = asyncio.Event(), []

    @app.on(jobs)
    async def work(event: Event[Job]) -> None:
        runs.append(event.attempt)
        await gate.wait()

    h = await harness(app)
    await jobs.send(Job())
    for second in range(1, 120, 9):
        await asyncio.sleep(0.002)
        h.clock.move_to(second)
    await asyncio.sleep(0.01)
    gate.set()
    await h.run_until_idle()
    assert runs == [1]


async def test_a_commit_that_is_refused_is_a_failure(harness: StartHarness) -> None:
    app = App("shop")
    jobs, full = app.queue("jobs", Job, max_receives=2), app.queue("full", max_depth=1)
    items, big = app.table("items", Item, key="id"), app.queue("big", Job, max_receives=1)
    many = app.queue("many", Job, max_receives=1)

    @app.on(jobs)
    async def work(event: Event[Job]) -> None:
        await full.send({})

    @app.on(big)
    async def grow(event: Event[Job]) -> None:
        await items.update("a", append={"tags": ["x" * 1000]})

    @app.on(many)
    async def write_much(event: Event[Job]) -> None:
        for n in range(10_001):
            await full.send({}, delay=n)

    h = await harness(app)
    await full.send({})
    await items.put(Item(id="a", kind="x" * (MAX_DOCUMENT - 500)))
    for queue in (jobs, big, many):
        await queue.send(Job())
    await h.advance(minutes=1)
    letters = {letter.queue: (letter.receives, letter.reason) for letter in await h.dead_letters()}
    assert {queue: receives for queue, (receives, _) in letters.items()} == {
        "shop/jobs": 2,
        "shop/big": 1,
        "shop/many": 1,
    }
    assert "QueueFull" in letters["shop/jobs"][1]
    assert "TooLarge" in letters["shop/big"][1]
    assert "operations" in letters["shop/many"][1]


async def test_endless_causes_end_in_the_dead_letters(harness: StartHarness) -> None:
    app = App("shop")
    jobs = app.queue("jobs", Job)

    @app.on(jobs)
    async def work(event: Event[Job]) -> None:
        await jobs.send(Job(n=event.data.n + 1))

    h = await harness(app)
    await jobs.send(Job())
    await h.run_until_idle()
    (letter,) = await h.dead_letters()
    assert "32 causes" in letter.reason
    assert letter.event.data == b'{"id":"","n":33}'


async def test_events_know_what_caused_them(harness: StartHarness) -> None:
    app = App("shop")
    items, jobs = app.table("items", Item, key="id"), app.queue("jobs", Job)
    causes: list[tuple[str | None, str]] = []

    @app.on(jobs)
    async def work(event: Event[Job]) -> None:
        causes.append((event.cause, event.trace))
        await items.put(Item(id="a"))

    @app.on(items)
    async def watch(change: Any) -> None:
        causes.append((change.cause, change.trace))

    h = await harness(app)
    sent = await jobs.send(Job())
    await h.run_until_idle()
    (first, trace), (second, same) = causes
    assert first is None
    assert second == f"{sent}/shop/jobs"
    assert trace == same
    assert len(await h.supervisor.engine.trace(trace)) == 2


async def test_a_crash_runs_what_ran_again_with_that_receive_counted(harness: StartHarness) -> None:
    app = App("shop")
    items, jobs = app.table("items", Item, key="id"), app.queue("jobs", Job, max_receives=3)
    attempts: list[tuple[int, int]] = []

    @app.on(jobs)
    async def work(event: Event[Job]) -> None:
        attempts.append((event.data.n, event.attempt))
        await items.update("sum", add={"n": 1})
        if event.data.n == 0 and event.attempt < 3:
            await asyncio.Event().wait()

    h = await harness(app)
    for n in (0, 1):
        await jobs.send(Job(n=n))
    await until(lambda: len(attempts) == 2)
    await until(lambda: next(iter(h.supervisor.consumers.values())).stats.handled == 1)
    await h.crash()
    assert attempts[-1] == (0, 2)
    await h.crash()
    await h.run_until_idle()
    assert [attempt for n, attempt in attempts if n == 0] == [1, 2, 3]
    assert [attempt for n, attempt in attempts if n == 1] == [1]
    assert await items.get("sum") == Item(id="sum", n=2)


async def test_a_message_that_kills_the_process_each_time_is_buried(harness: StartHarness) -> None:
    app = App("shop")
    jobs = app.queue("jobs", Job, max_receives=2)
    runs: list[int] = []

    @app.on(jobs)
    async def work(event: Event[Job]) -> None:
        runs.append(event.attempt)
        if event.data.n == 0:
            await asyncio.Event().wait()

    h = await harness(app)
    await jobs.send(Job(n=0))
    await until(lambda: len(runs) == 1)
    await h.crash()
    assert len(runs) == 2
    await h.crash()
    await h.run_until_idle()
    assert runs == [1, 2]
    (letter,) = await h.dead_letters()
    assert "without an end" in letter.reason
    assert [failure["outcome"] for failure in letter.failures][:2] == ["died", "died"]
