"""The unit layer: an ASGI layer that makes a request one unit of work.

It reads the body into memory (up to `BUFFER`), opens a unit, and runs the application. When the response starts with
a status below 400 the unit is committed before the first byte leaves; otherwise it is rolled back. On a conflict
the application is run again with the same body. A body beyond the buffer cannot be played again: then, and for
endpoints marked with `no_rerun`, a conflict answers 409.

With an `Idempotency-Key` the whole response is kept in the request's own commit: the same request again gets the
same answer without running; another request with the key gets 422, one that still runs gets 409. Nothing is kept
for statuses of 400 and above: they had no effect, so trying again is right.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headwater.engine import AlreadyClaimed
from headwater.errors import (
    Conflict,
    DeclarationError,
    HeadwaterError,
    IdempotencyMismatch,
    InProgress,
    InvalidRequest,
    InvalidValue,
    TooLarge,
    status_of,
)
from headwater.http.answers import error_body, error_headers, raw_problem
from headwater.http.bodies import examine, is_encoded, needs_memory, too_large_to_check
from headwater.http.context import KEY, RequestContext
from headwater.http.lane import most_streamed
from headwater.http.lifespan import state_of
from headwater.http.limits import Limits
from headwater.http.request_trace import joined, request_span, tracestate
from headwater.http.routes import known_method, route_of
from headwater.permits import RequestPermit, acting
from headwater.tracing import Span
from headwater.unit import Claim, Origin
from headwater.work import RERUNS, UnitOfWork, back_off, current, current_request

if TYPE_CHECKING:
    from headwater.app import App

BUFFER = 1024 * 1024
MAX_STORED_ANSWER = 256 * 1024
IDEMPOTENCY_MS = 24 * 3_600_000
_SINGLE = (b"content-type", b"content-encoding", b"idempotency-key")
_WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class StoredAnswer(msgspec.Struct):
    """What an idempotency key keeps: the request's fingerprint and the whole response."""

    fingerprint: str
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class _Refused(Exception):
    """Ends the application's run after its commit was refused; never leaves the layer."""


