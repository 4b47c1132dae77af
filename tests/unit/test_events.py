"""Events as handlers receive them, from the envelopes that engines store."""

from __future__ import annotations

from typing import Any

import pytest

from headwater import Event, Inserted, Modified, Removed
from headwater.codec import codec_for, encode_json
from headwater.decoding import event_decoder
from headwater.errors import InvalidValue
from headwater.events import Delivery, Envelope, Key, subject_of


def delivery(**envelope: Any) -> Delivery:
    for image in ("data", "old"):
        if image in envelope:
            envelope[image] = encode_json(envelope[image])
    event = Envelope(id="e1", source="shop/rows", time_ms=1_767_225_600_500, trace="t", **envelope)
    return Delivery(queue="shop/q", position=3, fence=1, receives=2, event=event)


decode = event_decoder(codec_for(dict), 3, {1: lambda d: {**d, "two": True}, 2: lambda d: {**d, "three": True}})


def test_a_message() -> None:
    event = decode(delivery(type="message", data={"n": 1}, schema=3, cause="c", attributes={"a": "b"}))
    assert type(event) is Event
    assert (event.data, event.cause, event.attempt, event.idempotency_key) == ({"n": 1}, "c", 2, "e1/shop/q")
    assert event.attributes == {"a": "b"}
    assert event.as_cloudevent() == {
        "specversion": "1.0",
        "id": "e1",
        "source": "shop/rows",
        "type": "message",
        "subject": "",
        "time": "2026-01-01T00:00:00.500000Z",
        "datacontenttype": "application/json",
        "data": {"n": 1},
    }


def test_changes_and_their_images() -> None:
    key = ("a", "")
    inserted = decode(delivery(type="inserted", key=key, version="v", data={"n": 1}, schema=3))
    assert isinstance(inserted, Inserted)
    assert (inserted.new, inserted.old, inserted.data) == ({"n": 1}, None, {"n": 1})
    modified = decode(delivery(type="modified", key=key, data={"n": 2}, old={"n": 1}, schema=3, old_schema=1))
    assert isinstance(modified, Modified)
    assert modified.old == {"n": 1, "two": True, "three": True}
    assert modified.data == modified.new == {"n": 2}
    removed = decode(delivery(type="removed", key=key, old={"n": 2}, expired=True, schema=3, old_schema=2))
    assert isinstance(removed, Removed)
    assert (removed.data, removed.new, removed.expired) == ({"n": 2, "three": True}, None, True)


def test_a_document_of_a_newer_deploy_is_refused() -> None:
    with pytest.raises(InvalidValue, match="version 4"):
        decode(delivery(type="inserted", key=("a", ""), data={}, schema=4))


def test_events_are_frozen() -> None:
    event = decode(delivery(type="message", data={}, schema=3))
    with pytest.raises(AttributeError):
        event.id = "x"


def test_subjects_are_unambiguous() -> None:
    keys: list[Key] = [("a", ""), ("a/b", ""), ("a", "b"), ("a%2Fb", ""), ("a", 5), ("a", "b/c"), ("a/b", "c")]
    assert len({subject_of(key) for key in keys}) == len(keys)
    assert subject_of(("a", "b")) == "a/b"
