"""The harness: virtual time in order, idleness, restarts, and the ways that tests run it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from pydantic_settings import BaseSettings

from headwater import App, Change, DeclarationError, Event, UnknownResource, wait
from headwater.errors import StoreFull
from headwater.pytest_plugin import StartHarness
from headwater.runtime.supervisor import Supervisor
from headwater.testing import Harness, VirtualClock
from headwater.unit import Commit
from tests.patience import PATIENCE_S
from tests.runtime.samples import Item, Job, until, waiting

pytest_plugins = ["pytester"]


async def test_time_passes_only_in_advance_and_fires_in_order(harness: StartHarness) -> None:
    app = App("shop")
    jobs = app.queue("jobs", Job)
    seen: list[tuple[int, float]] = []

    @app.on(jobs)
    async def work(event: Event[Job]) -> None:
        seen.append((event.data.n, h.clock.monotonic()))
        if event.data.n == 30:
            await jobs.send(Job(n=31), delay=5)

    h = await harness(app)
    start = h.clock.wall_ms()
    for n in (50, 30, 40, 3600):
        await jobs.send(Job(n=n), delay=n)
    await h.run_until_idle()
    assert (seen, h.clock.wall_ms()) == ([], start)
    await h.advance(seconds=29.9)
    assert seen == []
    await h.advance(hours=1)
    assert seen == [(30, 30), (31, 35), (40, 40), (50, 50), (3600, 3600)]
    assert h.clock.wall_ms() == start + 3_629_900


async def test_rows_expire_as_time_passes(harness: StartHarness) -> None:
    app = App("shop")
    items = app.table("items", Item, key="id", ttl="10m")
    seen: list[tuple[str, bool]] = []

    @app.on(items.removed)
    async def gone(change: Any) -> None:
        seen.append((change.subject, change.expired))

    h = await harness(app)
    await items.put(Item(id="a"))
    await h.advance(minutes=9, seconds=59)
    assert await items.get("a") is not None
    await h.advance(seconds=1)
    assert await items.get("a") is None
    assert seen == [("a", True)]


async def test_long_times_are_short_in_reality(harness: StartHarness) -> None:
    app = App("shop")
    items, jobs = app.table("items", Item, key="id"), app.queue("jobs", Job)

    @app.on(jobs)
    async def work(event: Event[Job]) -> None:
        await items.put(Item(id="a"))

    h = await harness(app)
    await jobs.send(Job(), delay="3d")
    begin = time.process_time()
    await h.advance(days=10)
    assert time.process_time() - begin < 5
    assert await items.get("a") is not None


async def test_idle_in_spite_of_paused_orphaned_and_blocked_queues(harness: StartHarness, tmp_path: Path) -> None:
    app = App("shop")
    paused, lonely = app.queue("paused", Job), app.queue("lonely", Job)
    blocked = app.queue("blocked", Job, fifo=True)

    @app.on(paused)
    async def never(event: Event[Job]) -> None:
        raise AssertionError

    @app.on(blocked)
    async def fails(event: Event[Job]) -> None:
        raise ValueError("no")

    h = await harness(app)
    await h.supervisor.engine.pause("shop/paused", True)
    await paused.send(Job())
    await lonely.send(Job())
    for n in range(3):
        await blocked.send(Job(n=n), group="g")
    async with asyncio.timeout(PATIENCE_S):
        await h.run_until_idle()
    assert [len(await waiting(h, queue)) for queue in (paused, lonely, blocked)] == [1, 1, 3]
    assert await h.supervisor.orphans() == ["shop/lonely"]


async def test_a_busy_harness_says_what_is_busy(harness: StartHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    app = App("shop")
    jobs = app.queue("jobs", Job)
    gate = asyncio.Event()

    @app.on(jobs)
    async def work(event: Event[Job]) -> None:
        await gate.wait()

    h = await harness(app)
    await jobs.send(Job())
    monkeypatch.setattr("headwater.runtime.passing.IDLE_LIMIT_S", 0.05)
    with pytest.raises(TimeoutError, match="shop/jobs"):
        await h.run_until_idle()
    gate.set()


async def test_a_restart_keeps_the_store_and_its_dead_letters(harness: StartHarness) -> None:
    app = App("shop")
    items, jobs = app.table("items", Item, key="id"), app.queue("jobs", Job, max_receives=1)

    @app.on(jobs)
    async def work(event: Event[Job]) -> None:
        raise ValueError("no")

    h = await harness(app)
    await items.put(Item(id="a"))
    await jobs.send(Job())
    await h.run_until_idle()
    await jobs.send(Job(), delay=60)
    await h.restart()
    assert await items.get("a") == Item(id="a")
    assert len(await h.dead_letters()) == 1
    await h.advance(minutes=2)
    assert len(await h.dead_letters()) == 2


def test_a_plain_test_waits_for_what_is_async() -> None:
    app = App("shop")
    items, jobs = app.table("items", Item, key="id"), app.queue("jobs", Job, delay=5)

    @app.on(jobs)
    async def work(event: Event[Job]) -> None:
        await items.put(Item(id="a", n=event.data.n))

    with Harness.sync(app) as h:
        wait(jobs.send(Job(n=4)))
        wait(h.advance(seconds=5))
        assert wait(items.get("a")) == Item(id="a", n=4)
    with pytest.raises(DeclarationError, match="no running server"):
        wait(asyncio.sleep(0))
    with pytest.raises(DeclarationError, match="not running"):
        asyncio.run(items.put(Item(id="a")))


async def test_wait_is_refused_on_the_event_loop(harness: StartHarness) -> None:
    app = App("shop")
    items = app.table("items", Item, key="id")
    await harness(app)
    with pytest.raises(DeclarationError, match="await"):
        wait(items.get("a"))


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_fixture_serves_anyios_tests_too(harness: StartHarness, anyio_backend: str) -> None:
    app = App("shop")
    items = app.table("items", Item, key="id")
    await harness(app)
    await items.put(Item(id="a"))
    assert await items.get("a") is not None


def test_the_plugin_runs_async_tests_and_fixtures_on_one_loop_each(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import asyncio, pytest
        loops, order = [], []

        @pytest.fixture
        async def opened():
            loop = asyncio.get_running_loop()
            order.append("open")
            yield loop
            assert asyncio.get_running_loop() is loop
            order.append("close")

        @pytest.fixture
        async def plain(opened):
            await asyncio.sleep(0)
            return 7

        async def test_one(opened, plain):
            assert asyncio.get_running_loop() is opened
            assert plain == 7
            loops.append(opened)

        @pytest.mark.parametrize("n", [1, 2])
        async def test_two(opened, n):
            assert opened not in loops
            loops.append(opened)

        async def test_red():
            assert await asyncio.sleep(0, 1) == 2

        class TestIn:
            async def test_method(self, opened):
                assert order.count("open") == order.count("close") + 1

        @pytest.mark.anyio
        async def test_anyio(anyio_backend_name):
            assert anyio_backend_name

        def test_sync():
            assert order.count("open") == order.count("close") == 4
        """
    )
    result = pytester.runpytest_inprocess("-q", "-W", "error", "-p", "no:cacheprovider")
    outcomes = result.parseoutcomes()
    assert outcomes.pop("failed") == 1
    assert outcomes.pop("passed") >= 6
    result.stdout.fnmatch_lines(["*test_red*"])
    assert "skipped" not in outcomes