class UnitLayer:
    def __init__(self, app: ASGIApp, owner: App[Any]) -> None:
        self._inner = app
        self._app = owner
        self._running: set[tuple[str, str]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        if state := state_of(scope.get("app")):
            scope["state"] = {**state, **scope.get("state", {})}
        request = _Request(scope, receive, self._app)
        binding = self._app.binding
        begun = binding.clock.monotonic()
        try:
            if not await request.read(self._app.binding.limits):
                return
            key = request.header(b"idempotency-key")
            if key is None or scope["method"] not in _WRITES:
                await self._run(request, send, None)
            else:
                await self._once(request, send, key.decode("latin-1"))
        except HeadwaterError as error:
            if request.context.answered:
                raise
            request.error = error
            await _answer(send, error, request.context)
        except Exception as error:
            request.context.status = 500
            request.error = error
            raise
        finally:
            if status := request.context.status:
                place = (self._app.name, known_method(scope["method"]), route_of(scope))
                binding.recorder.request(place, status, binding.clock.monotonic() - begun)
                if status >= 500 or binding.tracer.samples(request.context.request_id):
                    binding.tracer.record(request.span(), begun)

    async def _once(self, request: _Request, send: Send, key: str) -> None:
        """Run a request with an idempotency key, or answer from what its first run kept."""
        if not 0 < len(key) <= 255:
            raise InvalidValue("an Idempotency-Key has 1 to 255 characters", operation="request")
        if not request.in_memory:
            raise TooLarge(f"a request with an Idempotency-Key has at most {BUFFER} bytes", operation="request")
        caller = await self._app.binding.access.name_caller(request.scope)
        scope = f"http:{self._app.name}:{caller}:{request.scope['method']} {_sent_path(request.scope)}"
        if (scope, key) in self._running:
            raise InProgress("a request with this Idempotency-Key is running", operation="request", hint="try later")
        self._running.add((scope, key))
        try:
            kept = await self._app.binding.engine.claimed(scope, key)
            if kept is None:
                try:
                    await self._run(request, send, (scope, key))
                except AlreadyClaimed as taken:
                    kept = taken.result
            if kept is not None:
                await _replay(send, kept, request)
        finally:
            self._running.discard((scope, key))

    async def _run(self, request: _Request, send: Send, claim: tuple[str, str] | None) -> None:
        binding = self._app.binding
        for attempt in range(RERUNS + 1):
            begun = binding.clock.monotonic()
            unit = UnitOfWork(binding.engine, request.origin)
            request.context.attach(unit)
            response = _Response(unit, send, request, claim)
            if claim is not None:
                response.expires_ms = await binding.engine.now_ms() + IDEMPOTENCY_MS
            refusal = await self._attempt(request, unit, response, last=attempt == RERUNS)
            if refusal is None:
                return
            if not isinstance(refusal, Conflict) or not request.repeatable or attempt == RERUNS:
                raise refusal
            if binding.tracer.samples(unit.trace):
                binding.tracer.record(request.span(refusal), begun)
            request.rewind(unit.trace)
            await back_off(attempt)

    async def _attempt(
        self, request: _Request, unit: UnitOfWork, response: _Response, *, last: bool
    ) -> HeadwaterError | None:
        """Run the application once; why its commit was refused. An exception after stale reads is a conflict."""
        token, outer = current.set(unit), current_request.set(request)
        permitted = acting.set(RequestPermit(self._app, request.scope))
        try:
            await self._inner(request.scope, request.receive, response.send)
        except Exception:
            if response.refusal is not None:
                return response.refusal
            if request.context.answered or last or not request.repeatable:
                raise
            stale = await unit.stale()
            if stale is None:
                raise
            return Conflict(f"{stale} changed after it was read", operation="request")
        finally:
            if not unit.closed:
                unit.close("its request ended")
            acting.reset(permitted)
            current_request.reset(outer)
            current.reset(token)
        return response.refusal


class _Request:
    """The request with its body in memory, so that it can be played again."""

    def __init__(self, scope: Scope, receive: Receive, app: App[Any]) -> None:
        self.scope = scope
        self._receive = receive
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self._chunks: list[Message] = []
        self._at = 0
        self._size = 0
        self._most = BUFFER
        self._scope_before: dict[str, Any] = {}
        self.complete = False
        self.in_memory = False
        self.refusal: HeadwaterError | None = None
        self.error: Exception | None = None
        joins = b"traceparent" in self._headers
        self.caller = joined(scope["headers"], app.binding.tracer) if joins else None
        trace = "" if self.caller is None else self.caller.trace
        self.context = scope[KEY] = RequestContext(app, trace)
        self.origin = Origin(f"{scope['method']} {scope.get('root_path', '')}{_path(scope)}", None, trace)

    @property
    def tracestate(self) -> str:
        return "" if self.caller is None else tracestate(self.scope["headers"])

    @property
    def facts(self) -> dict[str, str]:
        """What lines of the log say of it."""
        return {"app": self.context.app.name, "method": self.scope["method"], "path": route_of(self.scope)}

    def span(self, conflict: HeadwaterError | None = None) -> Span:
        """Of its run that ends now."""
        error = conflict or self.error
        span = request_span(self.context, self.scope, self.caller, self.origin.cause or "", error=error)
        if conflict is not None:
            span.outcome, span.status = "conflict", 0
        return span

    def header(self, name: bytes) -> bytes | None:
        return self._headers.get(name)

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.scope.get("query_string", b""))
        for chunk in self._chunks:
            digest.update(chunk.get("body", b""))
        return digest.hexdigest()

    @property
    def repeatable(self) -> bool:
        endpoint = self.scope.get("endpoint")
        return (self.in_memory or self.context.kept is not None) and not getattr(
            endpoint, "__headwater_no_rerun__", False
        )

    async def read(self, limits: Limits) -> bool:
        """Read the body until it ends or the buffer is full, and examine it; False when the client has gone.

        What is uploaded into a bucket has the bucket's limit, and is not examined: it is stored as it is.
        """
        streamed = most_streamed(self.scope)
        self._most = streamed or limits.body
        if len(self._headers) < len(self.scope["headers"]):
            _check_single(self.scope["headers"])
        checked = not streamed and needs_memory(self._headers)
        length = self.header(b"content-length")
        if length is not None and length.isdigit() and int(length) > (BUFFER if checked else self._most):
            raise too_large_to_check(BUFFER) if checked and int(length) <= self._most else self._too_large()
        while not self.complete and self._size < BUFFER:
            message = await self._read_chunk()
            if message["type"] == "http.disconnect":
                return False
        self.in_memory = self.complete
        if checked:
            self._examine(limits)
        self._scope_before = dict(self.scope)
        return True

    def _examine(self, limits: Limits) -> None:
        """Put the body that was examined, without its encoding, in the place of what came in."""
        if not self.complete:
            raise too_large_to_check(BUFFER)
        body = examine(b"".join(chunk["body"] for chunk in self._chunks), self._headers, limits, BUFFER)
        self._chunks = [{"type": "http.request", "body": body, "more_body": False}]
        if is_encoded(self._headers):
            kept = [item for item in self.scope["headers"] if item[0] not in (b"content-encoding", b"content-length")]
            self.scope["headers"] = [*kept, (b"content-length", b"%d" % len(body))]

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the request's body is larger than {self._most} bytes", operation="request")

    async def _read_chunk(self) -> Message:
        message = await self._receive()
        self._size += len(message.get("body", b""))
        if self._size > self._most:
            self.refusal = self._too_large()
            raise self.refusal
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self.complete = True
        self._chunks.append(message)
        return message

    async def receive(self) -> Message:
        """The body from memory, then what is left of it, then what the server says (a disconnect)."""
        if self._at < len(self._chunks):
            self._at += 1
            return self._chunks[self._at - 1]
        if not self.complete:
            message = await self._read_chunk()
            self._chunks.clear()
            self._at = 0
            return message
        return await self._receive()

    def rewind(self, trace: str) -> None:
        """Begin anew, in the same trace."""
        self.origin = msgspec.structs.replace(self.origin, trace=trace)
        self._at = 0
        self.scope.clear()
        self.scope.update(self._scope_before)


