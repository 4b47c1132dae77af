"""A listener of the server on a real socket, in the test's own loop, and a client that sends raw bytes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from headwater.clock import SystemClock
from headwater.config import Config
from headwater.http.edge import Edge
from headwater.http.limits import Limits
from headwater.runtime.listener import PublicListener, bind
from tests.patience import PATIENCE_S


class Answer:
    """One answer: status, headers by lower-case name, body."""

    def __init__(self, head: bytes, body: bytes) -> None:
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split(" ")[1])
        pairs = [line.partition(": ") for line in lines[1:] if line]
        self.headers = {name.lower(): value for name, _, value in pairs}
        self.body = body

    @property
    def problem(self) -> dict[str, Any]:
        """The body, which must be a problem of this status."""
        assert self.headers["content-type"] == "application/problem+json"
        found: dict[str, Any] = json.loads(self.body)
        assert found["status"] == self.status
        return found


class Wire:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)

    async def answer(self) -> Answer:
        async with asyncio.timeout(PATIENCE_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = Answer(head, b"").headers.get("content-length", "0")
            return Answer(head, await self.reader.readexactly(int(length)))

    async def ask(self, *pieces: bytes) -> Answer:
        self.send(*pieces)
        return await self.answer()

    async def closed(self) -> bytes:
        """What still comes until the server ends the connection."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""


class Served:
    """A running listener; `limits` are small where a test says so."""

    def __init__(self, listener: PublicListener, port: int) -> None:
        self.listener = listener
        self.port = port
        self._wires: list[Wire] = []

    async def connect(self, context: ssl.SSLContext | None = None) -> Wire:
        wire = Wire(*await asyncio.open_connection("127.0.0.1", self.port, ssl=context, limit=2**20))
        self._wires.append(wire)
        return wire

    async def get(self, path: str = "/") -> Answer:
        return await (await self.connect()).ask(get(path))

    async def until(self, running: int) -> None:
        """Until so many requests run."""
        await self.until_true(lambda: len(self.listener.server_state.tasks) == running)

    async def until_true(self, condition: Callable[[], bool]) -> None:
        await _until(condition)

    @property
    def connections(self) -> list[Any]:
        return list(self.listener.server_state.connections)

    async def stop(self) -> None:
        for wire in self._wires:
            wire.writer.close()
        self.listener.end(0)


@contextlib.asynccontextmanager
async def served(app: Any, config: Config | None = None, **limits: Any) -> AsyncIterator[Served]:
    chosen = msgspec.structs.replace(config or Config(), limits=Limits(**limits))
    with bind("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        listener = PublicListener(app, bound, Edge(chosen.limits, SystemClock()), chosen)
        task = listener.start()
        await _until(lambda: listener.started)
        server = Served(listener, port)
        try:
            yield server
        finally:
            await server.stop()
            await task


async def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.002)


def get(path: str = "/", *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode("latin-1")


def post(body: bytes, *headers: str, path: str = "/") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body
