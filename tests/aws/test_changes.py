"""From records of a table's stream to events; the items are made by the engine's own packing."""

from __future__ import annotations

from typing import Any

import pytest

from headwater.applying.state import Stored
from headwater.aws.changes import Record, changes_of
from headwater.aws.items import Item, Origin, pack_record, pack_tombstone
from headwater.aws.journal import position_of
from headwater.catalog import Images, TableSpec
from headwater.codec import encode_json
from headwater.events import Caller
from headwater.ids import new_id

ROWS = TableSpec(name="shop/rows", partition="id", sort="n")
KEY = ("a", 1)
MADE_MS = 1_795_000_000_000
V1, V2 = f"{new_id()}-0", f"{new_id()}-0"


def item(version: str, text: str, *, expires_ms: int | None = None, **origin: Any) -> Item:
    body = encode_json({"id": "a", "n": 1, "text": text})
    told = Origin(origin.pop("time_ms", MADE_MS), **origin)
    return pack_record(ROWS, KEY, Stored(version, body, expires_ms, 2), told)


def tombstone(version: str, **origin: Any) -> Item:
    return pack_tombstone(ROWS, KEY, version, Origin(origin.pop("time_ms", MADE_MS), **origin))


def external(text: str) -> Item:
    return {"hw_pk": {"S": "a"}, "hw_sk": item(V1, "x")["hw_sk"], "text": {"S": text}}


def told(old: Item | None, new: Item | None, *, by_service: bool = False, spec: TableSpec = ROWS) -> list[Any]:
    found = changes_of(spec, Record(old, new, "100", MADE_MS, by_service))
    return [(event.type, event.expired, event.id) for event in found]


def test_inserted_modified_removed() -> None:
    assert told(None, item(V1, "x")) == [("inserted", False, V1)]
    assert told(item(V1, "x"), item(V2, "y")) == [("modified", False, V2)]
    assert told(item(V1, "x"), tombstone(V2)) == [("removed", False, V2)]


def test_what_changes_nothing_is_no_event() -> None:
    assert told(item(V1, "x"), item(V2, "x")) == []
    assert told(None, tombstone(V1)) == []
    assert told(tombstone(V1), tombstone(V2)) == []
    assert told(tombstone(V1), None, by_service=True) == []
    assert told(None, item(V1, "x"), spec=TableSpec(name="shop/rows", partition="id", sort="n", images="none")) == []


def test_a_record_after_a_tombstone_is_inserted() -> None:
    assert told(tombstone(V1), item(V2, "x")) == [("inserted", False, V2)]


def test_the_origin_is_told() -> None:
    caller = Caller("ann", frozenset(["admin"]))
    new = item(V2, "y", cause="m/q", caller=caller, trace="t", depth=3, time_ms=MADE_MS - 5)
    (event,) = changes_of(ROWS, Record(item(V1, "x"), new, "1", MADE_MS))
    assert (event.cause, event.caller, event.trace, event.depth) == ("m/q", caller, "t", 3)
    assert (event.time_ms, event.version, event.key, event.subject) == (MADE_MS - 5, V2, KEY, "a/1")
    assert (event.schema, event.old_schema) == (2, 2)
    assert event.data == encode_json({"id": "a", "n": 1, "text": "y"})
    assert event.old == encode_json({"id": "a", "n": 1, "text": "x"})


@pytest.mark.parametrize(
    ("images", "new", "old"),
    [("both", True, True), ("new", True, False), ("old", False, True), ("keys", False, False)],
)
def test_only_the_declared_images(images: Images, new: bool, old: bool) -> None:
    spec = TableSpec(name="shop/rows", partition="id", sort="n", images=images)
    (event,) = changes_of(spec, Record(item(V1, "x"), item(V2, "y"), "1", MADE_MS))
    assert (event.data is not None, event.old is not None) == (new, old)


def test_a_record_that_expired_ends_before_the_next_one_begins() -> None:
    old = item(V1, "x", expires_ms=MADE_MS - 1)
    ended, inserted = changes_of(ROWS, Record(old, item(V2, "x"), "1", MADE_MS))
    assert (ended.type, ended.expired, ended.data) == ("removed", True, None)
    assert (inserted.type, inserted.id, inserted.old) == ("inserted", V2, None)


def test_one_end_has_one_id_whoever_is_first() -> None:
    old = item(V1, "x", expires_ms=MADE_MS - 1)
    records = [
        Record(old, None, "7", MADE_MS + 9, True),
        Record(old, tombstone(V2, expired=True), "8", MADE_MS),
        Record(old, tombstone(V2), "9", MADE_MS),
        Record(old, item(V2, "y"), "10", MADE_MS),
    ]
    ids = {changes_of(ROWS, record)[0].id for record in records}
    assert len(ids) == 1
    assert position_of(ids.pop()) > 0
    assert all(changes_of(ROWS, record)[0].expired for record in records)
    assert [len(changes_of(ROWS, record)) for record in records] == [1, 1, 1, 2]


def test_time_to_live_ends_a_record_though_our_clock_is_behind() -> None:
    assert [one[:2] for one in told(item(V1, "x", expires_ms=MADE_MS + 60_000), None, by_service=True)] == [
        ("removed", True)
    ]


def test_what_others_write_are_plain_events() -> None:
    record = Record(external("x"), external("y"), "100", MADE_MS)
    (event,) = changes_of(ROWS, record)
    assert (event.type, event.cause, event.depth, event.time_ms) == ("modified", None, 0, MADE_MS)
    assert event.trace == event.id
    assert changes_of(ROWS, record) == [event], "the same whenever it is read"
    assert changes_of(ROWS, record._replace(sequence="101"))[0].id != event.id
    assert [one[0] for one in told(None, external("x"))] == ["inserted"]
    assert [one[:2] for one in told(external("x"), None)] == [("removed", False)]


def test_an_update_of_our_item_by_others_is_not_told_as_ours() -> None:
    old = item(V1, "x", cause="m/q", trace="t")
    (event,) = changes_of(ROWS, Record(old, {**old, "text": {"S": "y"}}, "100", MADE_MS))
    assert event.id != V1
    assert (event.cause, event.type) == (None, "modified")


def test_images_of_a_function_are_base64() -> None:
    import base64

    new = item(V1, "x", cause="m/q")
    new["hw_m"] = {"B": base64.b64encode(new["hw_m"]["B"]).decode()}
    (event,) = changes_of(ROWS, Record(None, new, "1", MADE_MS))
    assert event.cause == "m/q"
