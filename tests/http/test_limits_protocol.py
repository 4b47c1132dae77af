"""Limits on connections, heads, bodies and time, over real sockets; each with its answer, and the server goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.http.sockets import Served, get, post, served

SMALL: dict[str, Any] = {"header_timeout": "200ms", "body_timeout": "200ms", "request_timeout": "300ms"}


class Recording:
    """An application that reads bodies, notes each request, and waits at `/wait` for `go`."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bytes]] = []
        self.cancelled = 0
        self.go = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while scope["path"] != "/unread":
            message = await receive()
            body += message.get("body", b"")
            if message["type"] == "http.disconnect" or not message["more_body"]:
                break
        self.seen.append((scope["path"], body))
        if scope["path"].startswith("/wait"):
            try:
                await self.go.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if scope["path"] == "/broken":
            raise RuntimeError("broken")
        if scope["path"] == "/silent":
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        if scope["path"] == "/stream":
            await self.go.wait()
        await send({"type": "http.response.body", "body": b"ok"})

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.seen]


@pytest.fixture
def app() -> Recording:
    return Recording()


async def fine(server: Served) -> None:
    """The server goes on."""
    answer = await server.get("/fine")
    assert (answer.status, answer.body) == (200, b"ok")


@pytest.mark.parametrize("how", ["one line", "many lines", "url", "one piece", "unfinished"])
async def test_a_large_head_is_431(app: Recording, how: str) -> None:
    heads = {
        "one line": [get("/large", f"X: {'x' * 5000}")],
        "many lines": [get("/large", *[f"X-{n}: {n}" for n in range(600)])],
        "url": [get(f"/large?{'x' * 5000}")],
        "one piece": [get("/fine") + get("/large", f"X: {'x' * 5000}")],
        "unfinished": [b"GET /large HTTP/1.1\r\nHost: x\r\nX: ", *[b"x" * 500] * 10],
    }
    async with served(app, headers=4000) as server:
        wire = await server.connect()
        wire.send(*heads[how])
        if how == "one piece":
            assert (await wire.answer()).status == 200
        answer = await wire.answer()
        assert answer.status == 431
        assert answer.problem["error"] == "HeadersTooLarge"
        assert "4000 bytes" in answer.problem["detail"]
        assert answer.headers["connection"] == "close"
        assert await wire.closed() == b""
        assert "/large" not in app.paths
        await fine(server)


async def test_a_head_at_the_limit_and_a_large_body_beside_it_are_taken(app: Recording) -> None:
    async with served(app, headers=4000) as server:
        wire = await server.connect()
        assert (await wire.ask(get("/", f"X: {'x' * 3900}"))).status == 200
        assert (await wire.ask(post(b"x" * 50_000))).status == 200
        wire.send(post(b"x" * 50_000) + get("/next")[:10])
        assert (await wire.answer()).status == 200
        assert (await wire.ask(get("/next")[10:])).status == 200
    assert [len(body) for _, body in app.seen] == [0, 50_000, 50_000, 0]


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\nHo", b"\r\n", b"G"])
async def test_a_slow_head_is_408(app: Recording, sent: bytes) -> None:
    async with served(app, **SMALL) as server:
        wire = await server.connect()
        wire.send(sent)
        answer = await wire.answer()
        assert answer.status == 408
        assert answer.problem["error"] == "TimedOut"
        await wire.closed()
        await fine(server)


async def test_a_head_that_trickles_is_408_also_on_a_kept_connection(app: Recording) -> None:
    async with served(app, **SMALL) as server:
        wire = await server.connect()
        assert (await wire.ask(get())).status == 200
        trickle = asyncio.create_task(send_slowly(wire.writer, get("/trickle", "X: " + "x" * 1000)))
        assert (await wire.answer()).status == 408
        trickle.cancel()
        assert "/trickle" not in app.paths


async def test_a_connection_without_a_request_is_closed(app: Recording) -> None:
    async with served(app, **SMALL) as server:
        wire = await server.connect()
        assert await wire.closed() == b""


