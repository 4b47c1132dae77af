"""Service clients: where they reach, and the trace that they carry."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import httpx
import pytest

from headwater import App, DeclarationError
from headwater.tracing import Span, read_traceparent
from headwater.unit import Origin
from headwater.work import UnitOfWork, current

TRACE = "0af7651916cd43dd8448eb211c80319c"


class Reach:
    """A binding that knows one app."""

    engine: Any = None
    clock: Any = None
    access: Any = None
    webhooks: Any = None
    limits: Any = None
    blobs: Any = None
    uncommitted: Any = None
    presigner: Any = None
    tracer: Any = None
    mail: Any = None
    pulls: Any = None
    permits: Any = None
    recorder: Any = None

    def reach(self, app: str) -> tuple[httpx.AsyncBaseTransport | None, str | None]:
        return (None, "http://shop.test/shop") if app == "shop" else (None, None)


async def test_a_service_is_the_app_of_its_name_or_its_base_url() -> None:
    app = App("till")
    app.bind(Reach())
    shop, other, fixed = app.service("shop"), app.service("other"), app.service("bank", base_url="https://bank.test/v1")
    assert str(shop.client.base_url) == "http://shop.test/shop/"
    assert shop.client is shop.client
    assert str(fixed.client.base_url) == "https://bank.test/v1/"
    with pytest.raises(DeclarationError, match=r"other.*\[services\]"):
        _ = other.client
    for service in (shop, fixed):
        await service.close()
        await service.close()


class Kept:
    """A tracer that keeps what it is given, of sampled traces."""

    def __init__(self, *sampled: str) -> None:
        self.sampled = sampled
        self.spans: list[Span] = []

    def samples(self, trace: str) -> bool:
        return trace in self.sampled

    def ask(self, trace: str) -> None:
        raise AssertionError("nobody asked")

    def now(self) -> float:
        return 0.0

    def record(self, span: Span, begun: float) -> None:
        self.spans.append(span)


def answering(status: int, seen: list[httpx.Request]) -> httpx.MockTransport:
    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if status == 0:
            raise httpx.ConnectError("nobody there")
        return httpx.Response(status)

    return httpx.MockTransport(answer)


@asynccontextmanager
async def bank(status: int, tracer: Kept) -> AsyncIterator[tuple[httpx.AsyncClient, list[httpx.Request]]]:
    """A service's client, and the requests that reached it."""
    seen: list[httpx.Request] = []

    class Binding(Reach):
        def reach(self, app: str) -> tuple[httpx.AsyncBaseTransport | None, str | None]:
            return answering(status, seen), "https://bank.test/v1"

    app, binding = App("till"), Binding()
    binding.tracer = tracer
    app.bind(binding)
    service = app.service("bank")
    yield service.client, seen
    await service.close()


@contextmanager
def unit_in(trace: str) -> Iterator[UnitOfWork]:
    engine: Any = None
    unit = UnitOfWork(engine, Origin("cause", None, trace))
    token = current.set(unit)
    try:
        yield unit
    finally:
        current.reset(token)


@pytest.mark.parametrize("sampled", [True, False])
async def test_requests_carry_trace_and_span_of_their_unit(sampled: bool) -> None:
    tracer = Kept(*[TRACE] * sampled)
    async with bank(200, tracer) as (client, seen):
        await client.get("/outside")
        with unit_in(TRACE) as unit:
            await client.get("/secret-path?token=secret")
            await client.get("/own", headers={"traceparent": "mine"})
    outside, inside, own = (request.headers.get("traceparent") for request in seen)
    assert (outside, own) == (None, "mine")
    context = read_traceparent(inside or "")
    assert context is not None
    assert (context.trace, context.sampled) == (TRACE, sampled)
    if not sampled:
        assert tracer.spans == []
        return
    (span,) = tracer.spans
    assert (span.id, span.parent, span.kind) == (context.span, unit.span, "call")
    assert (span.name, span.of, span.status, span.outcome) == ("GET bank", "https://bank.test", 200, "ok")
    assert "secret" not in repr(span)


@pytest.mark.parametrize(("status", "error"), [(503, ""), (0, "ConnectError: nobody there")])
async def test_failed_calls_are_spans_of_any_trace(status: int, error: str) -> None:
    tracer = Kept()
    async with bank(status, tracer) as (client, _):
        with unit_in(TRACE), suppress(httpx.ConnectError):
            await client.get("/")
    (span,) = tracer.spans
    assert (span.outcome, span.status, span.error) == ("failed", status, error)
