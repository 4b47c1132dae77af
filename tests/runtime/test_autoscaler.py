"""The autoscaler on a real store: from zero at once, back to zero after the cool-down, and no workers for poison."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Unpack

import httpx
import pytest

from headwater import App, DeclarationError, Event, Scale
from headwater.handlers import QueueOptions
from headwater.http.prometheus import make_metrics
from headwater.pytest_plugin import StartHarness
from headwater.runtime.admin import Admin
from headwater.runtime.autoscaler import RETRY_MS
from headwater.scaling import Scaling
from headwater.testing import Harness
from tests.runtime.fleet import QUEUE, Yard
from tests.runtime.samples import Job

MakeYard = Callable[..., Awaitable[Yard]]
SCALE = Scale(max=4, backlog_per_worker=10, cooldown="20s")


@asynccontextmanager
async def started(h: Harness, scale: Scale = SCALE) -> AsyncIterator[Yard]:
    """The yard of a harness whose app has the queue "jobs", and whose own server does not consume it."""
    (app,) = h.apps
    yard = Yard(h, app.queues[QUEUE], scale)
    await yard.start()
    try:
        yield yard
    finally:
        await yard.stop()


async def shop(start: StartHarness, **policy: Unpack[QueueOptions]) -> Harness:
    app = App[None]("shop")
    app.queue("jobs", Job, **policy)
    return await start(app)


async def decisions(h: Harness) -> list[Scaling]:
    """Oldest first."""
    return await h.supervisor.system.rows(h.supervisor.system.scalings)


def numbers(rows: list[Scaling]) -> list[tuple[int, int]]:
    return [(row.before, row.wanted) for row in rows]


async def test_the_first_message_starts_a_worker_without_a_moment_passing(harness: StartHarness) -> None:
    h = await shop(harness)
    async with started(h) as yard:
        await yard.pass_time(300)
        assert yard.fleet.told == [0]
        before = h.clock.monotonic()
        await yard.send(1)
        await yard.settle()
        assert yard.fleet.told == [0, 1]
        assert h.clock.monotonic() == before
        await yard.pass_time(2)
        assert yard.attempts == [("0", 1)]  # the doorbell is no receive
        assert await yard.backlog() == 0


async def test_the_doorbell_leaves_the_order_of_a_group(harness: StartHarness) -> None:
    h = await shop(harness, fifo=True)
    async with started(h) as yard:
        for round in range(3):
            for number in range(3):
                await yard.jobs.send(Job(id=f"{round}{number}", n=1), group="one")
            await yard.settle()
            assert yard.fleet.told[-1] == 1
            await yard.pass_time(60)
            assert yard.fleet.told[-1] == 0
        assert yard.attempts == [(f"{round}{number}", 1) for round in range(3) for number in range(3)]


async def test_a_backlog_in_few_groups_has_as_many_workers_as_groups(harness: StartHarness) -> None:
    h = await shop(harness, fifo=True)
    async with started(h) as yard:
        async with h.apps[0].transaction():
            for number in range(80):
                await yard.jobs.send(Job(id=str(number), n=1), group="ab"[number % 2])
        await yard.settle()
        await yard.pass_time(30)
        assert yard.fleet.told == [0, 2]
        assert len(yard.attempts) >= 50
        assert (await decisions(h))[0].reason == "80 messages, 10 a worker, in 2 groups"
        async with h.apps[0].transaction():
            for number in range(80, 100):
                await yard.jobs.send(Job(id=str(number), n=1), group=str(number))
        await yard.pass_time(2)
        assert yard.fleet.told == [0, 2, 4]


async def test_a_group_in_back_off_has_no_worker(harness: StartHarness) -> None:
    h = await shop(harness, fifo=True, max_receives=500, backoff="1h")
    async with started(h) as yard:
        async with h.apps[0].transaction():
            for number in range(50):
                await yard.jobs.send(Job(id=str(number), n=-1), group="a")
        await yard.settle()
        await yard.pass_time(60)
        assert len(yard.attempts) == 1
        assert yard.fleet.told == [0, 1, 0]
        assert (await decisions(h))[-1].reason == "49 messages, none of a group that is ready"
        while len(yard.attempts) == 1:
            await yard.pass_time(300)
        assert yard.fleet.told[:4] == [0, 1, 0, 1]


async def test_a_queue_at_zero_costs_nothing(harness: StartHarness) -> None:
    h = await shop(harness)
    async with started(h) as yard:
        due = h.clock.next_timer()
        await yard.pass_time(50)
        assert not yard.scaler.wakeups.busy
        assert due is None or due > 50


async def test_a_burst_is_worked_off_and_ends_at_zero_after_the_cool_down(harness: StartHarness) -> None:
    h = await shop(harness)
    async with started(h) as yard:
        await yard.send(60, n=2)
        await yard.settle()
        assert yard.fleet.told == [0, 4]
        await yard.pass_time(29)
        assert await yard.backlog() > 0
        await yard.pass_time(3)
        assert await yard.backlog() == 0
        await yard.pass_time(16)
        assert yard.fleet.running(QUEUE) == 4
        await yard.pass_time(6)
        assert yard.fleet.running(QUEUE) == 0
        assert len(yard.attempts) == 60
        assert yard.fleet.told[1:] == sorted(yard.fleet.told[1:], reverse=True)
        rows = await decisions(h)
        assert numbers(rows)[0] == (0, 4)
        assert rows[0].reason == "60 messages, 10 a worker, of 4 at most"
        assert (rows[0].backlog, rows[0].queue) == (60, QUEUE)
        assert numbers(rows)[-1][1] == 0
        assert rows[-1].reason == "no message waits"
        assert [row.wanted for row in rows] == [row.before for row in rows[1:]] + [0]


async def test_by_age_workers_come_when_jobs_turn_out_to_be_long(harness: StartHarness) -> None:
    h = await shop(harness)
    async with started(h, Scale(max=6, target_age="30s", cooldown="20s")) as yard:
        await yard.send(40, n=3)
        await yard.pass_time(2)
        assert yard.fleet.told == [0, 1]
        await yard.pass_time(6)
        assert yard.fleet.running(QUEUE) in (4, 5)  # 120 s of work within 30 s
        await yard.pass_time(30)
        assert await yard.backlog() == 0
        assert "s each, within 30 s" in (await decisions(h))[1].reason


async def test_a_poison_message_has_one_worker_and_no_more(harness: StartHarness) -> None:
    h = await shop(harness, max_receives=500, visibility="30s")
    async with started(h, Scale(max=4, target_age="2s", cooldown="20s")) as yard:
        await yard.send(1, n=-1)
        await yard.pass_time(600)
        assert len(yard.attempts) > 5
        assert set(yard.fleet.told) == {0, 1}


async def test_a_pile_of_poison_brings_no_workers(harness: StartHarness) -> None:
    h = await shop(harness, max_receives=500, backoff="1s")
    scale = Scale(max=4, backlog_per_worker=1, cooldown="10s")
    async with started(h, Scale(max=1)) as yard:
        await yard.send(20, n=-1)
        await yard.pass_time(60)
        assert len(yard.attempts) >= 20
    h.clock.move_to(h.clock.monotonic() + 3600)  # all of them are ready
    async with started(h, scale) as yard:
        await yard.pass_time(30)
        assert set(yard.fleet.told) == {1}
        await yard.jobs.send(Job(id="good", n=1))
        await yard.jobs.send(Job(id="good", n=1))
        await yard.jobs.send(Job(id="good", n=1))
        await yard.pass_time(1)
        assert max(yard.fleet.told) <= 3


async def test_a_target_that_fails_is_told_again(harness: StartHarness) -> None:
    h = await shop(harness)
    async with started(h) as yard:
        yard.fleet.refusals = 2
        await yard.send(1)
        await yard.settle()
        assert yard.fleet.told == [0, 1]
        await yard.pass_time(RETRY_MS / 1000 - 1)
        assert yard.fleet.told == [0, 1]
        await yard.pass_time(3 * RETRY_MS / 1000)
        assert yard.fleet.told[:4] == [0, 1, 1, 1]
        assert await yard.backlog() == 0
        assert numbers(await decisions(h))[0] == (0, 1)


async def test_a_paused_queue_has_no_workers_until_it_is_resumed(harness: StartHarness) -> None:
    h = await shop(harness)
    async with started(h) as yard:
        await h.supervisor.engine.pause(QUEUE, True)
        await yard.send(3)
        await yard.pass_time(100)
        assert yard.fleet.told == [0]
        await h.supervisor.engine.pause(QUEUE, False)
        await yard.settle()
        assert yard.fleet.told == [0, 1]


async def test_a_delayed_message_brings_its_worker_when_it_is_due(harness: StartHarness) -> None:
    h = await shop(harness)
    async with started(h) as yard:
        await yard.jobs.send(Job(id="late"), delay="10m")
        await yard.pass_time(599)
        assert yard.fleet.told == [0]
        await yard.pass_time(1.1)
        assert yard.fleet.told == [0, 1]
        for number in range(30):
            await yard.jobs.send(Job(id=f"later {number}"), delay="1h")
        await yard.pass_time(10)
        assert yard.fleet.told == [0, 1]


async def test_after_a_restart_the_number_goes_on_if_messages_wait(harness: StartHarness) -> None:
    h = await shop(harness)
    async with started(h) as yard:
        await yard.send(60, n=30)
        await yard.pass_time(2)
        assert yard.fleet.told == [0, 4]
    await h.supervisor.engine.purge(QUEUE)
    await yard.send(1)
    async with started(h) as yard:
        assert yard.fleet.told == [4]
        await yard.pass_time(40)
        assert yard.fleet.running(QUEUE) == 0
    async with started(h) as yard:
        await yard.pass_time(1)
        assert yard.fleet.told == [0]
    assert numbers(await decisions(h)) == [(0, 4), (4, 1), (1, 0)]


async def test_after_a_restart_an_empty_queue_has_no_workers(harness: StartHarness) -> None:
    h = await shop(harness)
    async with started(h) as yard:
        await yard.send(60, n=30)
        await yard.settle()
        await yard.pass_time(2)
    await h.supervisor.engine.purge(QUEUE)
    async with started(h) as yard:
        assert yard.fleet.told == [0]
    assert numbers(await decisions(h)) == [(0, 4), (4, 0)]


async def test_what_is_wanted_is_told_to_people_and_to_clusters(harness: StartHarness) -> None:
    h = await shop(harness)
    supervisor = h.supervisor
    async with started(h) as yard:
        supervisor.autoscaler = yard.scaler
        admin = Admin(supervisor.engine, supervisor, clock=h.clock)
        await yard.send(25, n=30)
        await yard.settle()
        (one,) = (await admin.call("scales", {}))["scales"]
        assert {name: one[name] for name in ("queue", "wanted", "running", "backlog", "reason", "min", "max")} == {
            "queue": QUEUE,
            "wanted": 3,
            "running": 3,
            "backlog": 25,
            "reason": "25 messages, 10 a worker",
            "min": 0,
            "max": 4,
        }
        (change,) = (await admin.call("scalings", {"queue": QUEUE}))["scalings"]
        assert (change["before"], change["wanted"], change["reason"]) == (0, 3, "25 messages, 10 a worker")
        app = make_metrics(supervisor.monitor.totals, h.clock.wall_ms, yard.scaler.reported)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://metrics") as client:
            answer = await client.get(f"/scale/{QUEUE}")
            assert (answer.status_code, answer.json()["wanted"], answer.json()["backlog"]) == (200, 3, 25)
            assert answer.headers["content-type"] == "application/json"
            missing = await client.get("/scale/shop/other")
            assert (missing.status_code, missing.headers["content-type"]) == (404, "application/problem+json")
            assert (await client.post(f"/scale/{QUEUE}")).status_code == 405
    alone = Admin(supervisor.engine, clock=h.clock)
    (last,) = (await alone.call("scales", {}))["scales"]
    assert (last["queue"], last["wanted"]) == (QUEUE, 3)


def test_a_scale_needs_processes() -> None:
    app = App[None]("shop")
    jobs = app.queue("jobs", Job)
    with pytest.raises(DeclarationError, match='run_in="process"'):

        @app.on(jobs, scale=Scale())
        async def work(event: Event[Job]) -> None: ...


async def test_in_a_harness_the_handler_runs_without_an_autoscaler(harness: StartHarness) -> None:
    app, seen = App[None]("shop"), list[str]()
    jobs = app.queue("jobs", Job)

    @app.on(jobs, run_in="process", scale=SCALE)
    def work(event: Event[Job]) -> None:
        seen.append(event.data.id)

    h = await harness(app)
    await jobs.send(Job(id="1"))
    await h.run_until_idle()
    assert seen == ["1"]
    assert not h.supervisor.autoscaler.watches
