"""Requests as units of work: what a response promises is durable before it leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from contextvars import Context
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Form, HTTPException, Request, UploadFile, WebSocket
from fastapi.responses import StreamingResponse
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from headwater import App, Event, UnitClosed, wait
from headwater.http.unit_layer import BUFFER, no_rerun
from headwater.pytest_plugin import StartHarness
from tests.http.raw import Exchange
from tests.runtime.samples import Item, Job, until, waiting


async def elsewhere(call: Any) -> Any:
    """Run a call outside of the current unit, as a commit of its own."""
    return await asyncio.get_running_loop().create_task(call, context=Context())


async def test_the_commit_is_durable_when_the_response_starts(harness: StartHarness) -> None:
    app = App("shop")
    items, out = app.table("items", Item, key="id"), app.queue("out", Job)
    seen: list[Any] = []

    @app.http.post("/")
    async def post() -> str:
        await items.put(Item(id="a"))
        await out.send(Job())
        seen.append(await elsewhere(items.get("a")))
        return "done"

    h = await harness(app)
    exchange = Exchange(app.http)

    async def look() -> None:
        seen.append((await elsewhere(items.get("a")), len(await waiting(h, out))))

    exchange.on_start = look
    await exchange.run()
    assert exchange.status == 200
    assert seen == [None, (Item(id="a"), 1)]


@pytest.mark.parametrize("how", ["status", "http-exception", "error", "ours", "response"])
async def test_a_failed_request_has_no_effect(harness: StartHarness, how: str) -> None:
    app = App("shop")
    items = app.table("items", Item, key="id")

    @app.http.post("/", status_code=400 if how == "status" else 200)
    async def post() -> Any:
        await items.put(Item(id="a"))
        match how:
            case "http-exception":
                raise HTTPException(418, "teapot")
            case "error":
                raise RuntimeError("bug")
            case "ours":
                await items.put(Item(id="a"), if_absent=True)
            case "response":
                return PlainTextResponse("no", status_code=503)
        return None

    await harness(app)
    exchange = Exchange(app.http)
    if how == "error":
        with pytest.raises(RuntimeError, match="bug"):
            await exchange.run()
    else:
        await exchange.run()
    wanted = {"status": 400, "http-exception": 418, "error": 500, "ours": 412, "response": 503}
    assert exchange.status == wanted[how]
    assert await items.get("a") is None


async def test_a_redirect_commits(harness: StartHarness) -> None:
    app = App("shop")
    items = app.table("items", Item, key="id")

    @app.http.post("/")
    async def post() -> Any:
        await items.put(Item(id="a"))
        return PlainTextResponse("", status_code=303, headers={"location": "/x"})

    await harness(app)
    assert (await Exchange(app.http).run()).status == 303
    assert await items.get("a") is not None


async def test_routers_mounts_and_applications_inside_join_the_unit(harness: StartHarness) -> None:
    app = App("shop")
    items = app.table("items", Item, key="id")
    router, inner = APIRouter(prefix="/router"), FastAPI()
    fail = False

    async def put(id: str) -> None:
        await items.put(Item(id=id))
        if fail:
            raise HTTPException(409)

    router.put("/{id}")(put)
    inner.put("/{id}")(put)

    async def starlette_put(request: Request) -> PlainTextResponse:
        try:
            await put(request.path_params["id"])
        except HTTPException:
            return PlainTextResponse("no", status_code=409)
        return PlainTextResponse("ok")

    app.http.include_router(router)
    app.http.mount("/inner", inner)
    app.http.mount("/plain", Starlette(routes=[Route("/{id}", starlette_put, methods=["PUT"])]))
    h = await harness(app)
    client = h.client(app)
    for n, folder in enumerate(("router", "inner", "plain")):
        assert (await client.put(f"/{folder}/{n}")).status_code == 200
        assert await items.get(str(n)) is not None
    fail = True
    for folder in ("router", "inner", "plain"):
        assert (await client.put(f"/{folder}/x")).status_code == 409
    assert await items.get("x") is None


async def test_dependencies_belong_to_the_request(harness: StartHarness) -> None:
    app = App("shop")
    items = app.table("items", Item, key="id")
    errors: list[Exception] = []

    async def audit() -> AsyncIterator[None]:
        await items.put(Item(id="before"))
        yield
        try:
            await items.put(Item(id="after"))
        except UnitClosed as error:
            errors.append(error)

    def threaded() -> Iterator[int]:
        wait(items.put(Item(id="thread")))
        yield 1

    @app.http.post("/{id}", dependencies=[Depends(audit), Depends(threaded)])
    async def post(id: str) -> None:
        await items.put(Item(id=id))
        if id == "bad":
            raise HTTPException(400)

    h = await harness(app)
    client = h.client(app)
    assert (await client.post("/bad")).status_code == 400
    assert (await items.query()).items == []
    errors.clear()
    assert (await client.post("/good")).status_code == 200
    assert [item.id for item in (await items.query()).items] == ["before", "good", "thread"]
    assert len(errors) == 1


async def test_the_users_middleware_lies_outside_of_the_unit(harness: StartHarness) -> None:
    app = App("shop")
    items = app.table("items", Item, key="id")

    class Audit(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: Any) -> Any:
            answer = await call_next(request)
            answer.headers["x-route"] = request.scope["route"].path
            await items.put(Item(id=f"audit-{answer.status_code}"))
            return answer

    app.http.add_middleware(Audit)

    @app.http.post("/x/{id}")
    async def post(id: str) -> None:
        await items.put(Item(id=id))
        raise HTTPException(400)

    h = await harness(app)
    answer = await h.client(app).post("/x/a")
    assert answer.headers["x-route"] == "/x/{id}"
    assert [item.id for item in (await items.query()).items] == ["audit-400"]


async def test_forms_uploads_and_threads(harness: StartHarness) -> None:
    app = App("shop")
    items = app.table("items", Item, key="id")

    @app.http.post("/upload")
    async def upload(file: UploadFile, name: Annotated[str, Form()]) -> None:
        await items.put(Item(id=name, n=len(await file.read())))

    @app.http.post("/thread/{id}")
    def thread(id: str) -> None:
        wait(items.put(Item(id=id)))
        if id == "bad":
            raise HTTPException(400)

    h = await harness(app)
    client = h.client(app)
    answer = await client.post("/upload", files={"file": b"x" * 3_000_000}, data={"name": "big"})
    assert answer.status_code == 200, answer.text
    assert await items.get("big") == Item(id="big", n=3_000_000)
    assert (await client.post("/thread/good")).status_code == 200
    assert (await client.post("/thread/bad")).status_code == 400
    assert await items.get("good") is not None
    assert await items.get("bad") is None


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "k"}])
async def test_streams_and_background_tasks_outlive_the_unit(harness: StartHarness, key: dict[str, str]) -> None:
    app = App("shop")
    items = app.table("items", Item, key="id")
    errors: list[Exception] = []

    async def late(id: str) -> None:
        try:
            await items.put(Item(id=id))
        except UnitClosed as error:
            errors.append(error)

    @app.http.post("/stream")
    async def stream() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"1"
            await late("stream")
            yield b"2"

        await items.put(Item(id="early"))
        return StreamingResponse(body())

    @app.http.post("/background")
    async def background(tasks: BackgroundTasks) -> None:
        tasks.add_task(late, "background")
        await items.put(Item(id="early-too"))

    h = await harness(app)
    client = h.client(app, headers=key)
    assert (await client.post("/stream")).text == "12"
    assert (await client.post("/background")).status_code == 200
    assert len(errors) == 2
    assert "app.transaction()" in str(errors[0])
    assert [item.id for item in (await items.query()).items] == ["early", "early-too"]


async def test_a_background_task_that_fails_does_not_answer_twice(harness: StartHarness) -> None:
    app = App("shop")
    items = app.table("items", Item, key="id")

    @app.http.post("/")
    async def post(tasks: BackgroundTasks) -> None:
        tasks.add_task(items.put, Item(id="late"))

    await harness(app)
    exchange = Exchange(app.http)
    with pytest.raises(RuntimeError):
        await exchange.run()
    assert exchange.status == 200
    assert await items.get("late") is None


@pytest.mark.parametrize("inner", [False, True])
async def test_a_conflict_plays_the_request_again(harness: StartHarness, inner: bool) -> None:
    app = App("shop")
    items = app.table("items", Item, key="id")
    bodies: list[str] = []
    router = FastAPI() if inner else APIRouter()

    @router.post("/add/{id}")
    async def add(id: str, body: Item, request: Request) -> Item:
        bodies.append(f"{request.url.path} {body.kind}")
        found = await items.get(id) or Item(id=id)
        if len(bodies) < 3:
            await elsewhere(items.put(Item(id=id, n=found.n + 100)))
        added = found.model_copy(update={"n": found.n + body.n})
        await items.put(added)
        return added

    if isinstance(router, FastAPI):
        app.http.mount("/in", router)
    else:
        app.http.include_router(router, prefix="/in")
    h = await harness(app)
    answer = await h.client(app).post("/in/add/a", json={"id": "x", "n": 1, "kind": "é"})
    assert (answer.status_code, answer.json()["n"]) == (200, 201)
    assert bodies == ["/in/add/a é"] * 3
    assert await items.get("a") == Item(id="a", n=201)


async def test_conflicts_without_end_are_409_and_name_the_key(harness: StartHarness) -> None:
    app = App("shop")
    items = app.table("items", Item, key="id")
    runs: list[int] = []

    @app.http.post("/")
    async def post() -> None:
        runs.append(1)
        await items.get("hot")
        await elsewhere(items.put(Item(id="hot", n=len(runs))))
        await items.put(Item(id="mine"))

    h = await harness(app)
    answer = await h.client(app).post("/")
    assert answer.status_code == 409
    assert "hot" in answer.json()["detail"]
    assert answer.json()["retryable"] is True
    assert len(runs) == 6
    assert await items.get("mine") is None


@pytest.mark.parametrize("why", ["large", "no_rerun"])
async def test_what_cannot_be_played_again_answers_409(harness: StartHarness, why: str) -> None:
    app = App("shop")
    items = app.table("items", Item, key="id")
    sizes: list[int] = []

    async def post(request: Request) -> None:
        sizes.append(len(await request.body()))
        found = await items.get("a") or Item(id="a")
        if len(sizes) == 1:
            await elsewhere(items.put(Item(id="a", n=7)))
        await items.put(Item(id="a", n=found.n + 1))

    app.http.post("/")(no_rerun(post) if why == "no_rerun" else post)
    await harness(app)
    body = b"x" * (BUFFER if why == "large" else 10)
    exchange = await Exchange(app.http).run(body[: len(body) // 2], body[len(body) // 2 :], b"!")
    assert exchange.status == 409
    assert sizes == [len(body) + 1]
    assert await items.get("a") == Item(id="a", n=7)


async def test_an_exception_after_a_stale_read_is_played_again(harness: StartHarness) -> None:
    app = App("shop")
    items = app.table("items", Item, key="id")
    runs: list[int] = []

    @app.http.post("/")
    async def post() -> None:
        runs.append(1)
        if await items.get("a") is None:
            await elsewhere(items.put(Item(id="a")))
            raise LookupError("no a")

    h = await harness(app)
    assert (await h.client(app).post("/")).status_code == 200
    assert len(runs) == 2


async def test_a_client_that_goes_away_while_it_sends_has_no_effect(harness: StartHarness) -> None:
    app = App("shop")
    items = app.table("items", Item, key="id")

    @app.http.post("/")
    async def post() -> None:
        await items.put(Item(id="a"))

    await harness(app)
    exchange = await Exchange(app.http).run(b'{"id":', disconnect=True)
    assert exchange.messages == []
    assert await items.get("a") is None


async def test_websockets_pass_and_each_call_is_a_commit(harness: StartHarness) -> None:
    app = App("shop")
    items = app.table("items", Item, key="id")

    @app.http.websocket("/ws")
    async def ws(socket: WebSocket) -> None:
        await socket.accept()
        await items.put(Item(id=await socket.receive_text()))
        found = await items.get("a")
        await socket.send_text(repr(found))

    await harness(app)
    incoming = [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "a"}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return incoming.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {**Exchange(app.http, path="/ws").scope, "type": "websocket", "subprotocols": []}
    await app.http(scope, receive, send)  # type: ignore[arg-type]
    assert "Item" not in sent[0]
    assert "id='a'" in sent[1]["text"]


async def test_an_apps_lifespan_runs_with_its_tables(harness: StartHarness) -> None:
    app = App("shop")
    items = app.table("items", Item, key="id")
    order: list[str] = []

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[dict[str, Any]]:
        async with asyncio.timeout(60):
            await items.update("starts", add={"n": 1})
            order.append("up")
            yield {"pool": "the pool"}
            order.append("down" if await items.get("starts") else "empty")

    app.http.include_router(APIRouter(lifespan=lifespan))

    @app.http.get("/")
    async def get(request: Request) -> str:
        return str(request.state.pool)

    h = await harness(app)
    assert (await h.client(app).get("/")).json() == "the pool"
    await h.restart()
    assert order == ["up", "down", "up"]
    assert (await h.client(app).get("/")).json() == "the pool"
    assert await items.get("starts") == Item(id="starts", n=2)


async def test_a_request_leads_to_its_events(harness: StartHarness) -> None:
    app = App("shop")
    jobs = app.queue("jobs", Job)
    causes: list[tuple[str | None, str]] = []

    @app.on(jobs)
    async def work(event: Event[Job]) -> None:
        causes.append((event.cause, event.trace))

    @app.http.post("/send")
    async def post() -> None:
        await jobs.send(Job())

    h = await harness(app)
    answer = await h.client(app).post("/send")
    trace = "0af7651916cd43dd8448eb211c80319c"
    second = await h.client(app).post("/send", headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"})
    broken = await h.client(app).post("/send", headers={"traceparent": "00-nonsense"})
    await h.run_until_idle()
    assert {cause for cause, _ in causes} == {"POST /send"}
    assert {trace for _, trace in causes} == {
        answer.headers["headwater-trace"],
        trace,
        broken.headers["headwater-trace"],
    }
    assert second.headers["headwater-trace"] == trace


async def test_the_layer_is_not_quadratic(harness: StartHarness) -> None:
    app = App("shop")

    @app.http.post("/")
    async def post(request: Request) -> int:
        return len(await request.body())

    await harness(app)
    begin = time.process_time()
    exchange = await Exchange(app.http, headers={"Idempotency-Key": "k"}).run(*[b"x" * 16] * 40_000)
    assert exchange.body == b"640000"
    assert time.process_time() - begin < 5


async def test_requests_run_in_parallel(harness: StartHarness) -> None:
    app = App("shop")
    items = app.table("items", Item, key="id")
    inside = 0
    gate = asyncio.Event()

    @app.http.post("/{id}")
    async def post(id: str) -> None:
        nonlocal inside
        inside += 1
        await gate.wait()
        await items.put(Item(id=id))

    h = await harness(app)
    requests = [asyncio.create_task(h.client(app).post(f"/{n}")) for n in range(20)]
    await until(lambda: inside == 20)
    gate.set()
    assert {(await request).status_code for request in requests} == {200}
    assert len((await items.query()).items) == 20
