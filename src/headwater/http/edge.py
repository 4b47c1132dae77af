"""What the connections of one listener share: the limits, one timer for all deadlines, and ready-made refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from headwater.clock import Clock, Timer
from headwater.errors import HeadwaterError, InvalidRequest, Overloaded, RequestExpired, TimedOut, status_of
from headwater.http.answers import Headers, error_body, error_headers, raw_problem
from headwater.http.limits import Limits
from headwater.ids import new_id

HEALTH = (b"/live", b"/ready")
SPARE = 64
"""Connections beyond the limit that are taken for health checks alone."""
log = structlog.get_logger("headwater")


class Swept(Protocol):
    """What the timer looks at."""

    def sweep(self, now: float) -> None: ...


class Edge:
    """`begin` starts the timer, `end` stops it. `connections` tells what it looks at."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self.limits = limits
        self.clock = clock
        self.header_timeout_s = limits.header_timeout_s
        self.body_timeout_s = limits.body_timeout_s
        self.request_timeout_s = limits.request_timeout_s
        self.left: set[Swept] = set()
        """Connections that are gone while their request still runs."""
        self.shed = 0
        self._told = 0
        self._timer: Timer | None = None
        self._interval_s = min(0.25, min(self.header_timeout_s, self.body_timeout_s, self.request_timeout_s) / 4)
        self._overloaded = b""
        self._headers_then: Headers | None = None

    def begin(self, connections: Callable[[], Iterable[object]]) -> None:
        def sweep() -> None:
            now = self.clock.monotonic()
            for connection in (*connections(), *self.left):
                if hasattr(connection, "sweep"):
                    connection.sweep(now)
            self._tell()
            self._timer = self.clock.call_later(self._interval_s, sweep)

        self._timer = self.clock.call_later(self._interval_s, sweep)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tell(self) -> None:
        """Log that requests are refused, with a pause that grows with their number."""
        if self.shed >= 2 * self._told + 1:
            self._told = self.shed
            log.warning("overloaded: requests are refused", requests=self.limits.requests, refused=self.shed)

    def overloaded(self, headers: Headers) -> bytes:
        """The answer to a request that is shed; the connection stays open."""
        if headers is not self._headers_then:
            self._headers_then = headers
            self._overloaded = refusal(OVERLOADED, headers, close=False, request_id=_ANY_ID)
        return self._overloaded.replace(_ANY_ID.encode(), new_id().encode())


_ANY_ID = "-" * len(new_id())


def refusal(error: HeadwaterError, headers: Headers, *, close: bool = True, request_id: str = "") -> bytes:
    """A whole answer as bytes, for requests that are refused before an application runs."""
    id = request_id or new_id()
    own, content = raw_problem(error_body(error, id), {**error_headers(error), "Headwater-Trace": id})
    if close:
        own.append((b"connection", b"close"))
    lines = [b"%s: %s\r\n" % header for header in [*headers, *own]]
    return b"".join([STATUS_LINE[status_of(error)], *lines, b"\r\n", content])


INVALID = InvalidRequest("the request is no valid HTTP/1.1", operation="request")
OVERLOADED = Overloaded(
    "the server runs as many requests as it may; this one had no effect",
    operation="request",
    hint="try again after a second, then at growing intervals",
)
CROWDED = Overloaded(
    "the server has as many connections as it may; this request had no effect", operation="request", hint="try later"
)
SLOW_HEAD = TimedOut("the head of the request came too slowly", operation="request")
SLOW_BODY = TimedOut("the body of the request came too slowly", operation="request")
EXPIRED = RequestExpired(
    "the request ran longer than the server allows; whether it had an effect is not known",
    operation="request",
    hint="with an Idempotency-Key it can be sent again safely",
)
