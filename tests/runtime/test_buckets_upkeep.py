"""What becomes of objects that are replaced, deleted, expired or never committed: versions, and garbage."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from headwater import App, DeclarationError, Event, InvalidValue, ObjectInfo, UnknownResource
from headwater.pytest_plugin import StartHarness
from headwater.runtime.admin import Admin
from headwater.testing import Harness
from tests.patience import PATIENCE_S
from tests.runtime.uploads import blobs_of, declare, follow


async def test_versions_stay_readable(harness: StartHarness) -> None:
    app, bucket = declare(versions=True)
    h = await harness(app)
    infos = [await bucket.put("a", b"%d" % n) for n in range(3)]
    assert (await bucket.versions("a")).items == [infos[1], infos[0]]
    await bucket.delete("a")
    assert (await bucket.versions("a")).items == infos[::-1]
    await h.advance(hours=3)
    for number, info in enumerate(infos):
        assert await bucket.get("a", version=info.sequencer) == b"%d" % number
    with pytest.raises(UnknownResource):
        await bucket.get("a")
    assert await bucket.delete("a", version=infos[1].sequencer) == infos[1]
    await h.advance(hours=3)
    assert blobs_of(h) == {infos[0].blob, infos[2].blob}
    page = await bucket.versions("a", limit=1)
    assert page.items == [infos[2]]
    assert (await bucket.versions("a", cursor=page.cursor)).items == [infos[0]]


async def test_without_versions_there_are_none(harness: StartHarness) -> None:
    app, bucket = declare()
    await harness(app)
    await bucket.put("a", b"x")
    with pytest.raises(DeclarationError, match="versions=True"):
        await bucket.versions("a")


async def test_objects_expire_with_an_event_and_their_bytes_go(harness: StartHarness) -> None:
    app, bucket = declare(expire="1d")
    seen = follow(app, bucket)
    h = await harness(app)
    info = await bucket.put("a", b"x")
    await h.advance(hours=23)
    assert await bucket.get("a") == b"x"
    await h.advance(hours=4)
    assert await bucket.head("a") is None
    assert seen == [("created", info), ("expired", info)]
    assert blobs_of(h) == set()


async def test_overwritten_bytes_stay_for_whoever_reads_them_and_are_collected_then(harness: StartHarness) -> None:
    app, bucket = declare()
    h = await harness(app)
    old = await bucket.put("a", b"o" * 600_000)
    await h.advance(hours=5)
    async with bucket.open("a") as body:
        first = await anext(body)
        new = await bucket.put("a", b"new")
        assert await bucket.get(old) == b"o" * 600_000
        await h.advance(hours=5)
        assert blobs_of(h) == {new.blob}
        rest = b"".join([chunk async for chunk in body])
    assert first + rest == b"o" * 600_000
    assert body.info == old
    with pytest.raises(UnknownResource, match="overwritten or deleted"):
        await bucket.get(old)


async def test_old_bytes_are_collected_at_the_second_look_only(harness: StartHarness) -> None:
    app, bucket = declare()
    h = await harness(app)
    old = await bucket.put("a", b"old")
    await h.advance(hours=5)
    new = await bucket.put("a", b"new")
    for look in (1, 2):
        assert blobs_of(h) == {old.blob, new.blob}, f"before look {look}"
        assert await bucket.get(old) == b"old"
        h.clock.move_to(h.clock.monotonic() + 700)
        await h.supervisor.janitor.tick()
    assert blobs_of(h) == {new.blob}


async def test_fresh_bytes_are_left_alone_for_an_hour(harness: StartHarness) -> None:
    app, bucket = declare()
    h = await harness(app)
    await bucket.put("a", b"x")
    await bucket.delete("a")
    await h.advance(minutes=59)
    assert len(blobs_of(h)) == 1
    await h.advance(minutes=30)
    assert blobs_of(h) == set()


async def test_more_blobs_than_a_slice_are_collected(harness: StartHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headwater.runtime.garbage.SLICE", 3)
    app, bucket = declare()
    h = await harness(app)
    kept = {(await bucket.put(f"k{n}", b"x")).blob for n in range(10)}
    for n in range(10):
        await bucket.put(f"d{n}", b"x")
        await bucket.delete(f"d{n}")
    await h.advance(hours=6)
    assert blobs_of(h) == kept


async def test_a_reader_that_comes_too_late_for_the_bytes_reads_the_new_ones(
    harness: StartHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, bucket = declare()
    h = await harness(app)
    old = await bucket.put("a", b"old")
    find = bucket._find

    async def overtaken(key: str, version: str) -> ObjectInfo:
        found = await find(key, version)
        if found == old:
            await bucket.put("a", b"new")
            await h.supervisor.blobs.delete(old.blob)
        return found

    monkeypatch.setattr(bucket, "_find", overtaken)
    assert await bucket.get("a") == b"new"


async def test_an_upload_longer_than_the_grace_is_not_collected(harness: StartHarness) -> None:
    app, bucket = declare()
    jobs = app.queue("jobs", visibility="12h")
    put, go_on = asyncio.Event(), asyncio.Event()

    @app.on(jobs)
    async def slow(event: Event[dict[str, Any]]) -> None:
        await bucket.put("a", b"x")
        put.set()
        await go_on.wait()

    h = await harness(app)
    await jobs.send({})
    await asyncio.wait_for(put.wait(), PATIENCE_S)
    for _ in range(20):
        h.clock.move_to(h.clock.monotonic() + 1800)
        await h.supervisor.janitor.tick()
    go_on.set()
    await h.run_until_idle()
    assert await bucket.get("a") == b"x"


async def test_another_apps_objects_are_no_garbage(tmp_path: Path) -> None:
    """A server that runs some of the store's apps collects nothing of the others."""
    app, bucket = declare()
    async with Harness(app, store=tmp_path):
        await bucket.put("a", b"x")
    other = App("other")
    other.bucket("things")
    async with Harness(other, store=tmp_path, start="2026-02-01T00:00:00Z") as h:
        await h.advance(hours=3)
        assert len(blobs_of(h)) == 1


async def test_a_second_store_may_not_take_the_place(tmp_path: Path) -> None:
    app, bucket = declare()
    async with Harness(app, store=tmp_path):
        await bucket.put("a", b"x")
    (tmp_path / "other").mkdir()
    (tmp_path / "objects").rename(tmp_path / "other" / "objects")
    with pytest.raises(DeclarationError, match="another store"):
        async with Harness(app, store=tmp_path / "other"):
            pass


@pytest.mark.parametrize("table", ["shop/uploads", "shop/uploads.versions", "shop/uploads.gone"])
async def test_row_operations_leave_a_bucket_s_rows_alone(harness: StartHarness, table: str) -> None:
    app, bucket = declare(versions=True)
    h = await harness(app)
    await bucket.put("a", b"1")
    admin = Admin(h.supervisor.engine, h.supervisor)
    operations: dict[str, dict[str, Any]] = {
        "table-get": {"key": ["a"]},
        "table-put": {"value": {"key": "a"}},
        "table-delete": {"key": ["a"]},
        "table-query": {},
        "table-history": {"key": ["a"]},
    }
    for operation, parameters in operations.items():
        with pytest.raises(InvalidValue) as refused:
            await admin.call(operation, {"table": table, **parameters})
        assert "headwater bucket" in refused.value.hint
    assert await bucket.get("a") == b"1"
