"""Outgoing calls: each carries the trace of the unit of work that makes it, and is a span of it."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx

from headwater.errors import HeadwaterError
from headwater.tracing import Span, new_span, told, write_traceparent
from headwater.work import current, current_request, rehearsing

if TYPE_CHECKING:
    from headwater.app import App

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class Rehearsing(HeadwaterError):
    """A call was not made, since nothing is to have an effect."""


class TracedClient(httpx.AsyncClient):
    """The client of a service. A span lasts until the answer has come: read whole, or its head when it is streamed."""

    def __init__(self, app: App[Any], service: str, **options: Any) -> None:
        super().__init__(**options)
        self._app = app
        self._service = service

    async def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        if rehearsing.get() and request.method not in _SAFE:
            raise Rehearsing(
                f"{request.method} {request.url.path} would change something there",
                operation="dry-run",
                resource=self._service,
                hint="a dry run only asks with GET; up to here it went well",
            )
        origin = f"{request.url.scheme}://{request.url.netloc.decode('ascii')}"
        name = f"{request.method} {self._service}"
        with calling(self._app, name, origin, request.headers) as answered:
            response = await super().send(request, **options)
            answered.append(response.status_code)
        return response


@contextmanager
def calling(app: App[Any], name: str, origin: str, headers: MutableMapping[str, str]) -> Iterator[list[int]]:
    """Adds `traceparent` to the headers, unless they have one, and records the call; append the answer's status.

    Paths and queries stand in no span: they can be secrets.
    """
    unit = current.get()
    answered: list[int] = []
    if unit is None or "traceparent" in headers:
        yield answered
        return
    tracer = app.binding.tracer
    sampled, begun = tracer.samples(unit.trace), tracer.now()
    span = Span(trace=unit.trace, id=new_span(), parent=unit.span, kind="call", name=name, app=app.name, of=origin)
    headers["traceparent"] = write_traceparent(span.trace, span.id, sampled=sampled)
    request = current_request.get()
    if request is not None and request.tracestate:
        headers["tracestate"] = request.tracestate
    try:
        yield answered
    except BaseException as error:
        span.outcome, span.error = "failed", told(error)
        raise
    finally:
        if answered:
            span.status = answered[0]
            span.outcome = "failed" if span.status >= 400 else "ok"
        if sampled or span.error or span.status >= 500:
            tracer.record(span, begun)
