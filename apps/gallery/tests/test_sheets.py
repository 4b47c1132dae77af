"""Each ten images of an album are one sheet, drawn once, and again when they are others."""

import asyncio
import json
import random
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from apps.gallery.app import (
    Album,
    Drawn,
    Entry,
    Image,
    Job,
    Verdict,
    albums,
    app,
    entries,
    refused,
    renders,
    sheets,
    uploads,
)
from apps.gallery.tests.pictures import Owner, colour, colours, picture
from headwater.testing import Harness

FIRST, SECOND = "/gallery/sheets/summer/1.png", "/gallery/sheets/summer/2.png"
WORDS = b"these are words"


async def events(harness: Harness, source: str) -> list[str]:
    """What happened to the rows or objects of a source."""
    await harness.run_until_idle()
    found = await harness.supervisor.engine.events(0, 10_000)
    return [f"{unquote(entry.event.subject)} {entry.event.type}" for entry in found if entry.event.source == source]


async def drawings(harness: Harness) -> list[str]:
    """The sheets that were put, in order."""
    return [line.split()[0] for line in await events(harness, sheets.name) if not line.endswith("removed")]


async def orders(harness: Harness) -> list[int]:
    """The sheets that were ordered."""
    await harness.run_until_idle()
    found = await harness.supervisor.engine.events(0, 10_000)
    return [json.loads(entry.event.data or b"")["sheet"] for entry in found if entry.event.source == renders.name]


async def sizes() -> list[int]:
    """How long the album was after each change of its images."""
    found = [len(change.data.images) for change in reversed(await albums.history("ann", "summer"))]
    return [size for before, size in zip([0, *found], found, strict=False) if size != before]


async def shown(ann: Owner, n: int) -> list[Any]:
    return colours(await ann.sheet(n))


# Growing


async def test_the_tenth_image_and_no_other_brings_a_sheet(harness: Harness, ann: Owner) -> None:
    await ann.fill(range(9))
    assert await drawings(harness) == []
    await ann.fill([9])
    assert await drawings(harness) == ["ann/summer/1.png"]
    assert (await ann.album())["sheets"] == [FIRST]
    assert await shown(ann, 1) == [colour(seed) for seed in range(10)]
    await ann.fill(range(10, 19))
    assert await drawings(harness) == ["ann/summer/1.png"]
    await ann.fill(range(19, 25))
    assert await drawings(harness) == ["ann/summer/1.png", "ann/summer/2.png"]
    assert await orders(harness) == [1, 2]
    assert (await ann.album())["sheets"] == [FIRST, SECOND]
    assert await shown(ann, 2) == [colour(seed) for seed in range(10, 20)]
    assert await harness.dead_letters() == []


async def test_images_uploaded_at_once_bring_two_sheets_an_album_in_order(harness: Harness) -> None:
    owners = [Owner(harness, f"user{n}") for n in range(4)]
    work = [(owner, seed) for owner in owners for seed in range(25)]
    random.Random(6).shuffle(work)
    await asyncio.gather(*(owner.upload(f"summer/{seed}.png", picture(seed)) for owner, seed in work))
    put = await drawings(harness)
    for n, owner in enumerate(owners):
        album = await owner.album()
        assert len(album["images"]) == 25
        assert album["sheets"] == [FIRST, SECOND]
        assert [key for key in put if key.startswith(f"user{n}/")] == [f"user{n}/summer/{m}.png" for m in (1, 2)]


async def test_an_album_that_jumps_from_9_to_11_has_its_sheet(harness: Harness, ann: Owner) -> None:
    await ann.fill(range(9))
    await record_at_once(harness, [9, 10])
    assert (await sizes())[-2:] == [9, 11]
    assert await drawings(harness) == ["ann/summer/1.png"]
    assert await shown(ann, 1) == [colour(seed) for seed in range(10)]


async def test_an_album_that_begins_with_21_has_both_sheets(harness: Harness, ann: Owner) -> None:
    await record_at_once(harness, range(21))
    assert await sizes() == [21]
    assert (await ann.album())["sheets"] == [FIRST, SECOND]


async def record_at_once(harness: Harness, seeds: Any) -> None:
    """As if all were examined at the same moment; their examination comes later, and changes nothing."""
    async with app.transaction():
        for seed in seeds:
            put = await uploads.put(f"ann/summer/{seed}.png", picture(seed))
            await entries.send(
                Entry(verdict=Verdict(key=put.key, etag=put.etag, sha256=put.sha256)), group="ann/summer"
            )
    await harness.run_until_idle()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a crash leaves files open
async def test_crashes_cost_no_sheet_and_bring_none_twice(harness: Harness, ann: Owner) -> None:
    for seed in range(25):
        await ann.upload(f"summer/{seed}.png", picture(seed))
    for pause in range(1, 9):
        for _ in range(pause * 20):
            await asyncio.sleep(0)
        await harness.crash()
        await harness.advance(seconds=10)
        ann = Owner(harness)
    await harness.advance(minutes=5)
    assert sorted(await ann.names()) == sorted(f"{seed}.png" for seed in range(25))
    assert await drawings(harness) == ["ann/summer/1.png", "ann/summer/2.png"]
    assert (await ann.album())["sheets"] == [FIRST, SECOND]
    assert await harness.dead_letters() == []


