"""`app.open`: a queue's consumers in other languages receive, extend and settle over HTTP.

    POST <path>/receive   waits for messages, and leases them     {"deliveries": [{"receipt": …, "event": {…}}]}
    POST <path>/results   settles any number of them, in one commit
    POST <path>/extend    holds them for another visibility time-out

Of results and extensions each item is answered by itself: 200, or the status and detail of a problem.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Literal, Protocol, TypeVar

import msgspec
from starlette.types import Receive, Scope, Send

from headwater.durations import to_ms
from headwater.errors import DeclarationError, HeadwaterError, InvalidValue, status_of
from headwater.events import Caller, Delivery
from headwater.http.context import KEY
from headwater.http.declarations import Opening
from headwater.http.direct import JSON, DirectRoute, invalid, located, media_type, read_body, send_json, unsupported
from headwater.http.schemas import ModelSchema
from headwater.tracing import write_traceparent
from headwater.webhooks import cloud_event

MAX_WAIT_S = 20.0
MAX_RECEIVED = 100
MAX_RESULTS = 1000
MAX_HELD_MS = 12 * 3_600_000
"""For how long a delivery can be held by extending it."""
Outcome = Literal["ack", "retry", "discard", "dead"]
Receipt = Annotated[str, msgspec.Meta(max_length=512)]
S = TypeVar("S", bound=msgspec.Struct)


class Demand(msgspec.Struct, forbid_unknown_fields=True):
    """At most `max` messages; `wait` is for how many seconds to wait for the first."""

    max: Annotated[int, msgspec.Meta(ge=1, le=MAX_RECEIVED)] = 1
    wait: Annotated[float, msgspec.Meta(ge=0, le=MAX_WAIT_S)] = MAX_WAIT_S


class Result(msgspec.Struct, forbid_unknown_fields=True):
    """How a delivery ends. `after` is when a retry may be received: seconds, or a text such as "5m"."""

    receipt: Receipt
    outcome: Outcome
    after: float | str | None = None
    reason: Annotated[str, msgspec.Meta(max_length=2000)] = ""


class Results(msgspec.Struct, forbid_unknown_fields=True):
    results: Annotated[list[Result], msgspec.Meta(min_length=1, max_length=MAX_RESULTS)]


class Extension(msgspec.Struct, forbid_unknown_fields=True):
    receipts: Annotated[list[Receipt], msgspec.Meta(min_length=1, max_length=MAX_RESULTS)]


class Handed(msgspec.Struct, omit_defaults=True):
    """A delivery as its consumer gets it. `receives` counts this one; `event` is a CloudEvent (1.0, structured)."""

    receipt: str
    idempotency_key: str
    receives: int
    traceparent: str
    event: dict[str, Any] | msgspec.Raw
    group: str | None = None
    attributes: dict[str, str] = {}


class HandedOver(msgspec.Struct):
    deliveries: list[Handed]


class Answered(msgspec.Struct, omit_defaults=True):
    """What became of one item: 200, or why it has no effect (409: the lease has passed on)."""

    status: int
    error: str = ""
    detail: str = ""


class AllAnswered(msgspec.Struct):
    """In the order of the request's items."""

    results: list[Answered]


class Pulled(msgspec.Struct, frozen=True):
    """`span` is that of the attempt that begins with it."""

    delivery: Delivery
    receipt: str
    span: str


class Pulling(Protocol):
    """What a running server does for consumers over HTTP (`app.Binding`)."""

    async def receive(
        self, queue: str, caller: Caller, most: int, wait_s: float, gone: Callable[[], Awaitable[object]]
    ) -> list[Pulled]:
        """Lease up to `most` messages, waiting for the first; none when `gone` returns before."""
        ...

    async def settle(self, queue: str, caller: Caller, results: Sequence[Result]) -> Sequence[HeadwaterError | None]:
        """Settle deliveries in one commit; for each result None, or why it has no effect."""
        ...

    async def extend(self, queue: str, caller: Caller, receipts: Sequence[str]) -> Sequence[HeadwaterError | None]:
        """Hold the leases for another visibility time-out; for each None, or why it is held no more."""
        ...


