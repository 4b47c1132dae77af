"""A TCP proxy whose network tests break: slow links, resets, partitions, lost replies, closed doors.

It runs in a thread with an event loop of its own, so that it works beside blocking tests and beside tests with a
loop; its calls return when they hold. What a link holds back is not lost, as in a network that heals: it arrives when
the link passes again, unless the link is cut before.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal

from tests.patience import PATIENCE_S
from tests.ports import free_port

Direction = Literal["request", "reply"]
Address = tuple[str, int]
Watch = Callable[["Link", Direction, bytes], None]
CHUNK = 64 * 1024
SSL_REQUEST = struct.pack("!II", 8, 80877103)
"""How a PostgreSQL client asks for TLS; the answer is one byte."""


class Link:
    """One connection through the proxy."""

    def __init__(self, proxy: Proxy, client: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._sides = [client]
        self._gates: dict[Direction, asyncio.Event] = {"request": asyncio.Event(), "reply": asyncio.Event()}
        for gate in self._gates.values():
            gate.set()
        self.latency_s = proxy.latency_s
        self.hold(*proxy.held)

    def hold(self, *directions: Direction) -> None:
        """Hold back what comes from now on. `hold("reply")`: requests take effect, and nobody hears of it."""
        for direction in directions:
            self._gates[direction].clear()

    def release(self) -> None:
        for gate in self._gates.values():
            gate.set()

    def cut(self) -> None:
        """Reset both sides."""
        for writer in self._sides:
            raw: socket.socket | None = writer.get_extra_info("socket")
            if raw is not None:
                with suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        self.release()

    async def carry(self, reader: asyncio.StreamReader, server: Address) -> None:
        client = self._sides[0]
        upstream, to_server = await asyncio.open_connection(*server)
        self._sides.append(to_server)
        async with asyncio.TaskGroup() as pumps:
            pumps.create_task(self._pump("request", reader, to_server))
            pumps.create_task(self._pump("reply", upstream, client))

    async def _pump(self, direction: Direction, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Read and write side by side: a slow link delays what it carries without carrying less."""
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._deliver(direction, waiting, sink))
            data = b"-"
            while data:
                data = await source.read(CHUNK)
                if data and self._proxy.watch is not None:
                    self._proxy.watch(self, direction, data)
                await waiting.put((asyncio.get_running_loop().time() + self.latency_s, data))

    async def _deliver(
        self, direction: Direction, waiting: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await waiting.get()
            await asyncio.sleep(due - loop.time())
            await self._gates[direction].wait()
            if not data:
                break
            sink.write(data)
            await sink.drain()
        if sink.can_write_eof():
            sink.write_eof()
        else:
            sink.close()


class Proxy:
    """A proxy at a port of 127.0.0.1; leaving the context resets its links and ends it.

    Its calls are for all links, present and to come; those of a `Link` are for one and belong into `watch`, which sees
    each chunk of data, in the proxy's thread, before it is passed on; what `watch` raises is raised at the end. With
    `tls` it takes TLS only, asked for as PostgreSQL's clients do, and speaks plain TCP to the server.
    """

    def __init__(self, target: Address, *, tls: ssl.SSLContext | None = None) -> None:
        self.target = target
        """Host and port that new links go to; set it to move an address from one server to another."""
        self.port = free_port()
        self.watch: Watch | None = None
        self.latency_s = 0.0
        self.held: tuple[Direction, ...] = ()
        self._tls = tls
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: list[Exception] = []
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        self.accept()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()
        if self._failures and error is None:
            raise ExceptionGroup("in the proxy", self._failures)

    @property
    def links(self) -> int:
        """How many connections there are."""
        return len(self._links)

    def slow_down(self, seconds: float) -> None:
        """Delay all that passes by so much in each direction."""
        self._call(self._set_latency(seconds))

    def cut(self) -> None:
        """Reset all present connections."""
        self._call(self._cut())

    def hold(self, *directions: Direction) -> None:
        """Hold back what comes in these directions, by default in both: a partition. New connections get no answer."""
        self._call(self._hold(directions or ("request", "reply")))

    def refuse(self) -> None:
        """Refuse new connections; the present ones go on."""
        self._call(self._refuse())

    def accept(self) -> None:
        self._call(self._accept())

    def heal(self) -> None:
        """Pass all at once again: what was held back, and new connections."""
        self._call(self._heal())

    def _call(self, what: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(PATIENCE_S)

    async def _set_latency(self, seconds: float) -> None:
        self.latency_s = seconds
        for link in self._links:
            link.latency_s = seconds

    async def _cut(self) -> None:
        for link in self._links:
            link.cut()

    async def _hold(self, directions: tuple[Direction, ...]) -> None:
        self.held = directions
        for link in self._links:
            link.hold(*directions)

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _accept(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._take, "127.0.0.1", self.port)

    async def _heal(self) -> None:
        self.held = ()
        await self._set_latency(0.0)
        for link in self._links:
            link.release()
        await self._accept()

    async def _end(self) -> None:
        await self._refuse()
        await self._cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(self, writer)
        self._links.add(link)
        try:
            if self._tls is not None:
                await _offer_tls(reader, writer, self._tls)
            await link.carry(reader, self.target)
        except* (OSError, asyncio.IncompleteReadError):
            pass
        except* Exception as failure:
            self._failures.append(failure)
        finally:
            link.cut()
            self._links.discard(link)


async def _offer_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext) -> None:
    if await reader.readexactly(len(SSL_REQUEST)) != SSL_REQUEST:
        raise ConnectionError("this server takes TLS only")
    writer.write(b"S")
    await writer.start_tls(context)
