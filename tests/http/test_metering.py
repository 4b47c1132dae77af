"""How much is let in: rates, bursts and quotas, what is counted, and what restarts and crashes leave of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest

from headwater import App, Auth, Caller, anyone, require
from headwater.engines import make_engine
from headwater.errors import DeclarationError, StoreFull, Throttled
from headwater.http import metering
from headwater.http.access import client_address
from headwater.http.metering import Meter, Used
from headwater.pytest_plugin import StartHarness
from headwater.quota import Plan
from headwater.runtime.admin import Admin
from headwater.runtime.supervisor import Supervisor
from headwater.testing import Harness, VirtualClock
from tests.http.test_unit_layer import elsewhere
from tests.runtime.samples import Item

PLANS: dict[str, dict[str, Any]] = {
    "slow": {"rate": 0.1, "burst": 3},
    "daily": {"quota": 3, "period": "day", "tz": "Europe/Vienna"},
    "weekly": {"quota": 3, "period": "week"},
    "monthly": {"quota": 3, "period": "month"},
    "both": {"rate": 1, "burst": 2, "quota": 5, "period": "day"},
    "large": {"quota": 1_000_000, "period": "day"},
}


def make_app(needs: Any = None) -> App[None]:
    app: App[None] = App("desk")
    access: Any = needs or require()

    @app.http.get("/")
    async def get(caller: Caller = access) -> str:
        return caller.subject

    return app


def address(h: Harness, app: App[Any], host: str) -> httpx.AsyncClient:
    """A client that calls from this address."""
    transport = httpx.ASGITransport(app.http, client=(host, 1))
    return httpx.AsyncClient(transport=transport, base_url="http://desk")


async def usage(h: Harness, **parameters: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await Admin(h.supervisor.engine, h.supervisor).call("key-usage", parameters))[
        "usage"
    ]
    return found


async def counts(h: Harness, **parameters: Any) -> list[int]:
    return [one["count"] for one in await usage(h, **parameters)]


async def test_a_rate_lets_in_its_burst_and_tells_when_to_come_again(harness: StartHarness) -> None:
    app = make_app()
    h = await harness(app, plans=PLANS)
    client = h.client(app, key="slow")
    answers = [await client.get("/") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert [answer.headers["ratelimit"] for answer in answers] == [f'"rate";r={left};t=10' for left in (2, 1, 0)]
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"rate";q=3;w=30'}
    refused = await client.get("/")
    assert (refused.status_code, refused.headers["content-type"]) == (429, "application/problem+json")
    assert (refused.headers["retry-after"], refused.headers["ratelimit"]) == ("10", '"rate";r=0;t=10')
    body = refused.json()
    assert (body["error"], body["detail"]) == ("Throttled", "the rate of the usage plan 'slow' is used up")
    assert (body["resource"], body["retryable"]) == ("slow", True)
    await h.advance(seconds=9.9)
    early = await client.get("/")
    assert (early.status_code, early.headers["retry-after"]) == (429, "1")
    await h.advance(seconds=0.1)
    assert (await client.get("/")).status_code == 200
    assert (await client.get("/")).status_code == 429
    await h.advance(days=1)
    assert [(await client.get("/")).status_code for _ in range(4)] == [200, 200, 200, 429]


@pytest.mark.parametrize(
    ("plan", "start", "ends_s", "seconds"),
    [
        ("daily", "2026-03-29T00:00:00Z", 22 * 3600, 86_400),
        ("daily", "2026-01-15T22:59:59Z", 1, 86_400),
        ("weekly", "2026-01-04T23:00:00Z", 3600, 604_800),
        ("monthly", "2026-02-28T00:00:00Z", 86_400, 2_678_400),
    ],
)
async def test_a_quota_ends_with_its_period(
    harness: StartHarness, plan: str, start: str, ends_s: int, seconds: int
) -> None:
    app = make_app()
    h = await harness(app, plans=PLANS, start=start)
    client = h.client(app, key=plan)
    period = plan.replace("daily", "day").removesuffix("ly")
    answers = [await client.get("/") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[0].headers["ratelimit-policy"] == f'"{period}";q=3;w={seconds}'
    assert [answer.headers["ratelimit"] for answer in answers] == [
        f'"{period}";r={left};t={ends_s}' for left in (2, 1, 0, 0)
    ]
    assert answers[3].headers["retry-after"] == str(ends_s)
    assert answers[3].json()["detail"] == f"the quota a {period} of the usage plan '{plan}' is used up"
    await h.advance(seconds=ends_s - 0.001)
    assert (await client.get("/")).status_code == 429
    await h.advance(seconds=0.001)
    assert [(await client.get("/")).status_code for _ in range(4)] == [200, 200, 200, 429]
    assert await counts(h) == [3, 3]


async def test_a_plan_with_rate_and_quota_keeps_both(harness: StartHarness) -> None:
    app = make_app()
    h = await harness(app, plans=PLANS)
    client = h.client(app, key="both")
    first = await client.get("/")
    assert first.headers["ratelimit-policy"] == '"rate";q=2;w=2, "day";q=5;w=86400'
    assert first.headers["ratelimit"] == '"rate";r=1;t=1, "day";r=4;t=86400'
    assert [(await client.get("/")).status_code for _ in range(3)] == [200, 429, 429]
    await h.advance(seconds=2)
    assert [(await client.get("/")).status_code for _ in range(3)] == [200, 200, 429]
    await h.advance(seconds=2)
    assert [(await client.get("/")).status_code for _ in range(2)] == [200, 429]
    assert await counts(h) == [5]


@pytest.mark.parametrize(("plan", "entered"), [("slow", 3), ("daily", 3), ("both", 2)])
async def test_parallel_requests_overshoot_by_none(harness: StartHarness, plan: str, entered: int) -> None:
    app = make_app()
    h = await harness(app, plans=PLANS)
    client = h.client(app, key=plan)
    answers = await asyncio.gather(*(client.get("/") for _ in range(60)))
    assert [answer.status_code for answer in answers].count(200) == entered
    assert {answer.status_code for answer in answers} == {200, 429}


async def test_each_key_and_each_subject_has_a_bucket_of_its_own(harness: StartHarness) -> None:
    app = make_app(require(throttle="slow"))
    h = await harness(app, plans=PLANS)
    for client in (
        h.client(app, key="slow"),
        h.client(app, key="slow"),
        h.client(app, token={"sub": "ann"}),
        h.client(app, token={"sub": "bob"}),
    ):
        assert [(await client.get("/")).status_code for _ in range(4)] == [200, 200, 200, 429]
    again = h.client(app, token={"sub": "ann", "roles": ["other"]})
    assert (await again.get("/")).status_code == 429


async def test_a_key_is_metered_by_its_own_plan_wherever_it_goes(harness: StartHarness) -> None:
    app = make_app(require(throttle="slow"))
    h = await harness(app, plans=PLANS)
    client = h.client(app, key="large")
    assert [(await client.get("/")).status_code for _ in range(9)] == [200] * 9
    assert await counts(h) == [9]


@pytest.mark.parametrize("auth", [require(throttle="missing"), require(plan=["missing"])])
async def test_a_plan_that_is_not_declared_refuses_the_start(tmp_path: Path, auth: Auth) -> None:
    clock = VirtualClock()
    supervisor = Supervisor([make_app(auth)], make_engine(f"sqlite:{tmp_path}"), clock)
    with pytest.raises(DeclarationError, match="names the usage plan 'missing', which is not declared") as refused:
        await supervisor.start()
    assert "[default.plans.missing]" in refused.value.hint


async def test_in_the_harness_a_plan_that_is_not_declared_has_no_limits(harness: StartHarness) -> None:
    h = await harness(app := make_app(require(throttle="missing")))
    client = h.client(app, token={"sub": "ann"})
    assert {(await client.get("/")).status_code for _ in range(30)} == {200}


async def test_anyone_is_throttled_by_address(harness: StartHarness) -> None:
    app = make_app(anyone(throttle="slow"))
    h = await harness(app, plans=PLANS)

    async def statuses(host: str, count: int = 4) -> list[int]:
        async with address(h, app, host) as client:
            return [(await client.get("/")).status_code for _ in range(count)]

    assert await statuses("192.0.2.1") == [200, 200, 200, 429]
    assert await statuses("192.0.2.2") == [200, 200, 200, 429]
    assert await statuses("2001:db8:1:2::1") == [200, 200, 200, 429]
    assert await statuses("2001:db8:1:2:ffff::9", 1) == [429]
    assert await statuses("2001:db8:1:3::1", 1) == [200]
    assert await statuses("::ffff:192.0.2.1", 1) == [429]
    forwarded = {"X-Forwarded-For": "198.51.100.7", "Forwarded": "for=198.51.100.7", "X-Real-IP": "198.51.100.7"}
    async with address(h, app, "192.0.2.1") as client:
        assert (await client.get("/", headers=forwarded)).status_code == 429
        assert (await client.get("/", headers={"Authorization": "Bearer x"})).status_code == 429


@pytest.mark.parametrize(
    ("host", "named"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("", ""),
        ("a name", "a name"),
    ],
)
def test_client_addresses(host: str, named: str) -> None:
    assert client_address({"type": "http", "client": (host, 1)}) == named
    assert client_address({"type": "http", "client": None}) == ""


def conflicting(app: App[Any]) -> list[int]:
    items, runs = app.table("items", Item, key="id"), list[int]()

    @app.http.post("/")
    async def post(caller: Annotated[Caller, require()]) -> int:
        runs.append(1)
        found = await items.get("a") or Item(id="a")
        if len(runs) == 1:
            await elsewhere(items.put(Item(id="a", n=5)))
        await items.put(Item(id="a", n=found.n + 1))
        return found.n + 1

    return runs


async def test_a_rerun_is_metered_once_and_a_replay_not_at_all(harness: StartHarness) -> None:
    app = App("desk")
    runs = conflicting(app)
    h = await harness(app, plans=PLANS)
    client = h.client(app, key="daily", headers={"Idempotency-Key": "k"})
    first = await client.post("/")
    assert (first.status_code, first.json(), len(runs)) == (200, 6, 2)
    assert first.headers["ratelimit"].startswith('"day";r=2;')
    assert first.headers.get_list("ratelimit") == [first.headers["ratelimit"]]
    for _ in range(5):
        replayed = await client.post("/")
        assert (replayed.status_code, replayed.json(), replayed.headers["idempotent-replayed"]) == (200, 6, "true")
        assert "ratelimit" not in replayed.headers
        assert "ratelimit-policy" not in replayed.headers
    assert await counts(h) == [1]


async def test_two_requirements_of_one_request_are_metered_once(harness: StartHarness) -> None:
    app = App("desk")
    one, two = require(), require(plan="daily")

    @app.http.get("/", dependencies=[one])
    async def get(caller: Annotated[Caller, require("x")] = None, other: Caller = two) -> str:  # type: ignore[assignment]
        return other.subject

    h = await harness(app, plans=PLANS)
    made = await Admin(h.supervisor.engine, h.supervisor).call(
        "key-create", {"name": "ann", "plan": "daily", "roles": ["x"]}
    )
    client = h.client(app, headers={"X-Api-Key": made["key"]})
    assert [(await client.get("/")).status_code for _ in range(4)] == [200, 200, 200, 429]


async def test_refused_requests_are_not_counted(harness: StartHarness) -> None:
    app = make_app(require("role"))
    h = await harness(app, plans=PLANS)
    client = h.client(app, key="daily")
    assert [(await client.get("/")).status_code for _ in range(5)] == [403] * 5
    assert await counts(h) == []


async def test_usage_is_exact_over_a_restart(tmp_path: Path) -> None:
    app = make_app()
    async with Harness(app, plans=PLANS, store=tmp_path / "store") as h:
        client = h.client(app, key="daily")
        assert [(await client.get("/")).status_code for _ in range(2)] == [200, 200]
        await h.restart()
        assert await counts(h) == [2]
        assert [(await client.get("/")).status_code for _ in range(2)] == [200, 429]
        await h.restart()
        assert (await client.get("/")).status_code == 429


async def test_a_crash_forgets_what_was_counted_since_the_last_write(tmp_path: Path) -> None:
    app = make_app()
    async with Harness(app, plans=PLANS, store=tmp_path / "store") as h:
        client = h.client(app, key="large")
        for _ in range(7):
            await client.get("/")
        await h.supervisor.access.meter.flush()
        for _ in range(5):
            await client.get("/")
        assert await counts(h) == [12]
        await h.crash()
        assert await counts(h) == [7]
        await client.get("/")
        assert await counts(h) == [8]


async def test_usage_is_written_every_second() -> None:
    store, clock = Counts(), VirtualClock()
    meter = Meter({"large": Plan(quota=10)}, store, clock)
    running = asyncio.create_task(meter.run(clock.sleep))
    try:
        await meter.charge("a", "large")
        await asyncio.sleep(0)
        assert store.counts == {}
        await meter.charge("a", "large")
        clock.move_to(metering.FLUSH_S)
        for _ in range(5):
            await asyncio.sleep(0)
        assert store.counts == {("a large", "2026-01"): 2}
        assert metering.FLUSH_S <= 1
    finally:
        running.cancel()


async def test_a_store_that_refuses_loses_no_count() -> None:
    store, clock = Counts(), VirtualClock()
    meter = Meter({"large": Plan(quota=10)}, store, clock)
    running = asyncio.create_task(meter.run(clock.sleep))
    try:
        for moment in range(1, 4):
            store.fails = moment < 3
            await meter.charge("a", "large")
            await asyncio.sleep(0)
            clock.move_to(moment)
            for _ in range(5):
                await asyncio.sleep(0)
        assert store.counts == {("a large", "2026-01"): 3}
    finally:
        running.cancel()


class Counts:
    """Usage in memory, as several processes share it."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str], int] = {}
        self.fails = False
        self.reads = 0

    async def count(self, who: str, period: str) -> int:
        self.reads += 1
        await asyncio.sleep(0)
        return self.counts.get((who, period), 0)

    async def add(self, used: list[Used]) -> None:
        await asyncio.sleep(0)
        if self.fails:
            raise StoreFull("no room")
        for one in used:
            place = one.who, one.period
            self.counts[place] = self.counts.get(place, 0) + one.count


