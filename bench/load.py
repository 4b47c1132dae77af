"""Load from one process over kept connections, cheap enough that the server is what is measured."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import cast

from bench.report import percentile


def post(path: str, body: bytes, *headers: str) -> bytes:
    """A whole POST request."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


class Load:
    """What came of the requests: how many of each status, and how long the successful ones took."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.seconds = 0.0
        self.latencies_s: list[float] = []

    @property
    def accepted(self) -> int:
        return sum(count for status, count in self.statuses.items() if status < 400)

    @property
    def rate_s(self) -> float:
        return self.accepted / self.seconds

    def latency_ms(self, share: float) -> float:
        return round(percentile(self.latencies_s, share) * 1000, 2)


class _Client(asyncio.Protocol):
    """One connection: sends the next request when the answer to the last one is complete."""

    def __init__(self, requests: Iterator[bytes], load: Load, ended: Callable[[], None]) -> None:
        self._requests = requests
        self._load = load
        self._ended = ended
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._next()

    def _next(self) -> None:
        request = next(self._requests, None)
        if request is None:
            self._transport.close()
            return
        self._sent_s = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        at = head.index(b"content-length:") + 15
        length = int(head[at : head.find(b"\r\n", at) if b"\r\n" in head[at:] else None])
        if len(self._buffer) < end + 4 + length:
            return
        status = int(head[9:12])
        self._buffer = self._buffer[end + 4 + length :]
        self._load.statuses[status] += 1
        if status < 400:
            self._load.latencies_s.append(time.perf_counter() - self._sent_s)
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended()


async def run_load(port: int, requests: Iterator[bytes], connections: int, load: Load | None = None) -> Load:
    """Send all requests over so many connections, each waiting for its answer; `load` shows what came so far."""
    loop = asyncio.get_running_loop()
    load, left, done = load or Load(), connections, asyncio.Event()

    def ended() -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set()

    begun = time.perf_counter()
    for _ in range(connections):
        await loop.create_connection(lambda: _Client(requests, load, ended), "127.0.0.1", port)
    await done.wait()
    load.seconds = time.perf_counter() - begun
    return load


@asynccontextmanager
async def served(code: str, *arguments: str) -> AsyncIterator[int]:
    """Run a server's code in a process of its own; its process id. The first argument is its port."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, *arguments)
    try:
        await _until_open(int(arguments[0]))
        yield process.pid
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _until_open(port: int) -> None:
    for _ in range(400):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise RuntimeError(f"nothing listens on port {port}")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
