"""Requests are counted by the template of their route, and Prometheus can read what is exposed."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, HTTPException
from prometheus_client.parser import text_string_to_metric_families

from headwater import App, Event, anyone
from headwater.http.prometheus import CONTENT_TYPE, make_metrics
from headwater.pytest_plugin import StartHarness
from headwater.testing import Harness
from tests.runtime.samples import Item, Job


async def exposed(h: Harness) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Each sample by name and labels, as Prometheus reads it."""
    app = make_metrics(h.supervisor.monitor.totals, h.clock.wall_ms)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://metrics") as client:
        answer = await client.get("/metrics")
        assert (await client.get("/")).status_code == 404
    assert answer.headers["content-type"] == CONTENT_TYPE
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def requests(h: Harness) -> dict[tuple[str, str, str], float]:
    return {
        (dict(labels)["method"], dict(labels)["route"], dict(labels)["status"]): value
        for (name, labels), value in (await exposed(h)).items()
        if name == "headwater_http_requests_total"
    }


def shop() -> App[None]:
    app = App("shop")
    app.expose(app.table("items", Item, key="id"), "/items", read=anyone(), write=anyone())
    app.ingest(app.queue("jobs", Job), "/jobs", auth=anyone())

    @app.http.get("/orders/{id}")
    async def order(id: str) -> str:
        if id == "none":
            raise HTTPException(404)
        if id == "broken":
            raise RuntimeError("no")
        return id

    inner = APIRouter(prefix="/inner")

    @inner.get("/{id}")
    async def below(tenant: str, id: str) -> str:
        return id

    app.http.include_router(inner, prefix="/tenants/{tenant}")
    mounted = FastAPI()

    @mounted.get("/{id}")
    async def mount(id: str) -> str:
        return id

    app.http.mount("/mounted", mounted)
    return app


async def test_requests_are_counted_by_template_and_class_of_status(harness: StartHarness) -> None:
    app = shop()
    h = await harness(app)
    transport = httpx.ASGITransport(app.http, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        for path in ("/orders/1", "/orders/2", "/orders/none", "/orders/broken", "/tenants/a/inner/b", "/docs"):
            await client.get(path)
        for n in range(5):
            await client.get(f"/wrong/{n}")
        await client.get("/mounted/7")
        await client.put("/items/a", json={"id": "a"})
        await client.get("/items/a")
        await client.get("/items/b")
        await client.post("/jobs", json={"id": "j"})
        await client.post("/jobs", content="{")
        headers = {"Idempotency-Key": "k"}
        for _ in range(2):
            await client.post("/jobs", json={"id": "j"}, headers=headers)
        await client.request("BREW", "/orders/1")
    found = await requests(h)
    assert found == {
        ("GET", "/orders/{id}", "2xx"): 2,
        ("GET", "/orders/{id}", "4xx"): 1,
        ("GET", "/orders/{id}", "5xx"): 1,
        ("GET", "/tenants/{tenant}/inner/{id}", "2xx"): 1,
        ("GET", "other", "2xx"): 1,
        ("GET", "unmatched", "4xx"): 5,
        ("GET", "/{id}", "2xx"): 1,
        ("PUT", "/items/{id}", "2xx"): 1,
        ("GET", "/items/{id}", "2xx"): 1,
        ("GET", "/items/{id}", "4xx"): 1,
        ("POST", "/jobs", "2xx"): 3,
        ("POST", "/jobs", "4xx"): 1,
        ("other", "/orders/{id}", "4xx"): 1,
    }


async def test_queues_handlers_and_durations_are_exposed(harness: StartHarness) -> None:
    app = App("shop")
    jobs, parked = app.queue("jobs", Job, max_receives=1), app.queue("parked", Job)

    @app.on(jobs)
    async def work(event: Event[Job]) -> None:
        if event.data.n:
            raise ValueError("no")

    h = await harness(app)
    for n in (0, 0, 1):
        await jobs.send(Job(n=n))
    await parked.send(Job())
    await h.run_until_idle()
    await h.advance(seconds=90)
    found = await exposed(h)

    def value(name: str, queue: str = "shop/jobs", **labels: str) -> float:
        return found[f"headwater_{name}", frozenset({"queue": queue, **labels}.items())]

    assert (value("queue_depth"), value("queue_depth", "shop/parked")) == (0, 1)
    assert (value("queue_oldest_age_seconds"), value("queue_oldest_age_seconds", "shop/parked")) == (0, 90)
    assert (value("queue_dead_letters"), value("queue_sent_total")) == (1, 3)
    assert (value("handler_attempts_total"), value("handler_failures_total")) == (3, 1)
    assert value("handler_duration_seconds_count") == value("handler_duration_seconds_bucket", le="+Inf") == 3
    assert value("handler_duration_seconds_bucket", le="0.001") == 3


async def test_labels_with_quotes_and_lines_are_escaped(harness: StartHarness) -> None:
    from headwater.metrics import series

    h = await harness(App("shop"))
    h.supervisor.recorder.gauge(series("level", of='a"b\\c\nd'), 2)
    assert (await exposed(h))["headwater_level", frozenset({("of", 'a"b\\c\nd')})] == 2


@pytest.mark.parametrize("name", ["requests", "errors", "error_rate"])
async def test_alarms_on_endpoints(name: Any, harness: StartHarness) -> None:
    app, told = App("shop"), list[str]()

    @app.http.get("/orders/{id}")
    async def order(id: str) -> str:
        raise HTTPException(503)

    alarm = app.alarm("failing", app.metric(name, "GET /orders/{id}"), above=0.5)

    @app.on(alarm)
    async def tell(event: Event[Any]) -> None:
        told.append(f"{event.data.state}: {event.data.detail}")

    h = await harness(app)
    await h.advance(minutes=1)
    await asyncio.gather(*(h.client(app).get(f"/orders/{n}") for n in range(2)))
    await h.advance(minutes=2)
    value = 1 if name == "error_rate" else 2
    shown = name.replace("_", " ")
    assert told[0] == f"alarm: {shown} of GET /shop/orders/{{id}} is {value}, above 0.5"
    assert [line[:5] for line in told] == ["alarm", "ok: e" if "err" in name else "ok: r"]
