"""HTTP/1.1 connections to services: a transport for httpx that costs a tenth of its own.

Sweeps call one third party thousands of times a second; httpx's transport would spend most of the time on itself. This
one keeps connections to plain and TLS origins, parses with httptools, and reads a body as it is asked for. What it
does not do (proxies) is left to httpx. A connection is used for one request at a time, and again only after an answer
was read to its end and the server did not ask to close it.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import cast
from urllib.request import getproxies

import httptools
import httpx

MOST_CONNECTIONS = 100
IDLE_S = 5.0
HIGH_WATER = 256 * 1024
Origin = tuple[bytes, bytes, int]
_illegal = re.compile(rb"[\r\n\0]").search


def transport_for_services() -> httpx.AsyncBaseTransport | None:
    """This transport; None, for httpx's own, where the environment names proxies."""
    return None if getproxies() else Connections()


class _Connection(asyncio.Protocol):
    """One connection and the answer that it reads."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.idle_since = 0.0
        self.lost = False
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._failure: httpx.TransportError | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._paused = False
        self._begin("GET")

    def _begin(self, method: str) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self._chunks: deque[bytes] = deque()
        self._held = 0
        self._head_done = self.complete = False
        self.reusable = False
        self._headless = method == "HEAD"

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        if self._parser is None or self.complete:
            self._fail(httpx.RemoteProtocolError("the server sent what nobody asked for"))
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(httpx.RemoteProtocolError("the server wants to change the protocol"))
        except httptools.HttpParserError as error:
            if not self.complete:
                self._fail(httpx.RemoteProtocolError(f"no valid HTTP: {error}"))
        self._wake()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self._writable.set()
        if not self.complete and self._failure is None:
            if self._head_done and self._until_close():
                self.complete = True
            else:
                self._failure = httpx.RemoteProtocolError("the server closed the connection before its answer ended")
        self._wake()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # httptools

    def on_message_begin(self) -> None:
        if self.complete:
            self.reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_done:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        if self._head_done:
            return
        self.status = self._parser.get_status_code()
        if 100 <= self.status < 200:
            return
        self._head_done = True
        self.reusable = self._parser.should_keep_alive()
        if self._headless:
            self.complete = True

    def on_body(self, data: bytes) -> None:
        if self.complete:
            return
        self._chunks.append(data)
        self._held += len(data)
        if self._held > HIGH_WATER and not self._paused and self._transport is not None and not self.lost:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if 100 <= self.status < 200:
            self.headers = []
        else:
            self.complete = True

    # One exchange

    async def send(self, request: httpx.Request, limits: dict[str, float | None]) -> None:
        """Write the request. Raises `httpx.WriteError` and `httpx.WriteTimeout`."""
        assert self._transport is not None
        self._begin(request.method)
        self._resume()
        self._parser = httptools.HttpResponseParser(self)
        head = [request.method.encode(), b" ", request.url.raw_path, b" HTTP/1.1\r\n"]
        for name, value in request.headers.raw:
            if _illegal(name) or _illegal(value):
                raise httpx.LocalProtocolError("a header has a line break or NUL in it")
            head += (name, b": ", value, b"\r\n")
        head.append(b"\r\n")
        if _illegal(head[0]) or b" " in head[0]:
            raise httpx.LocalProtocolError("that is no method")
        chunked = request.headers.get("transfer-encoding", "") == "chunked"
        assert isinstance(request.stream, httpx.AsyncByteStream)
        async for part in request.stream:
            if self._head_done:
                self.reusable = False
                return
            if part:
                head += (b"%x\r\n" % len(part), part, b"\r\n") if chunked else (part,)
                await self._write(head, limits)
                head = []
        if chunked:
            head.append(b"0\r\n\r\n")
        await self._write(head, limits)

    async def _write(self, parts: list[bytes], limits: dict[str, float | None]) -> None:
        assert self._transport is not None
        if self.lost:
            if self._head_done:
                return
            raise httpx.WriteError("the server closed the connection")
        if parts:
            self._transport.write(b"".join(parts))
        if not self._writable.is_set():
            try:
                async with asyncio.timeout(limits.get("write")):
                    await self._writable.wait()
            except TimeoutError as error:
                raise httpx.WriteTimeout("the server does not read") from error

    async def read_head(self, timeout_s: float | None) -> None:
        while not self._head_done:
            await self._wait(timeout_s)

    async def read_body(self, timeout_s: float | None) -> AsyncIterator[bytes]:
        while True:
            while self._chunks:
                part = self._chunks.popleft()
                self._held -= len(part)
                yield part
            if self.complete:
                return
            self._resume()
            await self._wait(timeout_s)

    def _resume(self) -> None:
        if self._paused and self._transport is not None and not self.lost:
            self._paused = False
            self._transport.resume_reading()

    def _until_close(self) -> bool:
        """An answer without a length ends with its connection."""
        names = {name.lower() for name, _ in self.headers}
        return not names & {b"content-length", b"transfer-encoding"}

    async def _wait(self, timeout_s: float | None) -> None:
        """Until more has come. One timer, no task."""
        if self._failure is not None:
            raise self._failure
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = None if timeout_s is None else loop.call_later(timeout_s, self._expire, timeout_s)
        try:
            await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()
        if self._failure is not None:
            raise self._failure

    def _expire(self, timeout_s: float) -> None:
        self._fail(httpx.ReadTimeout(f"no answer within {timeout_s:g} s"))

    def _fail(self, failure: httpx.TransportError) -> None:
        self._failure = self._failure or failure
        self.close()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        self.lost = True
        if self._transport is not None:
            self._transport.abort()


class Connections(httpx.AsyncBaseTransport):
    """At most `MOST_CONNECTIONS` at once; idle ones are kept for `IDLE_S`."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._idle: dict[Origin, list[_Connection]] = {}
        self._all: set[_Connection] = set()
        self._room = asyncio.Semaphore(MOST_CONNECTIONS)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        limits: dict[str, float | None] = request.extensions.get("timeout", {})
        if self._room.locked():
            try:
                async with asyncio.timeout(limits.get("pool")):
                    await self._room.acquire()
            except TimeoutError as error:
                raise httpx.PoolTimeout("all connections are in use") from error
        else:
            await self._room.acquire()
        connection: _Connection | None = None
        try:
            connection = self._kept(request) or await self._connect(request, limits.get("connect"))
            await connection.send(request, limits)
            await connection.read_head(limits.get("read"))
        except BaseException:
            self._room.release()
            if connection is not None:
                self._drop(connection)
            raise
        body = _Body(self, connection, limits.get("read"))
        return httpx.Response(
            connection.status, headers=connection.headers, stream=body, extensions={"http_version": b"HTTP/1.1"}
        )

    def _kept(self, request: httpx.Request) -> _Connection | None:
        idle = self._idle.get(_origin(request.url), [])
        oldest = time.monotonic() - IDLE_S
        while idle:
            connection = idle.pop()
            if not connection.lost and connection.idle_since > oldest:
                return connection
            self._drop(connection)
        return None

    async def _connect(self, request: httpx.Request, timeout_s: float | None) -> _Connection:
        url, origin = request.url, _origin(request.url)
        if url.scheme not in ("http", "https") or not url.host:
            raise httpx.UnsupportedProtocol(f"the URL begins with {url.scheme}://")
        tls = self._context() if url.scheme == "https" else None
        connection = _Connection(origin)
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.get_running_loop().create_connection(
                    lambda: connection, url.raw_host.decode(), origin[2], ssl=tls
                )
        except TimeoutError as error:
            raise httpx.ConnectTimeout(f"no connection within {timeout_s:g} s") from error
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error
        self._all.add(connection)
        return connection

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = httpx.create_ssl_context()
        return self._tls

    def _drop(self, connection: _Connection) -> None:
        self._all.discard(connection)
        connection.close()

    def give_back(self, connection: _Connection) -> None:
        """An answer was read, or is not wanted any more."""
        self._room.release()
        if connection.complete and connection.reusable and not connection.lost:
            connection.idle_since = time.monotonic()
            self._idle.setdefault(connection.origin, []).append(connection)
        else:
            self._drop(connection)

    async def aclose(self) -> None:
        for connection in list(self._all):
            self._drop(connection)
        self._idle.clear()


class _Body(httpx.AsyncByteStream):
    def __init__(self, pool: Connections, connection: _Connection, timeout_s: float | None) -> None:
        self._pool = pool
        self._connection: _Connection | None = connection
        self._timeout_s = timeout_s

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._connection is not None:
            async for part in self._connection.read_body(self._timeout_s):
                yield part

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.give_back(connection)


def _origin(url: httpx.URL) -> Origin:
    return url.raw_scheme, url.raw_host, url.port or (443 if url.scheme == "https" else 80)
