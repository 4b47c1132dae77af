"""What every blob store promises: whole blobs or none, ranges, listing, one owner."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest

from headwater.blobs import CHUNK, BlobStore, blob_id
from headwater.errors import DeclarationError, HeadwaterError, InvalidValue, StoreError, TooLarge, UnknownResource
from headwater.objects import make_blobs
from tests.conformance.s3_service import bucket_of, make_s3_place, s3_service
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.anyio
STORES = os.environ.get("HEADWATER_TEST_BLOBS", "local,s3").split(",")
LARGE = 21 * 1024 * 1024
"""More than two parts of an upload in parts."""
Make = Callable[[], BlobStore]


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    with s3_service() as endpoint:
        yield endpoint


def unfinished(folder: Path) -> list[str]:
    """What is on its way and not yet a blob: temporary files, parts of uploads."""
    if (objects := folder / "deep" / "objects").exists():
        return os.listdir(objects / "tmp")
    answer = httpx.get(f"{os.environ['AWS_ENDPOINT_URL']}/{bucket_of(folder)}?uploads")
    assert "<ListMultipartUploadsResult" in answer.text
    return re.findall("<UploadId>(.*?)</UploadId>", answer.text)


@pytest.fixture(params=STORES)
def make(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes the same place anew."""
    if request.param == "local":
        return lambda: make_blobs(str(tmp_path / "deep" / "objects"))
    endpoint = request.getfixturevalue("s3_endpoint")
    url = make_s3_place(endpoint, tmp_path, monkeypatch)
    return lambda: make_blobs(url)


@pytest.fixture
async def blobs(make: Make) -> AsyncIterator[BlobStore]:
    store = make()
    await store.open("me")
    yield store
    await store.close()


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def content(blobs: BlobStore, id: str, start: int, end: int) -> bytes:
    return b"".join([chunk async for chunk in await blobs.read(id, start, end)])


async def write(blobs: BlobStore, *chunks: bytes) -> str:
    id = blob_id(1_000)
    await blobs.write(id, stream(*chunks), limit=LARGE)
    return id


async def test_what_was_written_is_read(blobs: BlobStore) -> None:
    id = blob_id(1_000)
    blob = await blobs.write(id, stream(b"hello ", b"", b"world"), limit=11)
    assert (blob.id, blob.size, blob.sha256) == (id, 11, hashlib.sha256(b"hello world").hexdigest())
    assert await content(blobs, id, 0, 11) == b"hello world"


async def test_a_blob_may_be_empty(blobs: BlobStore) -> None:
    id = await write(blobs)
    assert await content(blobs, id, 0, 0) == b""
    assert await blobs.ids("", 10) == [id]


async def test_ranges_end_before_their_end(blobs: BlobStore) -> None:
    id = await write(blobs, b"0123456789")
    assert await content(blobs, id, 3, 7) == b"3456"
    assert await content(blobs, id, 9, 10) == b"9"
    assert await content(blobs, id, 10, 10) == b""


async def test_a_large_blob_keeps_its_order_and_comes_in_small_chunks(blobs: BlobStore) -> None:
    data = os.urandom(LARGE)
    id = await write(blobs, *(data[at : at + 100_000] for at in range(0, LARGE, 100_000)))
    chunks = [chunk async for chunk in await blobs.read(id, 0, LARGE)]
    assert b"".join(chunks) == data
    assert max(map(len, chunks)) <= CHUNK
    assert await content(blobs, id, 8 * 1024**2 - 5, 16 * 1024**2 + 5) == data[8 * 1024**2 - 5 : 16 * 1024**2 + 5]


async def test_an_unknown_blob_cannot_be_read(blobs: BlobStore) -> None:
    for end in (0, 10):
        with pytest.raises(UnknownResource):
            await blobs.read(blob_id(1), 0, end)


async def test_a_blob_is_deleted_and_deleting_it_again_does_nothing(blobs: BlobStore) -> None:
    id = await write(blobs, b"x")
    await blobs.delete(id)
    await blobs.delete(id)
    assert await blobs.ids("", 10) == []
    with pytest.raises(UnknownResource):
        await blobs.read(id, 0, 1)


async def test_what_breaks_off_leaves_nothing(blobs: BlobStore, tmp_path: Path) -> None:
    class CutOffError(Exception):
        pass

    async def cut_off() -> AsyncIterator[bytes]:
        yield b"a" * (LARGE * 5 // 6)
        raise CutOffError

    with pytest.raises(CutOffError):
        await blobs.write(blob_id(1), cut_off(), limit=LARGE)
    assert await blobs.ids("", 10) == []
    assert unfinished(tmp_path) == []


async def test_a_cancelled_write_leaves_nothing(blobs: BlobStore) -> None:
    waits = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"a" * (LARGE * 5 // 6)
        waits.set()
        await asyncio.Event().wait()

    writing = asyncio.create_task(blobs.write(blob_id(1), slow(), limit=LARGE))
    await asyncio.wait_for(waits.wait(), PATIENCE_S)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await blobs.ids("", 10) == []


@pytest.mark.parametrize(
    ("limit", "sha256", "refusal"), [(9, "", TooLarge), (10, "0" * 64, InvalidValue)], ids=["too large", "wrong hash"]
)
async def test_a_refused_blob_is_not_there(
    blobs: BlobStore, limit: int, sha256: str, refusal: type[HeadwaterError]
) -> None:
    with pytest.raises(refusal):
        await blobs.write(blob_id(1), stream(b"01234", b"56789"), limit=limit, sha256=sha256)
    assert await blobs.ids("", 10) == []


async def test_the_right_hash_is_accepted_in_either_case(blobs: BlobStore) -> None:
    digest = hashlib.sha256(b"abc").hexdigest()
    for given in (digest, digest.upper()):
        assert (await blobs.write(blob_id(1), stream(b"abc"), limit=3, sha256=given)).sha256 == digest


async def test_ids_are_listed_in_slices_each_once(blobs: BlobStore) -> None:
    written = {await write(blobs, b"x") for _ in range(23)}
    found: list[str] = []
    while page := await blobs.ids(found[-1] if found else "", 5):
        found += page
        assert len(found) <= 23
    assert len(found) == 23
    assert set(found) == written


async def test_a_place_has_one_owner(make: Make, blobs: BlobStore) -> None:
    id = await write(blobs, b"x")
    again, other = make(), make()
    await again.open("me")
    assert await content(again, id, 0, 1) == b"x"
    await again.check("me")
    for take in (other.check, other.open):
        with pytest.raises(DeclarationError, match="another store, me"):
            await take("you")
    await again.close()
    await other.close()


async def test_a_place_that_is_not_there_is_an_error_of_the_store(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = make()
    if "AWS_ENDPOINT_URL" in os.environ:
        blobs = make_blobs("s3://there-is-no-such-bucket/x")
    else:
        (tmp_path / "deep").write_text("a file where a folder should be")
    with pytest.raises(StoreError):
        await blobs.write(blob_id(1), stream(b"x"), limit=1)
    await blobs.close()


async def test_an_unknown_kind_of_place_is_refused() -> None:
    with pytest.raises(DeclarationError, match="no blob store"):
        make_blobs("ftp://somewhere/x")
