"""The lane of direct routes: it answers as the whole stack does, and never hides what an app adds."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from headwater import App, Auth, Caller, QueueFull, anyone, require
from headwater.http.lane import Endpoints
from headwater.pytest_plugin import StartHarness

PASSES = ("headwater-trace", "location", "etag")


class Item(BaseModel):
    id: str
    n: int = 0


class Passing:
    """A middleware that counts what comes by."""

    seen = 0

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        Passing.seen += 1
        await self.app(scope, receive, send)


class Broken(Auth):
    async def admit(self, scope: Any) -> Caller:
        raise RuntimeError("broken")


def shop() -> App:
    app = App("shop")
    items = app.table("items", Item, key="id")
    broken = Broken(frozenset(), frozenset(), "", open=False)
    app.expose(items, "/items", read=anyone(), write=anyone())
    app.expose(items, "/closed", read=require("x"))
    app.expose(items, "/broken", read=broken)
    app.ingest(app.queue("full", Item, max_depth=1), "/full", auth=anyone())
    return app


def find(app: App, method: str, path: str) -> object:
    http = app.http
    assert isinstance(http, Endpoints)
    return http._find({"type": "http", "method": method, "path": path})


REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/items", {"json": {"id": "a"}}),
    ("POST", "/items", {"json": {"id": "a"}}),
    ("POST", "/items", {"json": {"id": 1}}),
    ("POST", "/items", {"content": b"x", "headers": {"content-type": "text/plain"}}),
    ("POST", "/items", {"json": {"id": "b"}, "headers": {"idempotency-key": "k"}}),
    ("POST", "/items", {"json": {"id": "b"}, "headers": {"idempotency-key": "k"}}),
    ("GET", "/items", {}),
    ("HEAD", "/items", {}),
    ("GET", "/items?zz=1", {}),
    ("DELETE", "/items", {}),
    ("GET", "/closed", {}),
    ("GET", "/broken", {}),
    ("POST", "/full", {"json": {"id": "a"}}),
    ("POST", "/full", {"json": {"id": "a"}}),
]


def shape(answer: httpx.Response) -> Any:
    body = answer.json() if answer.content else None
    if isinstance(body, dict):
        body = {name: value for name, value in body.items() if name not in ("request_id", "id")}
    return answer.status_code, {n: v for n, v in answer.headers.items() if n not in PASSES}, body


async def test_both_ways_answer_alike(harness: StartHarness) -> None:
    ways = []
    for whole in (False, True):
        app = shop()
        if whole:
            app.http.add_middleware(Passing)
        h = await harness(app)
        assert (find(app, "POST", "/items") is None) is whole
        app_client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app.http, raise_app_exceptions=False), base_url="http://shop"
        )
        async with app_client as client:
            ways.append([shape(await client.request(verb, url, **more)) for verb, url, more in REQUESTS])
        await h.supervisor.stop(1)
    assert ways[0] == ways[1]
    assert Passing.seen == len(REQUESTS)
    assert [status for status, *_ in ways[0]] == [201, 409, 422, 415, 201, 201, 200, 200, 422, 405, 401, 500, 202, 429]


async def test_endpoints_of_the_app_are_never_hidden(harness: StartHarness) -> None:
    app = shop()

    @app.http.get("/{anything}")
    async def written(anything: str) -> str:
        return "by hand"

    h = await harness(app)
    client = h.client(app)
    assert (await client.get("/items")).json() == "by hand"
    assert find(app, "GET", "/items") is None
    assert find(app, "POST", "/items") is not None
    app.http.get("/later")(written)
    assert find(app, "POST", "/items") is None
    assert (await client.post("/items", json={"id": "a"})).status_code == 201


@pytest.mark.parametrize("kind", [QueueFull, RuntimeError])
async def test_the_apps_own_handlers_of_errors_are_asked(harness: StartHarness, kind: type[Exception]) -> None:
    app = shop()

    async def told(_: Request, error: Exception) -> Response:
        return JSONResponse({"told": str(error)}, 418)

    class Refusing(Auth):
        async def admit(self, scope: Any) -> Caller:
            raise kind("refused")

    refusing = Refusing(frozenset(), frozenset(), "", open=False)
    app.ingest(app.queue("other"), "/other", auth=refusing)
    app.http.add_exception_handler(kind, told)
    h = await harness(app)
    answer = await h.client(app).post("/other", json={})
    assert (answer.status_code, answer.json()) == (418, {"told": "refused"})


async def test_the_lane_closes_for_telemetry_of_the_app_and_not_for_the_sdk_alone(
    harness: StartHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    app = shop()
    await harness(app)
    assert find(app, "POST", "/items") is not None
    provider = TracerProvider()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    assert find(app, "POST", "/items") is None
