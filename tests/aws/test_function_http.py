"""The function of an app's endpoints on the stand-in: requests of API Gateway through the layers of a server."""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from headwater import App, anyone
from headwater.clock import SystemClock
from headwater.functions.gateway import read_request
from headwater.functions.http import Endpoints
from headwater.functions.queue import consume
from headwater.http.issuers import Issuer
from headwater.http.limits import Limits
from headwater.http.tokens import development_secret, mint
from headwater.quota import Plan
from tests.aws.lambdas import Stage, invocation, staged

ISSUER = Issuer(development=True)
pytestmark = pytest.mark.usefixtures("aws")


def request(
    method: str, path: str, body: bytes | str = "", headers: dict[str, str] | None = None, *, stage: str = "$default"
) -> dict[str, Any]:
    """A request as an HTTP API hands it over."""
    raw = body.encode() if isinstance(body, str) else body
    path, _, query = path.partition("?")
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path if stage == "$default" else f"/{stage}{path}",
        "rawQueryString": query,
        "headers": {"host": "api.example", "content-type": "application/json", **(headers or {})},
        "requestContext": {
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "203.0.113.9"},
            "requestId": "r",
            "stage": stage,
        },
        "body": base64.b64encode(raw).decode(),
        "isBase64Encoded": True,
    }


class Api:
    """An app's endpoints as a function."""

    def __init__(self, stage: Stage, endpoints: Endpoints) -> None:
        self.stage = stage
        self._endpoints = endpoints

    async def ask(self, event: dict[str, Any], left_s: float = 30.0) -> dict[str, Any]:
        return await self._endpoints.answer(read_request(event), invocation(left_s))


@asynccontextmanager
async def served(stack: str, app: App[Any], **settings: Any) -> AsyncIterator[Api]:
    async with staged(stack, [app], **settings) as stage:
        endpoints = Endpoints(stage.home, app.name)
        await endpoints.start()
        yield Api(stage, endpoints)


def body_of(answer: dict[str, Any]) -> Any:
    raw = base64.b64decode(answer["body"]) if answer["isBase64Encoded"] else answer["body"]
    return json.loads(raw)