async def entered(meter: Meter, plan: str, requests: int) -> int:
    async def enter() -> bool:
        try:
            await meter.charge("a", plan)
        except Throttled:
            return False
        return True

    return sum(await asyncio.gather(*(enter() for _ in range(requests))))


async def test_processes_learn_of_each_other_with_each_write() -> None:
    store, clock = Counts(), VirtualClock()
    plans = {"daily": Plan(quota=10, period="day")}
    first, second = Meter(plans, store, clock), Meter(plans, store, clock)
    assert [await entered(first, "daily", 4), await entered(second, "daily", 5)] == [4, 5]
    await first.flush()
    await second.flush()
    assert await entered(second, "daily", 5) == 1
    await second.flush()
    assert await entered(first, "daily", 5) <= 6
    await first.flush()
    assert [await entered(meter, "daily", 5) for meter in (first, second)] == [0, 0]


async def test_charges_during_a_write_are_counted() -> None:
    store, clock = Counts(), VirtualClock()
    meter = Meter({"large": Plan(quota=1000)}, store, clock)
    for _ in range(30):
        await asyncio.gather(meter.flush(), *(meter.charge("a", "large") for _ in range(7)), meter.flush())
    await meter.flush()
    assert store.counts == {("a large", "2026-01"): 210}


async def test_the_end_of_a_period_loses_no_count() -> None:
    store, clock = Counts(), VirtualClock("2026-01-01T23:59:59Z")
    meter = Meter({"daily": Plan(quota=100, period="day")}, store, clock)
    assert await entered(meter, "daily", 20) == 20
    clock.move_to(1)
    assert await entered(meter, "daily", 120) == 100
    await meter.flush()
    assert store.counts == {("a daily", "2026-01-01"): 20, ("a daily", "2026-01-02"): 100}


