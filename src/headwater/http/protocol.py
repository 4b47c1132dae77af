"""One connection of the server: uvicorn's HTTP/1.1 protocol with limits on what comes in.

A connection waits for a request's head, then takes its body while the application runs, then is answered. A refusal
comes before any application: `431` (head too large), `408` (head too slow), `400` (no valid HTTP, or HTTP that another
server on the way may read differently), `503` (too many requests run). What ends a request that runs: `408` (body too
slow), `504` (too long); the answer is written whatever the application does, and its task cancelled.

- After a refusal that may leave the two sides at odds about where the next request begins, nothing more is parsed: the
  answer says `connection: close`, what still comes is dropped for a second, so that the client can read the answer
  before the reset, then the connection ends.
- A request that is shed (`503`) keeps its connection, but nothing is read from it until the second of its `Retry-After`
  is over: a client that does not wait is held back at the cost of one answer a second.
- Refusals never overtake answers: while a response is under way they wait for its end.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, cast

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from headwater.errors import HeadersTooLarge, HeadwaterError
from headwater.http.answers import problem, raw_problem
from headwater.http.context import KEY, RequestContext
from headwater.http.edge import (
    CROWDED,
    EXPIRED,
    HEALTH,
    INVALID,
    OVERLOADED,
    SLOW_BODY,
    SLOW_HEAD,
    SPARE,
    Edge,
    refusal,
)
from headwater.http.routes import route_of

LINGER_S = 1.0
DROPPED_MAX = 1024 * 1024
"""How long, and how many bytes, what follows an answer is dropped before the connection is cut."""
BODY_RATE = 64 * 1024
"""For so many bytes of a body its deadline moves by a second."""
PIPELINED_MAX = 32
LENGTH = b"content-length"
RETRY_S = 1.0


class Answer:
    """The way of one answer to the client: the head of an answer that tells its length waits for the body.

    Commonly the body follows at once; then both leave in one packet, by one call of the system instead of two. A head
    whose body lets the event loop go round leaves alone. It stands in for the cycle's transport while it collects.
    """

    __slots__ = ("_closing", "_cycle", "_head", "_loop", "_pieces", "_sending")

    def __init__(self, cycle: RequestResponseCycle, loop: asyncio.AbstractEventLoop) -> None:
        self._cycle = cycle
        self._loop = loop
        self._head: Any = None
        self._sending: asyncio.Task[None] | None = None
        self._pieces: list[bytes] = []
        self._closing = False

    async def send(self, message: Any) -> None:
        if self._head is not None:
            await self._send_whole(message)
            return
        if self._sending is not None:
            await self._sending
        elif message["type"] == "http.response.start" and any(name == LENGTH for name, _ in message["headers"]):
            self._head = message
            self._loop.call_soon(self._send_alone)
            return
        await self._cycle.send(message)

    def _send_alone(self) -> None:
        if self._head is not None:
            head, self._head = self._head, None
            self._sending = self._loop.create_task(self._cycle.send(head))

    async def _send_whole(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            raise RuntimeError("the response has started already")
        cycle, head, self._head = self._cycle, self._head, None
        transport, ended = cycle.transport, cycle.on_response
        cycle.transport, cycle.on_response = cast("Any", self), _nothing
        try:
            await cycle.send(head)
            await cycle.send(message)
        finally:
            cycle.transport, cycle.on_response = transport, ended
        transport.write(b"".join(self._pieces))
        if self._closing:
            transport.close()
        if cycle.response_complete:
            ended()

    def write(self, data: bytes) -> None:
        self._pieces.append(data)

    def close(self) -> None:
        self._closing = True


def _nothing() -> None: ...


def _told(scope: Any) -> dict[str, str]:
    """What the log says of a request."""
    context = scope.get(KEY)
    if not isinstance(context, RequestContext):
        return {}
    return {
        "app": context.app.name,
        "method": scope["method"],
        "path": route_of(scope),
        "trace": context.request_id,
    }


class _Ended(Exception):
    """Makes the parser stop inside of what it was fed."""


class EdgeProtocol(HttpToolsProtocol):
    """Made by `functools.partial(EdgeProtocol, edge)` for each connection."""

    pipeline: deque[tuple[RequestResponseCycle, ASGI3Application]]

    def __init__(self, edge: Edge, config: Config, server_state: ServerState, app_state: dict[str, Any], **more: Any):
        super().__init__(config, server_state, app_state, **more)
        self.edge = edge
        self._max_head = edge.limits.headers
        self._now = 0.0
        self._fed = 0
        # the head that is awaited
        self._awaits_head = True
        self._head_since = 0.0
        self._head_bytes = 0
        self._hosts = 0
        # the request that runs
        self._running: RequestResponseCycle | None = None
        self._task: asyncio.Task[None] | None = None
        self._begun = 0.0
        self._body_at = 0.0
        self._body_bytes = 0
        # answers without an application
        self._spare = False
        self._dropping_since = 0.0
        self._resume_at = 0.0
        self._waiting_refusal: HeadwaterError | None = None
        self._deaf = False
        self._dropped = 0
        self._end_at = 0.0
        self._blocked_since = 0.0

    # What comes in

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_since = self.edge.clock.monotonic()
        beyond = len(self.connections) - self.edge.limits.connections
        self._spare = beyond > 0
        if beyond > SPARE:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._task is not None and not self._task.done():
            self.edge.left.add(self)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            self._drop(len(data))
            return
        self._unset_keepalive_if_required()
        self._now = self.edge.clock.monotonic()
        self._fed = len(data)
        if self._awaits_head:
            self._head_bytes += self._fed
            self._head_since = self._head_since or self._now
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._upgrade()
        except httptools.HttpParserError as error:
            if not isinstance(error.__context__, _Ended):
                self._refuse_invalid()
        else:
            if self._awaits_head and self._head_bytes > self._max_head:
                self.refuse(self._head_too_large())

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"host":
            self._hosts += 1
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        elif name == b"transfer-encoding" and value.strip().lower() != b"chunked":
            self._end(INVALID)
        self.headers.append((name, value))

    def on_message_begin(self) -> None:
        if self._resume_at:
            self._hang_up()
            raise _Ended
        self._hosts = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._awaits_head = False
        self._head_since = 0.0
        self._body_bytes = 0
        if (self._head_bytes > self._max_head or self._fed > self._max_head) and self._head_size() > self._max_head:
            self._end(self._head_too_large())
        if not self._is_plain():
            self._end(INVALID)
        if self._spare and self._path() not in HEALTH:
            self._end(CROWDED)
        if not self._answering():
            if len(self.tasks) >= self.edge.limits.requests and self._path() not in HEALTH:
                self._shed()
                return
        elif len(self.pipeline) >= PIPELINED_MAX:
            self._end(OVERLOADED)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._dropping_since:
            if self._body_bytes > DROPPED_MAX:
                self._hang_up()
                raise _Ended
            return
        self._body_at = self._now
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._awaits_head = True
        self._head_bytes = 0
        if self._dropping_since:
            self._dropping_since = 0.0
            if self._resume_at:
                self.flow.pause_reading()
            return
        super().on_message_complete()

    def _path(self) -> bytes:
        return self.url.partition(b"?")[0]

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _is_plain(self) -> bool:
        """Whether every server on the way reads the request alike (RFC 9112 §3.2, §6.1)."""
        version = self.parser.get_http_version()
        if version == "1.1":
            if self._hosts != 1:
                return False
        elif version != "1.0" or any(name == b"transfer-encoding" for name, _ in self.headers):
            return False
        if not self.parser.should_upgrade() or self._should_upgrade():
            return True
        # The parser does not look for the body of a request with an Upgrade, and would read it as the next request.
        return not any(
            name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0"))
            for name, value in self.headers
        )

    def _upgrade(self) -> None:
        if self._should_upgrade() and not self._resume_at:
            self.handle_websocket_upgrade()
            return
        self._deaf = True
        if self._answering():
            self.cycle.keep_alive = False
        elif not self._end_at:
            self._hang_up()

    # Running requests

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        self._begun = self._body_at = self.edge.clock.monotonic()
        task = self.loop.create_task(self._run(cycle, app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)
        self._task = task

    async def _run(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """As uvicorn's `run_asgi`, with a problem instead of its plain text."""
        try:
            await app(cycle.scope, cycle.receive, Answer(cycle, self.loop).send)
        except BaseException as error:
            if not (cycle.disconnected and isinstance(error, asyncio.CancelledError)):
                self.logger.error("Exception in ASGI application\n", exc_info=error, extra=_told(cycle.scope))
        try:
            if not cycle.response_complete and not cycle.disconnected:
                await self._answer_failed(cycle)
        finally:
            cycle.on_response = lambda: None  # breaks the circle of references, as uvicorn does

    async def _answer_failed(self, cycle: RequestResponseCycle) -> None:
        if cycle.response_started:
            self.transport.close()
            return
        context = cycle.scope.get(KEY)
        request_id = context.request_id if isinstance(context, RequestContext) else ""
        headers, body = raw_problem(problem(500, "the server failed to answer", request_id), {"Connection": "close"})
        await cycle.send({"type": "http.response.start", "status": 500, "headers": headers})
        await cycle.send({"type": "http.response.body", "body": body})

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            return
        now = self.edge.clock.monotonic()
        if self._head_since:
            self._head_since = now
        if self._answering():
            return
        if self._waiting_refusal is not None:
            self.refuse(self._waiting_refusal)
        elif not self._awaits_head and not self._deaf:
            if self.expect_100_continue:
                self._hang_up()  # whether the body comes at all is the client's choice
            else:
                self._body_bytes = 0
                self._dropping_since = now

    def _answering(self) -> bool:
        """Whether a response is due to an earlier request."""
        if self.cycle is None:
            return False  # type: ignore[unreachable]
        return not self.cycle.response_complete and not self.cycle.disconnected

    # Refusals

    def refuse(self, error: HeadwaterError) -> None:
        """Answer with the error once the responses that are due have ended, and end the connection."""
        self._deaf = True
        if self._answering():
            self._waiting_refusal = error
            return
        if not self._end_at and not self.transport.is_closing():
            self.transport.write(refusal(error, self.server_state.default_headers))
            self._hang_up()

    def _refuse_invalid(self) -> None:
        """What follows an invalid piece cannot be read; when it is the body of a request, that one is lost, too."""
        if self._answering() and self.cycle.more_body:
            if self.cycle is not self._running or self.cycle.response_started:
                self.transport.close()
            else:
                self._cut(self.cycle, INVALID)
        else:
            self.refuse(INVALID)

    def _end(self, error: HeadwaterError) -> None:
        """Refuse from inside of the parser."""
        self.refuse(error)
        raise _Ended

    def _head_too_large(self) -> HeadwaterError:
        return HeadersTooLarge(f"the head of the request has more than {self._max_head} bytes", operation="request")

    def _shed(self) -> None:
        self.edge.shed += 1
        if self.expect_100_continue or not self.parser.should_keep_alive():
            self._end(OVERLOADED)
        self.transport.write(self.edge.overloaded(self.server_state.default_headers))
        self._dropping_since = self._now
        self._resume_at = self._now + RETRY_S

    def _hang_up(self) -> None:
        """End the connection: at once for what goes out, a little later for what still comes in."""
        self._deaf = True
        self._unset_keepalive_if_required()
        self._end_at = self.edge.clock.monotonic() + LINGER_S
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _drop(self, size: int) -> None:
        self._dropped += size
        if self._dropped > DROPPED_MAX:
            self.transport.abort()

    def pause_writing(self) -> None:
        self._blocked_since = self.edge.clock.monotonic()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._blocked_since = 0.0
        super().resume_writing()

    # Deadlines

    def sweep(self, now: float) -> None:
        """Called for each connection several times a second, and for those that left a request behind."""
        if self in self.edge.left:
            self._sweep_left(now)
        elif self._blocked_since and now - self._blocked_since > self.edge.request_timeout_s:
            self.transport.abort()  # a client that does not read its answer
        elif self._end_at:
            if now >= self._end_at:
                self.transport.abort()
        elif self._dropping_since:
            if now - self._dropping_since > LINGER_S:
                self._hang_up()
        elif self._resume_at:
            self._resume(now)
        elif self._answering():
            self._sweep_running(now)
        elif self._head_since and now - self._head_since > self.edge.header_timeout_s:
            if self._head_bytes:
                self.refuse(SLOW_HEAD)
            else:
                self.transport.close()

    def _resume(self, now: float) -> None:
        if now < self._resume_at:
            return
        self._resume_at = 0.0
        self.flow.resume_reading()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _sweep_running(self, now: float) -> None:
        cycle = self._running
        if cycle is None or cycle.response_started:
            return
        if cycle.more_body and not self.flow.read_paused:
            if now - self._begun > self.edge.body_timeout_s + self._body_bytes / BODY_RATE:
                self._cut(cycle, SLOW_BODY)
        elif now - self._body_at > self.edge.request_timeout_s:
            self._cut(cycle, EXPIRED)

    def _cut(self, cycle: RequestResponseCycle, error: HeadwaterError) -> None:
        """End the request that runs. What its application still sends goes nowhere."""
        for due in (cycle, self.cycle):
            due.disconnected = True
        self.pipeline.clear()
        cycle.message_event.set()
        self.refuse(error)
        if self._task is not None:
            self._task.cancel()

    def _sweep_left(self, now: float) -> None:
        if self._task is None or self._task.done():
            self.edge.left.discard(self)
        elif self._running is None or self._running.response_started:
            return
        elif now - self._body_at > self.edge.request_timeout_s:
            self._task.cancel()
            self._body_at = now
