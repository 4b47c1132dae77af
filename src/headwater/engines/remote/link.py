"""One connection of a worker to the owner: requests by number, until it is lost."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from headwater.engines.remote import wire
from headwater.errors import CommitUnknown, DeclarationError, HeadwaterError, StoreError, TooLarge, Unavailable
from headwater.events import Delivery
from headwater.unit import Commit, Committed

T = TypeVar("T")
GREETING_S = 10.0
_decode_committed = msgspec.msgpack.Decoder(Committed).decode
_decode_deliveries = msgspec.msgpack.Decoder(list[Delivery]).decode


class _Pending(msgspec.Struct, gc=False):
    """A request that waits for its answer."""

    future: asyncio.Future[Any]
    decode: Callable[[msgspec.Raw], Any]


class Link(asyncio.Protocol):
    """`lost(link)` is called once, when the connection ends that was greeted, unless it was closed here."""

    def __init__(self, lost: Callable[[Link], None]) -> None:
        self._on_lost = lost
        self._frames = wire.Frames()
        self._pending: dict[int, _Pending] = {}
        self._number = 0
        self.open = False
        loop = asyncio.get_running_loop()
        self.greeting: asyncio.Future[wire.Welcome] = loop.create_future()
        self._ended: asyncio.Future[None] = loop.create_future()

    # The stream

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._sender = wire.Sender(self.transport)
        self.open = True
        self._sender.send(wire.encode(wire.Hello(wire.VERSION, os.getpid())))

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._frames.feed(data):
                if self.greeting.done():
                    self._take(wire.decode_answer(frame))
                else:
                    self.greeting.set_result(msgspec.msgpack.decode(frame, type=wire.Welcome))
        except (msgspec.MsgspecError, UnicodeDecodeError, TooLarge):
            self.transport.abort()

    def _take(self, answer: wire.Answer) -> None:
        pending = self._pending.pop(answer.number, None)
        if pending is None:
            return
        if pending.future.done():
            if pending.decode is _decode_deliveries and answer.refusal is None:
                self._return(_decode_deliveries(answer.result))
        elif answer.refusal is not None:
            pending.future.set_exception(wire.error_of(answer.refusal))
        else:
            pending.future.set_result(pending.decode(answer.result))

    def _return(self, deliveries: list[Delivery]) -> None:
        """What comes after who waited for it has gone."""
        if deliveries:
            _ = self._request(wire.Release(0, [delivery.fence for delivery in deliveries]), _nothing)

    def connection_lost(self, error: Exception | None) -> None:
        was_open, self.open = self.open, False
        self._ended.set_result(None)
        if not self.greeting.done():
            self.greeting.set_exception(Unavailable("the server of the store ended the connection"))
            return
        for pending in self._pending.values():
            if not pending.future.done():
                pending.future.set_exception(_unanswered(pending))
        self._pending.clear()
        if was_open:
            self._on_lost(self)

    async def close(self) -> None:
        """Send what waits to be sent, and end."""
        self.open = False
        self._sender.flush()
        self.transport.close()
        await self._ended

    # Requests

    def _request(self, request: Any, decode: Callable[[msgspec.Raw], Any]) -> asyncio.Future[Any]:
        if not self.open:
            raise Unavailable("the connection to the server of the store is lost", operation="ask")
        self._number += 1
        request.number = self._number
        self._sender.send(wire.encode(request))
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending[self._number] = _Pending(future, decode)
        return future

    def submit(self, commit: Commit) -> asyncio.Future[Committed]:
        return self._request(wire.Submit(0, commit), _decode_committed)

    async def ask(self, request: wire.Request, decode: Callable[[msgspec.Raw], T]) -> T:
        answer: T = await self._request(request, decode)
        return answer

    async def ask_leases(self, request: wire.Extend | wire.Release) -> None:
        """Of a connection that ends meanwhile the leases have ended, too."""
        try:
            await self._request(request, _nothing)
        except Unavailable:
            return

    async def receive(self, queue: str, limit: int, *, grouped: bool) -> list[Delivery]:
        """May answer nothing."""
        request = wire.Receive(0, queue, limit, grouped)
        future = self._request(request, _decode_deliveries)
        try:
            return list(await future)
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._return(future.result())
            elif self.open:
                self.tell(wire.Cancel(request.number))
            raise

    def tell(self, notice: wire.Notice) -> None:
        if self.open:
            self._sender.send(wire.encode(notice))


def _nothing(_: msgspec.Raw) -> None:
    """Of what is answered there is nothing to read."""


def _unanswered(pending: _Pending) -> HeadwaterError:
    if pending.decode is _decode_committed:
        return CommitUnknown(
            "the connection to the server of the store was lost before it answered",
            operation="commit",
            hint="whether it was committed is not known; the message comes again if it was not",
        )
    return Unavailable("the connection to the server of the store was lost", operation="ask")


async def connect(path: Path, trusted: set[int | None], lost: Callable[[Link], None]) -> tuple[Link, wire.Welcome]:
    """A connection that is greeted. Raises `OSError` and `Unavailable` without one, and what is final: another
    version (`DeclarationError`), another user (`StoreError`)."""
    transport, link = await asyncio.get_running_loop().create_unix_connection(lambda: Link(lost), str(path))
    _, user = wire.peer_of(transport)
    try:
        if user not in (-1, *trusted):
            raise StoreError("the socket belongs to another user", operation="connect", resource=str(path))
        async with asyncio.timeout(GREETING_S):
            welcome = await link.greeting
        if welcome.headwater != wire.VERSION or welcome.features is None or welcome.catalog is None:
            raise DeclarationError(
                f"the store's server speaks version {welcome.headwater} of the protocol, this worker {wire.VERSION}",
                operation="connect",
                resource=str(path),
                hint="run workers and server of one version of Headwater",
            )
        if not link.open:
            raise Unavailable("the server of the store ended the connection", resource=str(path))
    except TimeoutError:
        transport.abort()
        raise Unavailable("the server of the store does not answer", resource=str(path)) from None
    except BaseException:
        link.greeting.cancel()
        transport.abort()
        raise
    return link, welcome
