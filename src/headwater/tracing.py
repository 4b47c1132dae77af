"""Tracing: what W3C trace context says, and spans, the timed parts of a trace.

The span of a request, an attempt or a step is named by its commit: the last 16 digits of the commit's id. An event's id
begins with that of its commit, so the parent of a delivery is known from the event alone, and nothing is stored for it.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, Protocol

import msgspec

from headwater.events import Envelope
from headwater.ids import new_id

MAX_TRACESTATE = 512
MAX_ERROR = 500
_parse = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL).fullmatch
_SAMPLED = 1
Kind = Literal["request", "attempt", "step", "call"]
Outcome = Literal["ok", "failed", "conflict", "discarded"]


class TraceContext(NamedTuple):
    """Which trace and span a caller is in, and whether it keeps them."""

    trace: str
    span: str
    sampled: bool


def read_traceparent(text: str) -> TraceContext | None:
    """What a `traceparent` header says; None for one that is invalid, and so means nothing (W3C Trace Context §3.2).

    Of a version to come, what this one defines is read.
    """
    found = _parse(text.strip(" \t"))
    if found is None:
        return None
    version, trace, span, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(trace, 16) or not int(span, 16):
        return None
    return TraceContext(trace, span, bool(int(flags, 16) & _SAMPLED))


def write_traceparent(trace: str, span: str, *, sampled: bool) -> str:
    return f"00-{trace}-{span}-{'01' if sampled else '00'}"


def span_of(commit_id: str) -> str:
    """The span of what a commit ends, or would have: a counter and the process's random bits (`headwater.ids`)."""
    return commit_id[16:32]


def new_span() -> str:
    return span_of(new_id())


def parent_of(event: Envelope) -> str:
    """The span that made the event; "" when no request or handler did."""
    return "" if event.cause is None else span_of(event.id)


class Span(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One timed part of a trace.

    `of` is what it is about: the message of an attempt, the cause that a request's events name, the origin that a
    call went to. `name` has no values of requests in it: a route's template, a handler, a service. `attempt` counts
    receives, `events` those of the trace in a batch.
    """

    trace: str
    id: str
    kind: Kind
    name: str
    app: str
    parent: str = ""
    of: str = ""
    attempt: int = 0
    events: int = 1
    status: int = 0
    outcome: Outcome = "ok"
    error: str = ""
    start_ms: int = 0
    duration_us: int = 0


class Tracer(Protocol):
    """Keeps spans (`runtime.spans`). What makes them asks `samples` first: spans of failures are kept in any case."""

    def samples(self, trace: str) -> bool:
        """Whether the spans of the trace are kept: the answer is the same for all of them."""
        ...

    def ask(self, trace: str) -> None:
        """A caller keeps its spans of the trace, and wants ours."""
        ...

    def now(self) -> float:
        """What `record` takes as the beginning."""
        ...

    def record(self, span: Span, begun: float) -> None:
        """Keep a span that ends now. Never raises or waits."""
        ...


def told(error: BaseException) -> str:
    """An error as spans show it."""
    return f"{type(error).__name__}: {error}"[:MAX_ERROR].encode("utf-8", "replace").decode()
