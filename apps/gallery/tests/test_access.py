"""Whose albums: each user has its own, and learns nothing of another's."""

import pytest

from apps.gallery.app import albums, app, sheets, uploads
from apps.gallery.tests.pictures import Owner, picture
from headwater.testing import Harness

EVERYWHERE = (
    "/albums",
    "/albums/summer",
    "/refused",
    "/sheets",
    "/sheets/summer/1.png",
    "/uploads",
    "/uploads/summer/1.png",
)


async def test_users_have_albums_of_their_own(harness: Harness, ann: Owner) -> None:
    bob = Owner(harness, "bob")
    await ann.fill(range(10))
    await bob.fill(range(3))
    await ann.upload("summer/words", b"words")
    assert (len(await ann.names()), len(await bob.names())) == (10, 3)
    assert await ann.sheet(1) is not None
    assert await bob.sheet(1) is None
    assert (len(await ann.refusals()), len(await bob.refusals())) == (1, 0)
    for path in (
        "/albums/ann%2Fsummer",
        "/refused/ann%2Fsummer%2Fwords",
        "/sheets/ann/summer/1.png",
        "/uploads/summer/9.png",
    ):
        assert (await bob.client.get(path)).status_code == 404
    listed = (await bob.client.get("/albums")).json()["items"]
    assert [(album["owner"], album["name"]) for album in listed] == [("bob", "summer")]
    await bob.client.delete("/uploads/ann/summer/1.png")
    await bob.remove("summer/1.png")
    await harness.run_until_idle()
    assert (len(await ann.names()), len(await bob.names())) == (10, 2)


async def test_nothing_is_served_without_a_token_of_the_role(harness: Harness, ann: Owner) -> None:
    await ann.fill(range(10))
    guest = harness.client(app)
    writer = harness.client(app, token={"sub": "ann", "roles": ["images.write"]})
    reader = harness.client(app, token={"sub": "ann", "roles": ["images.read"]})
    for path in EVERYWHERE:
        assert (await guest.get(path)).status_code == 401
        assert (await writer.get(path)).status_code == 403
        assert (await reader.get(path)).status_code == 200 or path.startswith("/refused")
    assert (await reader.put("/uploads/summer/x.png", content=picture(1))).status_code == 403
    assert (await reader.delete("/uploads/summer/1.png")).status_code == 403


async def test_albums_and_sheets_are_written_by_the_gallery_alone(harness: Harness, ann: Owner) -> None:
    await ann.fill(range(10))
    for path in ("/albums/summer", "/refused/ann%2Fsummer%2Fx", "/sheets/summer/1.png"):
        for method in ("PUT", "DELETE", "PATCH"):
            assert (await ann.client.request(method, path, json={})).status_code in (403, 405)
    assert await ann.sheet(1) is not None


@pytest.mark.parametrize("subject", ["org/ann", "50%", "a%2Fb", "Ännchen"])
@pytest.mark.parametrize("album", ["summer", "2026/summer", "a b", "50%?", "Größe"])
async def test_subjects_and_albums_have_any_name(harness: Harness, subject: str, album: str) -> None:
    owner = Owner(harness, subject)
    for seed in range(10):
        await uploads.put(f"{subject.replace('%', '%25').replace('/', '%2F')}/{album}/{seed}", picture(seed))
    await harness.run_until_idle()
    (found,) = (await owner.client.get("/albums")).json()["items"]
    assert (found["owner"], found["name"], len(found["images"])) == (subject, album, 10)
    (path,) = found["sheets"]
    answer = await owner.client.get(path.removeprefix("/gallery"))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")


async def test_an_upload_that_is_in_no_album_is_refused(harness: Harness, ann: Owner) -> None:
    await ann.upload("1.png", picture(1))
    await ann.upload(f"{'long/' * 200}1.png", picture(1))
    refusals = await ann.refusals()
    assert refusals.pop("ann/1.png") == "it is in no album: upload it as album/name"
    assert list(refusals.values()) == ["its name is too long, 1000 bytes are possible"]
    await uploads.put("nobody.png", picture(1))
    await harness.advance(minutes=10)
    await uploads.delete("nobody.png")
    await harness.advance(minutes=10)
    assert (await albums.query()).items == []
    assert await harness.dead_letters() == []


async def test_a_name_as_long_as_can_be_has_a_sheet(harness: Harness, ann: Owner) -> None:
    album = "x" * (1000 - len("ann//0"))
    for seed in range(10):
        await ann.upload(f"{album}/{seed}", picture(seed))
    await harness.run_until_idle()
    assert len((await sheets.list("ann/")).items) == 1
    assert await ann.sheet(1, album) is not None


async def test_an_album_is_full_before_its_document_is_too_large(harness: Harness, ann: Owner) -> None:
    album = "Ä" * 480
    for seed in range(120):
        await ann.upload(f"{album}/{seed:03}.png", picture(seed))
    reasons = set((await ann.refusals()).values())
    assert reasons == {"the album is full"}
    assert 70 < len(await ann.names(album)) < 120
    assert len((await ann.album(album))["sheets"]) == 7
    assert await harness.dead_letters() == []


async def test_what_is_too_large_is_not_taken(ann: Owner) -> None:
    assert (await ann.client.put("/uploads/summer/1.png", content=bytes(20_000_001))).status_code == 413
