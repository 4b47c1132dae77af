"""Older versions of objects over HTTP: listed and read by who may read the object, in buckets that keep them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from headwater import App, anyone, require
from headwater.pytest_plugin import StartHarness
from headwater.testing import Harness


class Archive:
    def __init__(self) -> None:
        self.app: App[Any] = App("archive")
        self.drafts = self.app.bucket("drafts", versions=True)
        self.homes = self.app.bucket("homes", versions=True)
        self.plain = self.app.bucket("plain")
        self.app.expose(self.drafts, "/drafts", read=anyone(), write=anyone())
        self.app.expose(self.homes, "/homes", read=require(), write=require(), own_prefix=True)
        self.app.expose(self.plain, "/plain", read=anyone(), write=anyone())


@pytest.fixture
def archive() -> Archive:
    return Archive()


@pytest.fixture
async def h(harness: StartHarness, archive: Archive) -> Harness:
    return await harness(archive.app)


@pytest.fixture
def web(h: Harness, archive: Archive) -> httpx.AsyncClient:
    return h.client(archive.app)


async def write(web: httpx.AsyncClient, path: str, *contents: bytes) -> list[str]:
    """The versions that were put."""
    return [(await web.put(path, content=content)).json()["version"] for content in contents]


async def versions(web: httpx.AsyncClient, path: str, **parameters: Any) -> list[str]:
    answer = await web.get(path, params=parameters)
    assert answer.status_code == 200, answer.text
    return [item["version"] for item in answer.json()["items"]]


async def test_older_versions_are_listed_and_read(web: httpx.AsyncClient) -> None:
    first, second, third = await write(web, "/drafts/a/b", b"one", b"two!", b"three")
    assert await versions(web, "/drafts", versions="a/b") == [second, first]
    for version, content in ((first, b"one"), (second, b"two!"), (third, b"three")):
        answer = await web.get("/drafts/a/b", params={"version": version})
        assert (answer.status_code, answer.content) == (200, content)
    part = await web.get("/drafts/a/b", params={"version": second}, headers={"Range": "bytes=1-2"})
    assert (part.status_code, part.content) == (206, b"wo")
    head = await web.head("/drafts/a/b", params={"version": first})
    assert (head.headers["content-length"], head.content) == ("3", b"")
    known = await web.get("/drafts/a/b", params={"version": first}, headers={"If-None-Match": head.headers["etag"]})
    assert known.status_code == 304
    await web.delete("/drafts/a/b")
    assert (await web.get("/drafts/a/b")).status_code == 404
    assert (await web.get("/drafts/a/b", params={"version": third})).content == b"three"
    assert await versions(web, "/drafts", versions="a/b") == [third, second, first]


async def test_versions_come_in_pages(web: httpx.AsyncClient) -> None:
    put = await write(web, "/drafts/a", *(b"%d" % n for n in range(6)))
    found, cursor = [], None
    while True:
        parameters = {"versions": "a", "limit": "2", **({"cursor": cursor} if cursor else {})}
        page = (await web.get("/drafts", params=parameters)).json()
        found += [item["version"] for item in page["items"]]
        cursor = page["cursor"]
        if cursor is None:
            break
    assert found == put[-2::-1]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/drafts/a?version=0000000000000000", 404),
        ("/drafts/absent?version=0000000000000000", 404),
        ("/drafts/a?version=1&version=2", 422),
        ("/drafts/a?version=1&signature=x", 422),
        ("/drafts/a?signature=x&version=1", 403),
        ("/drafts?versions=a&prefix=a", 422),
        ("/plain/a?version=1", 422),
        ("/plain?versions=a", 422),
    ],
)
async def test_what_is_no_version_is_refused(web: httpx.AsyncClient, path: str, status: int) -> None:
    await write(web, "/drafts/a", b"1", b"2")
    plain = await web.put("/plain/a", content=b"1")
    assert "version" not in plain.json()
    answer = await web.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


async def test_a_version_is_only_to_be_read(web: httpx.AsyncClient) -> None:
    first, _ = await write(web, "/drafts/a", b"1", b"2")
    assert (await web.put("/drafts/a", params={"version": first}, content=b"x")).status_code == 403
    assert (await web.delete("/drafts/a", params={"version": first})).status_code == 403
    assert (await web.get("/drafts/a", params={"version": first})).content == b"1"


async def test_callers_reach_versions_of_their_own_objects_only(h: Harness, archive: Archive) -> None:
    ann, bob = (h.client(archive.app, token={"sub": name}) for name in ("ann", "bob"))
    first, _ = await write(ann, "/homes/face", b"1", b"2")
    await h.advance(seconds=1)
    await write(bob, "/homes/face", b"b")
    assert await versions(ann, "/homes", versions="face") == [first]
    assert (await ann.get("/homes/face", params={"version": first})).content == b"1"
    assert await versions(bob, "/homes", versions="face") == []
    for path in ("/homes/face", "/homes/ann/face", "/homes/..%2Fann%2Fface"):
        assert (await bob.get(path, params={"version": first})).status_code == 404
    guest = h.client(archive.app)
    assert (await guest.get("/homes/face", params={"version": first})).status_code == 401


async def test_the_document_tells_of_versions_where_they_are_kept(web: httpx.AsyncClient) -> None:
    paths = (await web.get("/openapi.json")).json()["paths"]
    named = {
        path: {p["name"] for p in described["get"]["parameters"]} & {"version", "versions"}
        for path, described in paths.items()
        if "get" in described
    }
    assert named["/drafts"] == {"versions"}
    assert named["/drafts/{key}"] == {"version"}
    assert named["/plain"] == named["/plain/{key}"] == set()