# The same again


async def test_the_same_upload_again_changes_nothing(harness: Harness, ann: Owner) -> None:
    await ann.fill(range(10))
    before = await events(harness, albums.name)
    await ann.fill([3, 9])
    assert await events(harness, albums.name) == before
    assert await drawings(harness) == ["ann/summer/1.png"]


async def test_verdicts_and_jobs_that_come_twice_have_one_effect(harness: Harness, ann: Owner) -> None:
    await ann.fill(range(10))
    before = await events(harness, albums.name)
    images = [Image(**image) for image in (await ann.album())["images"]]
    upload = await uploads.head("ann/summer/9.png")
    sheet = await sheets.head("ann/summer/1.png")
    assert upload is not None
    assert sheet is not None
    await entries.send(
        Entry(verdict=Verdict(key=upload.key, etag=upload.etag, sha256=upload.sha256)), group="ann/summer"
    )
    await renders.send(Job(album="ann/summer", sheet=1, images=images), group="ann/summer")
    await entries.send(
        Entry(drawn=Drawn(album="ann/summer", sheet=1, images=images, etag=sheet.etag)), group="ann/summer"
    )
    assert await events(harness, albums.name) == before
    assert await drawings(harness) == ["ann/summer/1.png"]
    assert await harness.dead_letters() == []


async def test_a_duplicate_does_not_count_until_its_original_goes(harness: Harness, ann: Owner) -> None:
    await ann.fill(range(9))
    for name in ("copy", "second"):
        await ann.upload(f"summer/{name}.png", picture(0))
    for name in ("copy", "copy2"):
        await ann.upload(f"summer/nested/{name}.png", picture(0))
    twice = "the album has this image already"
    nested = {"ann/summer/nested/copy2.png": twice}
    assert await ann.refusals() == {"ann/summer/copy.png": twice, "ann/summer/second.png": twice, **nested}
    assert await ann.names("summer/nested") == ["copy.png"]
    assert await drawings(harness) == []
    await ann.fill([9])
    await ann.remove("summer/0.png")
    assert await ann.refusals() == {"ann/summer/second.png": twice, **nested}
    assert await ann.names() == [*(f"{seed}.png" for seed in range(1, 10)), "copy.png"]
    assert await shown(ann, 1) == [*(colour(seed) for seed in range(1, 10)), colour(0)]
    await ann.upload("summer/copy.png", picture(77))
    assert await ann.refusals() == nested
    assert (await ann.names())[-2:] == ["copy.png", "second.png"]


# Deleted and replaced


async def test_a_deleted_image_is_on_no_sheet(harness: Harness, ann: Owner) -> None:
    await ann.fill(range(25))
    await ann.remove("summer/3.png")
    await harness.run_until_idle()
    rest = [seed for seed in range(25) if seed != 3]
    assert await shown(ann, 1) == [colour(seed) for seed in rest[:10]]
    assert await shown(ann, 2) == [colour(seed) for seed in rest[10:20]]
    assert (await ann.album())["sheets"] == [FIRST, SECOND]
    for seed in (12, 13, 14, 15, 16):
        await ann.remove(f"summer/{seed}.png")
    await harness.run_until_idle()
    assert (await ann.album())["sheets"] == [FIRST]
    assert await ann.sheet(2) is None
    assert await shown(ann, 1) == [colour(seed) for seed in rest[:10]]


async def test_nine_again_have_no_sheet_and_another_tenth_brings_another_one(harness: Harness, ann: Owner) -> None:
    await ann.fill(range(10))
    await ann.remove("summer/9.png")
    await harness.run_until_idle()
    assert await ann.sheet(1) is None
    await ann.fill([10])
    assert await shown(ann, 1) == [colour(seed) for seed in [*range(9), 10]]
    assert await drawings(harness) == ["ann/summer/1.png"] * 2


async def test_a_replaced_image_keeps_its_place_on_a_new_sheet(harness: Harness, ann: Owner) -> None:
    await ann.fill(range(20))
    await ann.upload("summer/4.png", picture(44))
    await harness.run_until_idle()
    assert await shown(ann, 1) == [colour(44 if seed == 4 else seed) for seed in range(10)]
    assert await drawings(harness) == ["ann/summer/1.png", "ann/summer/2.png", "ann/summer/1.png"]
    assert (await ann.album())["sheets"] == [FIRST, SECOND]
    await ann.upload("summer/4.png", WORDS)
    assert list(await ann.refusals()) == ["ann/summer/4.png"]
    assert (await ann.album())["sheets"] == [FIRST]
    assert len(await ann.names()) == 19


async def test_a_refused_upload_that_is_deleted_is_forgotten(harness: Harness, ann: Owner) -> None:
    await ann.upload("summer/words.png", WORDS)
    assert len(await ann.refusals()) == 1
    await ann.remove("summer/words.png")
    assert await ann.refusals() == {}
    assert await albums.get("ann", "summer") is None


