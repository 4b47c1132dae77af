"""Merge patches, filters and cursors against plain dicts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings
from pydantic import BaseModel

from headwater import App, anyone
from headwater.codec import decode_json, encode_json
from headwater.http.merge_patch import merge_patch
from headwater.testing import Harness

scalars = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3)
names = st.sampled_from(["a", "b", "c"])
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=12
)


@given(documents, documents)
def test_a_merge_patch_does_what_the_standard_says(target: Any, patch: Any) -> None:
    before = encode_json([target, patch])
    merged = merge_patch(target, patch)
    assert encode_json([target, patch]) == before
    assert merge_patch(merged, patch) == merged
    if not isinstance(patch, dict):
        assert merged == patch
        return
    base = target if isinstance(target, dict) else {}
    assert set(merged) == {n for n in base if n not in patch} | {n for n in patch if patch[n] is not None}
    for name, value in merged.items():
        assert value == (base[name] if name not in patch else merge_patch(base.get(name), patch[name]))


@given(documents.filter(lambda d: isinstance(d, dict)), documents.filter(lambda d: isinstance(d, dict)))
def test_the_difference_of_two_documents_is_a_patch(old: Any, new: Any) -> None:
    plain = without_nulls(new)
    assert merge_patch(old, difference(old, plain)) == plain


def without_nulls(value: Any) -> Any:
    """Merge patches cannot set null in an object."""
    if isinstance(value, dict):
        return {name: without_nulls(item) for name, item in value.items() if item is not None}
    return value


def difference(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    patch: dict[str, Any] = dict.fromkeys(old.keys() - new.keys())
    for name, value in new.items():
        present = old.get(name)
        patch[name] = difference(present, value) if isinstance(present, dict) and isinstance(value, dict) else value
    return patch


class Row(BaseModel):
    id: str
    kind: str = ""
    rank: int | None = None
    label: str = ""


text = st.sampled_from(["", "a", "aa", "ab", "b", "é", "\U0010ffff", "a/b", "%"])
ids = st.sampled_from(["1", "2", "3", "x/y", "é", "%2F"])
rows = st.builds(Row, id=ids, kind=text, rank=st.none() | st.integers(-3, 3), label=text)
Keyed = Callable[[dict[str, Any]], tuple[Any, ...]]
INDEXES: dict[str, str | tuple[str, str]] = {
    "by-rank": ("kind", "rank"),
    "by-label": ("kind", "label"),
    "labels": "label",
}


@st.composite
def lists(draw: st.DrawFn) -> tuple[dict[str, str], Callable[[dict[str, Any]], bool], Keyed]:
    """Parameters, which rows they stand for, and in what order."""
    way = draw(st.sampled_from(["all", "id", "rank", "label", "labels", "ids", "texts"]))
    if way == "all":
        return {}, lambda row: True, lambda row: (row["id"],)
    if way in ("id", "labels"):
        field, value = ("id", draw(ids)) if way == "id" else ("label", draw(text))
        return {field: value}, lambda row: value not in ("",) and row[field] == value, lambda row: (row["id"],)
    if way in ("ids", "texts"):
        return draw(ranges("id" if way == "ids" else "label"))
    kind = draw(text)
    values: st.SearchStrategy[Any] = st.integers(-3, 3) if way == "rank" else text
    bounds = draw(st.dictionaries(st.sampled_from(["from", "to"]), values, max_size=2))
    if way == "label" and draw(st.booleans()):
        bounds["prefix"] = draw(text)
    if draw(st.booleans()):
        bounds = {"": draw(values)}

    def fits(row: dict[str, Any]) -> bool:
        value = row[way]
        return (
            kind != ""
            and row["kind"] == kind
            and value not in (None, "")
            and ("" not in bounds or value == bounds[""])
            and ("from" not in bounds or value >= bounds["from"])
            and ("to" not in bounds or value <= bounds["to"])
            and ("prefix" not in bounds or value.startswith(bounds["prefix"]))
        )

    needed = bounds or {"from": -9 if way == "rank" else ""}
    parameters = {f"{way}.{name}".rstrip("."): str(value) for name, value in needed.items()}
    return {"kind": kind, **parameters}, fits, lambda row: (row[way], row["id"])


@st.composite
def ranges(draw: st.DrawFn, field: str) -> tuple[dict[str, str], Callable[[dict[str, Any]], bool], Keyed]:
    """A range of the key, or of an index's partition, in place of its value."""
    kinds = st.sampled_from(["from", "to", "prefix"])
    bounds = draw(st.dictionaries(kinds, ids if field == "id" else text, min_size=1, max_size=3))

    def fits(row: dict[str, Any]) -> bool:
        value: str = row[field]
        return (
            value != ""
            and value >= bounds.get("from", "")
            and ("to" not in bounds or value <= bounds["to"])
            and value.startswith(bounds.get("prefix", ""))
        )

    return {f"{field}.{name}": value for name, value in bounds.items()}, fits, lambda row: (row[field], row["id"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(rows, max_size=12), st.lists(lists(), min_size=1, max_size=8), st.integers(1, 4), st.booleans())
def test_pages_of_filtered_lists_are_those_of_a_dict(
    written: list[Row], asked: list[Any], limit: int, descending: bool
) -> None:
    asyncio.run(compare(written, asked, limit, descending))


async def compare(written: list[Row], asked: list[Any], limit: int, descending: bool) -> None:
    app = App("oracle")
    table = app.table("rows", Row, key="id", indexes=INDEXES)
    app.expose(table, "/rows", read=anyone())
    oracle: dict[str, dict[str, Any]] = {}
    async with Harness(app) as h:
        client = h.client(app)
        for row in written:
            await table.put(row)
            oracle[row.id] = row.model_dump()
        for parameters, fits, order in asked:
            wanted = sorted(filter(fits, oracle.values()), key=order, reverse=descending)
            found: list[dict[str, Any]] = []
            query = {**parameters, "limit": str(limit), "order": "desc" if descending else "asc"}
            for _ in range(len(oracle) + 2):
                answer = await client.get("/rows", params=query)
                assert answer.status_code == 200, (query, answer.text)
                page = decode_json(answer.content)
                assert len(page["items"]) == limit or page["cursor"] is None
                found += page["items"]
                if page["cursor"] is None:
                    break
                query["cursor"] = page["cursor"]
            assert found == wanted, parameters
