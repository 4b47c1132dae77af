"""Buckets in a running app: keys, content, conditions, events in their order, listing."""

from __future__ import annotations

import asyncio
import hashlib
import resource
import unicodedata
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from headwater import (
    ConditionFailed,
    Event,
    InvalidValue,
    ObjectInfo,
    TooLarge,
    UnitClosed,
    UnknownResource,
)
from headwater.buckets import MAX_GET
from headwater.pytest_plugin import StartHarness
from tests.patience import PATIENCE_S
from tests.runtime.uploads import blobs_of, declare, follow

KEYS = (
    "..",
    "a/../b",
    "../../etc/passwd",
    "/",
    "//a",
    "a%2Fb",
    "a/b",
    ".",
    "nul\0byte",
    "\0",
    "line\nbreak",
    " ",
    "k" * 1024,
    "é" * 512,
    unicodedata.normalize("NFC", "Ångström"),
    unicodedata.normalize("NFD", "Ångström"),
    "\U0010ffff/x",
    "CON",
    "-rf",
    "owner",
    "tmp",
)
MIB = 1024 * 1024


# Keys and content


async def test_any_text_is_a_key_and_each_is_another(harness: StartHarness) -> None:
    app, bucket = declare()
    h = await harness(app)
    for number, key in enumerate(KEYS):
        await bucket.put(key, b"%d" % number)
    for number, key in enumerate(KEYS):
        assert await bucket.get(key) == b"%d" % number
    page = await bucket.list(limit=1000)
    assert [info.key for info in page.items] == sorted(KEYS)
    root = Path(h.supervisor.blobs.folder)  # type: ignore[attr-defined]
    names = {path.name for path in root.rglob("*") if path.is_file()}
    assert names == {info.blob for info in page.items} | {"owner"}


@pytest.mark.parametrize("key", ["", "k" * 1025, "é" * 513, "\ud800"])
async def test_what_is_no_key_is_refused(harness: StartHarness, key: str) -> None:
    app, bucket = declare()
    h = await harness(app)
    with pytest.raises(InvalidValue):
        await bucket.put(key, b"x")
    assert blobs_of(h) == set()


async def test_an_object_has_what_was_put(harness: StartHarness, tmp_path: Path) -> None:
    app, bucket = declare()
    h = await harness(app)
    (tmp_path / "file").write_bytes(b"from a file")
    info = await bucket.put("a", tmp_path / "file", content_type="text/plain", metadata={"by": "Ann"})
    assert info == await bucket.head("a")
    assert (info.size, info.content_type, info.metadata) == (11, "text/plain", {"by": "Ann"})
    assert info.sha256 == hashlib.sha256(b"from a file").hexdigest()
    assert info.modified_ms == h.clock.wall_ms()
    assert await bucket.head("b") is None
    with pytest.raises(UnknownResource):
        await bucket.get("b")


async def test_ranges_are_clipped_and_nonsense_is_refused(harness: StartHarness) -> None:
    app, bucket = declare()
    await harness(app)
    await bucket.put("a", b"0123456789")
    for start, end, expected in ((2, 5, b"234"), (8, 99, b"89"), (10, None, b""), (50, 60, b""), (0, 0, b"")):
        async with bucket.open("a", start=start, end=end) as body:
            assert b"".join([chunk async for chunk in body]) == expected
    for start, end in ((-1, None), (3, 2)):
        with pytest.raises(InvalidValue):
            bucket.open("a", start=start, end=end)


@pytest.mark.parametrize(
    "wrong",
    [
        {"content_type": "text/html\r\nX: y"},
        {"content_type": ""},
        {"metadata": {"a": "x" * 2048}},
        {"metadata": {"a": 1}},
        {"sha256": "abc"},
        {"sha256": "0" * 64},
    ],
    ids=str,
)
async def test_wrong_attributes_are_refused_and_nothing_is_kept(harness: StartHarness, wrong: dict[str, Any]) -> None:
    app, bucket = declare()
    h = await harness(app)
    with pytest.raises(InvalidValue):
        await bucket.put("a", b"x", **wrong)
    assert (await bucket.head("a"), blobs_of(h)) == (None, set())


async def test_beyond_its_size_nothing_is_kept_of_an_object(harness: StartHarness) -> None:
    app, bucket = declare(max_size=1000)
    h = await harness(app)
    await bucket.put("a", b"x" * 1000)
    kept = blobs_of(h)
    with pytest.raises(TooLarge):
        await bucket.put("a", b"x" * 1001)
    assert blobs_of(h) == kept
    assert len(await bucket.get("a")) == 1000


async def test_get_is_bounded(harness: StartHarness) -> None:
    app, bucket = declare()
    await harness(app)
    await bucket.put("a", zeros(MAX_GET + 1))
    with pytest.raises(TooLarge, match="open"):
        await bucket.get("a")


async def zeros(size: int) -> AsyncIterator[bytes]:
    for at in range(0, size, MIB):
        yield bytes(min(MIB, size - at))


