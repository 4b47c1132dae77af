"""The owner's side: an engine shared with worker processes over a socket.

A connection holds what it has received until a commit settles it or it is released. What a lost connection held goes
back behind the worker's own commits, which may have settled it, as a failed attempt that is ready at once. Deliveries
are on the board from when they are handed out until they are settled or given back.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, NamedTuple, Protocol, cast

import msgspec
import structlog

from headwater.catalog import RouteSpec
from headwater.engine import Counted, Engine
from headwater.engines.remote import wire
from headwater.engines.remote.staging import Stagings
from headwater.errors import HeadwaterError, StoreError, TooLarge
from headwater.events import Delivery
from headwater.unit import Commit, Committed, Failure, Settle

GREETING_S = 10.0
DIED = "the worker process ended while the handler ran"
log = structlog.get_logger("headwater.workers")


class Subscriptions(Protocol):
    """Of URLs and queues, made at run time."""

    async def subscribe(self, route: RouteSpec, url: str, secret: str | None) -> tuple[str, str]:
        """(its id, the secret that was made for it or "")."""
        ...

    async def unsubscribe(self, id: str) -> bool: ...


class Holder(NamedTuple):
    """A worker process and the deliveries that it has not settled."""

    pid: int
    since_ms: int
    held: tuple[Delivery, ...]


class Owner:
    """Lets worker processes use an engine that this process has open: `start`, then `drain`, then `close`.

    `address` is where the apps are served; `report` gets what workers count of their attempts, `hold` the blobs that a
    connection's worker may still commit. Of URLs, `subscriptions` makes subscriptions, and `presigning` gives the
    secret that signs them; they begin with `public_url`.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        report: Callable[[Counted], None] = lambda _: None,
        hold: Callable[[object, Sequence[str]], None] = lambda *_: None,
    ) -> None:
        self.engine = engine
        self.address = ""
        self.public_url = ""
        self.presigning: Callable[[], bytes] = bytes
        self.subscriptions: Subscriptions | None = None
        self.report = report
        self.hold = hold
        self.draining = False
        self.connections: set[_Connection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    def connected(self) -> list[Holder]:
        """The worker processes, with what each holds."""
        return [connection.holder() for connection in self.connections if not connection.lost]

    async def start(self, bound: socket.socket) -> None:
        """Take workers on a bound Unix socket."""
        self._server = await asyncio.get_running_loop().create_unix_server(lambda: _Connection(self), sock=bound)

    async def drain(self, deadline_s: float) -> None:
        """Hand out nothing more, and wait until workers hold nothing, at most so long."""
        self.draining = True
        for connection in self.connections:
            connection.cancel_receiving()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                for connection in list(self.connections):
                    await connection.idle.wait()

    async def close(self) -> None:
        """End all connections; what they still hold goes back uncounted. Idempotent."""
        self.draining = True
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.close()
        while self.connections or self.tasks:
            await asyncio.sleep(0)
            if self.tasks:
                await asyncio.wait(self.tasks)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task


class _Connection(asyncio.Protocol):
    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._engine = owner.engine
        self._frames = wire.Frames()
        self._greeted = False
        self._pid = 0
        self._since_ms = owner.engine.clock.wall_ms()
        self._held: dict[int, Delivery] = {}
        self._receiving: dict[int, asyncio.Task[None]] = {}
        self._lost = False
        self._stagings = Stagings(owner.engine)
        self.idle = asyncio.Event()
        self.idle.set()

    @property
    def lost(self) -> bool:
        return self._lost

    def holder(self) -> Holder:
        return Holder(self._pid, self._since_ms, tuple(self._held.values()))

    # The stream

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._sender = wire.Sender(self._transport)
        self._pid, user = wire.peer_of(transport)
        if user not in (-1, 0, os.getuid()):
            log.warning("a process of another user was refused", pid=self._pid, user=user)
            self._transport.abort()
            self._lost = True
            return
        self._owner.connections.add(self)
        self._deadline = self._engine.clock.call_later(GREETING_S, self._give_up_greeting)

    def _give_up_greeting(self) -> None:
        if not self._greeted:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._lost:
            return
        try:
            for frame in self._frames.feed(data):
                if self._greeted:
                    self._take(wire.decode_message(frame))
                else:
                    self._greet(frame)
        except (msgspec.MsgspecError, UnicodeDecodeError, TooLarge) as error:
            log.warning("a worker's connection is ended: it makes no sense", pid=self._pid, error=str(error))
            self._transport.abort()

    def _greet(self, frame: bytes) -> None:
        hello = msgspec.msgpack.decode(frame, type=wire.Hello)
        self._greeted = True
        if hello.headwater != wire.VERSION:
            log.warning("a worker of another version was refused", pid=self._pid, version=hello.headwater)
            self._sender.send(wire.encode(wire.Welcome(headwater=wire.VERSION)))
            self._sender.flush()
            self._transport.close()
            return
        _ = self._owner.spawn(self._welcome())

    async def _welcome(self) -> None:
        catalog = await self._engine.catalog()
        welcome = wire.Welcome(
            headwater=wire.VERSION,
            features=self._engine.features,
            catalog=catalog,
            address=self._owner.address,
            public_url=self._owner.public_url,
            presigning=self._owner.presigning(),
        )
        self._sender.send(wire.encode(welcome))

    def connection_lost(self, error: Exception | None) -> None:
        if self not in self._owner.connections:
            return
        self._lost = True
        self._deadline.cancel()
        self.cancel_receiving()
        self._owner.hold(self, ())
        _ = self._owner.spawn(self._stagings.end())
        counted = not self._owner.draining
        _ = self._owner.spawn(self._give_back(counted=counted))

    def close(self) -> None:
        self._transport.abort()

    # What a worker asks for

    def _take(self, message: wire.Notice | wire.Request) -> None:
        if isinstance(message, wire.Submit):
            self._submit(message)
        elif isinstance(message, wire.Receive):
            self._receive_later(message)
        elif isinstance(message, wire.Cancel):
            if (task := self._receiving.get(message.number)) is not None:
                task.cancel()
        elif isinstance(message, wire.Notice):
            self._note(message)
        elif isinstance(message, wire.SubscribeUrl | wire.Unsubscribe):
            _ = self._owner.spawn(self._answer(message.number, self._subscribe(message)))
        elif isinstance(message, wire.Loading):
            _ = self._owner.spawn(self._answer(message.number, self._stagings.ask(message)))
        else:
            _ = self._owner.spawn(self._answer(message.number, self._ask(message)))

    def _note(self, notice: wire.Notice) -> None:
        match notice:
            case wire.Report(counted):
                self._owner.report(counted)
            case wire.Hold(blobs):
                self._owner.hold(self, blobs)
            case wire.EndStaging(load):
                _ = self._owner.spawn(self._stagings.close(load))
            case wire.Abandon(load):
                self._stagings.abandon(load)

    async def _ask(self, request: wire.Request) -> Any:
        engine = self._engine
        match request:
            case wire.Read(_, table, key):
                return await engine.read(table, key)
            case wire.Select(_, query):
                return await engine.query(query)
            case wire.Now():
                return await engine.now_ms()
            case wire.Claimed(_, scope, id):
                return await engine.claimed(scope, id)
            case wire.History(_, table, key, limit):
                return await engine.history(table, key, limit)
            case wire.Extend(_, fences):
                return await engine.extend(self._those(fences))
            case wire.Release(_, fences):
                return await self._release(self._those(fences))
            case wire.GetCatalog():
                return await engine.catalog()
            case wire.GetStats():
                return await engine.stats()
            case wire.Subscribe(_, route):
                return await engine.subscribe(route)
            case wire.Replay(_, table, queue):
                return await engine.replay(table, queue)
        raise StoreError(f"there is no such request: {request!r}", operation="ask")

    async def _subscribe(self, request: wire.SubscribeUrl | wire.Unsubscribe) -> tuple[str, str] | bool:
        subscriptions = self._owner.subscriptions
        if isinstance(request, wire.Unsubscribe):
            return await (subscriptions or self._engine).unsubscribe(request.id)
        if subscriptions is None:
            raise StoreError("webhooks are not served here", operation="subscribe")
        return await subscriptions.subscribe(request.route, request.url, request.secret)

    async def _answer(self, number: int, asked: Awaitable[Any]) -> None:
        try:
            answer = wire.Answer(number, msgspec.Raw(wire.encode(await asked)))
        except Exception as error:
            answer = _refused(number, error)
        self._send(answer)

    def _send(self, answer: wire.Answer) -> None:
        if self._lost:
            return
        try:
            self._sender.send(wire.encode(answer))
        except TooLarge as error:
            self._sender.send(wire.encode(_refused(answer.number, error)))

    # Commits

    def _submit(self, message: wire.Submit) -> None:
        number, settles = message.number, message.commit.settles
        try:
            committing = self._engine.commit(message.commit)
        except HeadwaterError as error:
            self._send(_refused(number, error))
            return
        committing.add_done_callback(lambda done: self._committed(number, settles, done))

    def _committed(self, number: int, settles: Sequence[Settle], done: asyncio.Future[Committed]) -> None:
        error = None if done.cancelled() else done.exception()
        if error is not None:
            self._send(_refused(number, error))
            return
        for settle in settles:
            if settle.outcome != "fence":
                self._forget(settle.fence)
        self._send(wire.Answer(number, msgspec.Raw(wire.encode(done.result()))))

    # Leases

    def _receive_later(self, message: wire.Receive) -> None:
        """While the owner drains there is nothing to receive, and no answer."""
        if self._owner.draining:
            return
        task = self._receiving[message.number] = self._owner.spawn(self._receive(message))
        task.add_done_callback(lambda done: self._received(message.number, done))

    async def _receive(self, message: wire.Receive) -> None:
        try:
            granted = await self._engine.receive(message.queue, message.limit, grouped=message.grouped)
            granted = await self._hold(granted)
        except Exception as error:
            self._send(_refused(message.number, error))
            return
        self._send(wire.Answer(message.number, msgspec.Raw(wire.encode(granted))))

    def _received(self, number: int, done: asyncio.Task[None]) -> None:
        self._receiving.pop(number, None)
        if done.cancelled() and not self._owner.draining:
            self._send(wire.Answer(number, msgspec.Raw(wire.encode([]))))

    async def _hold(self, granted: list[Delivery]) -> list[Delivery]:
        """Those that are handed to the worker: none when it is gone, as many as a frame takes."""
        if self._lost:
            await self._engine.release(granted)
            return []
        while len(granted) > 1 and len(wire.encode(granted)) > wire.MAX_FRAME // 2:
            half = len(granted) // 2
            await self._engine.release(granted[half:])
            granted = granted[:half]
        for delivery in granted:
            self._held[delivery.fence] = delivery
            self._engine.begin(delivery)
        self.idle.clear()
        return granted

    def _those(self, fences: Sequence[int]) -> list[Delivery]:
        return [self._held[fence] for fence in fences if fence in self._held]

    async def _release(self, deliveries: Sequence[Delivery]) -> None:
        await self._engine.release(deliveries)
        for delivery in deliveries:
            self._forget(delivery.fence)

    def _forget(self, fence: int) -> None:
        delivery = self._held.pop(fence, None)
        if delivery is not None:
            self._engine.end(delivery)
        if not self._held:
            self.idle.set()

    def cancel_receiving(self) -> None:
        for task in list(self._receiving.values()):
            task.cancel()

    async def _give_back(self, *, counted: bool) -> None:
        """The worker is gone: what it held is there for others at once."""
        held = list(self._held.values())
        try:
            if held and counted:
                log.warning("a worker is gone", pid=self._pid, messages=[delivery.message_id for delivery in held])
                now_ms = await self._engine.now_ms()
                await self._engine.commit(Commit(id="", settles=[_died(d, now_ms) for d in held], tolerant=True))
            elif held:
                await self._engine.release(held)
        except HeadwaterError as error:
            log.warning("leases of a worker end with their time-out", pid=self._pid, error=str(error))
        finally:
            for fence in list(self._held):
                self._forget(fence)
            self._owner.connections.discard(self)


def _died(delivery: Delivery, now_ms: int) -> Settle:
    failure = Failure(error=DIED, started_ms=now_ms, ended_ms=now_ms)
    return Settle(delivery.queue, delivery.position, delivery.fence, "retry", 0, DIED, failure)


def _refused(number: int, error: BaseException) -> wire.Answer:
    return wire.Answer(number, refusal=wire.refusal_of(error))
