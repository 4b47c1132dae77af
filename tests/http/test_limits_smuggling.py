"""Requests that two servers on the way may read differently are refused, and what follows them is never run."""

from __future__ import annotations

from typing import Any

import pytest

from tests.http.sockets import get, post, served

HIDDEN = get("/smuggled")


class Seen:
    def __init__(self) -> None:
        self.paths: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.paths.append(scope["path"])
        while (message := await receive())["type"] == "http.request" and message["more_body"]:
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})


def head(*lines: str, version: str = "1.1", host: str = "Host: x") -> bytes:
    return "\r\n".join([f"POST /first HTTP/{version}", *[host] * bool(host), *lines, "", ""]).encode("latin-1")


@pytest.mark.parametrize(
    "request_bytes",
    [
        head("Content-Length: 0", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        head("Transfer-Encoding: chunked", "Content-Length: 4") + b"0\r\n\r\n",
        head("Content-Length: 0", f"Content-Length: {len(HIDDEN)}"),
        head("Content-Length: 4", "Content-Length: 4") + b"abcd",
        head("Content-Length: 4, 4") + b"abcd",
        head("Content-Length: +4") + b"abcd",
        head("Content-Length: 0x4") + b"abcd",
        head("Content-Length: -1"),
        head("Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n",
        head("Transfer-Encoding: chunked, identity") + b"0\r\n\r\n",
        head("Transfer-Encoding: xchunked") + b"0\r\n\r\n",
        head("Transfer-Encoding: \x0bchunked") + b"0\r\n\r\n",
        head("Transfer-Encoding : chunked") + b"0\r\n\r\n",
        head("Transfer-Encoding: chunked", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        head("Transfer-Encoding: chunked", version="1.0") + b"0\r\n\r\n",
        head("X: a\rTransfer-Encoding: chunked"),
        head("X: a\0b"),
        head("X: a", " folded"),
        head("X Y: a"),
        head("Content-Length: 0", version="9.9"),
        head("Content-Length: 0", version="2.0"),
        head("Content-Length: 0", host=""),
        head("Content-Length: 0", "Host: y"),
        b"GET /first\r\n\r\n",
        b"POST /first HTTP/1.1\nHost: x\nContent-Length: 0\n\n",
        head("Connection: Upgrade", "Upgrade: h2c", f"Content-Length: {len(HIDDEN)}"),
        head("Connection: Upgrade", "Upgrade: h2c", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=lambda data: data.decode("latin-1").split("\r\n", 1)[-1][:48].encode("unicode_escape").decode(),
)
async def test_an_ambiguous_request_is_400_and_nothing_behind_it_runs(request_bytes: bytes) -> None:
    app = Seen()
    async with served(app) as server:
        wire = await server.connect()
        answer = await wire.ask(request_bytes + HIDDEN)
        assert answer.status == 400
        assert answer.problem["error"] == "InvalidRequest"
        assert answer.headers["connection"] == "close"
        wire.send(HIDDEN)
        assert await wire.closed() == b""
        assert app.paths == []
        assert (await server.get("/fine")).status == 200


@pytest.mark.parametrize("chunk", ["-4", "0x4", "10000000000000004", "4 ;", "4\n", "zz"])
async def test_an_invalid_chunk_ends_its_request(chunk: str) -> None:
    app = Seen()
    async with served(app) as server:
        wire = await server.connect()
        wire.send(head("Transfer-Encoding: chunked"))
        await server.until(running=1)
        answer = await wire.ask(f"{chunk}\r\nabcd\r\n0\r\n\r\n".encode() + HIDDEN)
        assert answer.status == 400
        assert await wire.closed() == b""
        await server.until(running=0)
        assert app.paths == ["/first"]


async def test_a_length_among_the_trailers_ends_the_connection() -> None:
    app = Seen()
    async with served(app) as server:
        wire = await server.connect()
        wire.send(head("Transfer-Encoding: chunked") + b"4\r\nabcd\r\n0\r\nContent-Length: 99\r\n\r\n" + HIDDEN)
        assert (await wire.answer()).status == 400
        assert "/smuggled" not in app.paths


async def test_a_refusal_waits_for_the_answers_before_it() -> None:
    app = Seen()
    async with served(app) as server:
        wire = await server.connect()
        wire.send(get("/first") + get("/second") + b"broken\r\n\r\n" + HIDDEN)
        assert [(await wire.answer()).status for _ in range(3)] == [200, 200, 400]
        assert await wire.closed() == b""
        assert app.paths == ["/first", "/second"]


async def test_nothing_is_read_behind_an_upgrade_that_is_not_made() -> None:
    app = Seen()
    async with served(app) as server:
        wire = await server.connect()
        wire.send(get("/upgrade", "Connection: Upgrade", "Upgrade: h2c") + HIDDEN)
        assert (await wire.answer()).status == 200
        wire.send(HIDDEN)
        assert await wire.closed() == b""
        assert app.paths == ["/upgrade"]


async def test_nothing_runs_behind_connection_close() -> None:
    app = Seen()
    async with served(app) as server:
        wire = await server.connect()
        wire.send(get("/last", "Connection: close") + HIDDEN)
        assert (await wire.answer()).status == 200
        assert await wire.closed() == b""
        assert app.paths == ["/last"]


async def test_plain_requests_of_many_kinds_are_taken() -> None:
    app = Seen()
    async with served(app) as server:
        wire = await server.connect()
        for request_bytes in (
            get("/a"),
            post(b"", path="/b"),
            post(b"abcd", path="/c"),
            head("Transfer-Encoding: Chunked") + b"4;name=value\r\nabcd\r\n0\r\nX-Trailer: y\r\n\r\n",
            head("Content-Length: 0", host="Host: [::1]:80"),
            get("/d?%00=%ff"),
        ):
            assert (await wire.ask(request_bytes)).status == 200
        assert (await wire.ask(b"GET /e HTTP/1.0\r\n\r\n")).status == 200
    assert len(app.paths) == 7
