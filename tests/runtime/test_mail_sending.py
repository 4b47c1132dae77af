"""Mail over real SMTP: security, what each answer leads to, and that nothing is sent twice or lost."""

from __future__ import annotations

import asyncio
import base64
import itertools
from pathlib import Path
from typing import Any

import pytest

from headwater import App, Topic, email
from headwater.errors import CommitUnknown, Conflict
from headwater.mail import Mail
from headwater.pytest_plugin import StartHarness
from headwater.runtime.mail import UNDELIVERABLE
from headwater.testing import Harness
from headwater.unit import Commit
from tests.ports import free_port
from tests.runtime.mail_server import PASSWORD, USER, MailServer, odd_server, parts

TO = "ops@example.org"


def shop(*to: str, **options: Any) -> tuple[App[None], Topic[dict[str, Any]]]:
    app = App("shop")
    news = app.topic("news")
    news.to(email(to or TO, name="mail", **options))
    return app, news


async def mails(h: Harness) -> list[Mail]:
    return (await h.supervisor.system.mails.query(limit=1000)).items


@pytest.mark.parametrize("security", ["starttls", "tls", "none"])
async def test_a_mail_arrives_over_each_kind_of_connection_with_a_login(
    harness: StartHarness, tmp_path: Path, security: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with MailServer(folder=tmp_path, security=security, login=True) as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        app, news = shop()
        h = await harness(app, smtp=server.settings())
        event = await news.publish({"id": "ö1"})
        await h.run_until_idle()
        ((to, message),) = server.mails
        assert (to, server.encrypted, server.logins) == (TO, [security != "none"], [True])
        (mail,) = await mails(h)
        assert (mail.state, mail.attempts, mail.answer, mail.events) == ("sent", 1, "250 taken", [event])
        plain, html = parts(message)
        assert '"id": "ö1"' in plain
        assert "ö1" in html
        assert message["To"] == TO
        assert message["From"] == "app@example.org"
        assert message["Message-ID"] == f"<{mail.id}@example.org>"
        assert message["Auto-Submitted"] == "auto-generated"
        assert message["X-Headwater-Trace"] == mail.traces[0]
        assert message["Date"].datetime.timestamp() * 1000 == mail.created_ms
        assert mail.traces[0] in plain
        assert h.mail == []


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_a_server_that_is_not_trusted_gets_no_mail_and_no_password(
    harness: StartHarness, tmp_path: Path, security: str
) -> None:
    async with MailServer(folder=tmp_path, security=security, login=True) as server:
        app, news = shop()
        h = await harness(app, smtp=server.settings())
        await news.publish({})
        await h.run_until_idle()
        assert (server.received, server.logins) == ([], [])
        (mail,) = await mails(h)
        assert mail.state == "pending"
        assert "CERTIFICATE_VERIFY_FAILED" in mail.answer


async def test_starttls_is_never_given_up_for_plain_text(harness: StartHarness) -> None:
    async with MailServer() as server:
        app, news = shop()
        h = await harness(app, smtp={**server.settings(), "security": "starttls"})
        await news.publish({})
        await h.run_until_idle()
        assert server.received == []
        assert "STARTTLS" in (await mails(h))[0].answer


async def test_a_refused_login_is_tried_again_and_shows_no_password(harness: StartHarness) -> None:
    async with MailServer(login=True) as server:
        app, news = shop()
        h = await harness(app, smtp=server.settings(password="wrong-canary"))
        await news.publish({})
        await h.run_until_idle()
        (mail,) = await mails(h)
        assert (mail.state, mail.answer) == ("pending", "127.0.0.1 answered 535 to the login")
        (waiting,) = await h.messages("headwater/outgoing")
        for secret in ("wrong-canary", PASSWORD):
            assert secret not in repr(waiting) + repr(h.supervisor.mail.__dict__)


async def test_a_server_that_repeats_the_login_gets_it_into_no_error(harness: StartHarness) -> None:
    heard: list[bytes] = []

    async def repeat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        while line := await reader.readline():
            heard.append(line)
            writer.write(b"250-here\r\n250 AUTH PLAIN\r\n" if line.startswith(b"EHLO") else b"535 not " + line)

    async with odd_server(repeat) as port:
        app, news = shop()
        h = await harness(app, smtp=MailServer(port, login=True).settings())
        await news.publish({})
        await h.run_until_idle()
    encoded = base64.b64encode(f"\0{USER}\0{PASSWORD}".encode())
    assert any(encoded in line for line in heard)
    (mail,) = await mails(h)
    (waiting,) = await h.messages("headwater/outgoing")
    for secret in (encoded.decode(), PASSWORD):
        assert secret not in repr((mail, waiting))


# Answers


async def test_a_refused_recipient_is_reported_and_the_other_gets_its_mail_once(harness: StartHarness) -> None:
    async with MailServer() as server:
        server.on_recipient = lambda address: "550 no such user" if address.startswith("gone") else "250 OK"
        app, news = shop("gone@example.org", TO)
        alarms: list[tuple[str, str, str]] = []
        watch(app, alarms)
        h = await harness(app, smtp=server.settings())
        await news.publish({})
        await h.run_until_idle()
        await h.advance(days=2)
        assert [to for to, _ in server.mails] == [TO]
        states = {mail.to: (mail.state, mail.attempts, mail.answer) for mail in await mails(h)}
        assert states == {"gone@example.org": ("failed", 1, "550 no such user"), TO: ("sent", 1, "250 taken")}
        (letter,) = await h.dead_letters("headwater/outgoing")
        assert "550 no such user" in letter.reason
        assert alarms == [("alarm", UNDELIVERABLE, "gone@example.org")]


def watch(app: App[None], alarms: list[tuple[str, str, str]]) -> None:
    """Collect the alarms about mail."""

    @app.on(app.foreign("headwater/alarms", dict), match={"name": [UNDELIVERABLE]})
    async def note(event: Any) -> None:
        alarms.append((event.data["state"], event.data["name"], event.data["resource"]))


async def test_a_refusal_of_the_data_is_for_good_and_a_redriven_mail_ends_the_alarm(harness: StartHarness) -> None:
    async with MailServer() as server:
        server.on_data = lambda address: "554 looks like spam"
        app, news = shop()
        alarms: list[tuple[str, str, str]] = []
        watch(app, alarms)
        h = await harness(app, smtp=server.settings())
        await news.publish({})
        await h.run_until_idle()
        assert [(mail.state, mail.answer) for mail in await mails(h)] == [("failed", "554 looks like spam")]
        server.on_data = lambda address: "250 taken"
        (letter,) = await h.dead_letters("headwater/outgoing")
        await redrive(h, letter.id)
        await h.run_until_idle()
        assert [(mail.state, mail.attempts) for mail in await mails(h)] == [("sent", 2)]
        await news.publish({})
        await h.run_until_idle()
        assert alarms == [("alarm", UNDELIVERABLE, TO), ("ok", UNDELIVERABLE, TO)]
        assert len(server.mails) == 2


async def test_a_refused_mail_is_not_offered_again_when_only_its_burial_was_lost(
    harness: StartHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with MailServer() as server:
        offered: list[str] = []

        def refuse(address: str) -> str:
            offered.append(address)
            return "550 no"

        server.on_recipient = refuse
        app, news = shop()
        h = await harness(app, smtp=server.settings())
        commit, lost = h.supervisor.engine.commit, list[Commit]()

        def losing(made: Commit) -> asyncio.Future[Any]:
            if lost or not any(settled.outcome == "bury" for settled in made.settles):
                return commit(made)
            lost.append(made)
            failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            failed.set_exception(CommitUnknown("it is not known"))
            return failed

        monkeypatch.setattr(h.supervisor.engine, "commit", losing)
        await news.publish({})
        await h.advance(minutes=10)
        assert len(lost) == 1
        assert len(await h.dead_letters("headwater/outgoing")) == 1
        assert offered == [TO]


async def redrive(h: Harness, id: int) -> None:
    from headwater.runtime.admin import Admin

    await Admin(h.supervisor.engine, h.supervisor, clock=h.clock).redrive(ids=[id])


async def test_a_temporary_refusal_is_tried_again_and_at_last_given_up(harness: StartHarness) -> None:
    async with MailServer() as server:
        server.on_recipient = lambda address: "450 mailbox busy"
        app, news = shop()
        alarms: list[tuple[str, str, str]] = []
        watch(app, alarms)
        h = await harness(app, smtp=server.settings())
        await news.publish({})
        await h.advance(hours=12)
        (mail,) = await mails(h)
        assert (mail.state, mail.answer, alarms) == ("pending", "450 mailbox busy", [])
        await h.advance(hours=24)
        (mail,) = await mails(h)
        assert (mail.state, mail.attempts) == ("failed", 120)
        assert len(await h.dead_letters("headwater/outgoing")) == 1
        assert alarms == [("alarm", UNDELIVERABLE, TO)]
        assert server.mails == []


async def test_alarms_about_mail_are_not_mailed(harness: StartHarness) -> None:
    async with MailServer() as server:
        server.on_recipient = lambda address: "550 no"
        app, news = shop()
        h = await harness(app, smtp=server.settings(), alerts="boss@example.org")
        await news.publish({})
        await h.advance(hours=3)
        assert {mail.to for mail in await mails(h)} == {TO}
        alarms = h.supervisor.system.alarms
        for resource in ("headwater/outgoing", "headwater/alerts"):
            await alarms.publish(alarms.model(name="dead-letters", resource=resource, detail="1"))
        await h.advance(hours=3)
        assert {mail.to for mail in await mails(h)} == {TO}
        await alarms.publish(alarms.model(name="dead-letters", resource="shop/orders", detail="1"))
        await h.run_until_idle()
        assert {mail.to for mail in await mails(h)} == {TO, "boss@example.org"}


# Outages


async def test_a_server_that_is_down_for_an_hour_gets_each_mail_once(harness: StartHarness) -> None:
    app, news = shop()
    server = MailServer(free_port())
    h = await harness(app, smtp=server.settings())
    for n in range(3):
        await news.publish({"n": n})
    await h.advance(hours=1)
    found = await mails(h)
    assert {mail.state for mail in found} == {"pending"}
    assert all(mail.attempts > 5 and "127.0.0.1" in mail.answer for mail in found)
    async with server:
        await h.advance(minutes=16)
        assert {mail.state for mail in await mails(h)} == {"sent"}
        await h.advance(days=2)
    assert sorted(message["Message-ID"] for _, message in server.received) == sorted(
        f"<{mail.id}@example.org>" for mail in found
    )


async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def say_all_slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Each answer is in time, all together are not."""
    said = b"220 here"
    while said:
        await asyncio.sleep(0.15)
        writer.write(said + b"\r\n")
        line = await reader.readline()
        if said.startswith(b"354"):
            line = await reader.readuntil(b"\r\n.\r\n")
        said = b"354 go on" if line == b"DATA\r\n" else b"250 yes" if line else b""


@pytest.mark.parametrize("hang", [say_nothing, say_all_slowly])
async def test_a_server_that_hangs_costs_the_time_out_and_is_tried_again(harness: StartHarness, hang: Any) -> None:
    async with odd_server(hang) as port:
        app, news = shop()
        h = await harness(app, smtp=MailServer(port).settings(timeout="500ms"))
        await news.publish({})
        await h.run_until_idle()
        (mail,) = await mails(h)
        assert (mail.state, mail.answer) == ("pending", "127.0.0.1 did not answer within 0.5 s")
    async with MailServer(port) as server:
        await h.advance(minutes=1)
        assert [mail.state for mail in await mails(h)] == ["sent"]
        assert len(server.received) == 1


@pytest.mark.parametrize("times", [1, 9])
async def test_an_answer_whose_commit_met_conflicts_is_not_asked_for_again(
    harness: StartHarness, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with MailServer() as server:
        app, news = shop()
        h = await harness(app, smtp=server.settings())
        engine, refused = h.supervisor.engine, itertools.count(1)
        commit = engine.commit

        def conflicting(made: Commit) -> asyncio.Future[Any]:
            outcome = any(
                write.table == "headwater/mails" and b'"sent"' in (write.body or b"") for write in made.writes
            )
            if not outcome or next(refused) > times:
                return commit(made)
            failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            failed.set_exception(Conflict("somebody else wrote it"))
            return failed

        monkeypatch.setattr(engine, "commit", conflicting)
        await news.publish({})
        await h.advance(hours=1)
        assert next(refused) == times + 2
        assert [(mail.state, mail.attempts) for mail in await mails(h)] == [("sent", 1)]
        assert len(server.received) == 1


async def test_mails_survive_a_crash_and_are_sent_by_the_next_start(harness: StartHarness) -> None:
    app, news = shop()
    server = MailServer(free_port())
    h = await harness(app, smtp=server.settings())
    await news.publish({})
    await h.run_until_idle()
    await h.crash()
    async with server:
        await h.advance(minutes=16)
        assert [mail.state for mail in await mails(h)] == ["sent"]
        assert len(server.received) == 1


# Addresses


async def test_other_letters_go_encoded_and_as_utf8_only_where_the_server_takes_them(harness: StartHarness) -> None:
    async with MailServer() as server:
        app, news = shop("jürgen@bücher.example", "ops@bücher.example", subject="Größe {size}")
        h = await harness(app, smtp=server.settings())
        await news.publish({"size": "№ 5"})
        await h.run_until_idle()
        by_address = dict(server.mails)
        assert sorted(by_address) == ["jürgen@xn--bcher-kva.example", "ops@xn--bcher-kva.example"]
        assert {message["Subject"] for message in by_address.values()} == {"Größe № 5"}
        utf8 = {to: "SMTPUTF8" in options for (to, _), options in zip(server.received, server.options, strict=True)}
        assert utf8 == {"jürgen@xn--bcher-kva.example": True, "ops@xn--bcher-kva.example": False}
        server.smtputf8 = False
        await news.publish({"size": "2"})
        await h.run_until_idle()
        failed = [(mail.to, mail.answer) for mail in await mails(h) if mail.state == "failed"]
        assert failed == [("jürgen@xn--bcher-kva.example", "127.0.0.1 takes ASCII addresses only (it has no SMTPUTF8)")]
        assert len(server.mails) == 3
