"""Mail without a server: addresses, settings, and what a mail says whatever an event holds."""

from __future__ import annotations

import email as parsing
import itertools
import json
from email.message import EmailMessage
from email.policy import default
from typing import Any

import pytest
from aiosmtplib.email import flatten_message
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic_settings import BaseSettings

from headwater import App, DeclarationError, email
from headwater.codec import encode_json
from headwater.config import Config
from headwater.events import Envelope
from headwater.mail import Folded, Item, Mail
from headwater.mail_settings import Smtp, check_address, check_addresses
from headwater.runtime.composing import LISTED, MAX_SUBJECT, content_of, digest_of, item_of, notice_of
from headwater.runtime.posting import mail_rules
from headwater.runtime.smtp import SmtpServer, compose_message
from tests.runtime.mail_server import parts

# Addresses


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("ops@example.org", "ops@example.org"),
        ("first.last+tag@mail.example.org", "first.last+tag@mail.example.org"),
        ("root@localhost", "root@localhost"),
        ("ops@bücher.example", "ops@xn--bcher-kva.example"),
        ("jürgen@example.org", "jürgen@example.org"),
    ],
)
def test_addresses(given: str, kept: str) -> None:
    assert check_address(given) == kept


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "ops",
        "@example.org",
        "ops@",
        "ops@-example.org",
        "ops@example..org",
        "ops@exa mple.org",
        ".ops@example.org",
        "o..ps@example.org",
        "a@b@example.org",
        "Ops <ops@example.org>",
        "ops@example.org, eve@example.net",
        "ops@example.org\r\nBcc: eve@example.net",
        "ops\n@example.org",
        "ops\x00@example.org",
        "ops\u2028@example.org",
        "\ud800@example.org",
        "<ops@example.org>",
        '"ops"@example.org',
        f"{'a' * 65}@example.org",
        f"ops@{'a' * 64}.org",
        f"ops@{'a.' * 130}org",
    ],
)
def test_what_is_no_address(wrong: str) -> None:
    with pytest.raises(DeclarationError, match="no mail address"):
        check_address(wrong)


@given(st.text(max_size=40), st.text(max_size=40))
def test_an_accepted_address_is_one_word_of_two_parts(local: str, domain: str) -> None:
    try:
        kept = check_address(f"{local}@{domain}")
    except DeclarationError:
        return
    assert kept.isprintable()
    assert not set(kept) & set(' \t\r\n<>()[],;:\\"')
    assert kept.count("@") == 1
    assert kept.rpartition("@")[2].isascii()


def test_lists_of_addresses() -> None:
    assert check_addresses(None) == check_addresses("") == check_addresses(()) == []
    assert check_addresses([" a@x.org", "b@x.org", "a@x.org"]) == ["a@x.org", "b@x.org"]


# Declarations


class Settings(BaseSettings):
    team: str = ""


def test_alike_targets_share_a_queue_and_others_need_a_name() -> None:
    app = App("shop", settings=Settings)
    one, two = app.topic("one"), app.topic("two")
    one.to(email("ops@example.org", digest="15m"))
    two.to(email("ops@example.org", digest="15m"))
    assert len(app.implied) == 1
    with pytest.raises(DeclarationError, match="taken"):
        two.to(email("ops@example.org"))
    two.to(email("ops@example.org", name="at-once"))
    team = email(app.late(lambda settings: settings.team))
    one.to(team)
    two.to(team)
    assert sorted(app.implied)[0] == "shop/at-once"
    assert "shop/mail" in app.implied
    assert len(app.implied) == 3


def test_a_wrong_address_is_refused_at_the_declaration() -> None:
    with pytest.raises(DeclarationError, match="no mail address"):
        email("ops")


# Settings