async def test_intake_from_the_post_to_the_page_of_rows(
    stack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWATER_QUEUE", "intake/incoming")
    app = importlib.import_module("apps.intake.app").app
    key = tmp_path / "development.key"
    plans = {"intake": Plan(rate=1000)}
    async with served(stack, app, issuers={"here": ISSUER}, plans=plans, development_key_file=str(key)) as api:
        secret = development_secret(key)
        claims = {"sub": "ann", "roles": ["data.read", "data.write"]}
        token = mint(claims, secret, ISSUER, now_s=SystemClock().wall_ms() / 1000, valid_s=60)
        bearer = {"authorization": f"Bearer {token}"}
        reading = json.dumps({"informationOne": "one", "informationTwo": "zwei ü"})
        refused = await api.ask(request("POST", "/intake/data", reading))
        assert (refused["statusCode"], body_of(refused)["error"]) == (401, "Unauthenticated")
        assert refused["headers"]["content-type"] == "application/problem+json"
        accepted = await api.ask(request("POST", "/intake/data", reading, bearer))
        assert accepted["statusCode"] == 202
        assert "ratelimit" in accepted["headers"]
        event = api.stage.receive("intake/incoming")
        api.stage.end("intake/incoming", event, await consume(api.stage.home, event, invocation()))
        listed = await api.ask(request("GET", "/intake/data?limit=10", "", bearer))
        (row,) = body_of(listed)["items"]
        assert (row["id"], row["user_id"], row["informationTwo"]) == (body_of(accepted)["id"], "ann", "zwei ü")


def shop() -> App[None]:
    """An app with endpoints that show what a function makes of them."""
    app = App("shop")
    rows = app.table("rows", dict, key="id")
    app.expose(rows, "/rows", read=anyone(), write=anyone())

    @app.http.get("/seen")
    async def seen(request: Request) -> dict[str, Any]:
        url = request.url_for("seen")
        return {"client": request.client.host if request.client else "", "url": str(url), "query": request.url.query}

    @app.http.get("/binary")
    async def binary(size: int = 3) -> Response:
        response = Response(b"\xff" * size, media_type="application/octet-stream")
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        return response

    @app.http.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(iter(["a", "b", "c"]), media_type="text/plain")

    @app.http.post("/large")
    async def large() -> Response:
        await rows.put({"id": "large"})
        return Response("x" * 7_000_000, media_type="text/plain")

    @app.http.get("/slow")
    async def slow() -> None:
        await asyncio.sleep(60)

    @app.http.get("/broken")
    async def broken() -> None:
        raise ZeroDivisionError

    return app


async def test_what_an_endpoint_sees_of_the_client_and_of_the_stage(stack: str) -> None:
    async with served(stack, shop()) as api:
        plain = body_of(await api.ask(request("GET", "/shop/seen?x=1&x=2")))
        assert plain == {"client": "203.0.113.9", "url": "https://api.example/shop/seen", "query": "x=1&x=2"}
        staged = body_of(await api.ask(request("GET", "/shop/seen", stage="prod")))
        assert staged["url"] == "https://api.example/prod/shop/seen"
        listed = body_of(await api.ask(request("GET", "/", stage="prod")))
        assert listed == {"apps": {"shop": {"url": "/prod/shop", "docs": "/prod/shop/docs"}}}
        ready = await api.ask(request("GET", "/ready"))
        assert ready["statusCode"] == 200


async def test_answers_are_text_binary_streams_and_cookies(stack: str) -> None:
    async with served(stack, shop()) as api:
        binary = await api.ask(request("GET", "/shop/binary"))
        assert (binary["isBase64Encoded"], base64.b64decode(binary["body"])) == (True, b"\xff\xff\xff")
        assert [cookie.partition(";")[0] for cookie in binary["cookies"]] == ["a=1", "b=2"]
        assert "set-cookie" not in binary["headers"]
        stream = await api.ask(request("GET", "/shop/stream"))
        assert (stream["isBase64Encoded"], stream["body"]) == (False, "abc")


async def test_what_lambda_cannot_give_back_is_a_problem(stack: str) -> None:
    async with served(stack, shop()) as api:
        read = await api.ask(request("GET", "/shop/binary?size=5000000"))
        told = body_of(read)
        assert (read["statusCode"], told["status"], told["error"]) == (500, 500, "TooLarge")
        assert "had its effect" not in told["detail"]
        written = body_of(await api.ask(request("POST", "/shop/large")))
        assert "the request had its effect" in written["detail"]
        assert (await api.ask(request("GET", "/shop/rows/large")))["statusCode"] == 200


async def test_limits_of_a_server_hold(stack: str) -> None:
    async with served(stack, shop(), limits=Limits(body=100)) as api:
        large = await api.ask(request("POST", "/shop/rows", json.dumps({"id": "a", "text": "x" * 200})))
        assert (large["statusCode"], body_of(large)["error"]) == (413, "TooLarge")
        slow = await api.ask(request("GET", "/shop/slow"), left_s=1.0)
        assert (slow["statusCode"], body_of(slow)["error"]) == (504, "RequestExpired")
        broken = await api.ask(request("GET", "/shop/broken"))
        assert (broken["statusCode"], body_of(broken)["status"]) == (500, 500)
        unknown = await api.ask(request("GET", "/nobody"))
        assert (unknown["statusCode"], body_of(unknown)["error"]) == (404, "UnknownResource")


async def test_an_idempotency_key_has_one_effect(stack: str) -> None:
    async with served(stack, shop()) as api:
        once = request("POST", "/shop/rows", json.dumps({"id": "a"}), {"idempotency-key": "k"})
        first, second = await api.ask(once), await api.ask(once)
        assert (first["statusCode"], second["statusCode"]) == (201, 201)
        assert second["headers"]["idempotent-replayed"] == "true"
        other = request("POST", "/shop/rows", json.dumps({"id": "b"}), {"idempotency-key": "k"})
        assert (await api.ask(other))["statusCode"] == 422


async def test_a_request_joins_the_trace_of_x_ray_unless_it_has_one(
    stack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_X_AMZN_TRACE_ID", "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=0")
    async with served(stack, shop()) as api:
        joined = await api.ask(request("GET", "/shop/seen"))
        assert joined["headers"]["headwater-trace"] == "5759e988bd862e3fe1be46a994272793"
        trace = "0af7651916cd43dd8448eb211c80319c"
        own = {"traceparent": f"00-{trace}-b7ad6b7169203331-00"}
        assert (await api.ask(request("GET", "/shop/seen", headers=own)))["headers"]["headwater-trace"] == trace


async def test_the_lifespan_is_begun_once(stack: str) -> None:
    app, starts = App("shop"), list[int]()

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[dict[str, int]]:
        starts.append(1)
        yield {"n": len(starts)}

    app.http.router.lifespan_context = lifespan

    @app.http.get("/n")
    async def n(request: Request) -> int:
        return int(request.state.n)

    async with served(stack, app) as api:
        assert [body_of(await api.ask(request("GET", "/shop/n"))) for _ in range(2)] == [1, 1]


async def test_metrics_are_lines_named_as_alarms_ask_for_them(stack: str, capsys: pytest.CaptureFixture[str]) -> None:
    async with served(stack, shop()) as api:
        capsys.readouterr()
        await api.ask(request("GET", "/shop/rows/missing"))
        told = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith('{"_aws"')]
        assert [line["Endpoint"] for line in told] == ["/shop", "GET /shop/rows/{id}"]
        assert {(line["Stack"], line["requests"], line["errors"]) for line in told} == {(stack, 1, 0)}
