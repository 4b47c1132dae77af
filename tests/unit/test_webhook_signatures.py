"""Signatures of webhooks per Standard Webhooks, and the event as CloudEvents JSON. Pure functions."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from headwater import DeclarationError, verify_webhook, webhook
from headwater.errors import Unauthenticated
from headwater.events import Envelope
from headwater.webhooks import _signature, cloud_event, new_secret, secret_key, signed_headers

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + base64.b64encode(bytes(range(32))).decode()
ID, SENT_S, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
NOW = datetime.fromtimestamp(SENT_S, UTC)
HEADERS = signed_headers(ID, SENT_S, BODY, SECRET)


def refused(headers: Mapping[str, str], body: bytes = BODY, *secrets: str) -> bool:
    try:
        verify_webhook(headers, body, secrets or SECRET, now=NOW)
    except Unauthenticated:
        return True
    return False


def test_the_signature_is_that_of_the_specification() -> None:
    assert HEADERS["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert (HEADERS["webhook-id"], HEADERS["webhook-timestamp"]) == (ID, str(SENT_S))
    assert verify_webhook(HEADERS, BODY, SECRET, now=NOW) == ID


@pytest.mark.parametrize("name", HEADERS)
def test_any_byte_of_a_header_changed_is_refused(name: str) -> None:
    text = HEADERS[name]
    for at, bit in itertools.product(range(len(text)), (1, 2, 4, 32)):
        changed = text[:at] + chr(ord(text[at]) ^ bit) + text[at + 1 :]
        assert refused({**HEADERS, name: changed}), changed
    for changed in (text[:-1], text[1:], text + "0", "0" + text, ""):
        assert refused({**HEADERS, name: changed}), changed


def test_any_byte_of_the_body_changed_is_refused() -> None:
    for at, bit in itertools.product(range(len(BODY)), range(8)):
        changed = BODY[:at] + bytes([BODY[at] ^ 1 << bit]) + BODY[at + 1 :]
        assert refused(HEADERS, changed), changed
    assert refused(HEADERS, BODY + b" ")
    assert refused(HEADERS, b"")


@pytest.mark.parametrize("name", HEADERS)
def test_each_header_is_required(name: str) -> None:
    assert refused({other: value for other, value in HEADERS.items() if other != name})


@pytest.mark.parametrize(
    "timestamp", ["", "soon", "-1", "+1614265330", "1_614_265_330", " 1614265330", "1e9", "٣", "9" * 5000]
)
def test_a_timestamp_is_plain_digits(timestamp: str) -> None:
    """Even if the sender signed it as it is."""
    signature = _signature(secret_key(SECRET), ID, timestamp, BODY)
    assert refused({"webhook-id": ID, "webhook-timestamp": timestamp, "webhook-signature": signature})


def test_names_of_headers_are_in_any_case() -> None:
    assert verify_webhook({name.title(): value for name, value in HEADERS.items()}, BODY, SECRET, now=NOW) == ID


@pytest.mark.parametrize(("seconds", "good"), [(0, True), (300, True), (301, False), (-300, True), (-301, False)])
def test_the_time_is_bounded_before_and_after(seconds: int, good: bool) -> None:
    now = NOW + timedelta(seconds=seconds)
    if good:
        assert verify_webhook(HEADERS, BODY, SECRET, now=now) == ID
    else:
        with pytest.raises(Unauthenticated, match="timestamp"):
            verify_webhook(HEADERS, BODY, SECRET, now=now)


def test_the_tolerance_is_a_duration() -> None:
    now = NOW + timedelta(minutes=20)
    assert verify_webhook(HEADERS, BODY, SECRET, now=now, tolerance="20m") == ID
    with pytest.raises(Unauthenticated):
        verify_webhook(HEADERS, BODY, SECRET, now=now, tolerance=timedelta(minutes=19))


def test_without_now_it_is_the_present() -> None:
    present_s = int(datetime.now(UTC).timestamp())
    assert verify_webhook(signed_headers(ID, present_s, BODY, SECRET), BODY, SECRET) == ID
    with pytest.raises(Unauthenticated):
        verify_webhook(HEADERS, BODY, SECRET)


def test_one_good_signature_among_several_suffices() -> None:
    good, bad = HEADERS["webhook-signature"], signed_headers(ID, SENT_S, BODY, OTHER)["webhook-signature"]
    for offered in (f"{bad} {good}", f"{good} {bad}", f"v1a,AAAA {good}"):
        assert verify_webhook({**HEADERS, "webhook-signature": offered}, BODY, SECRET, now=NOW) == ID
    for offered in (bad, f"{bad} {bad}", good.replace("v1,", "v1a,"), good.replace("v1,", "v2,"), good[3:], "v1,"):
        assert refused({**HEADERS, "webhook-signature": offered})


def test_several_secrets_are_accepted_while_one_follows_the_other() -> None:
    assert verify_webhook(HEADERS, BODY, [OTHER, SECRET], now=NOW) == ID
    assert verify_webhook(HEADERS, BODY, (SecretStr(SECRET), OTHER), now=NOW) == ID
    assert refused(HEADERS, BODY, OTHER)
    assert refused(HEADERS, BODY, OTHER, new_secret())


def test_no_secret_at_all_accepts_nothing() -> None:
    with pytest.raises(Unauthenticated):
        verify_webhook(HEADERS, BODY, [], now=NOW)


def test_new_secrets_are_32_random_bytes() -> None:
    assert len({new_secret() for _ in range(50)}) == 50
    assert len(secret_key(new_secret())) == 32


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_%%canary%%", "canary", "whsec_Y2FuYXJ5", "whsec_é-canary"])
def test_a_secret_that_is_none_is_refused_and_never_shown(secret: str) -> None:
    for call in (
        lambda: secret_key(secret),
        lambda: verify_webhook(HEADERS, BODY, secret, now=NOW),
        lambda: webhook("https://partner.example", secret=secret),
    ):
        with pytest.raises(DeclarationError) as raised:
            call()
        assert "canary" not in str(raised.value)
        assert "Y2FuYXJ5" not in str(raised.value)


def test_a_message_is_a_cloud_event() -> None:
    event = Envelope(id="e1", source="shop/news", type="message", time_ms=1_767_225_600_000, data=b'{"n":1}')
    assert json.loads(cloud_event(event)) == {
        "specversion": "1.0",
        "id": "e1",
        "source": "shop/news",
        "type": "message",
        "time": "2026-01-01T00:00:00.000Z",
        "datacontenttype": "application/json",
        "data": {"n": 1},
    }


def test_a_change_carries_both_images() -> None:
    event = Envelope(
        id="e1", source="shop/items", type="modified", subject="a", key=("a", ""), version="v2", data=b"2", old=b"1"
    )
    told = json.loads(cloud_event(event))
    assert (told["subject"], told["data"]) == ("a", {"old": 1, "new": 2, "version": "v2"})
    removed = Envelope(id="e1", source="shop/items", type="removed", key=("a", ""), version="v3", old=b"1")
    assert json.loads(cloud_event(removed))["data"] == {"old": 1, "new": None, "version": "v3"}


def test_attributes_are_extensions_and_replace_nothing() -> None:
    attributes = {"tenant": "t1", "id": "forged", "data": "forged", "subject": "forged", "Not-A-Name": "x"}
    event = Envelope(id="e1", source="shop/news", type="message", data=b"1", attributes=attributes)
    told = json.loads(cloud_event(event))
    assert told["tenant"] == "t1"
    assert (told["id"], told["data"]) == ("e1", 1)
    assert "subject" not in told
    assert "Not-A-Name" not in told
