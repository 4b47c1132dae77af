"""Metrics of a running server: what is counted, and what the roll-ups keep of it."""

from __future__ import annotations

from typing import Any

import pytest

from headwater import App, Discard, Event, InvalidValue, Retry, attempt
from headwater.engines import make_engine
from headwater.metrics import Recorder, series
from headwater.pytest_plugin import StartHarness
from headwater.runtime.admin import Admin
from headwater.runtime.recorder import read_totals
from headwater.testing import Harness
from tests.runtime.samples import Job


def admin_of(h: Harness) -> Admin:
    return Admin(h.supervisor.engine, h.supervisor, clock=h.clock)


async def kept(h: Harness, prefix: str = "", last: str = "1h") -> dict[str, list[tuple[str, Any]]]:
    """The points of series by name, their times as HH:MM."""
    answer = await admin_of(h).metrics(series=prefix, last=last)
    return {
        one["series"]: [(point["time"][11:16], point.get("value", point.get("count"))) for point in one["points"]]
        for one in answer["series"]
    }


def judged(app: App[Any], batch: int = 0) -> Any:
    """A queue whose handler does what each message says."""
    jobs = app.queue("jobs", Job, max_receives=2)

    def judge(event: Event[Job]) -> None:
        match event.data.id:
            case "fail":
                raise ValueError("no")
            case "retry" if event.attempt == 1:
                raise Retry(after=1, reason="later")
            case "discard":
                raise Discard("no use")

    if batch:

        @app.on(jobs, batch=batch)
        async def many(events: list[Event[Job]]) -> None:
            for event in events:
                if event.data.id == "discard":
                    async with attempt(event):
                        judge(event)
                else:
                    judge(event)
    else:

        @app.on(jobs)
        async def one(event: Event[Job]) -> None:
            judge(event)

    return jobs


@pytest.mark.parametrize("batch", [0, 10])
async def test_attempts_and_failures_are_counted_by_delivery_also_the_last_one(
    batch: int, harness: StartHarness
) -> None:
    app = App("shop")
    jobs = judged(app, batch)
    h = await harness(app)
    for what in ("good", "fail", "retry", "discard"):
        await jobs.send(Job(id=what))
    await h.advance(seconds=50)
    await h.run_until_idle()
    totals = await h.supervisor.monitor.totals()
    counts = {one.name: n for one, n in totals.counters.items() if one.labels == (("queue", "shop/jobs"),)}
    assert counts == {
        "handler_attempts_total": 6,
        "handler_failures_total": 3,
        "handler_conflicts_total": 0,
        "queue_sent_total": 4,
        "queue_settled_total": 4,
        "queue_retried_total": 2,
    }
    assert totals.gauges[series("queue_dead_letters", queue="shop/jobs")] == 1
    durations = totals.histograms[series("handler_duration_seconds", queue="shop/jobs")]
    assert durations.count >= 4


async def test_a_minute_is_kept_when_it_is_over_and_idle_ones_are_not_written(harness: StartHarness) -> None:
    app = App("shop")
    jobs = judged(app)
    h = await harness(app)
    await h.advance(minutes=10)
    versions = (await h.supervisor.system.metrics.query()).items
    assert versions == []
    await h.advance(seconds=20)
    await jobs.send(Job(id="good"))
    await jobs.send(Job(id="good"), delay="150s")
    await h.advance(seconds=39)
    assert await kept(h) == {}
    await h.advance(minutes=30)
    found = await kept(h)
    assert found['handler_attempts_total{queue="shop/jobs"}'] == [("00:10", 1), ("00:12", 1)]
    assert found['queue_depth{queue="shop/jobs"}'] == [("00:10", 1), ("00:12", 0)]
    assert found['handler_duration_seconds{queue="shop/jobs"}'] == [("00:10", 1), ("00:12", 1)]
    assert not [name for name in found if "conflicts" in name or "dead" in name]


async def test_an_hour_is_a_row_and_two_weeks_are_kept(harness: StartHarness) -> None:
    app = App("shop")
    jobs = judged(app)
    h = await harness(app)
    for _ in range(3):
        await jobs.send(Job(id="good"))
        await h.advance(minutes=30)
    name = 'queue_sent_total{queue="shop/jobs"}'
    rows = (await h.supervisor.system.metrics.query(name)).items
    assert [len(row.points) for row in rows] == [2, 1]
    assert (await kept(h, name, "14d"))[name] == [("00:00", 1), ("00:30", 1), ("01:00", 1)]
    await h.advance(days=14)
    assert await kept(h, name, "14d") == {}