async def test_large_objects_pass_in_constant_memory(harness: StartHarness) -> None:
    app, bucket = declare()
    await harness(app)
    await bucket.put("warm", zeros(8 * MIB))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    await bucket.put("large", zeros(200 * MIB))
    size = 0
    async with bucket.open("large") as body:
        async for chunk in body:
            size += len(chunk)
    assert size == 200 * MIB
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 32 * 1024, f"memory grew by {grown_kib} KiB"


# Conditions


async def test_of_racing_conditional_puts_exactly_one_wins(harness: StartHarness) -> None:
    app, bucket = declare()
    seen = follow(app, bucket)
    h = await harness(app)

    async def race(**conditions: Any) -> list[ObjectInfo]:
        puts = (bucket.put("a", b"%d" % n, **conditions) for n in range(20))
        results = await asyncio.gather(*puts, return_exceptions=True)
        assert all(isinstance(r, ObjectInfo | ConditionFailed) for r in results), results
        return [r for r in results if isinstance(r, ObjectInfo)]

    (first,) = await race(if_absent=True)
    (second,) = await race(if_match=first.etag)
    assert await bucket.head("a") == second
    await h.run_until_idle()
    assert [info.etag for _, info in seen] == [first.etag, second.etag]
    assert blobs_of(h) >= {second.blob}
    assert len(blobs_of(h)) == 2, "the losers' bytes are gone at once"


async def test_racing_conditional_puts_in_units_of_work_have_one_winner(harness: StartHarness) -> None:
    app, bucket = declare()
    jobs = app.queue("jobs")
    outcomes: list[str] = []

    @app.on(jobs, concurrency=10)
    async def claim(event: Event[dict[str, Any]]) -> None:
        try:
            await bucket.put("a", event.id.encode(), if_absent=True)
        except ConditionFailed:
            outcomes.append("lost")

    h = await harness(app)
    ids = await asyncio.gather(*(jobs.send({}) for _ in range(10)))
    await h.run_until_idle()
    assert await h.dead_letters() == []
    assert (await bucket.get("a")).decode() in ids
    assert len(outcomes) == 9


async def test_racing_puts_without_conditions_all_succeed_in_some_order(harness: StartHarness) -> None:
    app, bucket = declare()
    seen = follow(app, bucket)
    h = await harness(app)
    infos = await asyncio.gather(*(bucket.put("a", b"%d" % n) for n in range(50)))
    await h.run_until_idle()
    order = sorted(infos, key=lambda info: info.sequencer)
    assert [info for _, info in seen] == order
    assert await bucket.head("a") == order[-1]


async def test_conditions_are_checked_before_a_byte_is_taken(harness: StartHarness) -> None:
    app, bucket = declare()
    await harness(app)
    info = await bucket.put("a", b"x")
    taken: list[int] = []

    async def body() -> AsyncIterator[bytes]:
        taken.append(1)
        yield b"y"

    for conditions in ({"if_absent": True}, {"if_match": "other"}, {"if_match": f'"{info.etag}x"'}):
        with pytest.raises(ConditionFailed):
            await bucket.put("a", body(), **conditions)
    with pytest.raises(ConditionFailed):
        await bucket.put("b", body(), if_match="*")
    assert taken == []
    await bucket.put("a", body(), if_match="*")
    assert taken == [1]


async def test_delete_obeys_conditions_and_says_what_it_removed(harness: StartHarness) -> None:
    app, bucket = declare()
    await harness(app)
    info = await bucket.put("a", b"x")
    with pytest.raises(ConditionFailed):
        await bucket.delete("a", if_match="other")
    assert await bucket.delete("a", if_match=info.etag) == info
    assert await bucket.delete("a") is None
    with pytest.raises(ConditionFailed):
        await bucket.delete("a", if_match="*")


# Events


async def test_each_put_is_one_event_in_order_and_sequencers_rise_over_deletion(harness: StartHarness) -> None:
    app, bucket = declare()
    seen = follow(app, bucket)
    h = await harness(app)
    infos = []
    for round in range(4):
        infos.append(await bucket.put("a", b"%d" % round))
        infos.append(await bucket.put("a", b"%d" % round))
        await bucket.delete("a")
    await h.run_until_idle()
    created = [info for kind, info in seen if kind == "created"]
    assert created == infos
    assert [kind for kind, _ in seen].count("deleted") == 4
    assert [info.sequencer for info in infos] == sorted({info.sequencer for info in infos})
    assert all(len(info.sequencer) == 16 for info in infos)


async def test_a_put_that_began_before_a_deletion_comes_after_it(harness: StartHarness) -> None:
    """A unit that saw the key absent is re-run when the key was put and deleted meanwhile: absent is not unchanged."""
    app, bucket = declare()
    jobs = app.queue("jobs")
    began, go_on = asyncio.Event(), asyncio.Event()
    runs: list[int] = []

    @app.on(jobs)
    async def slow(event: Event[dict[str, Any]]) -> None:
        runs.append(1)
        await bucket.put("a", b"slow")
        began.set()
        await go_on.wait()

    h = await harness(app)
    await jobs.send({})
    await asyncio.wait_for(began.wait(), PATIENCE_S)
    h.clock.move_to(h.clock.monotonic() + 1)
    between = await bucket.put("a", b"between")
    await bucket.delete("a")
    go_on.set()
    await h.run_until_idle()
    last = await bucket.head("a")
    assert last is not None
    assert last.sequencer > between.sequencer
    assert len(runs) == 2


