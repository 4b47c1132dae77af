"""Alarms on the virtual clock: raised to the minute, announced once, over restarts and crashes."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from headwater import AlarmState, App, Event, Queue, Retry
from headwater.errors import Conflict, StoreFull
from headwater.pytest_plugin import StartHarness
from headwater.runtime.admin import Admin
from headwater.runtime.alarms import Alarms
from headwater.system import Alarm
from headwater.testing import Harness
from tests.runtime.samples import Job

START = datetime(2026, 1, 1, tzinfo=UTC)


def minute(n: float) -> datetime:
    return START + timedelta(minutes=n)


class Shop:
    """An app with one queue, whose handler fails as told, and all that alarms say."""

    def __init__(self, **queue: Any) -> None:
        self.app = App("shop")
        self.jobs: Queue[Job] = self.app.queue("jobs", Job, **({"max_receives": 1} | queue))
        self.failing = False
        self.told: list[Any] = []

        @self.app.on(self.jobs)
        async def work(event: Event[Job]) -> None:
            if self.failing:
                raise ValueError("no")

        @self.app.on(self.app.foreign("headwater/alarms", Alarm))
        async def built_in(event: Event[Alarm]) -> None:
            self.told.append((event.data.name, event.data.resource, event.data.state, event.data.since))

        self.work = work

    def watch(self, name: str, metric: Any, **options: Any) -> None:
        alarm = self.app.alarm(name, metric, **options)

        @self.app.on(alarm, name=f"on-{name}")
        async def on(event: Event[AlarmState]) -> None:
            self.told.append((name, event.data.previous, event.data.state, event.data.since))


async def states(h: Harness) -> dict[tuple[str, str], str]:
    rows = (await h.supervisor.system.alarm_states.query()).items
    return {(row.name, row.resource): row.state for row in rows}


async def test_a_depth_is_announced_after_its_minutes_and_again_when_it_is_over(harness: StartHarness) -> None:
    shop = Shop()
    shop.watch("deep", shop.jobs.depth, above=1, for_="3m")
    h = await harness(shop.app)
    await h.advance(minutes=10)
    await h.supervisor.engine.pause("shop/jobs", True)
    await h.advance(seconds=30)
    for _ in range(2):
        await shop.jobs.send(Job())
    await h.advance(minutes=2, seconds=29)
    assert shop.told == []
    await h.advance(seconds=1)
    assert shop.told == [("deep", "ok", "alarm", minute(13))]
    await h.supervisor.engine.pause("shop/jobs", False)
    await h.advance(minutes=5)
    assert shop.told[1:] == [("deep", "alarm", "ok", minute(14))]


async def test_some_minutes_of_a_window_are_enough_when_it_says_so(harness: StartHarness) -> None:
    shop = Shop()
    shop.watch("often", shop.app.metric("failures", shop.work), above=0, datapoints=(3, 5))
    h = await harness(shop.app)
    await h.advance(minutes=5)
    shop.failing = True
    for wait in (2, 2, 1):
        await shop.jobs.send(Job())
        await h.advance(minutes=wait)
    assert [told for told in shop.told if told[0] == "often"] == [("often", "ok", "alarm", minute(10))]
    await h.advance(minutes=2)
    assert [told[1:] for told in shop.told if told[0] == "often"][1:] == [("alarm", "ok", minute(11))]


async def test_only_failure_and_recovery_are_announced_when_missing_data_is_ignored(harness: StartHarness) -> None:
    shop = Shop()
    shop.watch("failing", shop.app.metric("error_rate", shop.work), above=0, missing="ignore")
    h = await harness(shop.app)

    async def handle(*, failing: bool) -> list[Any]:
        shop.failing = failing
        before = len(shop.told)
        await shop.jobs.send(Job())
        await h.advance(hours=5)
        return [told[2] for told in shop.told[before:] if told[0] == "failing"]

    assert [await handle(failing=False) for _ in range(8)] == [[]] * 8
    assert await handle(failing=True) == ["alarm"]
    assert await handle(failing=True) == []
    assert await handle(failing=False) == ["ok"]
    assert await handle(failing=False) == []


async def test_missing_data_may_be_good_or_bad(harness: StartHarness) -> None:
    shop = Shop()
    rate = shop.app.metric("error_rate", shop.work)
    shop.watch("good", rate, above=0, missing="ok")
    shop.watch("bad", rate, above=0, missing="bad", for_="2m")
    h = await harness(shop.app)
    shop.failing = True
    await shop.jobs.send(Job())
    await h.advance(minutes=4)
    told = [told for told in shop.told if told[0] in ("good", "bad")]
    assert sorted(told) == [
        ("bad", "insufficient", "alarm", minute(2)),
        ("good", "alarm", "ok", minute(2)),
        ("good", "insufficient", "alarm", minute(1)),
    ]


@pytest.mark.parametrize("end", [Harness.restart, Harness.crash], ids=["restart", "crash"])
async def test_a_restart_changes_nothing(end: Callable[[Harness], Any], harness: StartHarness) -> None:
    shop = Shop()
    shop.watch("often", shop.app.metric("failures", shop.work), above=0, datapoints=(3, 5))
    shop.watch("deep", shop.jobs.depth, above=0, for_="4m")
    h = await harness(shop.app)
    await h.advance(minutes=5)
    shop.failing = True
    for _ in range(2):
        await shop.jobs.send(Job())
        await h.advance(minutes=1)
    await shop.jobs.send(Job(), delay="1h")
    await h.advance(minutes=1)
    await end(h)
    await shop.jobs.send(Job())
    await h.advance(minutes=1)
    assert [told for told in shop.told if told[0] == "often"] == [("often", "ok", "alarm", minute(9))]
    await end(h)
    await h.advance(minutes=1)
    assert [told[2:] for told in shop.told if told[0] == "deep"] == []
    await h.advance(minutes=1)
    assert [told[2:] for told in shop.told if told[0] == "deep"] == [("alarm", minute(11))]
    await end(h)
    await h.advance(minutes=5)
    assert [told[2] for told in shop.told if told[0] == "often"] == ["alarm", "ok"]
    assert (await states(h))["dead-letters", "shop/jobs"] == "alarm"
    assert len([told for told in shop.told if told[0] == "dead-letters"]) == 1


async def test_a_minute_with_a_restart_in_it_has_the_figures_of_both_processes(harness: StartHarness) -> None:
    shop = Shop()
    shop.watch("busy", shop.app.metric("attempts", shop.work), above=1)
    h = await harness(shop.app)
    await shop.jobs.send(Job())
    await h.advance(seconds=30)
    await h.restart()
    await shop.jobs.send(Job())
    await h.advance(seconds=30)
    assert [told[2:] for told in shop.told] == [("alarm", minute(1))]


async def test_two_evaluators_and_a_commit_whose_answer_is_lost_announce_once(
    harness: StartHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop()
    shop.watch("failing", shop.app.metric("error_rate", shop.work), above=0, missing="ignore")
    h = await harness(shop.app)
    await h.advance(minutes=2)
    commit, lost = Alarms._commit, list[bool]()

    async def lose(self: Alarms, *arguments: Any, **options: Any) -> None:
        await commit(self, *arguments, **options)
        if not lost:
            lost.append(True)
            raise Conflict("the answer is lost")

    monkeypatch.setattr(Alarms, "_commit", lose)
    shop.failing = True
    await shop.jobs.send(Job())
    await h.advance(minutes=10)
    assert lost
    assert [told[2] for told in shop.told if told[0] == "failing"] == ["alarm"]


async def test_a_full_disk_puts_an_announcement_off(harness: StartHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop()
    shop.watch("failing", shop.app.metric("error_rate", shop.work), above=0, missing="ignore")
    h = await harness(shop.app)
    await h.advance(minutes=2)

    async def refuse(*_: Any, **__: Any) -> None:
        raise StoreFull("no room")

    with monkeypatch.context() as full:
        full.setattr(Alarms, "_commit", refuse)
        shop.failing = True
        await shop.jobs.send(Job())
        await h.advance(hours=1)
        assert shop.told == []
    await h.advance(minutes=1)
    assert sorted(told[:3] for told in shop.told) == [
        ("dead-letters", "shop/jobs", "alarm"),
        ("failing", "insufficient", "alarm"),
    ]


async def test_three_days_without_anything_new_take_no_time(harness: StartHarness) -> None:
    shop = Shop()
    shop.watch("old", shop.jobs.oldest_age, above=2 * 86_400)
    shop.watch("deep", shop.jobs.depth, above=0, for_="1h")
    h = await harness(shop.app)
    await h.supervisor.engine.pause("shop/jobs", True)
    await shop.jobs.send(Job(), delay="12h")
    begin = time.process_time()
    await h.advance(days=3)
    assert time.process_time() - begin < 3
    assert [(told[0], told[3]) for told in shop.told] == [
        ("deep", minute(60)),
        ("old", START + timedelta(hours=60, minutes=1)),
    ]


# Built-in alarms


async def test_dead_letters_are_announced_until_there_are_none(harness: StartHarness) -> None:
    shop = Shop()
    h = await harness(shop.app)
    shop.failing = True
    await shop.jobs.send(Job())
    await h.advance(minutes=5)
    assert shop.told == [("dead-letters", "shop/jobs", "alarm", minute(1))]
    admin = Admin(h.supervisor.engine, h.supervisor, clock=h.clock)
    (raised,) = (await admin.status())["alarms"]
    assert (raised["name"], raised["detail"]) == ("dead-letters", "dead letters of shop/jobs is 1, above 0")
    (letter,) = await h.dead_letters()
    shop.failing = False
    await admin.redrive(ids=[letter.id])
    await h.advance(minutes=1)
    assert shop.told[1:] == [("dead-letters", "shop/jobs", "ok", minute(6))]
    assert (await admin.status())["alarms"] == []


async def test_a_message_that_nobody_gets_to_is_announced_after_an_hour_but_not_while_paused(
    harness: StartHarness,
) -> None:
    shop = Shop(max_receives=10_000, backoff="1s")
    h = await harness(shop.app)
    await h.supervisor.engine.pause("shop/jobs", True)
    await shop.jobs.send(Job(), delay="30m")
    await shop.jobs.send(Job())
    await h.advance(hours=2)
    assert shop.told == []
    h.supervisor.consumers["shop/jobs"]._stopping = True
    await h.supervisor.engine.pause("shop/jobs", False)
    h.supervisor.consumers.pop("shop/jobs")
    await h.advance(minutes=1)
    assert [told[:3] for told in shop.told] == [("oldest-message", "shop/jobs", "alarm")]


async def test_a_failing_handler_is_announced_when_it_fails_in_three_of_five_minutes(harness: StartHarness) -> None:
    shop = Shop()
    topic = shop.app.topic("news")

    @shop.app.on(topic, max_receives=1000)
    async def steady(event: Event[dict[str, Any]]) -> None:
        raise Retry(after="20s", reason="later")

    h = await harness(shop.app)
    await topic.publish({})
    await h.advance(minutes=2)
    assert shop.told == []
    await h.advance(minutes=1)
    assert [told for told in shop.told if told[0] == "handler-failing"] == [
        ("handler-failing", "shop/steady", "alarm", minute(3))
    ]


async def test_a_queue_beyond_its_depth_by_routed_messages_is_announced(harness: StartHarness) -> None:
    shop = Shop(max_depth=2)
    news = shop.app.topic("news", Job)
    news.to(shop.jobs)
    h = await harness(shop.app)
    await h.supervisor.engine.pause("shop/jobs", True)
    for _ in range(3):
        await news.publish(Job())
    await h.advance(minutes=2)
    assert [told[:3] for told in shop.told] == [("queue-full", "shop/jobs", "alarm")]


async def test_messages_without_a_consumer_are_announced(harness: StartHarness) -> None:
    shop = Shop()
    parked = shop.app.queue("parked", Job)
    h = await harness(shop.app)
    await parked.send(Job())
    await h.advance(hours=3)
    assert shop.told == [("no-consumer", "shop/parked", "alarm", minute(1))]


async def test_states_of_alarms_that_are_gone_are_removed(harness: StartHarness, tmp_path: Any) -> None:
    shop = Shop()
    shop.watch("failing", shop.app.metric("error_rate", shop.work), above=0, missing="ignore")
    async with Harness(shop.app, store=tmp_path) as h:
        shop.failing = True
        await shop.jobs.send(Job())
        await h.advance(minutes=1)
        assert set(await states(h)) == {("shop/failing", "shop/jobs"), ("dead-letters", "shop/jobs")}
    async with Harness(Shop().app, store=tmp_path) as h:
        await h.advance(minutes=1)
        assert set(await states(h)) == {("dead-letters", "shop/jobs")}


# Alarms that no metric tells


async def test_the_last_message_about_something_is_its_state_until_it_is_cleared(harness: StartHarness) -> None:
    shop = Shop()
    h = await harness(shop.app)
    alarms, system = h.supervisor.system.alarms, h.supervisor.system
    for detail in ("first", "second"):
        await alarms.publish(Alarm(name="webhook-gone", resource="shop/hook", detail=detail))
        await h.advance(minutes=10)
    (row,) = (await system.alarm_states.query()).items
    assert (row.state, row.detail, row.since_ms) == ("alarm", "second", int(START.timestamp() * 1000))
    await Admin(h.supervisor.engine, h.supervisor, clock=h.clock).alarm_clear(name="webhook-gone", resource="shop/hook")
    await h.run_until_idle()
    (row,) = (await system.alarm_states.query()).items
    assert (row.state, row.previous) == ("ok", "alarm")
    assert shop.told[-1][:3] == ("webhook-gone", "shop/hook", "ok")
