"""What servers of one store do once, however many they are."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import pytest

from headwater import App, Event, Tick
from headwater.errors import HeadwaterError, Throttled, Unauthenticated
from headwater.events import Delivery
from headwater.http.access import AccessRules
from headwater.http.metering import FLUSH_S
from headwater.metrics import request_metric
from headwater.quota import Plan
from headwater.runtime.admin import Admin
from headwater.runtime.scheduler import LOOK_MS
from headwater.runtime.supervisor import Supervisor
from tests.cluster.conftest import Gather
from tests.cluster.crew import TAKEN_OVER_S, Crew
from tests.runtime.samples import until

METRICS = "alarms of headwater,shop"


class Clocked:
    """Apps with a schedule; `ticks` has what all of them made."""

    def __init__(self, *whens: str) -> None:
        self.ticks: Counter[datetime] = Counter()
        self._whens = whens

    def apps(self) -> list[App[None]]:
        app: App[None] = App("shop")
        for when in self._whens:
            app.on(app.schedule(when, name=f"every-{when}"), name=f"on-{when}")(self._tick)
        return [app]

    async def _tick(self, event: Event[Tick]) -> None:
        self.ticks[event.data.nominal] += 1


async def test_each_nominal_time_is_fired_once(gather: Gather) -> None:
    clocked = Clocked("7s")
    async with gather(clocked.apps, 3) as crew:
        await crew.pass_time(70)
        await crew.kill(crew.members[1])
        await crew.pass_time(70)
    assert len(clocked.ticks) == 20
    assert set(clocked.ticks.values()) == {1}


async def test_a_schedule_that_another_server_resumed_goes_on_when_that_dies(gather: Gather) -> None:
    clocked = Clocked("10s")
    async with gather(clocked.apps, 2) as crew:
        first = crew.members[0]
        name = "shop/every-10s"
        await Admin(first.engine, first, clock=crew.clock).schedule_pause(schedule=name)
        await crew.pass_time(30)
        assert not clocked.ticks
        await Admin(first.engine, first, clock=crew.clock).schedule_resume(schedule=name)
        await crew.kill(first)
        await crew.pass_time(LOOK_MS / 1000 + 10)
        assert clocked.ticks


class Watched:
    """Apps with an alarm on the requests of an endpoint."""

    def __init__(self, above: float) -> None:
        self.states: list[str] = []
        self._above = above

    def apps(self) -> list[App[None]]:
        app: App[None] = App("shop")
        metric = request_metric("errors", "shop", "GET", "/orders")
        assert metric is not None
        alarm = app.alarm("failing", metric, above=self._above)

        @app.on(alarm)
        async def on(event: Event[Any]) -> None:
            self.states.append(event.data.state)

        return [app]


async def fail(crew: Crew, times: int) -> None:
    """So many requests fail at each server within a minute."""
    for member in crew.members:
        for _ in range(times):
            member.recorder.request(("shop", "GET", "/orders"), 500, 0.1)
    await crew.pass_time(75)


async def test_an_alarm_looks_at_the_sum_of_all_servers_and_is_raised_once(gather: Gather) -> None:
    watched = Watched(above=11)
    async with gather(watched.apps, 3) as crew:
        await crew.pass_time(75)
        await fail(crew, 3)
        assert watched.states == []
        await fail(crew, 4)
        assert watched.states == ["alarm"]
        await crew.pass_time(60)
        assert watched.states == ["alarm", "ok"]
        rows = (await crew.members[0].system.metrics.query(limit=1000)).items
        counted = [row for row in rows if row.series.startswith("http_requests_total")]
        assert sum(point[1] for row in counted for point in row.points) == 21


async def test_another_server_judges_when_the_one_that_did_is_dead(gather: Gather) -> None:
    watched = Watched(above=3)
    async with gather(watched.apps, 3) as crew:
        await fail(crew, 2)
        assert watched.states == ["alarm"]
        (holder,) = crew.holders(METRICS)
        await crew.kill(holder)
        await fail(crew, 2)
        await fail(crew, 2)
        assert watched.states == ["alarm"], "the state is known, and not announced again"
        assert len(crew.holders(METRICS)) == 1
        await crew.pass_time(120)
        assert watched.states == ["alarm", "ok"]


async def test_a_built_in_alarm_is_mailed_once(gather: Gather) -> None:
    def apps() -> list[App[None]]:
        app: App[None] = App("shop")
        jobs = app.queue("jobs", max_receives=1)

        @app.on(jobs)
        async def work(event: Event[dict[str, str]]) -> None:
            raise ValueError("no")

        return [app]

    async with gather(apps, 3) as crew:
        await crew.pass_time(5)
        await Admin(crew.members[0].engine, crew.members[0]).send(queue="shop/jobs", data={})
        await crew.pass_time(180)
        (subject,) = crew.mailbox.subjects
        assert "dead-letters" in subject
        rows = (await crew.members[0].system.metrics.query(limit=1000)).items
        (sent,) = [row for row in rows if row.series == 'queue_sent_total{queue="shop/jobs"}']
        assert [point[1] for point in sent.points] == [1], "what is the store's is written by one"


async def test_a_quota_holds_over_all_servers_but_for_a_second(gather: Gather) -> None:
    rules = AccessRules(environment="test", plans={"basic": Plan(quota=30, period="day")})
    async with gather(lambda: [App("shop")], 3, rules=rules) as crew:
        let_in = 0
        for turn in range(60):
            let_in += await charge(crew.members[turn % 3])
            await crew.pass_time(2 * FLUSH_S)
        assert let_in == 30
        assert [await charge(member) for member in crew.members] == [0, 0, 0]


async def charge(member: Supervisor) -> int:
    try:
        await member.access.meter.charge("key:acme", "basic")
    except Throttled:
        return 0
    return 1


async def test_a_key_made_or_revoked_at_one_server_counts_at_the_others(gather: Gather) -> None:
    async with gather(lambda: [App("shop")], 2) as crew:
        first, second = crew.members
        made = await Admin(first.engine, first, clock=crew.clock).key_create(name="acme")
        assert (await second.access.keys.verify(made["key"])).name == "acme"
        await Admin(first.engine, first, clock=crew.clock).key_revoke(id=made["id"])
        await crew.pass_time(1)
        assert isinstance(await refused(second, made["key"]), Unauthenticated)


async def refused(member: Supervisor, key: str) -> HeadwaterError | None:
    try:
        await member.access.keys.verify(key)
    except HeadwaterError as error:
        return error
    return None


async def test_what_expires_is_removed_once_with_one_change(gather: Gather) -> None:
    removed: list[str] = []

    def apps() -> list[App[None]]:
        app: App[None] = App("shop")
        carts = app.table("carts", dict, key="id", ttl="1m")

        @app.on(carts.removed)
        async def on(event: Event[Any]) -> None:
            removed.append(event.subject or "")

        return [app]

    async with gather(apps, 3) as crew:
        for n in range(5):
            await crew.members[0].graph.apps[0].tables["shop/carts"].put({"id": str(n)})
        await crew.pass_time(70)
        assert sorted(removed) == list("01234")
        assert len(crew.holders("janitor")) == 1


async def test_a_webhook_is_delivered_by_any_server_also_when_that_of_its_subscription_is_dead(gather: Gather) -> None:
    def apps() -> list[App[None]]:
        app: App[None] = App("shop")
        app.topic("news")
        return [app]

    async with gather(apps, 2) as crew:
        first, second = crew.members
        made = await Admin(first.engine, first, clock=crew.clock).subscribe(topic="shop/news", url="https://a.example/")
        (hook,) = await second.webhooks.rows()
        admin = Admin(second.engine, second, clock=crew.clock)
        await admin.subscribe(topic="shop/news", url="https://b.example/")
        assert hook.queue in (await second.engine.catalog()).queues, "another subscription leaves it as it is"
        await crew.kill(first)
        await crew.pass_time(TAKEN_OVER_S)
        assert hook.queue in second.consumers
        late = crew.make(apps())
        await crew.join(late)
        assert hook.queue in late.consumers
        routes = (await second.engine.catalog()).routes
        assert [route.id for route in routes if route.target == hook.queue] == [made["id"]]


def count_extensions(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Grows when leases have been extended."""
    done: list[object] = []

    def counted(extend: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        async def extended(deliveries: list[Delivery]) -> None:
            await extend(deliveries)
            done.append(deliveries)

        return extended

    for member in crew.members:
        monkeypatch.setattr(member.engine, "extend", counted(member.engine.extend))
    return done


async def test_messages_that_are_leased_together_are_each_held_to_their_end(
    gather: Gather, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    goes_on = asyncio.Event()

    def apps() -> list[App[None]]:
        app: App[None] = App("shop")

        @app.on(app.queue("jobs", visibility="3s"))
        async def work(event: Event[dict[str, str]]) -> None:
            begun.append(event.data["id"])
            if event.data["id"] == "slow":
                await goes_on.wait()

        return [app]

    async with gather(apps, 2, unconsumed=["shop/jobs"]) as crew:
        first = crew.members[0]
        await first.engine.pause("shop/jobs", True)
        jobs = first.graph.apps[0].queues["shop/jobs"]
        for id in ("quick", "slow"):
            await jobs.send({"id": id})
        await first.engine.pause("shop/jobs", False)
        await until(lambda: "slow" in begun)
        extended = count_extensions(crew, monkeypatch)
        for n in range(20):
            crew.clock.move_to(crew.clock.monotonic() + 1)
            await until(lambda: len(extended) > n)  # noqa: B023 a third of the visibility has passed
        assert begun == ["quick", "slow"], "its lease was extended"
        goes_on.set()
        await crew.settle()