async def test_patterns_look_at_key_size_and_type(harness: StartHarness) -> None:
    app, bucket = declare()
    topic = app.topic("images", ObjectInfo)
    bucket.created.to(topic, match={"key": [{"prefix": "img/"}], "content_type": [{"suffix": "/png"}]})
    seen: list[str] = []

    @app.on(topic)
    async def image(event: Event[ObjectInfo]) -> None:
        seen.append(event.data.key)

    @app.on(bucket.created, match={"size": [{"numeric": [">", 3]}]})
    async def large(event: Event[ObjectInfo]) -> None:
        seen.append(f"large {event.data.key}")

    h = await harness(app)
    await bucket.put("img/a.png", b"x", content_type="image/png")
    await bucket.put("img/a.txt", b"x", content_type="text/plain")
    await bucket.put("doc/a.png", b"long", content_type="image/png")
    await h.run_until_idle()
    assert sorted(seen) == ["img/a.png", "large doc/a.png"]


# Units of work


async def test_a_put_of_a_handler_that_fails_leaves_no_object_and_its_bytes_are_collected(
    harness: StartHarness,
) -> None:
    app, bucket = declare()
    seen = follow(app, bucket)
    jobs = app.queue("jobs", max_receives=1)

    @app.on(jobs)
    async def fail(event: Event[dict[str, Any]]) -> None:
        await bucket.put("a", b"x")
        assert await bucket.get("a") == b"x"
        raise RuntimeError

    h = await harness(app)
    await bucket.put("kept", b"y")
    await jobs.send({})
    await h.run_until_idle()
    assert len(blobs_of(h)) == 2
    await h.advance(hours=3)
    kept = await bucket.head("kept")
    assert kept is not None
    assert blobs_of(h) == {kept.blob}
    assert await bucket.head("a") is None
    assert [info.key for _, info in seen] == ["kept"]


async def test_a_put_outside_of_its_unit_is_refused(harness: StartHarness) -> None:
    app, bucket = declare()
    jobs = app.queue("jobs")
    left: list[asyncio.Task[ObjectInfo]] = []
    go_on = asyncio.Event()

    async def late() -> ObjectInfo:
        await go_on.wait()
        return await bucket.put("a", b"x")

    @app.on(jobs)
    async def leave(event: Event[dict[str, Any]]) -> None:
        left.append(asyncio.create_task(late()))

    h = await harness(app)
    await jobs.send({})
    await h.run_until_idle()
    go_on.set()
    with pytest.raises(UnitClosed):
        await left[0]
    assert blobs_of(h) == set()


# Listing


async def test_listing_by_prefix_and_delimiter_in_pages(harness: StartHarness) -> None:
    app, bucket = declare()
    await harness(app)
    keys = ["a", "a/1", "a/2", "a/b/3", "b//4", "b/5", "c", "c\U0010ffff", *(f"d/{n:03}" for n in range(90)), "e/"]
    for key in keys:
        await bucket.put(key, b"")

    async def pages(limit: int, **options: str) -> tuple[list[str], list[str]]:
        items, prefixes, cursor = [], [], None
        while True:
            page = await bucket.list(limit=limit, cursor=cursor, **options)
            assert len(page.items) + len(page.prefixes) <= limit
            items += [info.key for info in page.items]
            prefixes += page.prefixes
            cursor = page.cursor
            if cursor is None:
                return items, prefixes

    for limit in (1, 2, 7, 1000):
        assert await pages(limit) == (sorted(keys), [])
        assert await pages(limit, prefix="a/") == (["a/1", "a/2", "a/b/3"], [])
        assert await pages(limit, delimiter="/") == (["a", "c", "c\U0010ffff"], ["a/", "b/", "d/", "e/"])
        assert await pages(limit, prefix="a/", delimiter="/") == (["a/1", "a/2"], ["a/b/"])
        assert await pages(limit, delimiter="//") == (sorted(set(keys) - {"b//4"}), ["b//"])
        assert await pages(limit, prefix="nothing") == ([], [])


async def test_a_unit_lists_what_it_put(harness: StartHarness) -> None:
    app, bucket = declare()
    await harness(app)
    await bucket.put("b", b"")
    async with app.transaction():
        await bucket.put("a", b"")
        await bucket.delete("b")
        assert [info.key for info in (await bucket.list()).items] == ["a"]


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"limit": 1001}, {"cursor": "x"}, {"cursor": "WzFd"}], ids=str)
async def test_a_wrong_listing_is_refused(harness: StartHarness, wrong: dict[str, Any]) -> None:
    app, bucket = declare()
    await harness(app)
    with pytest.raises(InvalidValue):
        await bucket.list(**wrong)
