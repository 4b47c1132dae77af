"""The trace that a request joins or begins, and the request's span."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.types import Scope

from headwater.http.context import RequestContext
from headwater.http.routes import known_method, route_of
from headwater.tracing import MAX_TRACESTATE, Span, TraceContext, Tracer, new_span, read_traceparent, told

Headers = Sequence[tuple[bytes, bytes]]


def joined(headers: Headers, tracer: Tracer) -> TraceContext | None:
    """The trace that the caller is in; None when its `traceparent` is invalid, or comes twice."""
    found = [value for name, value in headers if name == b"traceparent"]
    caller = read_traceparent(found[0].decode("latin-1")) if len(found) == 1 else None
    if caller is not None and caller.sampled:
        tracer.ask(caller.trace)
    return caller


def tracestate(headers: Headers) -> str:
    """What the caller's tracing system wants passed on with the trace."""
    text = b",".join([value for name, value in headers if name == b"tracestate"]).decode("latin-1")
    return text if len(text) <= MAX_TRACESTATE else ""


def request_span(
    context: RequestContext, scope: Scope, caller: TraceContext | None, cause: str, *, error: BaseException | None
) -> Span:
    """Of a run of the request that has ended; `cause` is what its events name."""
    unit = context.unit
    span = Span(
        trace=context.request_id,
        id=new_span() if unit is None else unit.span,
        parent="" if caller is None else caller.span,
        kind="request",
        name=f"{known_method(scope['method'])} {route_of(scope)}",
        app=context.app.name,
        of=cause,
        status=context.status,
    )
    if context.status >= 500:
        span.outcome = "failed"
    if error is not None:
        span.error = told(error)
    return span
