"""Forgetting a key: what is left of it is found and taken out, and nothing else is."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from headwater.applying import forgetting
from headwater.catalog import IndexSpec, QueueSpec, RouteSpec, TableSpec
from headwater.codec import encode_json
from headwater.engine import Forgotten, Query
from headwater.events import Caller, Envelope, Key
from headwater.unit import Commit, Failure, Write, new_commit
from tests.conformance.crash import crash
from tests.conformance.loading import flip, load, stage
from tests.conformance.workbench import Store, data, emit, image, key_of, settle, write

pytestmark = pytest.mark.feature("erasure", "streams, queues and backups keep what they have")
TABLE, CHANGES, NEWS, DESK = "shop/people", "shop/changes", "shop/news", "shop/desk"
CATALOG = (
    TableSpec(name=TABLE, partition="id", indexes=(IndexSpec("by-name", "name"),)),
    TableSpec(name="shop/plain", partition="id"),
    NEWS,
    QueueSpec(name=CHANGES, fifo=True),
    QueueSpec(name=DESK),
    RouteSpec(source=TABLE, target=CHANGES, group="$subject"),
    RouteSpec(source=NEWS, target=DESK),
)
MARK = "erasure-1"


@pytest.fixture
async def opened(store: Store) -> Store:
    return await store.open(*CATALOG)


async def request(store: Store, key: Key | str = "ann", **more: Any) -> Forgotten:
    """Remove the row, as forgetting does, with a message that says up to when."""
    commit = new_commit()
    commit.writes.append(Write(TABLE, key_of(key), f"{commit.id}-0", forgotten=True))
    marker = emit(commit, DESK, {"erasure": MARK}, queue=DESK)
    await store.engine.commit(commit)
    found = await store.engine.event(marker.id)
    assert found is not None
    names = more.pop("names", (key_of(key),))
    return Forgotten(
        table=TABLE, key=key_of(key), names=names, until=found.position, until_ms=found.event.time_ms, mark=MARK
    )


async def redact(store: Store, forgotten: Forgotten) -> tuple[list[str], list[tuple[str, int]]]:
    """One look; the kinds that were redacted, and what waits."""
    kinds: list[str] = []
    waiting: list[tuple[str, int]] = []
    traces = await store.engine.traces(forgotten)
    async for slice in store.engine.remains(forgotten, traces):
        kinds += [redaction.kind for redaction in slice.redactions]
        waiting += slice.waiting
        await store.commit(redactions=slice.redactions)
    return kinds, waiting


async def forget(store: Store, key: Key | str = "ann", **more: Any) -> list[str]:
    """All of it, with nothing that waits."""
    kinds, waiting = await redact(store, await request(store, key, **more))
    assert waiting == []
    return kinds


async def told(store: Store) -> list[Envelope]:
    return [traced.event for traced in await store.engine.events(0, 1000)]


async def test_its_changes_keep_id_time_and_type_and_lose_the_rest(opened: Store) -> None:
    commit = new_commit(caller=Caller("ann"))
    write(commit, TABLE, "ann", {"id": "ann", "name": "Ann"})
    write(commit, TABLE, "bob", {"id": "bob", "name": "Bob"})
    await opened.engine.commit(commit)
    await opened.put(TABLE, "ann", {"id": "ann", "name": "Anna"})
    await opened.drain(CHANGES)
    before = {event.id: event for event in await told(opened)}
    forgotten = await request(opened)
    assert [(e.type, image(e.old)) for e in await opened.engine.history(TABLE, key_of("ann"), 1)] == [("removed", None)]
    await opened.drain(CHANGES)
    assert await redact(opened, forgotten) == (["event"] * 4, [])
    assert await opened.engine.history(TABLE, key_of("ann"), 10) == []
    (of_bob,) = await opened.engine.history(TABLE, key_of("bob"), 10)
    assert (of_bob.caller, image(of_bob.data)) == (None, {"id": "bob", "name": "Bob"})
    for event in await told(opened):
        if event.source == TABLE and event.attributes:
            assert (event.data, event.old, event.key, event.subject, event.caller) == (None, None, None, "", None)
            assert event.attributes == {"redacted": MARK}
            if was := before.get(event.id):
                assert (event.type, event.time_ms, event.trace) == (was.type, was.time_ms, was.trace)
        else:
            was = before.get(event.id, event)
            assert event == msgspec.structs.replace(was, caller=None), "what she did to bob has no caller any more"
    page = await opened.engine.query(Query(table=TABLE, index="by-name"))
    assert [record.key[0] for record in page.records] == ["bob"]
    assert await opened.engine.check() == []
    assert await redact(opened, forgotten) == ([], [])


async def test_other_events_are_redacted_when_they_share_a_trace_and_name_the_key(opened: Store) -> None:
    commit = new_commit()
    write(commit, TABLE, "ann", {"id": "ann"})
    write(commit, "shop/plain", "order-1", {"id": "order-1", "buyer": "ann"})
    shown: dict[str, dict[str, Any]] = {
        "value": {"who": "ann"},
        "name": {"ann": 1},
        "list": {"of": [["ann"]]},
        "text": {"says": "ann is here"},
        "no": {},
    }
    for name, item in shown.items():
        emit(commit, NEWS, {"kind": name, **item})
    await opened.engine.commit(commit)
    await opened.publish(NEWS, {"kind": "elsewhere", "who": "ann"})
    await opened.drain(DESK)
    await opened.drain(CHANGES)
    await opened.put(TABLE, "bob", {"id": "bob"})
    forgotten = await request(opened)
    await opened.drain(CHANGES)
    kinds, waiting = await redact(opened, forgotten)
    assert (kinds, waiting) == (["event"] * 6, [])
    left = [image(event.data)["kind"] for event in await told(opened) if event.source == NEWS and event.data]
    assert left == ["text", "no", "elsewhere"]
    assert [e.data for e in await told(opened) if e.source == "shop/plain"] == [None]


async def test_a_key_of_two_parts_is_named_by_both(opened: Store) -> None:
    commit = new_commit()
    write(commit, TABLE, ("ann", 7), {"id": "ann"})
    for item in ({"who": "ann"}, {"n": 7}, {"who": "ann", "n": 7}, {"who": "ann", "n": True, "m": "7"}):
        emit(commit, NEWS, item)
    await opened.engine.commit(commit)
    await opened.drain(DESK)
    await opened.drain(CHANGES)
    forgotten = await request(opened, ("ann", 7))
    await opened.drain(CHANGES)
    assert (await redact(opened, forgotten))[0] == ["event"] * 3
    assert [image(e.data) for e in await told(opened) if e.source == NEWS and not e.data] == [None]


async def test_messages_are_delivered_first_and_hold_back_the_rest_of_their_trace(opened: Store) -> None:
    commit = new_commit()
    write(commit, TABLE, "ann", {"id": "ann"})
    emit(commit, NEWS, {"who": "ann"})
    await opened.engine.commit(commit)
    await opened.drain(CHANGES)
    forgotten = await request(opened)
    await opened.drain(CHANGES)
    kinds, waiting = await redact(opened, forgotten)
    assert [queue for queue, _ in waiting] == [DESK]
    assert kinds == ["event"], "the removal, of a trace of its own"
    (news, _) = await opened.take(DESK, 2)
    assert data(news) == {"who": "ann"}
    answer = Commit(id=new_commit().id, trace=commit.trace, settles=[settle(news)])
    emit(answer, NEWS, {"late": "ann"})
    await opened.engine.commit(answer)
    kinds, waiting = await redact(opened, forgotten)
    assert (kinds, len(waiting)) == (["event"], 1), "what the handler said waits in turn"
    assert [data(delivery) for delivery in await opened.ready(DESK)] == [{"late": "ann"}]
    assert await opened.engine.withdraw(waiting) == 0, "leased"
    assert len(await opened.engine.peek(DESK, 10)) == 2


async def test_messages_that_are_not_leased_can_be_withdrawn(opened: Store) -> None:
    await opened.put(TABLE, "ann", {"id": "ann"})
    forgotten = await request(opened)
    _, waiting = await redact(opened, forgotten)
    assert len(waiting) == 2
    assert await opened.engine.withdraw(waiting) == 2
    assert await opened.counts(CHANGES) == (0, 0, 0, 0)
    assert await opened.ready(CHANGES) == []
    assert await redact(opened, forgotten) == (["event", "event"], [])


async def test_copies_of_changes_are_redacted(opened: Store) -> None:
    await opened.put(TABLE, "ann", {"id": "ann", "name": "Ann"})
    (delivery,) = await opened.take(CHANGES)
    await opened.bury(delivery)
    (letter,) = await opened.engine.dead_letters()
    await opened.redrive(letter.id)
    await opened.engine.replay(TABLE, DESK)
    await opened.drain(CHANGES)
    await opened.drain(DESK)
    forgotten = await request(opened)
    await opened.drain(CHANGES)
    assert (await redact(opened, forgotten))[0] == ["event"] * 4
    assert not any(event.data or event.old for event in await told(opened) if event.source == TABLE)


async def test_dead_letters_and_failures_are_redacted(opened: Store) -> None:
    await opened.put(TABLE, "ann", {"id": "ann", "name": "Ann"})
    await opened.put(TABLE, "bob", {"id": "bob", "name": "Bob"})
    for delivery in await opened.take(CHANGES, 2):
        failure = Failure(error=f"cannot mail {delivery.event.subject}", traceback="its text")
        await opened.commit(settles=[settle(delivery, outcome="bury", reason="cannot mail", failure=failure)])
    forgotten = await request(opened)
    await opened.drain(CHANGES)
    kinds, _ = await redact(opened, forgotten)
    assert sorted(kinds) == ["dead_letter", "event", "event"]
    first, second = await opened.engine.dead_letters()
    assert (first.event.data, first.event.key, first.group, first.reason) == (None, None, MARK, "redacted")
    assert [(f["error"], f["traceback"]) for f in first.failures] == [("redacted", "")]
    assert (second.group, second.failures[0]["error"]) == ("bob", "cannot mail bob")
    assert await opened.engine.check() == []


async def test_staged_rows_and_memberships_go_and_the_rest_of_a_load_stays(opened: Store) -> None:
    await load(opened.engine, TABLE, {"ann": {"name": "Ann"}, "bob": {"name": "Bob"}})
    staging, *_ = await stage(opened.engine, TABLE, {"ann": {"name": "Anna"}, "bob": {"name": "Bobby"}})
    await opened.drain(CHANGES)
    forgotten = await request(opened)
    await opened.drain(CHANGES)
    kinds, _ = await redact(opened, forgotten)
    assert sorted(set(kinds)) == ["event", "member", "staged"]
    await flip(opened.engine, staging)
    page = await opened.engine.query(Query(table=TABLE, index="by-name"))
    assert [image(record.body) for record in page.records] == [{"id": "bob", "name": "Bobby"}]
    assert await opened.engine.check() == []


async def test_a_flipped_load_is_in_place_before_its_row_is_forgotten(opened: Store) -> None:
    staging, *_ = await stage(opened.engine, TABLE, {"ann": {"name": "Ann"}, "bob": {"name": "Bob"}})
    await flip(opened.engine, staging)
    forgotten = await request(opened)
    assert await opened.read(TABLE, "ann") is None
    await opened.drain(CHANGES)
    kinds, _ = await redact(opened, forgotten)
    assert sorted(kinds) == ["event", "event", "member"]
    assert await opened.read(TABLE, "bob") == {"id": "bob", "name": "Bob"}


async def test_stored_answers_that_name_the_key_go_once_nothing_waits(opened: Store) -> None:
    answers: dict[tuple[str, str], bytes] = {
        ("http:shop:eve:PUT /people/ann", "k1"): b"",
        ("http:shop:eve:POST /people", "k2"): encode_json([{"id": "ann"}]),
        ("dedup:q", "welcome:ann"): b"event",
        ("http:shop:eve:POST /people", "k3"): encode_json({"id": "anna", "text": "ann is here"}),
        ("http:shop:ann-marie:POST /x", "k4"): b"",
    }
    for (scope, id), result in answers.items():
        await opened.claim(scope, id, 1000, result)
    await opened.put(TABLE, "ann", {"id": "ann"})
    forgotten = await request(opened)
    assert (await redact(opened, forgotten))[0] == []
    await opened.drain(CHANGES)
    assert sorted((await redact(opened, forgotten))[0]) == ["claim"] * 3 + ["event"] * 2
    left = [id for (scope, id) in answers if await opened.engine.claimed(scope, id) is not None]
    assert left == ["k3", "k4"]


async def test_a_forgotten_key_can_be_used_again(opened: Store) -> None:
    await opened.put(TABLE, "ann", {"id": "ann", "name": "Old"})
    forgotten = await request(opened)
    await opened.put(TABLE, "ann", {"id": "ann", "name": "New"})
    await opened.drain(CHANGES)
    assert (await redact(opened, forgotten))[0] == ["event"] * 2
    assert await opened.read(TABLE, "ann") == {"id": "ann", "name": "New"}
    assert [(e.type, image(e.data)["name"]) for e in await opened.engine.history(TABLE, key_of("ann"), 9)] == [
        ("inserted", "New")
    ]


async def test_slices_are_small_and_a_crash_between_them_loses_nothing(
    opened: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgetting, "SLICE", 3)
    commit = new_commit()
    write(commit, TABLE, "ann", {"id": "ann"})
    for _ in range(8):
        emit(commit, NEWS, {"who": "ann"})
    await opened.engine.commit(commit)
    for n in range(8):
        await opened.put(TABLE, "ann", {"id": "ann", "n": n})
    forgotten = await request(opened)
    await opened.drain(DESK)
    await opened.drain(CHANGES)
    redacted, looks = 0, 0
    while True:
        slices = opened.engine.remains(forgotten, await opened.engine.traces(forgotten))
        slice = await anext(slices, None)
        await slices.aclose()
        if slice is None:
            break
        assert 0 < len(slice.redactions) <= 3
        await opened.commit(redactions=slice.redactions)
        await crash(opened)
        redacted, looks = redacted + len(slice.redactions), looks + 1
    assert (redacted, looks) == (18, 6)
    assert not [e for e in await told(opened) if e.source in (TABLE, NEWS) and e.attributes != {"redacted": MARK}]
