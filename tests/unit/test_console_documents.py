"""What pages show of documents and files: differences, previews, filters of rows."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headwater.console.differences import MOST, Difference, differences
from headwater.console.previews import Preview, kind_of, preview_of
from headwater.console.row_filters import parameters_of_query
from headwater.console.screens.buckets import crumbs_of
from headwater.console.screens.tables import columns_of, command_of, row_address
from headwater.errors import InvalidValue


def test_differences_name_each_place_and_what_it_was() -> None:
    old = {"a": 1, "gone": None, "lines": [{"n": 1}, {"n": 2}, 3], "same": {"x": [1]}, "kind": 1}
    new = {"a": 2, "lines": [{"n": 1}, {"n": 5}], "same": {"x": [1]}, "kind": True, "more": {}}
    assert differences(old, new) == [
        Difference("a", "changed", 1, 2),
        Difference("lines[1].n", "changed", 2, 5),
        Difference("lines[2]", "removed", 3, None),
        Difference("kind", "changed", 1, True),
        Difference("more", "added", None, {}),
        Difference("gone", "removed", None, None),
    ]
    assert differences(new, new) == []
    assert differences([1], {"a": 1}) == [Difference("", "changed", [1], {"a": 1})]
    assert len(differences({}, {str(n): n for n in range(5000)})) == MOST


@pytest.mark.parametrize(
    ("content_type", "key", "kind"),
    [
        ("image/png", "a", "image"),
        ("IMAGE/JPEG; q=1", "a", "image"),
        ("image/svg+xml", "a.svg", "text"),
        ("text/html", "a", "text"),
        ("application/json", "a", "text"),
        ("application/ld+json", "a", "text"),
        ("text/csv; charset=utf-8", "a", "csv"),
        ("application/octet-stream", "a/b.CSV", "csv"),
        ("application/octet-stream", "notes.txt", "text"),
        ("application/octet-stream", "a.png", "none"),
        ("application/pdf", "a.txt", "none"),
        ("application/xhtml+xml", "a", "text"),
    ],
)
def test_only_images_without_scripts_are_shown_as_such(content_type: str, key: str, kind: str) -> None:
    assert kind_of(content_type, key) == kind


def test_previews_are_cut_where_the_bytes_are() -> None:
    csv = '\ufeffname;n\r\n"a;b";1\r\nc;2'.encode()
    assert preview_of("text/csv", "x", csv, cut=False) == Preview("csv", rows=[["name", "n"], ["a;b", "1"], ["c", "2"]])
    assert preview_of("text/csv", "x", csv, cut=True).rows == [["name", "n"], ["a;b", "1"]]
    for lines, shown, cut in ((50, 50, False), (51, 50, True)):
        many = preview_of("text/csv", "x", b"1,2\n" * lines, cut=False)
        assert (len(many.rows), many.cut) == (shown, cut)
    assert preview_of("text/plain", "x", "ä".encode()[:1], cut=True) == Preview("text", "", cut=True)
    assert preview_of("text/plain", "x", b"\xff", cut=False) == Preview("text", "\ufffd")
    assert preview_of("text/plain", "x", b"a\0b", cut=False) == Preview("none")


def test_the_filters_of_an_address_are_parameters_of_a_query() -> None:
    assert parameters_of_query({}) == {}
    asked = {"index": "by-x", "partition": "a", "prefix": "b", "low": "", "reverse": "1", "cursor": "c", "q": "z"}
    assert parameters_of_query(asked) == {"index": "by-x", "cursor": "c", "prefix": ["a", "b"], "reverse": True}
    assert parameters_of_query({"low": "7", "number": "1"}) == {"low": 7, "high": 2**63 - 1}
    assert parameters_of_query({"low": "7"}) == {"low": "7", "high": "\U0010ffff"}
    for wrong in ({"prefix": "b"}, {"low": "x", "number": "1"}):
        with pytest.raises(InvalidValue):
            parameters_of_query(wrong)


def test_rows_have_columns_addresses_and_commands() -> None:
    table: dict[str, Any] = {"name": "shop/lines", "key": ["order", "n"], "fields": []}
    rows: list[dict[str, Any]] = [{"n": 1, "z": 0, "order": "a&b"}, {"a": 1}]
    assert columns_of(table, rows) == ["order", "n", "z", "a"]
    assert row_address(table, rows[0]) == "/tables/shop/lines/row?key=%5B%22a%26b%22%2C+1%5D"
    parameters = {"prefix": ["a b"], "low": 1, "high": 2, "reverse": True}
    command = "shop/lines 'a b' --low 1 --high 2 --number"
    assert command_of("query", "shop/lines", parameters) == f"headwater table query {command} --reverse"
    assert command_of("clear", "shop/lines", parameters) == f"headwater table clear {command}"
    assert json.dumps(crumbs_of("a//b/c")) == '[["a", "a/"], ["", "a//"], ["b", "a//b/"]]'