class _Counter:
    """One queue's endpoints."""

    def __init__(self, opening: Opening) -> None:
        self._queue = opening.queue.name

    async def receive(self, scope: Scope, receive: Receive, send: Send, caller: Caller) -> None:
        demand = await _read(scope, receive, Demand)
        binding = scope[KEY].app.binding
        wait_s = min(demand.wait, binding.limits.request_timeout_s * 2 / 3)
        pulled = await binding.pulls.receive(self._queue, caller, demand.max, wait_s, receive)
        handed = [_handed(each, sampled=binding.tracer.samples(each.delivery.event.trace)) for each in pulled]
        await send_json(send, 200, msgspec.json.encode(HandedOver(handed)), [(b"cache-control", b"no-store")])

    async def settle(self, scope: Scope, receive: Receive, send: Send, caller: Caller) -> None:
        results = (await _read(scope, receive, Results)).results
        for n, result in enumerate(results):
            _check_after(result, n)
        await _answer(send, await scope[KEY].app.binding.pulls.settle(self._queue, caller, results))

    async def extend(self, scope: Scope, receive: Receive, send: Send, caller: Caller) -> None:
        receipts = (await _read(scope, receive, Extension)).receipts
        await _answer(send, await scope[KEY].app.binding.pulls.extend(self._queue, caller, receipts))


async def _read(scope: Scope, receive: Receive, kind: type[S]) -> S:
    body = await read_body(receive)
    if body and media_type(scope) != JSON:
        raise unsupported(scope, (JSON,))
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.DecodeError, RecursionError) as cause:
        error = InvalidValue(str(cause), operation="request")
        error.__cause__ = cause
        error.errors = located(error, "body")
        raise error from cause


def _check_after(result: Result, n: int) -> None:
    place = ("body", "results", n, "after")
    if result.after is None:
        return
    if result.outcome != "retry":
        raise invalid("value_error", "after is for retries", *place)
    try:
        to_ms(result.after, place="after")
    except DeclarationError as error:
        raise invalid("value_error", error.message, *place) from error


def _handed(pulled: Pulled, *, sampled: bool) -> Handed:
    delivery = pulled.delivery
    event = delivery.event
    return Handed(
        receipt=pulled.receipt,
        idempotency_key=delivery.message_id,
        receives=delivery.receives,
        traceparent=write_traceparent(event.trace, pulled.span, sampled=sampled),
        event=msgspec.Raw(cloud_event(event)),
        group=delivery.group,
        attributes=event.attributes,
    )


async def _answer(send: Send, found: Sequence[HeadwaterError | None]) -> None:
    answers = [
        Answered(200) if error is None else Answered(status_of(error), type(error).__name__, error.message)
        for error in found
    ]
    await send_json(send, 200, msgspec.json.encode(AllAnswered(answers)))


def routes_of(opening: Opening) -> list[DirectRoute]:
    counter = _Counter(opening)
    return [
        _route(opening, "receive", counter.receive, (Demand, HandedOver), _RECEIVE),
        _route(opening, "results", counter.settle, (Results, AllAnswered), _RESULTS),
        _route(opening, "extend", counter.extend, (Extension, AllAnswered), _EXTEND),
    ]


def _route(opening: Opening, verb: str, serve: Any, kinds: tuple[type[Any], type[Any]], text: str) -> DirectRoute:
    """`kinds` are those of the request and of the answer."""
    name = opening.queue.name.partition("/")[2]
    asked, answer = (ModelSchema(kind, f"{opening.title}.{verb}", "validation") for kind in kinds)
    body = {"required": verb != "receive", "content": {JSON: {"schema": asked.root}}}
    return DirectRoute(
        "POST",
        f"{opening.path}/{verb}",
        serve,
        opening.auth,
        name=f"{verb}_{name}",
        summary=f"{verb.capitalize()}: {name}",
        description=text,
        tags=[name],
        responses={200: {"description": "OK", "content": {JSON: {"schema": answer.root}}}},
        openapi_extra={"requestBody": body},
        schemas={**asked.components, **answer.components},
    )


_RECEIVE = "Leases messages for the queue's visibility. Answers when there is one, or with none after `wait` seconds."
_RESULTS = "In one commit. Each item is answered by itself: one whose lease has passed on has no effect (409)."
_EXTEND = "Holds deliveries for another visibility time-out. Each item is answered by itself."
