"""Buckets do the same in each place for bytes: a folder, and an S3-compatible service."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from headwater import App, Bucket, ConditionFailed, InvalidValue, TooLarge, UnknownResource, anyone, testing
from headwater.objects import make_blobs
from headwater.pytest_plugin import StartHarness
from headwater.testing import Harness
from tests.conformance.s3_service import make_s3_place, s3_service
from tests.runtime.uploads import follow

MIB = 1024 * 1024
PLACES = os.environ.get("HEADWATER_TEST_BLOBS", "local,s3").split(",")


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    with s3_service() as endpoint:
        yield endpoint


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    url = str(tmp_path / "objects")
    if request.param == "s3":
        url = make_s3_place(request.getfixturevalue("s3_endpoint"), tmp_path, monkeypatch)
    monkeypatch.setattr(testing, "make_blobs", lambda _: make_blobs(url))
    return url


@pytest.fixture
def app() -> App[None]:
    return App("shop")


@pytest.fixture
def bucket(app: App[None]) -> Bucket:
    bucket = app.bucket("uploads", max_size=20 * MIB, versions=True)
    app.expose(bucket, "/uploads", read=anyone(), write=anyone())
    return bucket


@pytest.fixture
async def h(place: str, bucket: Bucket, app: App[None], harness: StartHarness) -> Harness:
    return await harness(app)


async def blobs(h: Harness) -> set[str]:
    return set(await h.supervisor.blobs.ids("", 1000))


async def numbered(mebibytes: int) -> AsyncIterator[bytes]:
    for n in range(mebibytes):
        yield bytes([n]) * MIB


async def test_an_object_is_put_read_replaced_and_deleted(
    place: str, app: App[None], bucket: Bucket, harness: StartHarness
) -> None:
    seen = follow(app, bucket)
    h = await harness(app)
    first = await bucket.put("../a b/é", b"first", content_type="text/plain", metadata={"by": "Ann"}, if_absent=True)
    with pytest.raises(ConditionFailed):
        await bucket.put("../a b/é", b"x", if_absent=True)
    second = await bucket.put("../a b/é", b"second", if_match=first.etag)
    assert await bucket.get("../a b/é") == b"second"
    assert await bucket.get("../a b/é", version=first.sequencer) == b"first"
    assert await bucket.get(first) == b"first"
    assert await blobs(h) == {first.blob, second.blob}
    await bucket.delete("../a b/é")
    with pytest.raises(UnknownResource):
        await bucket.get("../a b/é")
    await h.run_until_idle()
    assert seen == [("created", first), ("created", second), ("deleted", second)]


async def test_a_large_object_comes_in_parts_and_goes_in_ranges(h: Harness, bucket: Bucket) -> None:
    info = await bucket.put("large", numbered(18))
    assert info.size == 18 * MIB
    async with bucket.open("large", start=9 * MIB - 1, end=9 * MIB + 1) as chunks:
        assert b"".join([chunk async for chunk in chunks]) == bytes([8, 9])
    with pytest.raises(TooLarge):
        await bucket.put("larger", numbered(21))
    with pytest.raises(InvalidValue, match="SHA-256"):
        await bucket.put("other", numbered(1), sha256="0" * 64)
    assert [info.key for info in (await bucket.list()).items] == ["large"]
    assert await blobs(h) == {info.blob}


async def test_what_nobody_refers_to_is_collected_and_all_else_stays(h: Harness, bucket: Bucket) -> None:
    infos = [await bucket.put("a", b"%d" % n) for n in range(3)]
    await bucket.delete("a", version=infos[1].sequencer)
    await h.advance(hours=3)
    assert await blobs(h) == {infos[0].blob, infos[2].blob}
    assert await bucket.get("a", version=infos[0].sequencer) == b"0"


async def test_an_object_passes_over_http_by_presigned_urls_too(h: Harness, app: App[None], bucket: Bucket) -> None:
    web = h.client(app)
    put, get = (bucket.presign(method, "a/b").removeprefix("/shop") for method in ("PUT", "GET"))
    assert (await web.put(put, content=b"0123456789")).status_code == 201
    part = await web.get(get, headers={"Range": "bytes=-4"})
    assert (part.status_code, part.content) == (206, b"6789")
    assert (await web.get("/uploads/a/b")).content == b"0123456789"
