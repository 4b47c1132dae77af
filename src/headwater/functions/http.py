"""The function of an app's HTTP endpoints: a request of API Gateway through the same layers as in a server.

HEADWATER_APP is the app's name. API Gateway has taken the connection's part: TLS, framing, the size of the head. What
the front and the unit layer do is done here: limits, credentials, plans, idempotency keys, problems. A response is
given back as a whole, so a stream is collected; what Lambda would not take is answered with a problem.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope

from headwater.errors import DeclarationError, HeadwaterError, RequestExpired, StoreError, TooLarge, Unavailable
from headwater.functions.gateway import MAX_ANSWER, Headers, Request, is_too_large, read_request, write_answer
from headwater.functions.home import Home, variable
from headwater.functions.invocation import Invocation, entry_point, tell_metrics
from headwater.http.answers import error_body, error_headers, problem, raw_problem
from headwater.http.front import Front, allow_origins
from headwater.http.lifespan import Lifespan
from headwater.ids import new_id
from headwater.metrics import Recorder
from headwater.tracing import write_traceparent

_SAFE = ("GET", "HEAD", "OPTIONS")
log = structlog.get_logger("headwater.functions")


class _Heard(Recorder):
    """Tells of each request at once: nobody looks at what a frozen process has counted."""

    def __init__(self, home: Home) -> None:
        super().__init__()
        self._home = home

    def request(self, place: tuple[str, str, str], status: int, seconds: float) -> None:
        app, method, route = place
        told = {"requests": 1, "errors": int(status >= 500)}
        for endpoint in (f"/{app}", f"{method} /{app}{route}"):  # as `metrics.request_metric` names them
            tell_metrics(self._home, {"Endpoint": endpoint}, told, [seconds])


class _Answer:
    """Collects what the application sends."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: Headers = []
        self.body = bytearray()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message["headers"])
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")

    def replace(self, error: HeadwaterError, status: int = 0) -> None:
        """Answer with an error instead."""
        id = new_id()
        told = {**error_body(error, id)}
        if status:
            told |= {"status": status, "title": problem(status, "")["title"]}
        self.headers, content = raw_problem(told, {**error_headers(error), "Headwater-Trace": id})
        self.status, self.body = int(told["status"]), bytearray(content)


class Endpoints:
    """An app's endpoints, served from this function."""

    def __init__(self, home: Home, name: str) -> None:
        self._home = home
        self._app = next((app for app in home.graph.apps if app.name == name), None)
        self._front = Front()
        self._serving: ASGIApp = allow_origins(self._front, home.config.cors)

    async def start(self) -> None:
        http = None if self._app is None else self._app.load_http()
        if self._app is None or http is None:
            raise DeclarationError("no app of this name has endpoints", operation="start", resource="HEADWATER_APP")
        self._home.recorder = _Heard(self._home)
        await Lifespan(http).start()
        self._front.apps = {self._app.name: cast("ASGIApp", http)}
        self._front.unready = ""

    async def answer(self, request: Request, invocation: Invocation) -> dict[str, Any]:
        """Run a request to its end, within the time that is left."""
        scope, answer = _traced(request.scope, invocation), _Answer()
        limit_s = min(self._home.limits.request_timeout_s, invocation.left_s)
        try:
            async with asyncio.timeout(limit_s) as limit:
                await self._serving(scope, _receiver(request.body), answer.send)
        except Exception:
            if not limit.expired():
                log.exception("a request failed")
        if limit.expired():
            answer.replace(_expired(limit_s))
        elif not answer.status:
            answer.replace(HeadwaterError("the request failed unexpectedly", operation="request"))
        await self._write_usage()
        written = write_answer(answer.status, answer.headers, bytes(answer.body), rest=request.rest)
        if is_too_large(written):
            answer.replace(_unanswerable(scope["method"], len(answer.body)), 500)
            written = write_answer(answer.status, answer.headers, bytes(answer.body), rest=request.rest)
        return written

    async def _write_usage(self) -> None:
        """Before the answer: the process may never run again."""
        try:
            await self._home.access.meter.flush()
        except (StoreError, Unavailable) as error:
            log.warning("usage could not be written", error=str(error))


def _traced(scope: Scope, invocation: Invocation) -> dict[str, Any]:
    """The request joins X-Ray's trace unless the caller names one itself."""
    trace = invocation.trace
    if trace is None or any(name == b"traceparent" for name, _ in scope["headers"]):
        return dict(scope)
    told = write_traceparent(trace.trace, trace.span, sampled=trace.sampled).encode()
    return {**scope, "headers": [*scope["headers"], (b"traceparent", told)]}


def _receiver(body: bytes) -> Receive:
    """The whole body at once; after it, nothing comes: the client cannot be seen to go."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        gone: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        return await gone

    return receive


def _expired(limit_s: float) -> RequestExpired:
    return RequestExpired(
        f"the request ran longer than {limit_s:g} s; whether it had an effect is not known",
        operation="request",
        hint="with an Idempotency-Key it can be sent again safely",
    )


def _unanswerable(method: str, size: int) -> TooLarge:
    effect = "" if method in _SAFE else "; the request had its effect"
    return TooLarge(
        f"the answer has {size} bytes, a function can give back {MAX_ANSWER} with their encoding{effect}",
        operation="request",
        hint="ask for less at once, or for objects use presigned URLs",
    )


class _Kept:
    """The endpoints of this environment, made for its first request."""

    def __init__(self) -> None:
        self._home: Home | None = None
        self._endpoints: Endpoints | None = None

    async def of(self, home: Home) -> Endpoints:
        if self._endpoints is None or self._home is not home:
            endpoints = Endpoints(home, variable("HEADWATER_APP"))
            await endpoints.start()
            self._home, self._endpoints = home, endpoints
        return self._endpoints


_kept = _Kept()


async def answer_request(home: Home, event: Any, invocation: Invocation) -> dict[str, Any]:
    endpoints = await _kept.of(home)
    return await endpoints.answer(read_request(event), invocation)


handle = entry_point(answer_request, _kept.of)
