"""The unit of work as it turns into a commit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from headwater.engine import Record
from headwater.errors import InvalidValue, UnitClosed
from headwater.events import MAX_DEPTH, Caller, Delivery, Envelope
from headwater.unit import Merge, Origin, Write, apply_merge
from headwater.work import UnitOfWork, caused_by, contention_pause_s


class Rows:
    """The reading side of an engine, over one dict."""

    features = SimpleNamespace(max_unit_operations=5)

    def __init__(self) -> None:
        self.rows: dict[str, Record] = {}
        self.reads = 0

    async def read(self, table: str, key: Any) -> Record | None:
        self.reads += 1
        return self.rows.get(key[0])


def unit(rows: Any = None, **origin: Any) -> UnitOfWork:
    engine: Any = rows or Rows()
    return UnitOfWork(engine, Origin(**origin))


def put(work: UnitOfWork, id: str, body: bytes | None = b"{}") -> str:
    return work.write(Write("t", (id, ""), work.next_id(), body))


def test_ids_are_known_before_the_commit_and_unique() -> None:
    work = unit()
    ids = [put(work, "a"), put(work, "b"), work.publish("t/x", b"{}", {})]
    commit = work.to_commit()
    assert ids == [f"{commit.id}-{n}" for n in range(3)]
    assert [write.version for write in commit.writes] == ids[:2]


def test_writes_to_one_key_fold_into_one() -> None:
    work = unit()
    put(work, "a", b'{"n":1}')
    work.merge("t", ("a", ""), Merge(add={"n": 1}))
    last = work.merge("t", ("a", ""), Merge(set={"m": 2}))
    (write,) = work.to_commit().writes
    assert (write.version, write.body, len(write.merges), write.blind) == (last, b'{"n":1}', 2, False)


async def test_only_units_that_write_validate_and_each_key_once() -> None:
    rows = Rows()
    rows.rows["a"] = Record(("a", ""), b"{}", "v1")
    reading, writing = unit(rows), unit(rows)
    for work in (reading, writing):
        for _ in range(3):
            await work.read("t", ("a", ""))
            await work.read("t", ("b", ""))
        await work.read("t", ("c", ""), validate=False)
    put(writing, "d")
    assert rows.reads == 6
    assert reading.to_commit().reads == []
    assert {(read.key[0], read.version) for read in writing.to_commit().reads} == {("a", "v1"), ("b", None)}


def test_what_goes_back_to_a_mark_is_gone() -> None:
    work = unit()
    put(work, "a", b"1")
    mark = work.mark()
    put(work, "a", b"2")
    put(work, "b")
    work.publish("t/x", b"{}", {})
    work.undo(mark)
    commit = work.to_commit()
    assert [(write.key[0], write.body) for write in commit.writes] == [("a", b"1")]
    assert commit.emits == []


def test_a_closed_unit_says_why() -> None:
    work = unit()
    work.close("its request ended")
    with pytest.raises(UnitClosed, match="its request ended"):
        put(work, "a")


def test_causes_are_passed_on_one_deeper() -> None:
    event = Envelope(id="e", source="s", type="message", trace="t", depth=MAX_DEPTH, caller=Caller("ann"))
    delivery = Delivery(queue="a/q", position=1, fence=1, receives=1, event=event)
    work = UnitOfWork(Rows(), delivery)  # type: ignore[arg-type]
    work.publish("t/x", b"{}", {})
    (emit,) = work.to_commit().emits
    assert (emit.event.cause, emit.event.trace, emit.event.depth) == ("e/a/q", "t", MAX_DEPTH + 1)
    assert emit.event.caller == Caller("ann")
    assert caused_by(delivery).depth == MAX_DEPTH + 1


def test_merges_say_what_does_not_fit() -> None:
    document = {"n": 1, "tags": ["a"], "text": "x", "flag": True}
    merged = apply_merge(document, Merge(add={"n": 2, "new": 1.5}, append={"tags": ["b"]}, unset=("text", "none")))
    assert merged == {"n": 3, "new": 1.5, "tags": ["a", "b"], "flag": True}
    assert document["n"] == 1
    for merge in (Merge(add={"text": 1}), Merge(add={"flag": 1}), Merge(append={"n": [1]})):
        with pytest.raises(TypeError, match="cannot"):
            apply_merge(document, merge)


async def test_a_merge_that_does_not_fit_is_named_at_the_read() -> None:
    work = unit()
    put(work, "a", b'{"n":"x"}')
    work.merge("t", ("a", ""), Merge(add={"n": 1}))
    with pytest.raises(InvalidValue, match="'n'"):
        await work.read("t", ("a", ""))


def test_pauses_between_reruns_stay_short() -> None:
    assert all(0 <= contention_pause_s(attempt) < 0.07 for attempt in range(6) for _ in range(50))


def test_the_ids_of_a_commit_sort_in_the_order_in_which_they_were_made() -> None:
    unit: Any = UnitOfWork(Rows())  # type: ignore[arg-type]
    ids = [unit.next_id() for _ in range(1200)]
    assert ids == sorted(set(ids))