async def test_a_graceful_stop_keeps_the_minute_and_a_crash_loses_it(harness: StartHarness) -> None:
    app = App("shop")
    jobs = judged(app)
    h = await harness(app)
    name = 'queue_sent_total{queue="shop/jobs"}'
    for end in (h.restart, h.crash):
        await jobs.send(Job(id="good"))
        await h.run_until_idle()
        await end()
    await jobs.send(Job(id="good"))
    await h.advance(minutes=2)
    assert (await kept(h, name))[name] == [("00:00", 2)]


async def test_a_gauge_that_a_crash_left_standing_is_put_right(harness: StartHarness) -> None:
    app = App("shop")
    jobs = judged(app)
    h = await harness(app)
    await h.supervisor.engine.pause("shop/jobs", True)
    await jobs.send(Job(id="good"))
    await h.advance(minutes=1)
    await h.supervisor.engine.pause("shop/jobs", False)
    await h.run_until_idle()
    await h.crash()
    await h.advance(minutes=2)
    name = 'queue_depth{queue="shop/jobs"}'
    assert (await kept(h, name))[name] == [("00:00", 1), ("00:01", 0)]


async def test_what_others_record_is_kept_too(harness: StartHarness) -> None:
    app = App("shop")
    h = await harness(app)
    recorder = app.binding.recorder
    recorder.count(series("polls_total", operation="shop/deletions"), 3)
    recorder.gauge(series("pending", operation="shop/deletions"), 7)
    await h.advance(minutes=3)
    recorder.gauge(series("pending", operation="shop/deletions"), 0)
    await h.advance(minutes=3)
    assert await kept(h) == {
        'pending{operation="shop/deletions"}': [("00:00", 7), ("00:03", 0)],
        'polls_total{operation="shop/deletions"}': [("00:00", 3)],
    }


async def test_ranges_are_told_by_time_and_wrong_ones_refused(harness: StartHarness) -> None:
    app = App("shop")
    jobs = judged(app)
    h = await harness(app)
    for _ in range(4):
        await jobs.send(Job(id="good"))
        await h.advance(minutes=1)
    admin, name = admin_of(h), 'queue_sent_total{queue="shop/jobs"}'
    answer = await admin.metrics(series=name, begin="2026-01-01T00:01:00Z", end="2026-01-01T01:03:00+01:00")
    assert [point["time"][11:16] for point in answer["series"][0]["points"]] == ["00:01", "00:02"]
    assert answer["series"][0]["kind"] == "counter"
    for wrong in ({"begin": "yesterday"}, {"begin": "2026-01-01T00:01:00"}, {"last": "2d"}):
        with pytest.raises(InvalidValue):
            await admin.metrics(**wrong)


async def test_a_queue_is_due_since_its_first_message_was_ready(harness: StartHarness) -> None:
    app = App("shop")
    jobs = judged(app)
    h = await harness(app)
    begin = h.clock.wall_ms()

    async def due_s() -> float:
        (stats,) = [stats for stats in await h.supervisor.engine.stats() if stats.queue == "shop/jobs"]
        return (stats.due_ms - begin) / 1000 if stats.due_ms else -1

    await h.supervisor.engine.pause("shop/jobs", True)
    assert await due_s() == -1
    await jobs.send(Job(id="good"), delay="1h")
    assert await due_s() == 3600
    await h.advance(minutes=5)
    await jobs.send(Job(id="good"))
    assert await due_s() == 300
    await jobs.send(Job(id="good"), delay="1m")
    assert await due_s() == 300


async def test_without_a_server_the_store_is_told(harness: StartHarness, tmp_path: Any) -> None:
    app = App("shop")
    jobs = judged(app)
    async with Harness(app, store=tmp_path):
        await jobs.send(Job(id="good"), delay="1h")
    engine = make_engine(f"sqlite:{tmp_path}", read_only=True)
    await engine.open()
    try:
        admin = Admin(engine, store=f"sqlite:{tmp_path}")
        assert 'headwater_queue_depth{queue="shop/jobs"} 1.0' in (await admin.prometheus())["text"]
        assert (await admin.alarms())["alarms"] == []
    finally:
        await engine.close()


async def test_reading_the_totals_changes_nothing_that_is_counted() -> None:
    recorder = Recorder()
    recorder.count(series("polls_total"))
    before = read_totals([], {}, recorder)
    recorder.count(series("polls_total"))
    assert before.counters == {series("polls_total"): 1}
