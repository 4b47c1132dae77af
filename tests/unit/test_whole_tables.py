"""Queries of whole tables on an engine that has them in no order."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from headwater import App, Table
from headwater.catalog import TableSpec
from headwater.clock import SystemClock
from headwater.codec import encode_json
from headwater.engine import Query, Record, RecordPage
from headwater.engines import make_engine
from headwater.errors import Unsupported
from headwater.events import Key
from headwater.pages import overlay

SPEC = TableSpec(name="shop/rows", partition="id")


def record(id: str, n: int = 0) -> Record:
    return Record((id, ""), encode_json({"id": id, "n": n}), f"v{n}")


def test_a_unit_sees_its_own_writes_once_where_rows_have_no_order() -> None:
    own: dict[Key, Record | None] = {("x", ""): record("x", 1), ("c", ""): record("c", 1), ("a", ""): None}
    first = RecordPage([record("z"), record("a")], ("a", ""))
    second = RecordPage([record("c"), record("b")], None)
    query = Query(table=SPEC.name, limit=2)
    following = Query(table=SPEC.name, limit=2, after=("a", ""))
    pages = [
        overlay(SPEC, query, first, own, ordered=False),
        overlay(SPEC, following, second, own, ordered=False),
    ]
    assert [[x.key[0] for x in page.records] for page in pages] == [["x", "c", "z"], ["b"]]
    assert [page.next for page in pages] == [("a", ""), None]


def test_own_rows_beyond_the_range_are_not_seen() -> None:
    own: dict[Key, Record | None] = {("x", ""): record("x"), ("b", ""): record("b")}
    query = Query(table=SPEC.name, low="a", high="c")
    assert [x.key[0] for x in overlay(SPEC, query, RecordPage([]), own, ordered=False).records] == ["b"]


@pytest.mark.anyio
async def test_no_order_cannot_be_reversed() -> None:
    app = App("shop")
    rows = app.table("rows", dict, key="id")
    app.bind(cast("Any", SimpleNamespace(engine=make_engine("aws:shop", clock=SystemClock()))))
    with pytest.raises(Unsupported):
        await cast("Table[Any]", rows).query(reverse=True)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
