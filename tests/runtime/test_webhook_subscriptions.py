"""URLs subscribed at run time: durable, with a queue and a sealed secret of their own, by the app or an operator."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from pydantic import SecretStr
from starlette.responses import Response

from headwater import DeclarationError, Topic, UnknownResource, webhook
from headwater.engines import make_engine
from headwater.pytest_plugin import StartHarness
from headwater.runtime.admin import Admin
from headwater.runtime.webhooks import PREFIX, WebhookRules
from headwater.system import NAME
from headwater.testing import Harness
from tests.runtime.partner import CANARIES, SECRET, URL, Partner, assert_absent, shop, verifies
from tests.runtime.samples import Job, refusal


async def test_a_subscribed_url_is_delivered_at_once_and_after_a_restart_and_a_crash(harness: StartHarness) -> None:
    app, news = shop()
    partner = Partner()
    h = await harness(app, services={"partner.example": partner})
    id = await news.subscribe(URL, match={"n": [{"numeric": ["<", 10]}]}, secret=SECRET)
    assert id.secret == ""
    for n in (1, 11):
        await news.publish(Job(n=n))
    await h.run_until_idle()
    await h.restart()
    await news.publish(Job(n=2))
    await h.run_until_idle()
    await h.crash()
    await news.publish(Job(n=3))
    await h.run_until_idle()
    assert partner.numbers() == [1, 2, 3]
    assert verifies(partner, SECRET)


async def test_the_same_subscription_has_the_same_id_and_others_queues_of_their_own(harness: StartHarness) -> None:
    app, news = shop()
    partner = Partner()
    h = await harness(app, services={"partner.example": partner})
    ids = [
        await news.subscribe(URL),
        await news.subscribe(URL),
        await news.subscribe(URL, match={"n": [1]}),
        await news.subscribe(URL + "/2"),
    ]
    assert (ids[0] == ids[1], len(set(ids))) == (True, 3)
    assert [bool(id.secret) for id in ids] == [True, False, True, True]
    await news.publish(Job(n=1))
    await h.run_until_idle()
    assert len({headers["webhook-id"] for headers in partner.headers}) == 3
    queues = [stats.queue for stats in await h.supervisor.engine.stats() if stats.queue.startswith(PREFIX)]
    assert len(queues) == 3


async def test_a_made_secret_signs_and_another_one_replaces_it(harness: StartHarness) -> None:
    app, news = shop()
    first, second = Partner(), Partner()
    h = await harness(app, services={"first.example": first, "second.example": second})
    made = await news.subscribe("https://first.example/")
    await news.publish(Job())
    await h.run_until_idle()
    assert verifies(first, made.secret)
    assert await news.subscribe("https://first.example/", secret=SecretStr(SECRET)) == made
    first.headers.clear()
    first.bodies.clear()
    await news.publish(Job())
    await h.run_until_idle()
    assert len(first.bodies) == 1
    assert verifies(first, SECRET)
    assert not verifies(first, made.secret)


async def test_messages_of_a_group_are_delivered_in_order(harness: StartHarness) -> None:
    app, news = shop()
    partner = Partner(lambda n: Response(status_code=500 if n == 1 else 200))
    h = await harness(app, services={"partner.example": partner})
    await news.subscribe(URL, group="id")
    for n in range(3):
        await news.publish(Job(id="a", n=n))
    await h.advance(minutes=1)
    assert partner.numbers() == [0, 0, 1, 2]


async def test_unsubscribing_ends_it_and_what_waits_is_discarded(harness: StartHarness) -> None:
    app, news = shop()
    partner = Partner(lambda n: Response(status_code=500))
    h = await harness(app, services={"partner.example": partner})
    id = await news.subscribe(URL)
    await news.publish(Job(n=1))
    await h.run_until_idle()
    assert await news.unsubscribe(id)
    assert not await news.unsubscribe(id)
    await h.restart()
    await news.publish(Job(n=2))
    await h.advance(hours=1)
    assert partner.numbers() == [1]
    assert await h.dead_letters() == []
    assert [stats.queue for stats in await h.supervisor.engine.stats() if stats.depth] == []
    await h.restart()
    assert not [queue for queue in (await h.supervisor.engine.catalog()).queues if queue.startswith("headwater/web")]
    partner.answering = lambda n: Response()
    again = await news.subscribe(URL)
    assert again.secret
    await news.publish(Job(n=3))
    await h.run_until_idle()
    assert partner.numbers() == [1, 3]


async def test_a_subscription_ended_while_disabled_leaves_nothing(harness: StartHarness) -> None:
    app, news = shop()
    partner = Partner(lambda n: Response(status_code=410))
    h = await harness(app, services={"partner.example": partner})
    id = await news.subscribe(URL)
    await news.publish(Job(n=1))
    await h.run_until_idle()
    await news.publish(Job(n=2))
    await news.unsubscribe(id)
    await h.run_until_idle()
    found = [stats for stats in await h.supervisor.engine.stats() if stats.queue.startswith(PREFIX)]
    assert [(stats.depth, stats.dead, stats.paused) for stats in found] == [(0, 1, False)]


async def test_a_subscription_without_a_route_is_made_anew(harness: StartHarness) -> None:
    """As after a crash between the row and the route: the secret of the row was never shown."""
    app, news = shop()
    partner = Partner()
    h = await harness(app, services={"partner.example": partner})
    await h.supervisor.engine.unsubscribe(await news.subscribe(URL))
    again = await news.subscribe(URL)
    await news.publish(Job())
    await h.run_until_idle()
    assert again.secret
    assert verifies(partner, again.secret)


async def test_a_subscription_is_no_part_of_a_unit_that_is_open(harness: StartHarness) -> None:
    app, news = shop()
    partner = Partner()
    h = await harness(app, services={"partner.example": partner})
    with contextlib.suppress(ZeroDivisionError):
        async with app.transaction():
            await news.subscribe(URL, secret=SECRET)
            raise ZeroDivisionError
    await news.publish(Job(n=1))
    await h.run_until_idle()
    assert partner.numbers() == [1]


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("http://partner.example/", SECRET),
        ("https://10.0.0.1/", SECRET),
        ("https://2130706433/", SECRET),
        ("https://canary:canary@partner.example/", SECRET),
        ("ftp://partner.example/", SECRET),
        (URL, "canary"),
        ("shop/queue", SECRET),
    ],
)
async def test_what_cannot_be_is_refused_and_leaves_nothing(harness: StartHarness, url: str, secret: str) -> None:
    app, news = shop()
    h = await harness(app)
    error = await refusal(news.subscribe(url, secret=secret), DeclarationError)
    assert "canary" not in str(error)
    assert await h.supervisor.webhooks.rows() == []
    assert [route for route in (await h.supervisor.engine.catalog()).routes if route.origin != NAME] == []


async def test_an_unknown_topic_is_refused(harness: StartHarness) -> None:
    app, _ = shop()
    h = await harness(app)
    unknown: Topic[Job] = Topic(app, "shop/nothing", Job)
    await refusal(unknown.subscribe("https://partner.example/"), UnknownResource)
    assert await h.supervisor.webhooks.rows() == []


# Secrets


async def test_a_secret_is_in_no_file_error_trace_log_or_admin_answer(
    harness: StartHarness, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    app, news = shop()
    news.to(webhook(URL, secret=SECRET, name="declared"))
    partner = Partner(lambda n: Response(status_code=500))
    h = await harness(app, services={"partner.example": partner}, store=tmp_path)
    id = await news.subscribe("https://partner.example/other", secret=SECRET)
    event = await news.publish(Job())
    await h.advance(hours=1)
    assert verifies(partner, SECRET)
    assert len(partner.bodies) == 16
    admin = Admin(h.supervisor.engine, h.supervisor, clock=h.clock)
    answers = [
        await admin.call("subscribe", {"topic": "shop/news", "url": "https://partner.example/other", "secret": SECRET}),
        await admin.call("subscriptions", {}),
        await admin.call("resources", {}),
        await admin.call("status", {}),
        await admin.call("dead-letters", {}),
        await admin.call("trace", {"id": event}),
        await admin.call("tail", {}),
        await admin.call("table-query", {"table": "headwater/webhooks"}),
    ]
    assert answers[0] == {"id": id}
    assert [found["url"] for found in answers[1]["subscriptions"]] == ["https://partner.example/other"]
    shown = json.dumps(answers).encode() + "".join(capfd.readouterr()).encode()
    assert not any(canary in shown for canary in CANARIES)
    await h.restart()
    assert_absent(tmp_path)


async def test_another_key_fails_the_delivery_with_a_clear_error(harness: StartHarness, tmp_path: Path) -> None:
    app, news = shop()
    partner = Partner()
    h = await harness(app, services={"partner.example": partner}, store=tmp_path)
    await news.subscribe(URL, secret=SECRET)
    key = tmp_path / "secret.key"
    right = key.read_bytes()
    assert key.stat().st_mode & 0o777 == 0o600
    key.write_bytes(b"A" * 43 + b"=")
    await h.restart()
    await news.publish(Job())
    await h.run_until_idle()
    (message,) = await h.messages((await h.supervisor.webhooks.rows())[0].queue)
    assert "sealed with another key" in message.failures[0]["error"]
    key.unlink()
    await h.restart()
    await h.advance(seconds=11)
    (message,) = await h.messages(message.queue)
    assert "there is no secret key" in message.failures[-1]["error"]
    assert not key.exists()
    key.write_bytes(right)
    await h.restart()
    await h.advance(minutes=2)
    assert verifies(partner, SECRET)
    assert len(partner.bodies) == 1


# The admin operations


async def test_admin_makes_shows_and_ends_subscriptions(harness: StartHarness) -> None:
    app, news = shop()
    partner = Partner()
    h = await harness(app, services={"partner.example": partner})
    admin = Admin(h.supervisor.engine, h.supervisor, clock=h.clock)
    made = await admin.call("subscribe", {"topic": "shop/news", "url": URL, "match": {"n": [1]}})
    again = await admin.call("subscribe", {"topic": "shop/news", "url": URL, "match": {"n": [1]}})
    assert again == {"id": made["id"]}
    await news.publish(Job(n=1))
    await h.run_until_idle()
    assert verifies(partner, made["secret"])
    (shown,) = (await admin.call("subscriptions", {"topic": "shop/news"}))["subscriptions"]
    assert (shown["id"], shown["url"]) == (made["id"], URL)
    await admin.call("unsubscribe", {"id": made["id"]})
    assert (await admin.call("subscriptions", {}))["subscriptions"] == []
    await refusal(admin.call("unsubscribe", {"id": made["id"]}), UnknownResource)


@pytest.mark.parametrize(
    "parameters",
    [{}, {"queue": "shop/q", "url": URL}, {"url": "shop/q"}, {"url": "https://10.0.0.1/"}, {"url": URL, "secret": "x"}],
)
async def test_admin_refuses_wrong_parameters(harness: StartHarness, parameters: dict[str, str]) -> None:
    app, _ = shop()
    app.queue("q")
    h = await harness(app)
    admin = Admin(h.supervisor.engine, h.supervisor, clock=h.clock)
    error = await refusal(admin.call("subscribe", {"topic": "shop/news", **parameters}), Exception)
    assert type(error).__name__ == "InvalidValue"


async def test_without_a_server_the_next_one_delivers(harness: StartHarness, tmp_path: Path) -> None:
    app, _ = shop()
    store = tmp_path / "store"
    h = Harness(app, services={"partner.example": (partner := Partner())}, store=store)
    async with h:
        pass
    engine = make_engine(f"sqlite:{store}")
    await engine.open()
    admin = Admin(engine, webhooks=WebhookRules(key_file=store / "secret.key"))
    for url in (URL, URL + "/2"):
        await admin.call("subscribe", {"topic": "shop/news", "url": url, "secret": SECRET})
    await admin.call("publish", {"topic": "shop/news", "data": {"n": 4}})
    await engine.close()
    async with h:
        await h.run_until_idle()
        assert partner.numbers() == [4, 4]
        assert verifies(partner, SECRET)