async def test_an_album_without_images_is_gone(harness: Harness, ann: Owner) -> None:
    await ann.fill(range(10))
    for seed in range(10):
        await ann.remove(f"summer/{seed}.png")
    await harness.run_until_idle()
    assert (await ann.client.get("/albums/summer")).status_code == 404
    assert (await sheets.list()).items == []


async def test_uploads_and_deletions_in_any_order_end_as_the_bucket_is(harness: Harness, ann: Owner) -> None:
    drawing = random.Random(11)
    for _ in range(20):
        for _ in range(12):
            name, content = f"summer/{drawing.randrange(14)}.png", drawing.randrange(40)
            if drawing.random() < 0.25:
                await ann.client.delete(f"/uploads/{name}")
            else:
                await ann.upload(name, picture(content) if content < 36 else WORDS)
            if drawing.random() < 0.3:
                await asyncio.sleep(0)
        await harness.advance(seconds=10)
        await check_against_bucket(ann)
    assert await harness.dead_letters() == []


async def check_against_bucket(ann: Owner) -> None:
    """Each object is in the album or refused; no image is there twice; each full ten has its sheet, no other has."""
    objects = {found.key: found.sha256 for found in (await uploads.list()).items}
    album = await albums.get("ann", "summer") or Album(owner="ann", name="summer")
    images = {image.key: image.sha256 for image in album.images}
    refusals = {row.key: row.sha256 for row in (await refused.query()).items}
    assert images | refusals == objects
    assert not images.keys() & refusals.keys()
    assert len(set(images.values())) == len(images)
    assert set(objects.values()) - set(images.values()) <= {sha256(WORDS).hexdigest()}
    assert album.sheets == [FIRST][: len(images) // 10]
    sheet = await ann.sheet(1)
    assert (sheet is not None) == (len(images) >= 10)


# What overtakes


async def test_a_sheet_that_is_late_is_removed(harness: Harness, ann: Owner) -> None:
    """It was drawn while one of its images was deleted."""
    await ann.fill(range(9))
    images = [Image(**image) for image in (await ann.album())["images"]]
    late = await sheets.put("ann/summer/1.png", b"late")
    await entries.send(
        Entry(drawn=Drawn(album="ann/summer", sheet=1, images=[*images, images[0]], etag=late.etag)), group="ann/summer"
    )
    await harness.run_until_idle()
    assert await ann.sheet(1) is None
    await renders.send(Job(album="ann/summer", sheet=1, images=[*images, images[0]]), group="ann/summer")
    assert await drawings(harness) == ["ann/summer/1.png"]
    await ann.fill([9])
    await entries.send(
        Entry(drawn=Drawn(album="ann/summer", sheet=1, images=images, etag=late.etag)), group="ann/summer"
    )
    await harness.run_until_idle()
    assert await ann.sheet(1) is not None


async def test_a_sheet_waits_for_images_that_the_album_knows(harness: Harness, ann: Owner) -> None:
    """One is replaced when the sheet is to be drawn, and is back before the album has learned of it."""
    engine = harness.supervisor.engine
    await engine.pause(renders.name, True)
    await ann.fill(range(10))
    await engine.pause("gallery/examine", True)
    await ann.upload("summer/3.png", picture(33))
    await engine.pause(renders.name, False)
    assert await drawings(harness) == []
    await ann.upload("summer/3.png", picture(3))
    await engine.pause("gallery/examine", False)
    await harness.advance(seconds=3)
    assert await drawings(harness) == ["ann/summer/1.png"]
    assert await shown(ann, 1) == [colour(seed) for seed in range(10)]


async def test_what_was_found_of_an_earlier_object_does_not_count(harness: Harness, ann: Owner) -> None:
    first = await uploads.put("ann/summer/1.png", picture(1))
    await ann.upload("summer/1.png", picture(2))
    await harness.run_until_idle()
    before = await ann.album()
    for late in (Verdict(key=first.key, etag=first.etag, sha256=first.sha256), Verdict(key=first.key)):
        await entries.send(Entry(verdict=late), group="ann/summer")
        await harness.run_until_idle()
        assert await ann.album() == before
    assert before["images"][0]["sha256"] == sha256(picture(2)).hexdigest()
    await ann.remove("summer/1.png")
    await harness.run_until_idle()
    await entries.send(Entry(verdict=Verdict(key=first.key, etag=first.etag, sha256=first.sha256)), group="ann/summer")
    await harness.run_until_idle()
    assert await ann.names() == []


async def test_a_file_that_cannot_be_examined_is_refused_in_the_end(
    harness: Harness, ann: Owner, tmp_path: Path
) -> None:
    """Whatever it does to those who examine it; here its bytes are lost."""
    put = await uploads.put("ann/summer/1.png", picture(1))
    (lost,) = (path for path in (tmp_path / "store" / "objects").rglob("*") if path.name == put.blob)
    lost.unlink()
    assert await ann.refusals() == {}
    await harness.advance(minutes=10)
    assert await ann.refusals() == {"ann/summer/1.png": "7 attempts to examine it have failed"}
    assert await harness.dead_letters() == []