def test_the_password_comes_from_a_variable_and_is_not_shown() -> None:
    smtp = Smtp(host="mail.example", sender="app@example.org", username="app", password="env:SMTP_PASSWORD")
    rules = mail_rules(Config(smtp=smtp, alerts="ops@example.org"), {"SMTP_PASSWORD": "canary"})
    assert rules.alerts == ("ops@example.org",)
    assert isinstance(rules.post, SmtpServer)
    assert rules.post.password.get_secret_value() == "canary"
    assert "canary" not in repr(rules)
    literal = Smtp(host="mail.example", sender="app@example.org", username="app", password="canary")
    assert "canary" not in repr(Config(smtp=literal))
    with pytest.raises(DeclarationError, match="the variable SMTP_PASSWORD is not set"):
        mail_rules(Config(smtp=smtp), {})
    assert mail_rules(Config()).post is None


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"sender": "app"}, "no mail address"),
        ({"port": 70_000}, "port"),
        ({"timeout": "soon"}, "soon"),
        ({"timeout": 0}, "timeout"),
        ({"username": "app"}, "together"),
        ({"username": "app", "password": "p", "security": "none"}, "read"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Smtp(**{"host": "mail.example", "sender": "app@example.org", **settings})
    with pytest.raises(ValueError, match="alerts"):
        Config(alerts=("ops@example.org", "ops"))


# What a mail says


def message(data: Any, **more: Any) -> Envelope:
    return Envelope(id="e1", source="shop/news", type="message", data=encode_json(data), **{"trace": "t1", **more})


def subject(data: Any, pattern: str = "", **more: Any) -> str:
    return notice_of(message(data, **more), pattern).headline


def test_subjects_of_all_kinds_of_events() -> None:
    assert subject({"n": 1}) == "shop/news: message"
    alarm = {"name": "dead-letters", "resource": "catalog/announce", "detail": "3 dead letters"}
    assert subject({**alarm, "state": "alarm"}) == "[ALARM] catalog/announce: dead-letters"
    assert subject({**alarm, "state": "ok"}) == "[OK] catalog/announce: dead-letters"
    change = Envelope(id="e", source="shop/orders", type="removed", subject="o1", key=("o1", ""), old=b'{"id":"o1"}')
    assert notice_of(change).headline == "shop/orders: removed o1"
    assert [title for title, _ in notice_of(change).blocks] == ["Old"]


def test_a_subject_takes_fields_by_name_and_nothing_else() -> None:
    data = {"id": "o1", "n": 5, "a": {"b": 1}}
    assert subject(data, "Order {id} has {n}") == "Order o1 has 5"
    assert subject(data, "{missing} {id.upper} {id!r} {id:>9} {a[b]} {0} {}") == (
        "{missing} {id.upper} {id!r} {id:>9} {a[b]} {0} {}"
    )
    assert subject({"id": "{__class__} {id}"}, "{id}") == "{__class__} {id}"
    assert subject([1], "{id}") == "{id}"
    assert subject({"__class__": "x"}, "{__class__}") == "x"


def test_what_is_no_news_says_so() -> None:
    alarm = {"name": "n", "resource": "r", "detail": "d"}
    news = {
        (state, previous): notice_of(message({**alarm, "state": state, "previous": previous})).news
        for state in ("ok", "alarm", "insufficient")
        for previous in ("ok", "alarm", "insufficient")
    }
    assert [pair for pair, told in news.items() if not told and pair[0] != "insufficient"] == [("ok", "insufficient")]


def test_texts_show_the_event_with_its_trace_and_html_is_escaped() -> None:
    content = content_of(notice_of(message({"text": "<script>alert(1)</script> & more"}, subject="<b>s</b>")))
    for told in ("message of shop/news", "e1", "t1", '"text": "<script>'):
        assert told in content.text
    assert "<script>" not in content.html
    assert "<b>" not in content.html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in content.html


def test_a_digest_counts_lists_and_names_the_last() -> None:
    items = [item_of(message({"n": n}, time_ms=n), notice_of(message({"n": n}))) for n in reversed(range(LISTED + 10))]
    content = digest_of(Folded(window="w", count=LISTED + 49, last=items[-1], items=items))
    assert content.subject == f"{LISTED + 49} more: shop/news: message"
    listed = [line for line in content.text.splitlines() if line.startswith("- 1970")]
    assert len(listed) == LISTED
    assert 'message: { "n": 0 }' in listed[0]
    assert "and 49 more that are not listed" in content.text
    assert "and 49 more that are not listed" in content.html


def mail(subject: str, text: str, trace: str = "t1") -> Mail:
    return Mail(
        id="m1",
        queue="shop/mail",
        to="ops@example.org",
        subject=subject,
        text=text,
        html=f"<p>{len(text)}</p>",
        state="pending",
        created_ms=0,
        events=["e1"],
        traces=[trace],
    )


HEADERS = {
    "From",
    "To",
    "Subject",
    "Date",
    "Message-ID",
    "Auto-Submitted",
    "X-Headwater-Queue",
    "X-Headwater-Trace",
    "MIME-Version",
    "Content-Type",
}
HOSTILE = "a\r\nBcc: eve@example.net\r\n\r\n.\r\nQUIT\r\n\x00\u2028\x85 =?utf-8?q?=0D=0ABcc:=20eve?= <script>"


def read(made: EmailMessage, *, utf8: bool) -> tuple[bytes, EmailMessage]:
    sent = flatten_message(made, utf8=utf8)
    received = parsing.message_from_bytes(sent, policy=default)
    assert isinstance(received, EmailMessage)
    return sent, received


@given(
    st.text(max_size=300), st.dictionaries(st.text(max_size=9), st.text(max_size=99), max_size=3), st.text(max_size=50)
)
@example(HOSTILE, {HOSTILE: HOSTILE}, HOSTILE)
def test_no_event_makes_headers_parts_or_commands(name: str, data: dict[str, str], trace: str) -> None:
    """Whatever an event holds, the mail has these headers and two parts, and the data stays data."""
    alarm = {**data, "name": name, "resource": name, "detail": name, "state": name}
    event = Envelope(id="e1", source="shop/news", type="message", subject=name, data=encode_json(alarm), trace=trace)
    for held, utf8 in itertools.product((event, message(data, subject=name)), (False, True)):
        content = content_of(notice_of(held, "{name} {id}" + name))
        assert content.subject.isprintable()
        assert len(content.subject) <= MAX_SUBJECT
        made = compose_message(mail(content.subject, content.text, trace), "app@example.org")
        sent, received = read(made, utf8=utf8)
        assert set(received.keys()) == HEADERS
        assert len(received.keys()) == len(HEADERS)
        assert [part.get_content_type() for part in received.iter_parts()] == ["text/plain", "text/html"]
        assert b"\x00" not in sent
        assert max(len(line) for line in sent.split(b"\r\n")) < 998
        # Python's email package may lose a space where it folds other letters than ASCII
        assert received["Subject"].replace(" ", "") == content.subject.replace(" ", "")
        assert parts(received)[0].splitlines() == content.text.splitlines()
        assert "<script>" not in content.html


def test_a_mail_is_the_same_bytes_each_time() -> None:
    made = mail("Größe", "…")
    assert compose_message(made, "a@b.org").as_bytes() == compose_message(made, "a@b.org").as_bytes()


def test_long_texts_are_cut() -> None:
    notice = notice_of(message({"text": "x" * 100_000}), "{text}")
    content = content_of(notice)
    assert len(content.subject) == MAX_SUBJECT
    assert len(content.text) < 30_000
    assert json.loads(json.dumps(content.text)).count("…") >= 2


def test_items_are_short() -> None:
    event = message({"text": "\U0001f600" * 5000}, trace="t" * 10_000)
    item: Item = item_of(event, notice_of(event))
    assert len(encode_json(item)) < 4_000
