"""Webhooks: what is delivered and how, and what each answer of the endpoint leads to."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from pydantic_settings import BaseSettings
from starlette.requests import Request
from starlette.responses import Response

from headwater import App, DeclarationError, Event, Topic, verify_webhook, webhook
from headwater.clock import from_ms
from headwater.engines import make_engine
from headwater.errors import HeadwaterError, Unauthenticated
from headwater.http.addresses import EgressRules
from headwater.http.outbound import Outbound
from headwater.pytest_plugin import StartHarness
from headwater.runtime.admin import Admin
from headwater.runtime.supervisor import Supervisor
from headwater.runtime.webhooks import WebhookRules
from headwater.testing import VirtualClock
from headwater.webhooks import new_secret
from tests.runtime.partner import SECRET, URL, Partner, assert_absent, failures, hooked, shop, verifies
from tests.runtime.samples import Item, Job, refusal, until

# What is delivered


async def test_an_event_is_posted_signed_and_acknowledged(harness: StartHarness) -> None:
    app, news, partner = hooked()
    h = await harness(app, services={"partner.example": partner})
    id = await news.publish(Job(id="a", n=1), attributes={"tenant": "t1"})
    await h.run_until_idle()
    (headers,), (body,) = partner.headers, partner.bodies
    assert verify_webhook(headers, body, SECRET, now=from_ms(h.clock.wall_ms())) == f"{id}/shop/hook"
    assert headers["content-type"] == "application/cloudevents+json"
    assert headers["webhook-timestamp"] == str(h.clock.wall_ms() // 1000)
    traced = await h.supervisor.engine.event(id)
    assert traced is not None
    assert headers["traceparent"].split("-")[1] == traced.event.trace
    (event,) = partner.events
    assert (event["id"], event["source"], event["data"], event["tenant"]) == (
        id,
        "shop/news",
        {"id": "a", "n": 1},
        "t1",
    )
    assert await h.messages("shop/hook") == []


async def test_an_endpoint_of_an_app_verifies_in_the_time_of_the_harness(harness: StartHarness) -> None:
    app, news = shop()
    news.to(webhook("https://receiver/in", secret=SECRET))
    receiver = App("receiver")
    inbox = receiver.queue("inbox", Job)
    refused: list[str] = []

    @receiver.http.post("/in")
    async def receive(request: Request) -> None:
        body = await request.body()
        id = verify_webhook(request.headers, body, SECRET)
        try:
            verify_webhook(request.headers, body, new_secret())
        except Unauthenticated as error:
            refused.append(error.message)
        await inbox.send(Job(**json.loads(body)["data"]), dedup=id)

    h = await harness(app, receiver)
    await news.publish(Job(n=7))
    await h.run_until_idle()
    (message,) = await h.messages(inbox)
    assert json.loads(message.event.data or b"") == {"id": "", "n": 7}
    assert refused == ["the webhook's signature is wrong"]


async def test_changes_of_a_key_arrive_in_order_and_a_failing_one_holds_back_the_next(harness: StartHarness) -> None:
    app = App("shop")
    items = app.table("items", Item, key="id")
    items.to(webhook(URL, secret=SECRET, name="hook"))
    partner = Partner(lambda n: Response(status_code=500 if n == 1 else 200))
    h = await harness(app, services={"partner.example": partner})
    for n in range(3):
        await items.put(Item(id="a", n=n))
    await h.run_until_idle()
    assert len(partner.bodies) == 1
    await items.put(Item(id="b", n=9))
    await h.advance(minutes=1)
    told = [(event["type"], event["subject"], event["data"]["new"]["n"]) for event in partner.events]
    assert told == [
        ("inserted", "a", 0),
        ("inserted", "b", 9),
        ("inserted", "a", 0),
        ("modified", "a", 1),
        ("modified", "a", 2),
    ]
    last = partner.events[-1]["data"]
    stored = await items.read("a")
    assert stored is not None
    assert (last["old"]["n"], last["version"]) == (1, stored.version)


async def test_match_and_several_sources_of_one_webhook(harness: StartHarness) -> None:
    app, news = shop()
    more = app.topic("more", Job)
    hook = webhook(URL, secret=SECRET)
    news.to(hook, match={"n": [1]})
    more.to(hook)
    partner = Partner()
    h = await harness(app, services={"partner.example": partner})
    for n in (1, 2):
        await news.publish(Job(n=n))
    await more.publish(Job(n=3))
    await h.run_until_idle()
    assert sorted(partner.numbers()) == [1, 3]


# Declarations


def test_the_queue_is_named_after_the_url() -> None:
    one, again = webhook(URL, secret=SECRET), webhook(URL, secret=new_secret())
    assert one.name == again.name
    assert one.name.startswith("webhook-partner-example-")
    assert webhook(URL + "/", secret=SECRET).name != one.name
    _, news = shop()
    news.to(one)
    with pytest.raises(DeclarationError, match="taken"):
        news.to(again)


def test_a_late_url_needs_a_name() -> None:
    app = App("shop", settings=Hooks)
    with pytest.raises(DeclarationError, match="name"):
        webhook(app.late(lambda settings: settings.url), secret=SECRET)


class Hooks(BaseSettings):
    url: str = URL
    secret: SecretStr = SecretStr("")


def late_app() -> tuple[App[Hooks], Topic[Job]]:
    app = App("shop", settings=Hooks)
    news = app.topic("news", Job)
    news.to(webhook(app.late(lambda s: s.url), secret=app.late(lambda s: s.secret), name="hook"))
    return app, news


async def test_late_values_are_resolved_at_start_and_kept_in_no_store(harness: StartHarness, tmp_path: Path) -> None:
    app, news = late_app()
    partner = Partner(lambda n: Response("oh", status_code=500))
    settings = {"shop": {"secret": SECRET, "url": "https://partner.example/path-canary"}}
    h = await harness(app, settings=settings, services={"partner.example": partner}, store=tmp_path)
    await news.publish(Job(n=1))
    await h.advance(hours=1)
    assert len(partner.bodies) == 8
    assert verifies(partner, SECRET)
    await h.restart()
    assert_absent(tmp_path)


@pytest.mark.parametrize(
    "values",
    [
        {"secret": "canary"},
        {"secret": SECRET, "url": "http://partner.example/"},
        {"secret": SECRET, "url": "https://canary@partner.example/"},
        {"secret": SECRET, "url": "https://169.254.169.254/"},
    ],
)
async def test_a_wrong_late_value_refuses_the_start(harness: StartHarness, values: dict[str, str]) -> None:
    error = await refusal(harness(late_app()[0], settings={"shop": values}), DeclarationError)
    assert "canary" not in str(error)


# Answers


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_2xx_acknowledges(harness: StartHarness, status: int) -> None:
    app, news, partner = hooked(lambda n: Response(status_code=status))
    h = await harness(app, services={"partner.example": partner})
    await news.publish(Job())
    await h.advance(hours=2)
    assert len(partner.bodies) == 1
    assert await h.messages("shop/hook") == []


@pytest.mark.parametrize("status", [301, 302, 307, 400, 401, 404, 429, 500, 503])
async def test_any_other_status_is_retried_and_told(harness: StartHarness, status: int) -> None:
    app, news, partner = hooked(lambda n: Response("the reason\x1b[31m" + "x" * 5000, status_code=status))
    h = await harness(app, services={"partner.example": partner})
    await news.publish(Job())
    await h.run_until_idle()
    (error,) = await failures(h)
    assert f"answered {status}: the reason [31mxxx" in error
    assert "https://partner.example" in error
    assert len(error) < 500
    await h.advance(seconds=11)
    assert len(partner.bodies) == 2
    assert partner.headers[0]["webhook-id"] == partner.headers[1]["webhook-id"]


async def test_after_eight_receives_it_is_a_dead_letter_and_redriven_with_its_id(harness: StartHarness) -> None:
    app, news, partner = hooked(lambda n: Response(status_code=500 if n <= 8 else 200))
    h = await harness(app, services={"partner.example": partner})
    await news.publish(Job())
    await h.advance(hours=1)
    (letter,) = await h.dead_letters("shop/hook")
    assert (letter.receives, len(partner.bodies)) == (8, 8)
    assert "answered 500" in letter.reason
    await Admin(h.supervisor.engine, h.supervisor, clock=h.clock).call("redrive", {"ids": [letter.id]})
    await h.run_until_idle()
    assert len(partner.bodies) == 9
    assert {headers["webhook-id"] for headers in partner.headers} == {letter.message_id}
    assert len({headers["webhook-timestamp"] for headers in partner.headers}) > 4
    assert verifies(partner, SECRET)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("asked", "early_s", "late_s"),
    [
        ("120", 118, 4),
        ("Thu, 01 Jan 2026 00:02:00 GMT", 118, 4),
        ("86400", 3598, 4),
        ("9" * 400, 3598, 4),
        ("0", 0.5, 1),
        ("Wed, 31 Dec 2025 00:00:00 GMT", 0.5, 1),
    ],
)
async def test_retry_after_is_honoured_up_to_an_hour(
    harness: StartHarness, status: int, asked: str, early_s: float, late_s: float
) -> None:
    def answering(n: int) -> Response:
        return Response(status_code=status, headers={"Retry-After": asked}) if n == 1 else Response()

    app, news, partner = hooked(answering)
    h = await harness(app, services={"partner.example": partner})
    await news.publish(Job())
    await h.advance(seconds=early_s)
    assert len(partner.bodies) == 1
    await h.advance(seconds=late_s)
    assert len(partner.bodies) == 2


@pytest.mark.parametrize(("status", "asked"), [(500, "3000"), (503, "soon"), (429, "-5")])
async def test_else_the_back_off_of_the_queue_holds(harness: StartHarness, status: int, asked: str) -> None:
    app, news, partner = hooked(lambda n: Response(status_code=status, headers={"Retry-After": asked}))
    h = await harness(app, services={"partner.example": partner})
    await news.publish(Job())
    await h.advance(seconds=4)
    assert len(partner.bodies) == 1
    await h.advance(seconds=7)
    assert len(partner.bodies) == 2


async def test_an_endpoint_that_does_not_answer_fails_after_ten_seconds(harness: StartHarness) -> None:
    app, news = shop()
    news.to(webhook(URL, secret=SECRET, name="hook"))
    begun = asyncio.Event()

    async def silent(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    h = await harness(app, services={"partner.example": silent})
    await news.publish(Job())
    await until(begun.is_set)
    h.clock.move_to(9.9)
    await asyncio.sleep(0.01)
    (message,) = await h.messages("shop/hook")
    assert message.failures == ()
    h.clock.move_to(10.1)
    await h.run_until_idle()
    (error,) = await failures(h)
    assert "longer than 10 s" in error


async def test_410_disables_the_endpoint(harness: StartHarness) -> None:
    app, news, partner = hooked(lambda n: Response(status_code=410 if n == 1 else 200))
    alarms: list[dict[str, Any]] = []

    @app.on(app.foreign("headwater/alarms", dict))
    async def alarmed(event: Event[dict[str, Any]]) -> None:
        alarms.append({**event.data, "cause": event.cause})

    h = await harness(app, services={"partner.example": partner})
    id = await news.publish(Job(n=1))
    await h.run_until_idle()
    (letter,) = await h.dead_letters("shop/hook")
    assert "https://partner.example answered 410" in letter.reason
    assert letter.receives == 1
    (alarm,) = alarms
    assert (alarm["name"], alarm["resource"], alarm["cause"]) == ("webhook-gone", "shop/hook", f"{id}/shop/hook")
    await h.restart()
    await news.publish(Job(n=2))
    await h.advance(hours=1)
    assert partner.numbers() == [1]
    await Admin(h.supervisor.engine, h.supervisor, clock=h.clock).call("resume", {"queue": "shop/hook"})
    await h.run_until_idle()
    assert partner.numbers() == [1, 2]
    assert len(await h.dead_letters("shop/hook")) == 1


async def test_a_server_reaches_its_own_apps_by_name_but_not_with_webhooks(tmp_path: Path) -> None:
    app, news, partner = hooked()
    transport = httpx.ASGITransport(partner)
    clock = VirtualClock()
    supervisor = Supervisor(
        [app],
        make_engine(f"sqlite:{tmp_path}", clock=clock),
        clock,
        reach={"partner.example": (transport, "https://partner.example")},
        webhooks=WebhookRules(EgressRules(), tmp_path / "secret.key"),
        upkeep=False,
    )

    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    supervisor.webhooks.outbound = Outbound(EgressRules(), resolve=resolve)
    await supervisor.start()
    try:
        await news.publish(Job(id="a", n=1))
        delivery = (await supervisor.engine.receive("shop/hook", 1))[0]
        with pytest.raises(HeadwaterError, match="stands for 127"):
            await supervisor.webhooks.deliver(delivery, URL, SECRET)
        assert partner.bodies == []
    finally:
        await supervisor.stop(1)