class _Response:
    """Commits the unit when the response starts; with a claim, when it is complete."""

    def __init__(self, unit: UnitOfWork, send: Send, request: _Request, claim: tuple[str, str] | None) -> None:
        self._unit = unit
        self._send = send
        self._request = request
        self._claim = claim
        self._kept: list[Message] = []
        self.expires_ms = 0
        self.refusal: HeadwaterError | None = None

    async def send(self, message: Message) -> None:
        if self.refusal is not None:
            raise _Refused
        if message["type"] == "http.response.start":
            self._request.context.status = message["status"]
            if message["status"] >= 400 and self._request.refusal is not None:
                self.refusal = self._request.refusal  # a body beyond the limit, which the framework calls unreadable
                raise _Refused
            added = self._request.context.headers
            message["headers"] = [*message["headers"], (b"headwater-trace", self._unit.trace.encode()), *added]
            if self._claim is None:
                await self._commit(message["status"])
                self._request.context.answered = True
            else:
                self._unit.close("its response has started", commits=True)
        if self._claim is None:
            await self._send(message)
        else:
            await self._keep(message)

    async def _commit(self, status: int) -> None:
        unit = self._unit
        writes = unit.writes_anything
        unit.close("its request failed" if status >= 400 else "its response has started", commits=status < 400)
        if status < 400 and writes:
            try:
                await unit.commit()
            except HeadwaterError as error:
                self.refusal = self._request.context.when_claimed.get(_claimed(error), error)
                raise _Refused from error

    async def _keep(self, message: Message) -> None:
        self._kept.append(message)
        if message["type"] != "http.response.body" or message.get("more_body", False):
            return
        start = self._kept[0]
        if start["status"] < 400:
            claim = self._stored(start)
            self._unit.closed = False
            self._unit.claim(claim)
        await self._commit(start["status"])
        self._request.context.answered = True
        for kept in self._kept:
            await self._send(kept)
        self._kept.clear()

    def _stored(self, start: Message) -> Claim:
        assert self._claim is not None
        body = b"".join(message.get("body", b"") for message in self._kept[1:])
        if len(body) > MAX_STORED_ANSWER:
            self.refusal = TooLarge(
                f"the answer has {len(body)} bytes; with an Idempotency-Key {MAX_STORED_ANSWER} are allowed",
                operation="request",
            )
            raise _Refused
        headers = [header for header in start["headers"] if not header[0].startswith(b"ratelimit")]
        answer = StoredAnswer(self._request.fingerprint, start["status"], headers, body)
        return Claim(*self._claim, self.expires_ms, msgspec.msgpack.encode(answer))


def no_rerun(endpoint: Any) -> Any:
    """Decorates an endpoint that must not run twice: a conflict answers 409 instead."""
    if not callable(endpoint):
        raise DeclarationError("no_rerun decorates an endpoint", operation="declare endpoint")
    endpoint.__headwater_no_rerun__ = True
    return endpoint


def _claimed(error: HeadwaterError) -> str:
    """The scope of the claim that an error says is taken."""
    return error.resource if isinstance(error, AlreadyClaimed) else ""


def _check_single(headers: list[tuple[bytes, bytes]]) -> None:
    """Refuse headers of which two readers could take different ones."""
    names = [name for name, _ in headers]
    for name in _SINGLE:
        if names.count(name) > 1:
            raise InvalidRequest(f"the header {name.decode().title()} comes twice", operation="request")


def _sent_path(scope: Scope) -> str:
    """The path as it was sent: an encoded slash is none."""
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    return raw.decode("latin-1")


def _path(scope: Scope) -> str:
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


async def _replay(send: Send, kept: bytes, request: _Request) -> None:
    answer = msgspec.msgpack.decode(kept, type=StoredAnswer)
    if answer.fingerprint != request.fingerprint:
        raise IdempotencyMismatch(
            "the Idempotency-Key was used with another request", operation="request", hint="use a new key"
        )
    request.context.answered = True
    request.context.status = answer.status
    headers = [*answer.headers, (b"idempotent-replayed", b"true")]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


async def _answer(send: Send, error: HeadwaterError, context: RequestContext) -> None:
    headers, body = raw_problem(error_body(error, context.request_id), error_headers(error))
    headers += [(b"headwater-trace", context.request_id.encode()), *context.headers]
    context.status = status_of(error)
    await send({"type": "http.response.start", "status": context.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
