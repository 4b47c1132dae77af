"""Mail of a running app: who gets what, digests and recoveries in virtual time, and what is kept."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic_settings import BaseSettings

from headwater import App, DeclarationError, Topic, email
from headwater.engine import Query
from headwater.errors import UnknownResource
from headwater.pytest_plugin import StartHarness
from headwater.runtime.admin import Admin
from headwater.runtime.mail import MailRules
from headwater.system import Alarm
from headwater.testing import Harness
from headwater.unit import Commit
from tests.runtime.samples import Item, refusal, until

TO = "ops@example.org"


def shop(**options: Any) -> tuple[App[None], Topic[dict[str, Any]]]:
    app = App("shop")
    news = app.topic("news")
    news.to(email(TO, name="mail", **options))
    return app, news


def alarmed(**options: Any) -> tuple[App[None], Topic[Alarm]]:
    """An app whose topic of alarms is mailed, in order for each resource."""
    app = App("shop")
    alarms = app.topic("alarms", Alarm)
    alarms.to(email(TO, name="mail", **options), group="resource")
    return app, alarms


def raised(state: str = "alarm", resource: str = "shop/orders") -> Alarm:
    return Alarm(name="dead-letters", resource=resource, detail=f"it is in {state}", state=state)


def subjects(h: Harness) -> list[str]:
    return [mail.subject for mail in h.mail]


# One event, one mail


async def test_every_event_is_mailed_once_to_every_address(harness: StartHarness) -> None:
    app = App("shop")
    items = app.table("items", Item, key="id")
    items.to(email([TO, "boss@example.org"]), new={"n": [5]})
    h = await harness(app)
    for n in (1, 5):
        await items.put(Item(id="a", n=n))
    await h.run_until_idle()
    assert [(mail.to, mail.subject) for mail in h.mail] == [
        (TO, "shop/items: modified a"),
        ("boss@example.org", "shop/items: modified a"),
    ]
    (mail, _) = h.mail
    assert '"n": 1' in mail.text.partition("Old:")[2].partition("New:")[0]
    assert '"n": 5' in mail.text.partition("New:")[2]
    assert mail.traces[0] in mail.html
    await h.restart()
    await h.advance(days=1)
    assert len(h.mail) == 2


class Settings(BaseSettings):
    team: str = ""
    digest: str = "15m"


def with_a_late_address() -> tuple[App[Settings], Topic[dict[str, Any]]]:
    app = App("shop", settings=Settings)
    news = app.topic("news")
    news.to(email(app.late(lambda settings: settings.team)))
    return app, news


async def test_a_late_address_is_read_at_start(harness: StartHarness) -> None:
    app, news = with_a_late_address()
    h = await harness(app, settings={"shop": {"team": TO}})
    await news.publish({})
    await h.run_until_idle()
    assert [mail.to for mail in h.mail] == [TO]


async def test_a_wrong_late_address_stops_the_start() -> None:
    app, _ = with_a_late_address()
    with pytest.raises(DeclarationError, match="'ops' is no mail address"):
        async with Harness(app, settings={"shop": {"team": "ops"}}):
            pass


async def test_without_an_address_nothing_is_mailed(harness: StartHarness) -> None:
    app, news = with_a_late_address()
    h = await harness(app)
    await news.publish({})
    await h.advance(days=1)
    assert h.mail == []
    assert await h.messages("shop/mail") == []
    assert await h.dead_letters() == []


# Digests


@pytest.mark.parametrize(("digest", "mails"), [("1h", 2), ("0s", 3)])
async def test_a_late_digest_is_read_at_start(harness: StartHarness, digest: str, mails: int) -> None:
    app = App("shop", settings=Settings)
    news = app.topic("news")
    news.to(email(TO, digest=app.late(lambda settings: settings.digest)))
    h = await harness(app, settings={"shop": {"digest": digest}})
    for _ in range(3):
        await news.publish({})
        await h.advance(minutes=20)
    await h.advance(hours=1)
    assert len(h.mail) == mails


async def test_a_wrong_late_digest_stops_the_start() -> None:
    app = App("shop", settings=Settings)
    app.topic("news").to(email(TO, digest=app.late(lambda settings: settings.digest)))
    with pytest.raises(DeclarationError, match="digest: 'soon' is not a duration"):
        async with Harness(app, settings={"shop": {"digest": "soon"}}):
            pass


async def test_a_thousand_alike_events_in_a_minute_are_two_mails(harness: StartHarness) -> None:
    app, news = shop(digest="15m")
    h = await harness(app)
    for _ in range(10):
        await asyncio.gather(*(news.publish({"n": n}) for n in range(100)))
        await h.advance(seconds=6)
    assert subjects(h) == ["shop/news: message"]
    await h.advance(minutes=13)
    assert len(h.mail) == 1
    await h.advance(minutes=2)
    assert subjects(h)[1:] == ["999 more: shop/news: message"]
    await h.advance(hours=1)
    assert len(h.mail) == 2
    assert await h.dead_letters() == []


async def test_after_a_quiet_time_the_next_event_is_mailed_at_once(harness: StartHarness) -> None:
    app, news = shop(digest="15m")
    h = await harness(app)
    await news.publish({})
    await h.advance(minutes=16)
    await news.publish({})
    await h.run_until_idle()
    assert subjects(h) == ["shop/news: message"] * 2
    await h.advance(hours=1)
    for table in (h.supervisor.system.digests, h.supervisor.system.folded):
        assert (await h.supervisor.engine.query(Query(table=table.name))).records == []


async def test_as_long_as_it_goes_on_there_is_one_mail_a_period(harness: StartHarness) -> None:
    app, news = shop(digest="15m")
    h = await harness(app)
    for _ in range(60):
        await news.publish({})
        await h.advance(minutes=1)
    assert subjects(h) == ["shop/news: message", "14 more: shop/news: message", *["15 more: shop/news: message"] * 3]


async def test_what_is_not_alike_is_not_folded(harness: StartHarness) -> None:
    app, alarms = alarmed(digest="15m")
    h = await harness(app)
    for resource in ("shop/a", "shop/b", "shop/a", "shop/b"):
        await alarms.publish(raised(resource=resource))
    await h.run_until_idle()
    assert sorted(subjects(h)) == ["[ALARM] shop/a: dead-letters", "[ALARM] shop/b: dead-letters"]


async def test_a_recovery_is_a_mail_of_its_own_or_in_the_digest_with_its_alarm(harness: StartHarness) -> None:
    app, alarms = alarmed(digest="15m")
    h = await harness(app)
    for state in ("alarm", "ok", "alarm", "ok", "alarm"):
        await alarms.publish(raised(state))
        await h.advance(seconds=30)
    assert subjects(h) == ["[ALARM] shop/orders: dead-letters", "[OK] shop/orders: dead-letters"]
    await h.advance(minutes=15)
    assert subjects(h)[2:] == ["3 more: [ALARM] shop/orders: dead-letters"]
    listed = [line for line in h.mail[2].text.splitlines() if line.startswith("- ")]
    assert [line.partition("UTC ")[2].partition("]")[0] for line in listed] == ["[ALARM", "[OK", "[ALARM"]
    await h.advance(hours=1)
    await alarms.publish(raised("ok"))
    await h.run_until_idle()
    await alarms.publish(raised("alarm"))
    await h.run_until_idle()
    assert subjects(h)[3:] == ["[OK] shop/orders: dead-letters", "[ALARM] shop/orders: dead-letters"]


async def test_digests_survive_a_crash(harness: StartHarness) -> None:
    app, news = shop(digest="15m")
    h = await harness(app)
    for n in range(3):
        await news.publish({"n": n})
        await h.run_until_idle()
    await h.crash()
    await h.advance(minutes=16)
    assert subjects(h) == ["shop/news: message", "2 more: shop/news: message"]
    assert len(h.mail[1].events) == 2
    assert h.mail[1].traces[0] in h.mail[1].text


async def test_who_adds_to_a_window_that_has_closed_meanwhile_is_not_lost(
    harness: StartHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, news = shop(digest="15m")
    h = await harness(app)
    await news.publish({"n": 0})
    await news.publish({"n": 1})
    await h.run_until_idle()
    gate, held = asyncio.Event(), list[Commit]()
    commit = h.supervisor.engine.commit

    def late(made: Commit) -> Any:
        if held or not any(write.table == "headwater/folded" and write.blind for write in made.writes):
            return commit(made)
        held.append(made)

        async def after() -> Any:
            await gate.wait()
            return await commit(made)

        return asyncio.ensure_future(after())

    monkeypatch.setattr(h.supervisor.engine, "commit", late)
    await news.publish({"n": 2})
    await until(lambda: bool(held))
    h.clock.move_to(h.clock.monotonic() + 901)
    await until(lambda: len(h.mail) == 2)
    gate.set()
    await h.run_until_idle()
    await h.advance(minutes=31)
    assert subjects(h) == ["shop/news: message", *["1 more: shop/news: message"] * 2]
    assert ['"n": 2' in mail.text for mail in h.mail] == [False, False, True]


async def test_a_window_whose_end_was_discarded_does_not_swallow_what_follows(harness: StartHarness) -> None:
    app, news = shop(digest="15m")
    h = await harness(app)
    await news.publish({})
    await news.publish({})
    await h.run_until_idle()
    await h.supervisor.engine.pause("headwater/digest-ends", True)
    await h.advance(minutes=31)
    await news.publish({})
    await h.run_until_idle()
    assert subjects(h) == ["shop/news: message"] * 2
    await h.supervisor.engine.pause("headwater/digest-ends", False)
    await h.advance(hours=1)
    assert sorted(subjects(h)[2:]) == ["1 more: shop/news: message"]


# Headwater's own alarms


async def test_alerts_are_mailed_with_a_digest_and_what_is_no_news_is_not(harness: StartHarness) -> None:
    app, _ = shop()
    h = await harness(app, alerts=["a@example.org", "b@example.org"])
    alarms = h.supervisor.system.alarms
    for state in ("ok", "alarm", "alarm", "ok"):
        await alarms.publish(raised(state, f"shop/{state}"))
    await h.run_until_idle()
    assert sorted((mail.to[0], mail.subject) for mail in h.mail) == [
        (to, f"[{state}] shop/{state.lower()}: dead-letters") for to in "ab" for state in ("ALARM", "OK", "OK")
    ]


# What is kept


def admin(h: Harness) -> Admin:
    return Admin(h.supervisor.engine, h.supervisor, clock=h.clock)


async def test_mails_are_listed_newest_first_page_by_page_and_shown(harness: StartHarness) -> None:
    app, news = shop(subject="Order {n}")
    h = await harness(app)
    for n in range(5):
        await news.publish({"n": n})
        await h.advance(seconds=1)
    page = await admin(h).mails(limit=2)
    assert [mail["subject"] for mail in page["mails"]] == ["Order 4", "Order 3"]
    rest = await admin(h).mails(limit=100, before=page["next"])
    assert [mail["subject"] for mail in rest["mails"]] == ["Order 2", "Order 1", "Order 0"]
    assert rest["next"] is None
    assert (await admin(h).mails(state="failed"))["mails"] == []
    assert len((await admin(h).mails(state="sent", to=TO))["mails"]) == 5
    assert (await admin(h).mails(to="eve@example.net"))["mails"] == []
    shown = await admin(h).mail_show(id=page["mails"][0]["id"])
    assert (shown["text"], shown["html"], shown["events"]) == (h.mail[4].text, h.mail[4].html, h.mail[4].events)
    await refusal(admin(h).mail_show(id="none"), UnknownResource)


async def test_mails_are_kept_for_thirty_days_and_no_event_holds_them(harness: StartHarness) -> None:
    app, news = shop()
    h = await harness(app)
    await news.publish({})
    await h.advance(days=29)
    assert len((await admin(h).mails())["mails"]) == 1
    await h.advance(days=2)
    assert (await admin(h).mails())["mails"] == []


async def test_without_a_server_mail_is_held(harness: StartHarness) -> None:
    app, news = shop(digest="15m")
    h = Harness(app)
    h._mail_rules = MailRules()
    async with h:
        for _ in range(3):
            await news.publish({})
        await h.advance(minutes=16)
        found = (await admin(h).mails())["mails"]
        assert [(mail["state"], mail["attempts"]) for mail in found] == [("held", 0)] * 2
        assert await h.messages("headwater/outgoing") == []
        assert h.mail == []
