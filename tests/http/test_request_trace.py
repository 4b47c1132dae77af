"""W3C trace context over HTTP: what is joined, and what is passed on in the calls that a request makes."""

from __future__ import annotations

from typing import Any

import pytest

from headwater import App
from headwater.testing import Harness
from headwater.tracing import read_traceparent

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{CALLER}-01"


class Vendor:
    """Keeps the headers of the requests that reach it."""

    def __init__(self) -> None:
        self.headers: list[dict[str, str]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def make_shop() -> App[None]:
    app = App("shop")
    vendor = app.service("vendor")

    @app.http.get("/ask")
    async def ask() -> None:
        await vendor.client.get("/")

    return app


@pytest.mark.parametrize(
    ("headers", "joins", "state"),
    [
        ([("traceparent", PARENT)], True, None),
        ([("traceparent", PARENT), ("tracestate", "a=1,b=2")], True, "a=1,b=2"),
        ([("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2")], True, "a=1,b=2"),
        ([("traceparent", PARENT), ("tracestate", "a=" + "x" * 511)], True, None),
        ([("traceparent", PARENT.replace("00-", "ff-", 1)), ("tracestate", "a=1")], False, None),
        ([("traceparent", PARENT), ("traceparent", PARENT)], False, None),
        ([("tracestate", "a=1")], False, None),
    ],
)
async def test_what_is_joined_and_passed_on(headers: list[tuple[str, str]], joins: bool, state: str | None) -> None:
    app, vendor = make_shop(), Vendor()
    async with Harness(app, services={"vendor": vendor}) as h:
        answer = await h.client(app).get("/ask", headers=headers)
        assert answer.status_code == 200
    (seen,) = vendor.headers
    passed = read_traceparent(seen["traceparent"])
    assert passed is not None
    assert (passed.trace == TRACE) is joins
    assert passed.trace == answer.headers["headwater-trace"]
    assert passed.span != CALLER
    assert passed.sampled is joins
    assert seen.get("tracestate") == state


async def test_handlers_pass_no_tracestate_of_a_request_on() -> None:
    from pydantic import BaseModel

    from headwater import Event

    class Row(BaseModel):
        id: str

    app, vendor = App("shop"), Vendor()
    bank, jobs = app.service("vendor"), app.queue("jobs", Row)

    @app.on(jobs)
    async def work(event: Event[Row]) -> None:
        await bank.client.get("/")

    @app.http.post("/jobs")
    async def send() -> None:
        await jobs.send(Row(id="a"))

    async with Harness(app, services={"vendor": vendor}) as h:
        await h.client(app).post("/jobs", headers={"traceparent": PARENT, "tracestate": "a=1"})
        await h.run_until_idle()
    (seen,) = vendor.headers
    assert seen["traceparent"].split("-")[1] == TRACE
    assert "tracestate" not in seen
