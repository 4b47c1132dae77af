"""The transport of services against servers that answer byte by byte as a test says."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from headwater.connections import HIGH_WATER, Connections, transport_for_services
from tests.patience import PATIENCE_S
from tests.runtime.mail_server import certificate

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def serving(
    serve: Serve, tls: ssl.SSLContext | None = None, trusted: ssl.SSLContext | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server; `serve` is run for each connection, over TLS when a context is given."""
    tasks: set[asyncio.Task[None] | None] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    address = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    client = httpx.AsyncClient(base_url=address, transport=Connections(trusted), timeout=PATIENCE_S)
    async with client:
        yield client
    server.close()
    await asyncio.gather(*(task for task in tasks if task), return_exceptions=True)


def answering(*answers: bytes, close: bool = False) -> tuple[Serve, list[bytes]]:
    """Answer the requests of each connection with these, one after the other; the heads that came."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)
            await writer.drain()
        if not close:
            await reader.read()

    return serve, heads


async def test_connections_are_used_again() -> None:
    ports = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ports.add(writer.get_extra_info("peername"))
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK)

    async with serving(serve) as client:
        for _ in range(5):
            assert (await client.get("/a?b=c")).text == "ok"
        assert len(ports) == 1
        await asyncio.gather(*(client.get("/") for _ in range(8)))
        assert len(ports) == 8


ANSWERS = {
    "length": (OK, b"ok"),
    "chunked": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde"),
    "interim": (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, b"ok"),
    "empty": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
}


@pytest.mark.parametrize("answer", ANSWERS)
async def test_answers_on_a_kept_connection(answer: str) -> None:
    sent, expected = ANSWERS[answer]
    serve, heads = answering(sent, sent)
    async with serving(serve) as client:
        for _ in range(2):
            response = await client.get("/x")
            assert response.content == expected
            assert "link" not in response.headers
        assert len(heads) == 2
        assert heads[0].startswith(b"GET /x HTTP/1.1\r\n")


async def test_an_answer_that_ends_with_its_connection() -> None:
    serve, _ = answering(b"HTTP/1.1 200 OK\r\n\r\nuntil the end", close=True)
    async with serving(serve) as client:
        assert (await client.get("/")).text == "until the end"
        assert (await client.get("/")).text == "until the end"


async def test_the_head_only() -> None:
    serve, _ = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", OK)
    async with serving(serve) as client:
        assert (await client.head("/")).headers["content-length"] == "10"
        assert (await client.get("/")).text == "ok"


async def test_a_connection_that_the_server_closed_is_not_used_again() -> None:
    serve, heads = answering(OK, close=True)
    async with serving(serve) as client:
        for _ in range(3):
            assert (await client.get("/")).text == "ok"
            await asyncio.sleep(0.02)
        assert len(heads) == 3


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    ],
)
async def test_broken_answers(sent: bytes) -> None:
    serve, _ = answering(sent, close=True)
    async with serving(serve) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/")


async def test_what_comes_after_an_answer_is_never_another_answer() -> None:
    serve, heads = answering(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", OK)
    async with serving(serve) as client:
        assert (await client.get("/")).text == "ok"
        assert (await client.get("/")).text == "ok"
        assert len(heads) == 2


async def test_time_outs() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(silent) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/", timeout=httpx.Timeout(PATIENCE_S, read=0.05))
    serve, _ = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    async with serving(serve) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/", timeout=httpx.Timeout(PATIENCE_S, read=0.05))


async def test_nobody_listens() -> None:
    serve, _ = answering(OK)
    async with serving(serve) as client:
        port = client.base_url.port
    async with httpx.AsyncClient(transport=Connections()) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(f"http://127.0.0.1:{port}/")
        with pytest.raises(httpx.UnsupportedProtocol):
            await client.get("ftp://127.0.0.1/")


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\0"])
async def test_no_header_can_be_smuggled_in(value: str) -> None:
    serve, heads = answering(OK)
    async with serving(serve) as client:
        with pytest.raises(httpx.LocalProtocolError):
            await client.get("/", headers={"X-Name": value})
        assert heads == []


async def test_bodies_are_sent_whole_or_in_chunks() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if b"chunked" in head:
                body = await reader.readuntil(b"0\r\n\r\n")
            else:
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                body = await reader.readexactly(length)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async def parts() -> AsyncIterator[bytes]:
        yield b"abc"
        yield b""
        yield b"de"

    async with serving(echo) as client:
        big = b"x" * 3_000_000
        assert (await client.post("/", content=big)).content == big
        assert (await client.post("/", content=parts())).content == b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        assert (await client.post("/", json={"a": 1})).json() == {"a": 1}


async def test_a_large_answer_is_read_as_it_is_asked_for() -> None:
    size = 80 * HIGH_WATER

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            for _ in range(0, size, HIGH_WATER):
                writer.write(b"x" * HIGH_WATER)
                await writer.drain()

    async with serving(serve) as client:
        transport = client._transport
        assert isinstance(transport, Connections)
        for _ in range(2):
            async with client.stream("GET", "/") as response:
                (connection,) = transport._all
                async with asyncio.timeout(PATIENCE_S):
                    while connection._held <= HIGH_WATER:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                await asyncio.sleep(0.1)
                assert connection._held < 4 * HIGH_WATER, "the server is held up while nobody reads"
                received = 0
                async for part in response.aiter_bytes():
                    received += len(part)
            assert received == size


async def test_a_body_that_is_not_wanted_ends_its_connection() -> None:
    serve, heads = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", OK)
    async with serving(serve) as client:
        async with client.stream("GET", "/"):
            pass
        async with client.stream("GET", "/"):
            pass
        assert len(heads) == 2


async def test_an_early_refusal_is_seen() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await reader.read(1000)

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b"x" * 100_000
            await asyncio.sleep(0)

    async with serving(refuse) as client:
        assert (await client.post("/", content=endless())).status_code == 413


async def test_a_cancelled_request_gives_its_place_back() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(silent) as client:
        transport = client._transport
        assert isinstance(transport, Connections)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await client.get("/")
        assert transport._room._value == 100
        assert transport._all == set()


def test_proxies_are_left_to_httpx(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert isinstance(transport_for_services(), Connections)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    assert transport_for_services() is None


async def test_tls_is_spoken_with_servers_whose_certificate_is_trusted(tmp_path: Path) -> None:
    serve, heads = answering(OK, OK)
    tls = certificate(tmp_path)
    trusted = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    async with serving(serve, tls, trusted) as client:
        assert [(await client.get("/")).text, (await client.get("/again")).text] == ["ok", "ok"]
    assert len(heads) == 2


async def test_a_certificate_that_is_not_trusted_is_no_connection(tmp_path: Path) -> None:
    serve, heads = answering(OK)
    async with serving(serve, certificate(tmp_path)) as client:
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            await client.get("/")
    assert heads == []


async def test_a_certificate_of_another_name_is_no_connection(tmp_path: Path) -> None:
    serve, heads = answering(OK)
    tls = certificate(tmp_path)
    trusted = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    async with serving(serve, tls, trusted) as client:
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            await client.get(str(client.base_url).replace("127.0.0.1", "localhost"))
    assert heads == []