async def test_services_reach_apps_and_stand_ins_and_carry_the_trace(harness: StartHarness) -> None:
    shop, till, vendor = App("shop"), App("till"), FastAPI()
    items, jobs = shop.table("items", Item, key="id"), till.queue("jobs", Job)
    shop_client, vendor_client = till.service("shop"), till.service("vendor")
    traces: list[str] = []

    @shop.http.put("/items/{id}")
    async def put(id: str) -> None:
        await items.put(Item(id=id))

    @vendor.get("/hello")
    async def hello() -> str:
        return "vendor"

    @till.on(jobs)
    async def work(event: Event[Job]) -> None:
        answer = await shop_client.client.put("/items/a")
        traces.extend([event.trace, answer.headers["headwater-trace"]])
        assert (await vendor_client.client.get("/hello")).json() == "vendor"

    @shop.on(items)
    async def watch(change: Change[Item]) -> None:
        traces.append(change.trace)

    h = await harness(shop, till, services={"vendor": vendor})
    await jobs.send(Job())
    await h.run_until_idle()
    assert len(traces) == 3
    assert len(set(traces)) == 1


class Settings(BaseSettings):
    vendor_url: str
    pause_s: float = 1


async def test_missing_settings_and_base_urls_are_named(harness: StartHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    app = App("shop", settings=Settings)
    vendor, nowhere = app.service("vendor", base_url=app.late(lambda s: s.vendor_url)), app.service("nowhere")
    with pytest.raises(DeclarationError, match=r"(?s)shop.*vendor_url"):
        await harness(app)
    await harness(app, settings={"shop": {"vendor_url": "http://v.test/api"}})
    assert str(vendor.client.base_url) == "http://v.test/api/"
    with pytest.raises(DeclarationError, match="no base URL"):
        _ = nowhere.client
    monkeypatch.setenv("SHOP_VENDOR_URL", "http://env.test")
    async with Harness(App("till", settings=Settings), settings={"till": {"vendor_url": "x"}}) as other:
        assert other.apps[0].settings.pause_s == 1


async def test_an_unknown_foreign_topic_is_refused_at_start(harness: StartHarness) -> None:
    app = App("till")
    app.foreign("shop/nothing", Job).to(app.queue("inbox", Job))
    with pytest.raises(UnknownResource, match="shop/nothing"):
        await harness(app)


async def test_a_failed_start_leaves_nothing_behind(harness: StartHarness, tmp_path: Path) -> None:
    app = App("shop")

    @asynccontextmanager
    async def fail(_: object) -> AsyncIterator[None]:
        if app.name == "shop":
            raise RuntimeError("no start")
        yield

    app.http.include_router(APIRouter(lifespan=fail))
    with pytest.raises(RuntimeError, match="no start"):
        await harness(app, store=tmp_path / "store")
    with pytest.raises(DeclarationError, match="not running"):
        _ = app.binding
    async with Harness(App("shop"), store=tmp_path / "store"):
        pass


async def test_drain_finishes_what_runs_and_gives_the_rest_back(tmp_path: Path) -> None:
    app = App("shop")
    items, jobs = app.table("items", Item, key="id"), app.queue("jobs", Job)
    started, gate, late = [], asyncio.Event(), asyncio.Event()

    @app.on(jobs, concurrency=2)
    async def work(event: Event[Job]) -> None:
        started.append((event.data.n, event.attempt))
        await items.put(Item(id=str(event.data.n)))
        await (gate if event.data.n == 0 else late).wait()

    async with Harness(app, store=tmp_path / "store") as h:
        for n in range(6):
            await jobs.send(Job(n=n))
        await until(lambda: len(started) == 2)
        stopping = asyncio.create_task(h.supervisor.stop(0.1))
        await asyncio.sleep(0.01)
        gate.set()
        await stopping
        late.set()
        await h._start()
        await h.run_until_idle()
        assert started[0] == (0, 1)
        assert sorted(started[2:]) == [(n, 1) for n in range(1, 6)]
        assert len((await items.query()).items) == 6


class _Full:
    """An engine whose disk is full while `full` is set."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.full = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def commit(self, commit: Commit) -> Any:
        if self.full:
            future = asyncio.get_running_loop().create_future()
            future.set_exception(StoreFull("no room", operation="commit"))
            return future
        return self.engine.commit(commit)


@pytest.mark.parametrize("writes", [True, False])
async def test_a_full_disk_pauses_consumers_and_they_go_on(tmp_path: Path, writes: bool) -> None:
    from headwater.engines import make_engine

    app = App("shop")
    items, jobs = app.table("items", Item, key="id"), app.queue("jobs", Job, max_receives=1)

    @app.on(jobs)
    async def work(event: Event[Job]) -> None:
        if writes:
            await items.update("sum", add={"n": 1})

    clock = VirtualClock()
    engine = _Full(make_engine(f"sqlite:{tmp_path}", clock=clock))
    supervisor = Supervisor([app], engine, clock, upkeep=False)
    await supervisor.start()
    for _ in range(3):
        await jobs.send(Job())
    engine.full = True
    await supervisor.serve()
    consumer, *_ = supervisor.consumers.values()
    await until(lambda: clock.next_timer() is not None and not consumer.busy)
    for second in range(1, 4):
        clock.move_to(second)
        await asyncio.sleep(0.01)
    assert sum(stats.depth for stats in await engine.stats()) == 3
    engine.full = False
    clock.move_to(4)
    await until(lambda: consumer.stats.handled == 3)
    assert await items.get("sum") == (Item(id="sum", n=3) if writes else None)
    await supervisor.stop(1)


async def test_a_stop_while_the_disk_is_full_is_prompt(tmp_path: Path) -> None:
    from headwater.engines import make_engine

    app = App("shop")
    items, jobs = app.table("items", Item, key="id"), app.queue("jobs", Job, max_receives=1)

    @app.on(jobs)
    async def work(event: Event[Job]) -> None:
        await items.put(Item(id="a"))

    clock = VirtualClock()
    engine = _Full(make_engine(f"sqlite:{tmp_path}", clock=clock))
    supervisor = Supervisor([app], engine, clock, upkeep=False)
    await supervisor.start()
    await jobs.send(Job())
    engine.full = True
    await supervisor.serve()
    consumer, *_ = supervisor.consumers.values()
    await until(lambda: not consumer.busy and clock.next_timer() is not None)
    begin = time.monotonic()
    await supervisor.stop(100)
    assert time.monotonic() - begin < 50
    async with Harness(app, store=tmp_path) as h:
        await h.run_until_idle()
        assert await items.get("a") is not None


async def test_time_passes_over_a_paused_queue_with_a_delayed_message(harness: StartHarness) -> None:
    app = App("shop")
    jobs = app.queue("jobs", Job)
    handled: list[int] = []

    @app.on(jobs)
    async def work(event: Event[Job]) -> None:
        handled.append(event.data.n)

    h = await harness(app)
    await h.supervisor.engine.pause(jobs.name, True)
    await jobs.send(Job(n=1), delay="5m")
    async with asyncio.timeout(PATIENCE_S):
        await h.advance(minutes=10)
    assert handled == []
    await h.supervisor.engine.pause(jobs.name, False)
    await h.run_until_idle()
    assert handled == [1]


async def test_a_clients_answers_come_from_the_app(harness: StartHarness) -> None:
    app = App("shop")

    @app.http.get("/hello")
    async def hello() -> str:
        return "hi"

    h = await harness(app)
    answer: httpx.Response = await h.client(app, headers={"x": "y"}).get("/hello")
    assert answer.json() == "hi"


async def test_a_delayed_message_of_a_paused_queue_waits_in_peace_and_comes_when_it_is_resumed(
    harness: StartHarness,
) -> None:
    app, seen = App("shop"), list[float]()
    jobs = app.queue("jobs", Job)

    @app.on(jobs)
    async def work(event: Event[Job]) -> None:
        seen.append(h.clock.monotonic())

    h = await harness(app)
    await h.supervisor.engine.pause("shop/jobs", True)
    await jobs.send(Job(), delay="1m")
    await h.advance(hours=1)
    assert seen == []
    await h.supervisor.engine.pause("shop/jobs", False)
    await h.run_until_idle()
    assert seen == [3600]