@pytest.mark.parametrize("coding", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
async def test_a_slow_body_is_408(app: Recording, coding: str) -> None:
    async with served(app, **SMALL) as server:
        wire = await server.connect()
        wire.send(f"POST /slow HTTP/1.1\r\nHost: x\r\n{coding}\r\n\r\n".encode())
        trickle = asyncio.create_task(send_slowly(wire.writer, b"1\r\nx\r\n" * 100))
        answer = await wire.answer()
        assert answer.status == 408
        assert "body" in answer.problem["detail"]
        trickle.cancel()
        assert ("/slow", b"x") not in app.seen
        await server.until(running=0)
        await fine(server)


async def test_a_body_that_comes_fast_enough_has_longer(app: Recording) -> None:
    """256 KiB move the deadline by four seconds: its half second without a byte is no offence."""
    async with served(app, header_timeout="200ms", body_timeout="200ms") as server:
        wire = await server.connect()
        request = post(b"x" * 300_000)
        wire.send(request[:-1])
        await wire.writer.drain()
        await asyncio.sleep(0.5)
        assert (await wire.ask(request[-1:])).status == 200


async def test_a_long_request_is_504_and_cancelled(app: Recording) -> None:
    async with served(app, **SMALL) as server:
        wire = await server.connect()
        answer = await wire.ask(post(b"{}", path="/wait"))
        assert answer.status == 504
        assert answer.problem["error"] == "RequestExpired"
        assert "not known" in answer.problem["detail"]
        assert "Idempotency-Key" in answer.problem["hint"]
        await wire.closed()
        await server.until(running=0)
        assert app.cancelled == 1
        await fine(server)


async def test_the_deadline_holds_for_requests_whose_client_left(app: Recording) -> None:
    async with served(app, **SMALL) as server:
        wire = await server.connect()
        wire.send(get("/wait"))
        await server.until(running=1)
        wire.writer.close()
        await server.until(running=0)
        assert app.cancelled == 1
        await server.until_true(lambda: not server.listener.edge.left)


async def test_a_thread_does_not_hold_the_answer(app: Recording) -> None:
    """What cannot be cancelled goes on; the client is answered in time."""

    async def stubborn(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.shield(asyncio.create_task(app(scope, receive, send)))

    async def deaf(scope: Any, receive: Any, send: Any) -> None:
        task = asyncio.create_task(stubborn(scope, receive, send))
        while not task.done():
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                app.cancelled += 1

    async with served(deaf, **SMALL) as server:
        assert (await server.get("/wait")).status == 504
        assert app.cancelled == 1
        app.go.set()
        await server.until(running=0)


async def test_a_response_that_has_started_has_no_deadline(app: Recording) -> None:
    async with served(app, **SMALL) as server:
        wire = await server.connect()
        wire.send(get("/stream"))
        head = await wire.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        await asyncio.sleep(0.8)
        app.go.set()
        assert await wire.reader.readexactly(2) == b"ok"


async def test_an_answer_that_nobody_reads_ends(app: Recording) -> None:
    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not (await_disconnect := asyncio.create_task(receive())).done():
            await_disconnect.cancel()
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            await asyncio.sleep(0)

    async with served(endless, **SMALL) as server:
        wire = await server.connect()
        wire.send(get("/endless"))
        await wire.reader.readuntil(b"\r\n\r\n")
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await server.until_true(lambda: not server.connections)
        for task in server.listener.server_state.tasks:
            task.cancel()


@pytest.mark.parametrize("path", ["/broken", "/silent"])
async def test_a_failing_application_is_a_problem(app: Recording, path: str) -> None:
    async with served(app) as server:
        wire = await server.connect()
        answer = await wire.ask(get(path))
        assert answer.status == 500
        assert answer.problem["title"] == "Internal Server Error"
        assert "broken" not in answer.body.decode()
        assert await wire.closed() == b""
        await fine(server)


async def test_more_connections_are_refused_but_health_is_answered(app: Recording) -> None:
    async with served(app, connections=2) as server:
        kept = [await server.connect() for _ in range(2)]
        for wire in kept:
            assert (await wire.ask(get())).status == 200
        crowded = await server.get("/more")
        assert crowded.status == 503
        assert crowded.problem["error"] == "Overloaded"
        assert "connections" in crowded.problem["detail"]
        assert "/more" not in app.paths
        assert (await server.get("/live")).status == 200
        assert (await kept[0].ask(get())).status == 200


async def test_too_many_pipelined_requests_are_refused(app: Recording) -> None:
    async with served(app) as server:
        wire = await server.connect()
        wire.send(get("/wait") + get("/piped") * 100)
        await server.until(running=1)
        app.go.set()
        answers = [await wire.answer() for _ in range(34)]
        assert [answer.status for answer in answers] == [200] * 33 + [503]
        assert await wire.closed() == b""
        assert app.paths == ["/wait", *["/piped"] * 32]


@pytest.mark.parametrize("path", ["/unread", "/unread-with-expect"], ids=["body in flight", "expect"])
async def test_the_rest_of_a_body_is_never_a_request(app: Recording, path: str) -> None:
    """Answered before its body came: the body is skipped, or the connection ends."""
    hidden = get("/smuggled")
    async with served(app) as server:
        wire = await server.connect()
        extra = ["Expect: 100-continue"] if "expect" in path else []
        request = post(hidden, *extra, path="/unread")
        wire.send(request[: -len(hidden)])
        assert (await wire.answer()).status == 200
        wire.send(hidden)
        if extra:
            assert await wire.closed() == b""
        else:
            assert (await wire.ask(get("/after"))).status == 200
        assert "/smuggled" not in app.paths


async def test_an_endless_body_after_its_answer_is_cut_off(app: Recording) -> None:
    async with served(app) as server:
        wire = await server.connect()
        wire.send(b"POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n")
        assert (await wire.answer()).status == 200
        with pytest.raises(ConnectionError):
            await send_forever(wire.writer)


async def send_forever(writer: asyncio.StreamWriter) -> None:
    for _ in range(500):
        writer.write(b"x" * 100_000)
        await writer.drain()


async def send_slowly(writer: asyncio.StreamWriter, data: bytes) -> None:
    for at in range(len(data)):
        writer.write(data[at : at + 1])
        await asyncio.sleep(0.02)
