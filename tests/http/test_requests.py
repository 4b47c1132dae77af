"""Bad input, error shapes and idempotency keys at the HTTP edge."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Header, HTTPException, Request, Response
from pydantic import BaseModel, ConfigDict
from starlette.responses import PlainTextResponse

from headwater import App, InvalidValue, QueueFull, StoreFull, TooLarge, UnknownResource
from headwater.errors import (
    CommitUnknown,
    ConditionFailed,
    Conflict,
    HeadwaterError,
    Stopping,
    StoreDamaged,
    status_of,
)
from headwater.http.limits import Limits
from headwater.http.unit_layer import BUFFER, MAX_STORED_ANSWER
from headwater.pytest_plugin import StartHarness
from headwater.testing import Harness
from tests.http.raw import Exchange
from tests.runtime.samples import Item, Job, until


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: str
    n: int


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"id": "a", "n":', "body"),
        (b"\xff\xfe", "body"),
        (b'{"id": "a", "n": "many"}', "n"),
        (b'{"id": "a"}', "n"),
        (b'{"id": "a", "n": 1, "more": 2}', "more"),
        (b"[]", "body"),
        (b"", "body"),
    ],
)
async def test_a_wrong_body_is_422_and_names_the_field(harness: StartHarness, body: bytes, field: str) -> None:
    app = App("shop")
    items = app.table("items", Item, key="id")

    @app.http.post("/")
    async def post(value: Strict) -> None:
        await items.put(Item(id=value.id))

    h = await harness(app)
    answer = await h.client(app).post("/", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert field in answer.json()["errors"][0]["loc"]
    assert (await items.query()).items == []


@pytest.mark.parametrize("how", ["length", "chunked"])
async def test_an_oversized_body_is_413(harness: StartHarness, how: str) -> None:
    app = App("shop")
    items = app.table("items", Item, key="id")

    @app.http.post("/model")
    async def model(value: Strict) -> None:
        await items.put(Item(id="a"))

    @app.http.post("/raw")
    async def raw(request: Request) -> None:
        await items.put(Item(id="a"))
        await request.body()

    await harness(app)
    for path in ("/model", "/raw"):
        if how == "length":
            headers = {"content-length": str(Limits().body + 1), "content-type": "application/octet-stream"}
            exchange = await Exchange(app.http, path=path, headers=headers).run(b"x")
            assert exchange.received == 0
        else:
            headers = {"content-type": "application/octet-stream"}
            exchange = await Exchange(app.http, path=path, headers=headers).run(*[b"x" * 2**20] * 20)
            assert exchange.received == 17
        assert exchange.status == 413
        assert b"TooLarge" in exchange.body
    assert await items.get("a") is None


async def test_errors_have_one_shape(harness: StartHarness) -> None:
    app = App("shop")
    errors = [
        UnknownResource("gone", operation="send", resource="shop/x", hint="declare it"),
        InvalidValue("bad"),
        TooLarge("much"),
        ConditionFailed("no"),
        QueueFull("full"),
        StoreFull("disk"),
        StoreDamaged("broken"),
        CommitUnknown("lost"),
        Stopping("later"),
        HeadwaterError("else"),
    ]

    @app.http.get("/{n}")
    async def get(n: int) -> None:
        raise errors[n]

    h = await harness(app)
    answers = [await h.client(app).get(f"/{n}") for n in range(len(errors))]
    assert [answer.status_code for answer in answers] == [404, 422, 413, 412, 429, 507, 503, 503, 503, 500]
    told = answers[0].json()
    assert told.pop("request_id") == answers[0].headers["headwater-trace"]
    assert told == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "gone",
        "error": "UnknownResource",
        "operation": "send",
        "resource": "shop/x",
        "hint": "declare it",
    }
    assert {"detail": "disk", "error": "StoreFull", "retryable": True}.items() <= answers[5].json().items()
    assert {answer.headers["content-type"] for answer in answers} == {"application/problem+json"}
    assert all(answer.headers["headwater-trace"] for answer in answers)
    assert status_of(Conflict("x")) == 409


async def test_a_full_disk_is_507_and_reads_go_on(harness: StartHarness) -> None:
    app = App("shop")
    items = app.table("items", Item, key="id")

    @app.http.post("/")
    async def post() -> None:
        await items.put(Item(id="b"))

    @app.http.get("/")
    async def get() -> list[Item]:
        return (await items.query()).items

    h = await harness(app)
    await items.put(Item(id="a"))
    engine = h.supervisor.engine
    commit = engine.commit

    def full(_: Any) -> Any:
        future = asyncio.get_running_loop().create_future()
        future.set_exception(StoreFull("no room", operation="commit", hint="make room"))
        return future

    engine.commit = full  # type: ignore[assignment,method-assign]
    answer = await h.client(app).post("/")
    assert (answer.status_code, answer.json()["retryable"]) == (507, True)
    assert len((await h.client(app).get("/")).json()) == 1
    engine.commit = commit  # type: ignore[method-assign]
    assert (await h.client(app).post("/")).status_code == 200


def counting(app: App[Any]) -> list[str]:
    """Endpoints that tell each of their runs."""
    items, jobs = app.table("items", Item, key="id"), app.queue("jobs", Job)
    runs: list[str] = []

    @app.http.post("/add/{id}", status_code=201)
    async def add(id: str, request: Request, response: Response) -> dict[str, Any]:
        body = (await request.body()).decode()
        runs.append(body)
        response.headers["x-run"] = str(len(runs))
        await items.update(id, add={"n": 1})
        await jobs.send(Job())
        if body == "refuse":
            raise HTTPException(400, "refused")
        if body == "big":
            return {"x": "y" * MAX_STORED_ANSWER}
        return {"run": len(runs)}

    return runs


async def test_an_idempotency_key_gives_the_same_answer_once_done(tmp_path: Path) -> None:
    app = App("shop")
    runs = counting(app)
    async with Harness(app, store=tmp_path / "store") as h:
        client = h.client(app, headers={"Idempotency-Key": "k"})
        first = await client.post("/add/a", content=b"x")
        again = await client.post("/add/a", content=b"x")
        await h.restart()
        later = await client.post("/add/a", content=b"x")
        assert runs == ["x"]
        for answer in (again, later):
            assert (answer.status_code, answer.content) == (201, first.content)
            assert answer.headers.pop("idempotent-replayed") == "true"
            assert answer.headers.raw == first.headers.raw
        assert first.headers["headwater-trace"]
        assert len(await h.messages("shop/jobs")) == 1
        other = await client.post("/add/a", content=b"y")
        assert (other.status_code, other.json()["error"]) == (422, "IdempotencyMismatch")
        query = await client.post("/add/a?q=1", content=b"x")
        assert query.status_code == 422
        for answer in (
            await client.post("/add/b", content=b"x"),
            await client.post("/add/a", content=b"x", headers={"authorization": "somebody"}),
            await client.post("/add/a", content=b"x", headers={"Idempotency-Key": "l"}),
        ):
            assert answer.status_code == 201
            assert "idempotent-replayed" not in answer.headers
        assert len(runs) == 4
        await h.advance(hours=23, minutes=59)
        assert "idempotent-replayed" in (await client.post("/add/a", content=b"x")).headers
        await h.advance(minutes=2)
        assert "idempotent-replayed" not in (await client.post("/add/a", content=b"x")).headers


async def test_an_answer_of_400_and_above_is_not_kept(harness: StartHarness) -> None:
    app = App("shop")
    runs = counting(app)
    h = await harness(app)
    client = h.client(app, headers={"Idempotency-Key": "k"})
    for _ in range(2):
        answer = await client.post("/add/a", content=b"refuse")
        assert answer.status_code == 400
        assert answer.headers["headwater-trace"]
    assert (await client.post("/add/a", content=b"fine")).status_code == 201
    assert runs == ["refuse", "refuse", "fine"]


async def test_a_concurrent_twin_gets_409(harness: StartHarness) -> None:
    app = App("shop")
    gate, inside = asyncio.Event(), []
    items = app.table("items", Item, key="id")

    @app.http.post("/")
    async def post() -> int:
        inside.append(1)
        await gate.wait()
        await items.update("a", add={"n": 1})
        return len(inside)

    h = await harness(app)
    client = h.client(app, headers={"Idempotency-Key": "k"})
    first = asyncio.create_task(client.post("/"))
    await until(lambda: len(inside) == 1)
    twin = await client.post("/")
    assert (twin.status_code, twin.json()["error"], twin.json()["retryable"]) == (409, "InProgress", True)
    gate.set()
    assert (await first).json() == 1
    assert (await client.post("/")).json() == 1
    assert await items.get("a") == Item(id="a", n=1)


async def test_keys_and_answers_have_limits(harness: StartHarness) -> None:
    app = App("shop")
    runs = counting(app)
    h = await harness(app)
    client = h.client(app)
    for key in ("", "k" * 256):
        assert (await client.post("/add/a", headers={"Idempotency-Key": key})).status_code == 422
    large = await client.post("/add/a", headers={"Idempotency-Key": "k"}, content=b"x" * (BUFFER + 1))
    assert large.status_code == 413
    assert runs == []
    answer = await client.post("/add/a", headers={"Idempotency-Key": "k"}, content=b"big")
    assert answer.status_code == 413
    assert await h.messages("shop/jobs") == []


async def test_reads_ignore_the_key(harness: StartHarness) -> None:
    app = App("shop")
    runs: list[int] = []

    @app.http.get("/")
    async def get() -> int:
        runs.append(1)
        return len(runs)

    h = await harness(app)
    client = h.client(app, headers={"Idempotency-Key": "k"})
    assert [(await client.get("/")).json() for _ in range(2)] == [1, 2]


async def test_a_conflict_under_a_key_is_played_again(harness: StartHarness) -> None:
    from tests.http.test_unit_layer import elsewhere

    app = App("shop")
    items = app.table("items", Item, key="id")
    runs: list[int] = []

    @app.http.post("/")
    async def post() -> int:
        runs.append(1)
        found = await items.get("a") or Item(id="a")
        if len(runs) == 1:
            await elsewhere(items.put(Item(id="a", n=5)))
        await items.put(Item(id="a", n=found.n + 1))
        return found.n + 1

    h = await harness(app)
    client = h.client(app, headers={"Idempotency-Key": "k"})
    assert [(await client.post("/")).json() for _ in range(2)] == [6, 6]
    assert len(runs) == 2


async def test_etags_and_if_match(harness: StartHarness) -> None:
    app = App("shop")
    items = app.table("items", Item, key="id")

    @app.http.put("/{id}")
    async def put(id: str, value: Item, response: Response, if_match: str | None = Header(None)) -> None:
        response.headers["ETag"] = f'"{await items.put(value, if_version=if_match)}"'

    h = await harness(app)
    client = h.client(app)
    tag = (await client.put("/a", json={"id": "a"})).headers["etag"]
    assert (await client.put("/a", json={"id": "a", "n": 1}, headers={"If-Match": tag})).status_code == 200
    stale = await client.put("/a", json={"id": "a", "n": 2}, headers={"If-Match": tag})
    assert (stale.status_code, stale.json()["error"]) == (412, "ConditionFailed")
    assert await items.get("a") == Item(id="a", n=1)


async def test_an_answer_of_a_plain_asgi_app_counts_too(harness: StartHarness) -> None:
    app, plain = App("shop"), FastAPI()
    items = app.table("items", Item, key="id")

    async def raw(scope: Any, receive: Any, send: Any) -> None:
        await items.put(Item(id="a"))
        await PlainTextResponse("ok")(scope, receive, send)

    app.http.mount("/raw", raw)
    app.http.mount("/plain", plain)
    h = await harness(app)
    assert (await h.client(app).get("/raw/x")).text == "ok"
    assert (await h.client(app).get("/plain/x")).status_code == 404
    assert await items.get("a") is not None
