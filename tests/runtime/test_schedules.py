"""Schedules: each nominal time has its tick once, whatever the clock, the process and other schedulers do."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydantic_settings import BaseSettings

from headwater import App, DeclarationError, Event, InvalidValue, Tick, UnknownResource
from headwater.codec import decode_json
from headwater.cron import parse_schedule
from headwater.engines.sqlite.engine import SqliteEngine
from headwater.events import Envelope
from headwater.metrics import series
from headwater.pytest_plugin import StartHarness
from headwater.runtime.admin import Admin
from headwater.runtime.scheduler import COUNTED, ON_TIME_MS, Firing, Scheduler, due_times, plan_firing
from headwater.runtime.supervisor import Supervisor
from headwater.schedules import Schedule, ScheduleOptions, ScheduleRow, ScheduleSpec
from headwater.testing import Harness, VirtualClock
from tests.patience import PATIENCE_S

HOUR_MS = 3_600_000


class Watched:
    """An app with a schedule and what its handler got."""

    def __init__(self, when: str = "1h", **options: Any) -> None:
        self.app = App("shop")
        self.schedule: Schedule = self.app.schedule(when, **{"name": "sweep", **options})
        self.ticks: list[Tick] = []

        @self.app.on(self.schedule, name="sweeps")
        async def sweep(event: Event[Tick]) -> None:
            self.ticks.append(event.data)

    @property
    def times(self) -> list[str]:
        return [shown(tick) for tick in self.ticks]

    @property
    def missed(self) -> list[int]:
        return [tick.missed for tick in self.ticks]


def shown(tick: Tick) -> str:
    return tick.nominal.strftime("%d %H:%M")


async def events(h: Harness, source: str) -> list[Envelope]:
    found = await h.supervisor.engine.events(0, 1000)
    return [traced.event for traced in found if traced.event.source == source]


async def alarms(h: Harness) -> list[tuple[str, str]]:
    said = [decode_json(event.data or b"") for event in await events(h, "headwater/alarms")]
    return [(alarm["name"], alarm["state"]) for alarm in said]


async def row(h: Harness, name: str = "shop/sweep") -> ScheduleRow:
    found = await h.supervisor.system.read(h.supervisor.system.schedules, name)
    assert found is not None
    return found


def admin(h: Harness) -> Admin:
    return Admin(h.supervisor.engine, h.supervisor)


# A source like any other


async def test_ticks_reach_handlers_queues_and_topics_at_their_times(harness: StartHarness) -> None:
    app = App("shop")
    nightly = app.schedule("0 2 * * *", name="nightly", tz="Europe/Berlin")
    jobs, told = app.queue("jobs", Tick), app.topic("told", Tick)
    nightly.to(jobs, match={"manual": [False]})
    nightly.to(told)
    seen: list[tuple[str, datetime]] = []

    @app.on(nightly)
    async def now(event: Event[Tick]) -> None:
        seen.append((event.source, event.data.nominal))

    @app.on(told, delay="10m")
    async def later(event: Event[Tick]) -> None:
        seen.append(("later", event.time))

    h = await harness(app, start="2026-06-01T00:00:00Z")
    await h.advance(hours=1)
    two = datetime(2026, 6, 1, 0, 0, tzinfo=UTC) + timedelta(days=1)
    assert seen == []
    await h.advance(days=1)
    assert seen == [("shop/nightly", two), ("later", two)]
    (waiting,) = await h.messages(jobs)
    assert decode_json(waiting.event.data or b"")["nominal"] == "2026-06-02T00:00:00Z"


async def test_a_new_schedule_begins_with_its_next_time(harness: StartHarness) -> None:
    watched = Watched("0 9 * * *")
    h = await harness(watched.app, start="2026-01-01T09:00:00Z")
    await h.advance(hours=23, minutes=59)
    assert watched.times == []
    await h.advance(minutes=1)
    assert watched.times == ["02 09:00"]


async def test_a_single_time_fires_once(harness: StartHarness) -> None:
    watched = Watched("at(2026-01-01T12:00:00)")
    h = await harness(watched.app)
    await h.advance(days=2)
    await h.restart()
    await h.advance(days=2)
    assert watched.times == ["01 12:00"]


async def test_a_late_expression_is_read_from_the_settings(harness: StartHarness) -> None:
    class Settings(BaseSettings):
        every: str = "1h"

    app = App("shop", settings=Settings)
    ticks = app.queue("ticks", Tick)
    app.schedule(app.late(lambda settings: settings.every), name="sweep").to(ticks)
    h = await harness(app, settings={"shop": {"every": "30m"}})
    await h.advance(hours=2)
    assert len(await h.messages(ticks)) == 4
    wrong = Harness(app, settings={"shop": {"every": "soon"}})
    with pytest.raises(DeclarationError, match=r"shop/sweep 'soon'.*is not a duration"):
        await wrong.__aenter__()


# Missed times


@pytest.mark.parametrize(
    ("options", "times", "missed"),
    [
        ({}, ["01 02:00", "02 05:00", "02 06:00"], [0, 26, 0]),
        (
            {"missed": "catch_up", "most": 3},
            ["01 02:00", "02 03:00", "02 04:00", "02 05:00", "02 06:00"],
            [0, 24, 0, 0, 0],
        ),
        ({"missed": "skip"}, ["01 02:00", "02 06:00"], [0, 27]),
    ],
)
async def test_times_at_which_no_server_ran(
    tmp_path: Path, options: ScheduleOptions, times: list[str], missed: list[int]
) -> None:
    watched = Watched("1h", **options)
    async with Harness(watched.app, store=tmp_path, start="2026-01-01T01:30:00Z") as h:
        await h.advance(hours=1)
        assert await alarms(h) == []
    async with Harness(watched.app, store=tmp_path, start="2026-01-02T05:30:00Z") as h:
        await h.run_until_idle()
        await h.advance(hours=1)
        assert await alarms(h) == [("schedule-missed", "alarm"), ("schedule-missed", "ok")]
    assert (watched.times, watched.missed) == (times, missed)


async def test_a_server_that_was_down_for_less_than_a_period_makes_up_for_the_one_time(tmp_path: Path) -> None:
    watched = Watched("0 9 * * *")
    async with Harness(watched.app, store=tmp_path, start="2026-01-01T08:00:00Z"):
        pass
    async with Harness(watched.app, store=tmp_path, start="2026-01-01T10:00:00Z") as h:
        await h.run_until_idle()
        assert await alarms(h) == [("schedule-missed", "alarm")]
    assert (watched.times, watched.missed) == (["01 09:00"], [0])


def test_what_becomes_of_due_times() -> None:
    now, times = 10 * HOUR_MS + 500, [8 * HOUR_MS, 9 * HOUR_MS, 10 * HOUR_MS]

    def plan(missed: Any, due: list[int], at: int = now, untold: int = 0) -> Firing:
        return plan_firing("s", ScheduleSpec(when="1h", missed=missed, most=2), due, at, untold)

    assert plan("coalesce", times[2:]) == Firing(((times[2], 0),), 0, False)
    assert plan("coalesce", times) == Firing(((times[2], 2),), 0, True)
    assert plan("coalesce", times, untold=3) == Firing(((times[2], 5),), 0, True)
    assert plan("skip", times) == Firing(((times[2], 2),), 0, True)
    assert plan("skip", times, now + ON_TIME_MS) == Firing((), 3, True)
    assert plan("catch_up", times) == Firing(((times[1], 1), (times[2], 0)), 0, True)
    assert not plan("skip", times[2:], times[2] + ON_TIME_MS).late


def test_counting_missed_times_has_an_end() -> None:
    spec = ScheduleSpec(when="* * * * *")
    due = due_times("s", spec, 0, 1_000_000 * 60_000)
    assert len(due) == COUNTED
    assert due[-1] == 1_000_000 * 60_000


# Clocks, crashes and competitors


@pytest.mark.parametrize(("when", "minutes"), [("1h", 60), ("20m", 20), ("0 * * * *", 60), ("*/20 * * * *", 20)])
@pytest.mark.parametrize("steps", [(-1, 1), (1, -1), (-1, -1, 2), (1, 1, -2)])
async def test_a_clock_that_is_set_fires_nothing_twice(
    harness: StartHarness, when: str, minutes: int, steps: tuple[int, ...]
) -> None:
    watched = Watched(when)
    h = await harness(watched.app, start="2026-01-01T10:10:00Z")
    for hours in steps:
        await h.advance(minutes=70)
        await h.set_clock(hours=hours)
    await h.advance(hours=4)
    times = [tick.nominal for tick in watched.ticks]
    assert times == sorted(set(times))
    assert len(times) + sum(watched.missed) == (times[-1] - times[0]) / timedelta(minutes=minutes) + 1


async def test_a_step_forward_is_noticed_and_a_step_back_waits(harness: StartHarness) -> None:
    watched = Watched()
    h = await harness(watched.app, start="2026-01-01T10:30:00Z")
    await h.set_clock(hours=3)
    assert (watched.times, watched.missed) == (["01 13:00"], [2])
    assert h.supervisor.recorder.counters[series("schedule_missed_total", schedule="shop/sweep")] == 2
    await h.set_clock(hours=-1)
    await h.advance(minutes=89)
    assert watched.times == ["01 13:00"]
    await h.advance(minutes=1)
    assert (watched.times, watched.missed) == (["01 13:00", "01 14:00"], [2, 0])


async def test_crashes_between_lose_nothing_and_repeat_nothing(harness: StartHarness) -> None:
    watched = Watched("30m")
    h = await harness(watched.app, start="2026-01-01T00:10:00Z")
    for n in range(12):
        await h.advance(minutes=30)
        if n % 3 == 1:  # due, and the process dies before its scheduler looks
            h.clock.move_to(h.clock.monotonic() + 1800)
        await h.crash()
        await h.run_until_idle()
    ticks = [decode_json(event.data or b"") for event in await events(h, "shop/sweep")]
    nominal = [tick["nominal"] for tick in ticks]
    assert len(nominal) == len(set(nominal)) == 16
    assert sum(tick["missed"] for tick in ticks) == 0


@pytest.mark.parametrize("durable", [False, True])
async def test_a_crash_within_the_firing_commit_fires_once(harness: StartHarness, durable: bool) -> None:
    watched = Watched()
    h = await harness(watched.app, start="2026-01-01T00:30:00Z")
    await h.run_until_idle()
    engine = h.supervisor.engine
    committed, commit = asyncio.Event(), engine.commit

    def cut_off(unit: Any) -> asyncio.Future[Any]:
        """The process dies before the commit, or after it and before its answer."""
        if durable:
            _ = commit(unit)
        committed.set()
        return asyncio.get_running_loop().create_future()

    engine.commit = cut_off  # type: ignore[assignment, method-assign]
    h.clock.move_to(1800)
    await asyncio.wait_for(committed.wait(), PATIENCE_S)
    await h.crash()
    await h.run_until_idle()
    assert [event.id for event in await events(h, "shop/sweep")] != []
    assert len(await events(h, "shop/sweep")) == 1
    assert set(watched.times) == {"01 01:00"}


async def test_schedulers_that_race_fire_once(harness: StartHarness) -> None:
    watched = Watched("1m")
    h = await harness(watched.app)
    await h.supervisor.scheduler.wakeups.stop()
    supervisor = h.supervisor
    racing = [
        Scheduler(supervisor.system, supervisor.graph.apps, supervisor.engine, h.clock, supervisor.recorder)
        for _ in range(4)
    ]
    for scheduler in racing:
        await scheduler.prepare()
    for _ in range(20):
        h.clock.move_to(h.clock.monotonic() + 60)
        await asyncio.gather(*(scheduler.fire_due() for scheduler in racing))
    await h.run_until_idle()
    nominal = [decode_json(event.data or b"")["nominal"] for event in await events(h, "shop/sweep")]
    assert len(nominal) == len(set(nominal)) == 20
    assert supervisor.recorder.counters[series("schedule_ticks_total", schedule="shop/sweep")] == 20


async def test_a_year_of_hours(tmp_path: Path) -> None:
    app, clock = App("shop"), VirtualClock("2026-01-01T00:00:00Z")
    hourly = app.schedule("1h")
    engine = SqliteEngine(tmp_path, clock=clock, synchronous="OFF")  # 8,760 flushes would measure the disk
    supervisor = Supervisor([app], engine, clock, upkeep=False)
    await supervisor.start()
    due_ms = await supervisor.scheduler.fire_due()
    for _ in range(365 * 24):
        assert due_ms is not None
        clock.move_to(clock.monotonic() + (due_ms - clock.wall_ms()) / 1000)
        due_ms = await supervisor.scheduler.fire_due()
    found = await supervisor.system.read(supervisor.system.schedules, hourly.name)
    await supervisor.stop(1)
    assert found is not None
    assert (found.fired, found.missed) == (8760, 0)
    assert clock.wall_ms() == int(datetime(2027, 1, 1, tzinfo=UTC).timestamp()) * 1000


# Overlap and jitter


async def test_a_tick_is_left_out_while_the_one_before_is_not_done(harness: StartHarness) -> None:
    watched = Watched("1h", overlap="skip")
    h = await harness(watched.app, start="2026-01-01T00:30:00Z")
    await h.supervisor.engine.pause("shop/sweeps", True)
    await h.advance(hours=3)
    assert len(await h.messages("shop/sweeps")) == 1
    assert ((await row(h)).fired, (await row(h)).skipped, (await row(h)).missed) == (1, 2, 0)
    await h.supervisor.engine.pause("shop/sweeps", False)
    await h.advance(hours=2)
    assert (watched.times, watched.missed) == (["01 01:00", "01 04:00", "01 05:00"], [0, 0, 0])
    await h.restart()
    assert (await row(h)).skipped == 2


async def test_ticks_overlap_by_default(harness: StartHarness) -> None:
    watched = Watched("1h")
    h = await harness(watched.app)
    await h.supervisor.engine.pause("shop/sweeps", True)
    await h.advance(hours=3)
    assert len(await h.messages("shop/sweeps")) == 3


async def test_jitter_delays_each_tick_by_an_amount_of_its_own(harness: StartHarness) -> None:
    def delays(found: list[Envelope]) -> list[float]:
        nominal = [datetime.fromisoformat(decode_json(event.data or b"")["nominal"]) for event in found]
        return [event.time_ms / 1000 - at.timestamp() for event, at in zip(found, nominal, strict=True)]

    measured = []
    for _ in range(2):
        watched = Watched("1h", jitter="10m")
        h = await harness(watched.app)
        await h.advance(hours=24)
        measured.append(delays(await events(h, "shop/sweep"))[:23])
        assert sum(watched.missed) == 0
    assert measured[0] == measured[1]
    assert len(set(measured[0])) == 23
    assert all(0 <= delay <= 600 for delay in measured[0])
    assert max(measured[0]) > 300 > min(measured[0])


def test_a_tick_is_not_due_before_its_jitter_has_passed() -> None:
    spec = ScheduleSpec(when="1h", jitter_ms=600_000)
    starts_ms = spec.starts_ms("s", 5 * HOUR_MS)
    assert starts_ms - 5 * HOUR_MS > 1000
    assert due_times("s", spec, 4 * HOUR_MS, starts_ms - 1) == []
    assert due_times("s", spec, 4 * HOUR_MS, starts_ms) == [5 * HOUR_MS]


# By hand


async def test_a_run_by_hand_has_parameters_and_moves_nothing(harness: StartHarness) -> None:
    watched = Watched()
    h = await harness(watched.app, start="2026-01-01T00:30:00Z")
    before = await row(h)
    id = await watched.schedule.run({"region": "eu"})
    assert await watched.schedule.run({"region": "eu"}, dedup="once") == await watched.schedule.run({}, dedup="once")
    answer = await admin(h).call("schedule-run", {"schedule": "shop/sweep", "parameters": {"region": "us"}})
    await h.run_until_idle()
    assert await row(h) == before
    assert [tick.parameters for tick in watched.ticks] == [{"region": "eu"}] * 2 + [{"region": "us"}]
    assert {(tick.manual, shown(tick), tick.schedule) for tick in watched.ticks} == {(True, "01 00:30", "shop/sweep")}
    assert [event.id for event in await events(h, "shop/sweep")][::2] == [id, answer["id"]]
    await h.advance(minutes=30)
    assert (watched.times[-1], watched.ticks[-1].manual) == ("01 01:00", False)


async def test_a_run_in_a_unit_of_work_is_part_of_it(harness: StartHarness) -> None:
    watched = Watched()
    h = await harness(watched.app)

    async def fail() -> None:
        async with watched.app.transaction():
            await watched.schedule.run()
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await fail()
    async with watched.app.transaction():
        await watched.schedule.run({"n": 1})
    await h.run_until_idle()
    assert [tick.parameters for tick in watched.ticks] == [{"n": 1}]


async def test_what_falls_into_a_pause_is_not_made_up_for(harness: StartHarness) -> None:
    watched = Watched()
    h = await harness(watched.app, start="2026-01-01T00:30:00Z")
    assert await admin(h).call("schedule-pause", {"schedule": "shop/sweep"}) == {
        "schedule": "shop/sweep",
        "paused": True,
    }
    await h.advance(hours=5)
    await h.restart()
    await h.advance(hours=5)
    await watched.schedule.run()
    await h.run_until_idle()
    assert [tick.manual for tick in watched.ticks] == [True]
    (listed,) = (await admin(h).call("schedules", {}))["schedules"]
    assert (listed["paused"], listed["next"], listed["last"]) == (True, None, None)
    await admin(h).call("schedule-resume", {"schedule": "shop/sweep"})
    await h.run_until_idle()
    assert len(watched.ticks) == 1
    await h.advance(hours=1)
    assert (watched.times[1:], watched.missed[1:], await alarms(h)) == (["01 11:00"], [0], [])


async def test_a_schedule_is_listed_with_its_runs_in_words(harness: StartHarness) -> None:
    watched = Watched("0 9 * * mon-fri", tz="Europe/Berlin")
    h = await harness(watched.app, start="2026-03-27T07:00:00Z")
    await h.advance(hours=2)
    (listed,) = (await admin(h).call("schedules", {}))["schedules"]
    assert listed["words"] == "every weekday at 09:00 Europe/Berlin"
    assert (listed["last"], listed["next"]) == ("2026-03-27T08:00:00.000Z", "2026-03-30T07:00:00.000Z")
    assert (listed["fired"], listed["missed_runs"], listed["skipped"]) == (1, 0, 0)
    runs = await admin(h).call("schedule-next", {"schedule": "shop/sweep", "limit": 2})
    assert runs["words"] == listed["words"]
    assert runs["next"] == [
        {"time": "2026-03-30T07:00:00.000Z", "local": "2026-03-30T09:00:00+02:00"},
        {"time": "2026-03-31T07:00:00.000Z", "local": "2026-03-31T09:00:00+02:00"},
    ]
    resources = await admin(h).call("resources", {})
    assert (resources["schedules"], resources["topics"]) == ([{"name": "shop/sweep"}], [])
    for operation in ("schedule-next", "schedule-run", "schedule-pause", "schedule-resume"):
        with pytest.raises(UnknownResource, match="no schedule of this name"):
            await admin(h).call(operation, {"schedule": "shop/none"})
    with pytest.raises(InvalidValue, match="schedule run shop/sweep"):
        await admin(h).call("publish", {"topic": "shop/sweep", "data": {}})


# Declarations


async def test_a_changed_expression_begins_anew_and_a_removed_schedule_is_forgotten(tmp_path: Path) -> None:
    first = Watched("1h")
    first.app.schedule("2h", name="gone")
    async with Harness(first.app, store=tmp_path, start="2026-01-01T00:30:00Z") as h:
        await admin(h).call("schedule-pause", {"schedule": "shop/gone"})
    second = Watched("20m", missed="catch_up")
    async with Harness(second.app, store=tmp_path, start="2026-01-01T09:30:00Z") as h:
        await h.advance(minutes=15)
        assert second.times == ["01 09:40"]
        assert [one.name for one in await h.supervisor.system.rows(h.supervisor.system.schedules)] == ["shop/sweep"]
        assert (await row(h)).spec.missed == "catch_up"
    third = Watched("20m", missed="skip")
    async with Harness(third.app, store=tmp_path, start="2026-01-01T10:30:00Z") as h:
        await h.advance(minutes=10)
        assert (third.times, third.missed) == (["01 10:40"], [2])


@pytest.mark.parametrize(
    ("when", "options", "said"),
    [
        ("0 9 * * 8", {"name": "s"}, "shop/s '0 9 * * 8': day of week: '8' is not among 0-7"),
        ("1h", {"name": "s", "missed": "later"}, "missed='later' is none (it is coalesce, catch_up, skip)"),
        ("1h", {"name": "s", "overlap": "never"}, "overlap='never' is none"),
        ("1h", {"name": "s", "most": 0}, "most=0 is none (it is 1 to 1000)"),
        ("1h", {"name": "s", "missed": "catch_up", "overlap": "skip"}, "several ticks at once"),
        ("1h", {"name": "s", "jitter": "1h"}, "a jitter of 3600 s reaches the next time"),
        ("0 9,10 * * *", {"name": "s", "jitter": "90m"}, "reaches the next time, 3600 s later"),
        ("1h", {"name": "No"}, "is no name for a schedule"),
    ],
)
def test_a_wrong_declaration_is_refused(when: str, options: Any, said: str) -> None:
    with pytest.raises(DeclarationError) as refused:
        App("shop").schedule(when, **options)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("when", "tz", "name"),
    [
        ("1h", "UTC", "every-1h"),
        ("0 9 * * mon-fri", "Europe/Berlin", "cron-0-9-any-any-mon-fri-europe-berlin"),
        ("cron(0 9 ? * MON-FRI *)", "UTC", "cron-0-9-any-any-mon-fri-any"),
        ("rate(5 minutes)", "UTC", "rate-5-minutes"),
    ],
)
def test_a_schedule_without_a_name_is_named_by_its_expression(when: str, tz: str, name: str) -> None:
    app = App("shop")
    assert app.schedule(when, tz=tz).name == f"shop/{name}"
    with pytest.raises(DeclarationError, match="the name is taken"):
        app.schedule(when, tz=tz)


def test_names_are_short_enough_and_late_expressions_need_one() -> None:
    app = App("shop")
    minutes = ",".join(map(str, range(0, 60, 3)))
    first, second = app.schedule(f"{minutes} 9 * * *"), app.schedule(f"{minutes} 9 * * 1")
    assert len(first.name) == len(second.name) <= len("shop/") + 63
    assert first.name != second.name
    with pytest.raises(DeclarationError, match="give name="):
        app.schedule(app.late(lambda settings: "1h"))
    assert app.schedule(timedelta(minutes=90)).spec().when == "5400s"


def test_a_schedule_is_no_target() -> None:
    app = App("shop")
    topic = app.topic("placed", Tick)
    with pytest.raises(DeclarationError, match="a route ends at a queue"):
        topic.to(app.schedule("1h"))  # type: ignore[arg-type]


def test_a_tick_is_what_the_words_of_the_wire_say() -> None:
    nominal = datetime(2026, 1, 1, 9, tzinfo=UTC)
    text = msgspec.json.encode(Tick(schedule="shop/sweep", nominal=nominal, missed=2))
    assert decode_json(text) == {
        "schedule": "shop/sweep",
        "nominal": "2026-01-01T09:00:00Z",
        "missed": 2,
        "manual": False,
        "parameters": {},
    }
    assert parse_schedule("1h").words == "every hour"
