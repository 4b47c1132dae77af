"""Service clients: where they reach, and the trace that they carry."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from headwater import App, DeclarationError
from headwater.services import _carry_trace
from headwater.unit import Origin
from headwater.work import UnitOfWork, current


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


async def test_requests_carry_the_units_trace_unless_they_have_one() -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    plain = httpx.Request("GET", "http://x.test")
    await _carry_trace(plain)
    assert "traceparent" not in plain.headers
    engine: Any = None
    token = current.set(UnitOfWork(engine, Origin("cause", None, trace)))
    try:
        inside, own = httpx.Request("GET", "http://x.test"), httpx.Request("GET", "http://x.test")
        own.headers["traceparent"] = "mine"
        await _carry_trace(inside)
        await _carry_trace(own)
    finally:
        current.reset(token)
    assert inside.headers["traceparent"].split("-")[1] == trace
    assert own.headers["traceparent"] == "mine"
