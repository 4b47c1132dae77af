"""What the admin operations tell of how things are connected: handlers, what flowed, models, rates, who holds what."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from headwater import App, Event, Inserted, UnknownResource
from headwater.engine import TracedEvent
from headwater.engines.remote.owner import Holder
from headwater.events import Delivery, Envelope
from headwater.pytest_plugin import StartHarness
from headwater.runtime import flows
from headwater.runtime.admin import Admin
from headwater.runtime.rates import Rates
from headwater.testing import Harness
from tests.patience import PATIENCE_S


class Order(BaseModel):
    id: str
    cents: int = 0


class Shop:
    """A table whose new rows are published, a queue behind the topic, and a handler that waits while `gate` is shut."""

    def __init__(self) -> None:
        self.app = App[None]("shop")
        self.gate = asyncio.Event()
        self.gate.set()
        self.orders = self.app.table("orders", Order, key="id")
        self.news = self.app.topic("news", Order)
        self.bills = self.app.queue("bills", Order)
        self.news.to(self.bills)

        @self.app.on(self.orders.inserted, name="announce", concurrency=2)
        async def announce(change: Inserted[Order]) -> None:
            await self.news.publish(change.new)

        @self.app.on(self.bills, name="bill")
        async def bill(event: Event[Order]) -> None:
            await self.gate.wait()
            if event.data.cents < 0:
                raise ValueError("it costs nothing")


def admin(h: Harness, **more: Any) -> Admin:
    return Admin(h.supervisor.engine, h.supervisor, clock=h.clock, **more)


async def test_handlers_and_what_was_seen_to_flow(harness: StartHarness) -> None:
    shop = Shop()
    h = await harness(shop.app)
    for n in range(3):
        await shop.orders.put(Order(id=str(n)))
    await h.run_until_idle()
    told = await admin(h).call("topology", {})
    handlers = {one["queue"]: one for one in told["handlers"] if one["queue"].startswith("shop/")}
    assert {queue: (one["handler"], one["runs"], one["concurrency"]) for queue, one in handlers.items()} == {
        "shop/announce": ("announce", "loop", 2),
        "shop/bills": ("bill", "loop", 16),
    }
    assert told["fed"] == [
        {"source": "shop/news", "queue": "shop/bills", "events": 3},
        {"source": "shop/orders", "queue": "shop/announce", "events": 3},
    ]
    assert told["made"] == [
        {"queue": "", "source": "shop/orders", "events": 3},
        {"queue": "shop/announce", "source": "shop/news", "events": 3},
    ]
    assert told["events"] == 6
    alone = await Admin(h.supervisor.engine).call("topology", {})
    assert (alone["handlers"], alone["fed"]) == ([], told["fed"])


async def test_each_look_goes_on_behind_the_last_one(harness: StartHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows, "LOOKED_AT", 4)
    shop = Shop()
    h = await harness(shop.app)
    asked = admin(h)
    counts: list[int] = []
    for new in (2, 0, 1, 5, 0):
        for n in range(new):
            await shop.orders.put(Order(id=f"{len(counts)} {n}"))
        await h.run_until_idle()
        counts.append((await asked.call("topology", {}))["events"])
    assert counts == [4, 4, 6, 10, 10], "an order is two events; of ten at once the newest four stand for all"


async def test_two_that_look_at_once_count_nothing_twice(
    harness: StartHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop()
    h = await harness(shop.app)
    await shop.orders.put(Order(id="1"))
    await h.run_until_idle()
    engine = h.supervisor.engine
    read = engine.events

    async def read_slowly(after: int, limit: int) -> list[TracedEvent]:
        found = await read(after, limit)
        await asyncio.sleep(0)
        return found

    monkeypatch.setattr(engine, "events", read_slowly)
    asked = admin(h)
    told = await asyncio.gather(asked.call("topology", {}), asked.call("topology", {}))
    assert [one["events"] for one in told] == [2, 2]


async def test_the_models_of_apps_that_run_here_are_told_as_schemas(harness: StartHarness) -> None:
    h = await harness(Shop().app)
    for resource, kind in (("shop/orders", "table"), ("shop/news", "topic"), ("shop/bills", "queue")):
        told = await admin(h).call("schema", {"resource": resource})
        assert (told["resource"], told["kind"]) == (resource, kind)
        assert set(told["schema"]["properties"]) == {"id", "cents"}
        assert told["schema"]["required"] == ["id"]
    implied = await admin(h).call("schema", {"resource": "shop/announce"})
    assert (implied["kind"], implied["schema"]) == ("queue", None)
    alone = await Admin(h.supervisor.engine).call("schema", {"resource": "shop/orders"})
    assert alone["schema"] is None
    with pytest.raises(UnknownResource):
        await admin(h).call("schema", {"resource": "shop/nothing"})


async def test_rates_are_known_from_the_second_look_on(harness: StartHarness) -> None:
    shop = Shop()
    h = await harness(shop.app)
    asked = admin(h)

    async def rates() -> Any:
        queues = (await asked.call("queues", {}))["queues"]
        return next(queue["rates"] for queue in queues if queue["name"] == "shop/bills")

    assert await rates() is None
    for n in range(20):
        await shop.bills.send(Order(id=str(n), cents=-1 if n < 5 else 1))
    await h.advance(seconds=4)
    assert (told := await rates())["sent"] == 5.0
    assert told["settled"] == 3.75
    assert told["failed"] >= 1.25
    await h.advance(minutes=5)
    assert await rates() is None, "what was seen five minutes ago says nothing of now"


def test_a_rate_is_that_of_the_window() -> None:
    rates = Rates()
    sent = {0.0: 0, 5.0: 500, 10.0: 500, 12.0: 500, 16.0: 500, 17.0: 5}
    told = {at: rates.look(at, {"q": {"sent": n}}).get("q", {}).get("sent") for at, n in sent.items()}
    assert told == {0.0: None, 5.0: 100.0, 10.0: 50.0, 12.0: 41.67, 16.0: 0.0, 17.0: 0.0}
    assert rates.look(17.1, {"new": {"sent": 3}}) == {}


async def test_what_the_servers_handlers_hold(harness: StartHarness) -> None:
    shop = Shop()
    h = await harness(shop.app)
    shop.gate.clear()
    id = await shop.bills.send(Order(id="1"))
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not (held := await holds(h, "shop/bills"))["running"]:  # noqa: ASYNC110 the state is asked for
                await asyncio.sleep(0)
    finally:
        shop.gate.set()
    assert (held["held"], held["messages"], held["handler"]) == (1, [f"{id}/shop/bills"], "bill")
    await h.run_until_idle()
    assert (await holds(h, "shop/bills"))["messages"] == []


async def holds(h: Harness, queue: str) -> dict[str, Any]:
    told = await admin(h).call("workers", {})
    return next(one for one in told["server"]["holds"] if one["queue"] == queue)


class Processes:
    """Two that are connected, one of them started elsewhere; one that starts."""

    def started(self) -> dict[int, str]:
        return {11: "shop/bills", 12: "shop/bills"}

    def connected(self) -> list[Holder]:
        held = [Delivery(queue="shop/bills", position=n, fence=n, receives=1, event=event(n)) for n in range(60)]
        return [Holder(11, 2000, tuple(held)), Holder(99, 1000, ())]


def event(n: int) -> Envelope:
    return Envelope(id=f"e{n}", source="shop/bills", type="message")


async def test_worker_processes_are_told_with_what_each_holds(harness: StartHarness) -> None:
    h = await harness(Shop().app)
    told = (await admin(h, processes=Processes()).call("workers", {}))["workers"]
    assert [(one["pid"], one["queue"], one["connected"]) for one in told] == [
        (99, None, True),
        (11, "shop/bills", True),
        (12, "shop/bills", False),
    ]
    (held,) = told[1]["holds"]
    assert (held["held"], len(held["messages"]), held["messages"][0]) == (60, 50, "e0/shop/bills")
    assert told[0]["holds"] == told[2]["holds"] == []


async def test_without_a_server_no_process_is_known(harness: StartHarness) -> None:
    h = await harness(Shop().app)
    assert await Admin(h.supervisor.engine).call("workers", {}) == {"server": None, "workers": [], "terms": []}