async def test_memory_is_bounded_whoever_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metering, "MOST_BUCKETS", 100)
    monkeypatch.setattr(metering, "MOST_COUNTS", 100)
    store, clock = Counts(), VirtualClock()
    meter = Meter({"both": Plan(rate=1, burst=5, quota=50, period="day")}, store, clock)
    for n in range(1000):
        await meter.charge(f"address:{n}", "both")
        if n % 50 == 49:
            await meter.flush()
    assert len(meter._buckets) <= 100
    assert len(meter._counts) <= 101
    assert sum(store.counts.values()) == 1000


async def test_long_names_fit_into_a_row(harness: StartHarness) -> None:
    app = make_app(require(throttle="daily"))
    h = await harness(app, plans=PLANS)
    for subject in ("é" * 256, "with space", "\0", "a:b/c"):
        assert (await h.client(app, token={"sub": subject}).get("/")).status_code == 200
    await h.supervisor.access.meter.flush()
    assert await counts(h) == [1, 1, 1, 1]


async def test_usage_is_told_with_what_is_not_written_yet(harness: StartHarness) -> None:
    app = make_app(require(throttle="daily"))
    h = await harness(app, plans=PLANS)
    made = await Admin(h.supervisor.engine, h.supervisor).call("key-create", {"name": "ann", "plan": "large"})
    by_key, by_token = h.client(app, headers={"X-Api-Key": made["key"]}), h.client(app, token={"sub": "bob"})
    for client in (by_key, by_key, by_token):
        await client.get("/")
    await h.supervisor.access.meter.flush()
    await by_key.get("/")
    key = {"who": f"key:{made['id']}", "plan": "large", "period": "2026-01-01", "count": 3}
    token = {"who": "token::bob", "plan": "daily", "period": "2026-01-01", "count": 1}
    assert await usage(h) == [token, key]
    assert await usage(h, id=made["id"]) == await usage(h, plan="large") == [key]
    assert await usage(h, plan="daily") == await usage(h, limit=1) == [token]
    await h.advance(days=1)
    await by_key.get("/")
    assert [(one["period"], one["count"]) for one in await usage(h, plan="large")] == [
        ("2026-01-02", 1),
        ("2026-01-01", 3),
    ]


async def test_tenants_and_subjects_cannot_be_mistaken_for_one_another(harness: StartHarness) -> None:
    callers = [Caller("b:c", tenant="a"), Caller("c", tenant="a:b")]
    h = await harness(app := make_app(require(throttle="slow")), plans=PLANS)

    async def identify(scope: Any, context: Any) -> tuple[Caller, None]:
        return callers[int(dict(scope["headers"])[b"x-caller"])], None

    h.supervisor.access.identify = identify  # type: ignore[method-assign]
    for caller in ("0", "1"):
        client = h.client(app, headers={"X-Caller": caller})
        assert [(await client.get("/")).status_code for _ in range(4)] == [200, 200, 200, 429]
