"""Records as items and back: exactly the same bytes, also when DynamoDB has written the numbers in its own way."""

from __future__ import annotations

import json
from base64 import b64encode
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.applying.state import Stored
from headwater.aws.items import (
    BODY,
    MOST_ITEM,
    Item,
    Origin,
    item_size,
    pack_document,
    pack_record,
    pack_tombstone,
    unpack,
    unpack_document,
)
from headwater.aws.keys import MOST_SORT, pack_part, pack_place, place_from, place_prefix, place_to, unpack_part
from headwater.aws.shapes import table_shape
from headwater.catalog import Catalog, IndexSpec, TableSpec
from headwater.codec import decode_json, encode_json
from headwater.events import KeyPart
from tests.aws.ministack import Ministack
from tests.aws.provision import Provisioner

INT64 = st.integers(-(2**63), 2**63 - 1)
TEXTS = st.text("\0\1\2\3aé\uffff😀", max_size=3)
"""Often alike, and with the characters that matter."""
VALUES = st.recursive(
    st.none() | st.booleans() | INT64 | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
PARTS: st.SearchStrategy[KeyPart] = TEXTS | st.integers(-2, 2) | INT64 | st.text()
SPEC = TableSpec(name="shop/rows", partition="id", sort="n", indexes=(IndexSpec("kind", "kind", "rank"),))
ORIGIN = Origin(time_ms=5, cause="c", trace="t", depth=2)


def rank(*parts: KeyPart) -> list[tuple[bool, int | bytes]]:
    return [(isinstance(part, str), part.encode() if isinstance(part, str) else part) for part in parts]


def as_dynamodb_keeps(value: Any) -> Any:
    """An attribute's value with its numbers in DynamoDB's own form: no trailing zeros, no sign of zero, no exponent."""
    ((kind, content),) = value.items()
    match kind:
        case "N":
            number = Decimal(content)
            return {"N": f"{number.normalize():f}" if number else "0"}
        case "L":
            return {"L": [as_dynamodb_keeps(item) for item in content]}
        case "M":
            return {"M": {name: as_dynamodb_keeps(item) for name, item in content.items()}}
    return value


@settings(max_examples=200)
@given(st.dictionaries(TEXTS, VALUES, max_size=3))
def test_a_document_comes_back_byte_for_byte(document: dict[str, Any]) -> None:
    body = encode_json(document)
    kept = {name: as_dynamodb_keeps(value) for name, value in pack_document(body).items()}
    assert unpack_document(kept) == body


@pytest.mark.parametrize(
    ("document", "whole"),
    [
        ({"a": 1, "b": "x", "c": [None, True, {"d": -(2**63)}], "e": 0.1, "f": {}, "g": ""}, True),
        ({"a": 1e300}, False),
        ({"a": 1.0}, False),
        ({"a": -0.0}, False),
        ({"": 1}, False),
        ({"hw_v": 1}, False),
        ({"a": {"": 1}}, False),
        ({"a": json.loads("[" * 40 + "]" * 40)}, False),
    ],
)
def test_what_dynamodb_cannot_say_stands_in_the_body(document: dict[str, Any], whole: bool) -> None:
    item = pack_document(encode_json({"id": "x", **document}))
    assert (BODY not in item) is whole
    assert item["id"] == {"S": "x"}
    assert unpack_document(item) == encode_json({"id": "x", **document})


def test_a_document_that_is_larger_as_attributes_is_kept_as_bytes() -> None:
    body = encode_json({"id": "x", "n": [1] * 150_000})
    item = pack_document(body)
    assert set(item) == {BODY}
    assert item_size(item) < MOST_ITEM
    assert unpack_document(item) == body


def test_numbers_that_others_wrote() -> None:
    item: Item = {
        "a": {"N": "1E+2"},
        "b": {"N": "1.50"},
        "c": {"N": "9" * 30},
        "d": {"SS": ["y", "x"]},
        "e": {"B": b"\0"},
    }
    assert decode_json(unpack_document(item)) == {"a": 100, "b": 1.5, "c": 1e30, "d": ["x", "y"], "e": "AA=="}


def test_a_record_with_all_that_belongs_to_it() -> None:
    body = encode_json({"id": "a", "n": 1, "kind": "k", "rank": 7})
    item = pack_record(SPEC, ("a", 1), Stored("v1", body, 1_500, 3), ORIGIN)
    image = unpack(item)
    assert (image.key, image.body, image.version, image.schema, image.expires_ms) == (("a", 1), body, "v1", 3, 1_500)
    assert image.origin == ORIGIN
    assert item["hw_ttl"] == {"N": "2"}
    assert item["hw_i_kind"] == {"S": "k"}
    assert (image.is_present(1_499), image.is_present(1_500)) == (True, False)


def test_a_tombstone_has_no_document_and_is_in_no_index() -> None:
    item = pack_tombstone(SPEC, ("a", 1), "v2", ORIGIN)
    assert unpack(item).body is None
    assert not unpack(item).is_present(0)
    assert set(item) == {"hw_pk", "hw_sk", "hw_v", "hw_gone", "hw_m", "hw_ttl"}


def test_images_of_a_functions_event_have_base64() -> None:
    item = pack_record(SPEC, ("a", 1), Stored("v1", b'{"a":1.0}', None, 1), ORIGIN)
    told = {name: {"B": b64encode(value["B"]).decode()} if "B" in value else value for name, value in item.items()}
    assert unpack(told) == unpack(item)


def test_an_item_that_others_wrote() -> None:
    image = unpack({"hw_pk": {"S": "a"}, "n": {"N": "1"}})
    assert (image.key, image.body, image.version, image.origin) == (("a", ""), b'{"n":1}', "", None)


@settings(max_examples=500)
@given(PARTS, PARTS)
def test_parts_of_keys_keep_their_order(one: KeyPart, other: KeyPart) -> None:
    assert unpack_part(pack_part(one)) == one
    assert pack_part(one) != ""
    assert (rank(one) < rank(other)) == (pack_part(one).encode() < pack_part(other).encode())


@settings(max_examples=500)
@given(st.tuples(PARTS, TEXTS, PARTS), st.tuples(PARTS, TEXTS, PARTS))
def test_places_of_an_index_keep_their_order(
    one: tuple[KeyPart, str, KeyPart], other: tuple[KeyPart, str, KeyPart]
) -> None:
    places = pack_place(*one).encode(), pack_place(*other).encode()
    assert (rank(*one) < rank(*other)) == (places[0] < places[1])
    assert (rank(one[0]) >= rank(other[0])) == (places[0] >= place_from(other[0]).encode())
    assert (rank(one[0]) <= rank(other[0])) == (places[0] <= place_to(other[0]).encode())


@given(TEXTS, TEXTS.filter(bool))
def test_places_begin_as_their_sort_part_does(sort: str, prefix: str) -> None:
    assert pack_place(sort, "p", "").startswith(place_prefix(prefix)) == sort.startswith(prefix)


def test_a_place_fits_into_a_sort_key() -> None:
    for character in ("x", "\0", "é", "😀"):
        assert len(pack_place(character * 1_000, character * 1_000, "").encode()) <= MOST_SORT


def test_dynamodb_takes_and_gives_back_what_is_packed(aws: Ministack, stack: str) -> None:
    """On the stand-in: numbers of all sizes, empty strings, deep lists, control characters in keys."""
    document = {"id": "a", "n": 1, "z": [0.1, 1e-100, 123456789.125, 2**62, "", [[["\0"]]], {"é": None}]}
    record = Stored("v", encode_json(document), None, 1)
    provisioner = Provisioner(stack)
    try:
        provisioner.provide(Catalog(apps=(), tables={SPEC.name: SPEC}))
        table = table_shape(provisioner.names, SPEC)
        for key in (("a", 1), ("a", ""), ("\0", "\1")):
            item = pack_record(SPEC, key, record, ORIGIN)
            provisioner.dynamodb.put_item(TableName=table.name, Item=item)
            place = {name: item[name] for name in ("hw_pk", "hw_sk")}
            found = provisioner.dynamodb.get_item(TableName=table.name, Key=place)["Item"]
            assert (unpack(found).key, unpack(found).body) == (key, record.body)
    finally:
        provisioner.close()
