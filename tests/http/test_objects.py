"""A bucket served over HTTP: each verb, ranges, conditions, digests, prefixes of callers, and what is refused."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from headwater import App, ObjectInfo, anyone, require
from headwater.app import App as AnyApp
from headwater.buckets import Bucket
from headwater.errors import DeclarationError
from headwater.events import Event
from headwater.http.object_headers import Unsatisfiable, attachment, read_range
from headwater.pytest_plugin import StartHarness
from headwater.testing import Harness
from tests.http.raw import Exchange

MIB = 1024 * 1024


class Office:
    """An app with a bucket that everybody may use, one with a prefix for each caller, and one that is read only."""

    def __init__(self) -> None:
        self.app: AnyApp[Any] = App("office")
        self.files = self.app.bucket("files", max_size=3 * MIB)
        self.homes = self.app.bucket("homes")
        self.notices = self.app.bucket("notices")
        self.app.expose(self.files, "/files", read=anyone(), write=anyone())
        self.app.expose(self.homes, "/homes", read=require(), write=require(), own_prefix=True)
        self.app.expose(self.notices, "/notices", read=anyone())
        self.created: list[Event[ObjectInfo]] = []

        @self.app.on(self.files.created)
        async def notice(event: Event[ObjectInfo]) -> None:
            self.created.append(event)


@pytest.fixture
def office() -> Office:
    return Office()


@pytest.fixture
async def h(harness: StartHarness, office: Office) -> Harness:
    return await harness(office.app)


@pytest.fixture
def web(h: Harness, office: Office) -> httpx.AsyncClient:
    return h.client(office.app)


def at(key: str, path: str = "/files") -> str:
    return f"{path}/{quote(key, safe='')}"


def digest(content: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


async def test_an_object_is_put_read_and_deleted(web: httpx.AsyncClient, h: Harness, office: Office) -> None:
    headers = {"Content-Type": "text/plain; charset=utf-8", "X-Meta-Colour": "blau", "Repr-Digest": digest(b"hello")}
    put = await web.put("/files/a.txt", content=b"hello", headers=headers)
    assert put.status_code == 201
    told = put.json()
    assert told["key"] == "a.txt"
    assert told["size"] == 5
    assert told["sha256"] == hashlib.sha256(b"hello").hexdigest()
    assert told["metadata"] == {"colour": "blau"}
    got = await web.get("/files/a.txt")
    assert got.content == b"hello"
    assert got.headers["etag"] == put.headers["etag"] == f'"{told["etag"]}"'
    assert got.headers["content-type"] == "text/plain; charset=utf-8"
    assert got.headers["content-disposition"] == 'attachment; filename="a.txt"'
    assert got.headers["repr-digest"] == digest(b"hello")
    assert got.headers["x-meta-colour"] == "blau"
    head = await web.head("/files/a.txt")
    assert head.content == b""
    assert head.headers["content-length"] == "5"
    again = await web.put("/files/a.txt", content=b"other")
    assert again.status_code == 200
    assert again.headers["etag"] != put.headers["etag"]
    assert (await web.delete("/files/a.txt")).status_code == 204
    for method in ("GET", "HEAD", "DELETE"):
        assert (await web.request(method, "/files/a.txt")).status_code == 404
    await h.run_until_idle()
    assert [event.data.size for event in office.created] == [5, 5]


async def test_bytes_are_stored_as_they_are_whatever_they_are_called(web: httpx.AsyncClient) -> None:
    for content_type in ("application/json", "application/x-ndjson", "multipart/form-data"):
        put = await web.put("/files/broken", content=b'{"a": 1, "a": ', headers={"Content-Type": content_type})
        assert put.status_code in (200, 201)
        got = await web.get("/files/broken")
        assert got.content == b'{"a": 1, "a": '
        assert got.headers["content-type"] == content_type
    packed = await web.put("/files/broken", content=b"x", headers={"Content-Encoding": "gzip"})
    assert packed.status_code == 415
    assert (await web.put("/files/empty", content=b"")).json()["size"] == 0
    assert (await web.get("/files/empty")).content == b""


@pytest.mark.parametrize(
    "key",
    [
        "a/b/c.txt",
        "a b",
        "100%",
        "%2F",
        "?#",
        "ä/ö€",
        "a/../b",
        "a//b",
        "/lead",
        "trail/",
        "\0",
        "x" * 1024,
        "\u00e9",
        "e\u0301",
    ],
)
async def test_any_key_percent_encoded(web: httpx.AsyncClient, office: Office, key: str) -> None:
    assert (await web.put(at(key), content=key.encode())).status_code == 201
    assert await office.files.get(key) == key.encode()
    assert (await web.get(at(key))).content == key.encode()
    listed = (await web.get("/files")).json()["items"]
    assert [item["key"] for item in listed] == [key]
    assert (await web.delete(at(key))).status_code == 204


async def test_a_slash_may_stand_as_it_is(web: httpx.AsyncClient, office: Office) -> None:
    await web.put("/files/2024/may/a%20b.txt", content=b"x")
    assert await office.files.get("2024/may/a b.txt") == b"x"
    assert (await web.get("/files/2024%2Fmay/a%20b.txt")).content == b"x"


@pytest.mark.parametrize("path", ["/files/%FF", "/files/"])
async def test_paths_without_a_key_are_not_found(web: httpx.AsyncClient, path: str) -> None:
    assert (await web.put(path, content=b"x", follow_redirects=False)).status_code in (307, 404, 405)


async def test_keys_beyond_the_limit_are_refused_before_the_body(h: Harness, office: Office) -> None:
    exchange = Exchange(office.app.http, "PUT", "/files/" + "x" * 1025)
    await exchange.run(*[b"x" * MIB] * 3)
    assert exchange.messages[0]["status"] == 422
    assert exchange.received <= 1


async def test_a_list_has_prefixes_pages_and_cursors(web: httpx.AsyncClient) -> None:
    for key in ("a/1", "a/2", "b/1", "c"):
        await web.put(at(key), content=b"x")
    level = (await web.get("/files", params={"delimiter": "/"})).json()
    assert level["prefixes"] == ["a/", "b/"]
    assert [item["key"] for item in level["items"]] == ["c"]
    below = (await web.get("/files", params={"prefix": "a/", "delimiter": "/"})).json()
    assert [item["key"] for item in below["items"]] == ["a/1", "a/2"]
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = (await web.get("/files", params={"limit": 1} | ({"cursor": cursor} if cursor else {}))).json()
        found += [item["key"] for item in page["items"]]
        cursor = page["cursor"]
    assert found == ["a/1", "a/2", "b/1", "c"]
    for wrong in ({"limit": "0"}, {"limit": "x"}, {"cursor": "zzz"}, {"sort": "size"}):
        assert (await web.get("/files", params=wrong)).status_code == 422


@pytest.mark.parametrize(
    ("asked", "status", "content", "told"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=4-", 206, b"456789", "bytes 4-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
        ("bytes=-99", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=10-", 416, None, "bytes */10"),
        ("bytes=-0", 416, None, "bytes */10"),
        ("bytes=0-1,3-4", 200, b"0123456789", None),
        ("bytes=4-2", 200, b"0123456789", None),
        ("bytes=x", 200, b"0123456789", None),
        ("lines=0-1", 200, b"0123456789", None),
    ],
)
async def test_ranges(web: httpx.AsyncClient, asked: str, status: int, content: bytes | None, told: str | None) -> None:
    await web.put("/files/n", content=b"0123456789")
    got = await web.get("/files/n", headers={"Range": asked})
    assert got.status_code == status
    assert got.headers.get("content-range") == told
    if content is not None:
        assert got.content == content
        assert got.headers["content-length"] == str(len(content))
    assert got.headers.get("accept-ranges", "bytes") == "bytes"


async def test_a_range_only_of_the_same_object(web: httpx.AsyncClient) -> None:
    first = (await web.put("/files/n", content=b"0123456789")).headers["etag"]
    same = await web.get("/files/n", headers={"Range": "bytes=0-1", "If-Range": first})
    assert (same.status_code, same.content) == (206, b"01")
    await web.put("/files/n", content=b"abcdefghij")
    changed = await web.get("/files/n", headers={"Range": "bytes=0-1", "If-Range": first})
    assert (changed.status_code, changed.content) == (200, b"abcdefghij")


def test_a_range_of_nothing() -> None:
    assert read_range(None, 0) is None
    with pytest.raises(Unsatisfiable):
        read_range("bytes=0-", 0)


async def test_conditions_of_reads(web: httpx.AsyncClient) -> None:
    tag = (await web.put("/files/a", content=b"x")).headers["etag"]
    known = await web.get("/files/a", headers={"If-None-Match": f'"other", {tag}'})
    assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", tag)
    assert (await web.get("/files/a", headers={"If-None-Match": '"other"'})).status_code == 200
    assert (await web.get("/files/a", headers={"If-Match": '"other"'})).status_code == 412
    assert (await web.get("/files/a", headers={"If-Match": tag})).status_code == 200


async def test_conditions_of_writes(web: httpx.AsyncClient) -> None:
    fresh = {"If-None-Match": "*"}
    tag = (await web.put("/files/a", content=b"1", headers=fresh)).headers["etag"]
    assert (await web.put("/files/a", content=b"2", headers=fresh)).status_code == 412
    assert (await web.put("/files/a", content=b"2", headers={"If-Match": '"other"'})).status_code == 412
    assert (await web.put("/files/b", content=b"2", headers={"If-Match": "*"})).status_code == 412
    second = await web.put("/files/a", content=b"2", headers={"If-Match": tag})
    assert second.status_code == 200
    assert (await web.delete("/files/a", headers={"If-Match": tag})).status_code == 412
    assert (await web.get("/files/a")).content == b"2"
    assert (await web.delete("/files/a", headers={"If-Match": second.headers["etag"]})).status_code == 204


async def test_a_false_condition_is_told_before_the_body_is_read(web: httpx.AsyncClient, office: Office) -> None:
    await web.put("/files/a", content=b"1")
    exchange = Exchange(office.app.http, "PUT", "/files/a", {"If-None-Match": "*"})
    await exchange.run(*[b"x" * MIB] * 3)
    assert exchange.messages[0]["status"] == 412
    assert exchange.received <= 1


@pytest.mark.parametrize("size", [1, 2 * MIB])
async def test_puts_of_one_key_at_once_all_succeed_and_conditional_ones_once(
    web: httpx.AsyncClient, office: Office, h: Harness, size: int
) -> None:
    """The large ones too, whose bodies are gone when they meet a conflict."""
    contents = [bytes([n]) * size for n in range(6)]
    plain = await asyncio.gather(*(web.put("/files/same", content=content) for content in contents))
    assert {answer.status_code for answer in plain} <= {200, 201}
    fresh = {"If-None-Match": "*"}
    raced = await asyncio.gather(*(web.put("/files/new", content=content, headers=fresh) for content in contents))
    assert sorted(answer.status_code for answer in raced) == [201, 412, 412, 412, 412, 412]
    winner = next(n for n, answer in enumerate(raced) if answer.status_code == 201)
    assert await office.files.get("new") == contents[winner]
    await h.run_until_idle()
    assert len(office.created) == 7


async def test_a_wrong_digest_stores_nothing(web: httpx.AsyncClient) -> None:
    wrong = await web.put("/files/a", content=b"hello", headers={"Repr-Digest": digest(b"hullo")})
    assert wrong.status_code == 422
    malformed = await web.put("/files/a", content=b"hello", headers={"Repr-Digest": "sha-256=:AAAA:"})
    assert malformed.status_code == 422
    assert (await web.get("/files/a")).status_code == 404
    other = {"Repr-Digest": f"md5=:AAAA:, {digest(b'hello')}"}
    assert (await web.put("/files/a", content=b"hello", headers=other)).status_code == 201


async def test_the_buckets_size_bounds_uploads_and_not_the_limit_of_bodies(office: Office, h: Harness) -> None:
    h.supervisor.limits = type(h.supervisor.limits)(body=MIB)
    web = h.client(office.app)
    assert (await web.put("/files/a", content=b"x" * (3 * MIB))).status_code == 201
    assert (await web.put("/files/b", content=b"x" * (3 * MIB + 1))).status_code == 413
    exchange = Exchange(office.app.http, "PUT", "/files/c")
    await exchange.run(*[b"x" * MIB] * 8)
    assert exchange.messages[0]["status"] == 413
    assert exchange.received < 6
    assert (await web.post("/files", content=b"x" * (MIB + 1))).status_code == 413
    assert [item["key"] for item in (await web.get("/files")).json()["items"]] == ["a"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text"}, 422),
        ({"Content-Type": "text/plain\x7f"}, 422),
        ({"Content-Range": "bytes 0-1/10"}, 400),
        ({"X-Meta-": "nameless"}, 422),
        ({"X-Meta-Large": "x" * 2100}, 413),
        ({b"X-Meta-A": b"\xff"}, 422),
    ],
)
async def test_headers_that_cannot_be_kept_are_refused(
    web: httpx.AsyncClient, headers: dict[Any, Any], status: int
) -> None:
    assert (await web.put("/files/a", content=b"x", headers=headers)).status_code == status
    assert (await web.get("/files/a")).status_code == 404


async def test_what_code_has_stored_cannot_break_the_headers(web: httpx.AsyncClient, office: Office) -> None:
    metadata = {"Bad\r\nName": "x", "bad-value": "a\r\nSet-Cookie: b=1", "good": "größe"}
    await office.files.put('we"ird\r\n/../naïve;name.html', b"x", content_type="broken", metadata=metadata)
    got = await web.get(at('we"ird\r\n/../naïve;name.html'))
    assert got.headers["content-type"] == "application/octet-stream"
    assert got.headers["content-disposition"].startswith('attachment; filename="na_ve_name.html"; filename*=UTF-8')
    assert {name for name in got.headers if name.startswith("x-meta")} == {"x-meta-good"}
    assert "set-cookie" not in got.headers


@pytest.mark.parametrize(
    ("key", "plain"),
    [
        ("a/b.txt", "b.txt"),
        ("..", "object"),
        (".htaccess", "htaccess"),
        ("a\\b.exe", "b.exe"),
        ("x/", "x"),
        ("/", "object"),
    ],
)
def test_names_for_saving_are_harmless(key: str, plain: str) -> None:
    assert attachment(key).startswith(f'attachment; filename="{plain}"'.encode())


async def test_each_caller_has_a_prefix_of_its_own(h: Harness, office: Office) -> None:
    ann, bob = (h.client(office.app, token={"sub": subject}) for subject in ("ann", "bob"))
    tag = (await ann.put("/homes/a.jpg", content=b"ann's")).headers["etag"]
    assert await office.homes.get("ann/a.jpg") == b"ann's"
    assert (await ann.get("/homes/a.jpg")).content == b"ann's"
    assert [item["key"] for item in (await ann.get("/homes")).json()["items"]] == ["a.jpg"]
    assert (await bob.get("/homes")).json() == {"items": [], "prefixes": [], "cursor": None}
    for key in ("a.jpg", "ann/a.jpg", "../ann/a.jpg", "/ann/a.jpg"):
        for method, headers in (("GET", {}), ("GET", {"If-None-Match": tag}), ("DELETE", {}), ("HEAD", {})):
            missing = await bob.request(method, at("nothing", "/homes"), headers=headers)
            answer = await bob.request(method, at(key, "/homes"), headers=headers)
            assert answer.status_code == missing.status_code == 404
            assert _without_id(answer) == _without_id(missing)
    assert (await bob.put("/homes/a.jpg", content=b"bob's", headers={"If-None-Match": "*"})).status_code == 201
    assert (await bob.get("/homes", params={"prefix": "../ann"})).json()["items"] == []
    assert await office.homes.get("ann/a.jpg") == b"ann's"
    assert (await h.client(office.app).get("/homes")).status_code == 401
    assert (await h.client(office.app).put("/homes/x", content=b"")).status_code == 401


def _without_id(answer: httpx.Response) -> Any:
    return {k: v for k, v in answer.json().items() if k != "request_id"} if answer.content else None


async def test_subjects_cannot_meet_in_a_prefix(h: Harness, office: Office) -> None:
    subjects = ["a", "a/b", "a%2Fb", "a%252Fb", "..", "ä"]
    for subject in subjects:
        web = h.client(office.app, token={"sub": subject})
        assert (await web.put("/homes/b/x", content=subject.encode())).status_code == 201
    keys = [info.key for info in (await office.homes.list()).items]
    assert sorted(keys) == sorted(["a/b/x", "a%2Fb/b/x", "a%252Fb/b/x", "a%25252Fb/b/x", "../b/x", "ä/b/x"])
    for subject in subjects:
        web = h.client(office.app, token={"sub": subject})
        assert [item["key"] for item in (await web.get("/homes")).json()["items"]] == ["b/x"]
        assert (await web.get("/homes/b/x")).content == subject.encode()


async def test_callers_without_a_subject_have_no_prefix(h: Harness, office: Office) -> None:
    nobody = h.client(office.app, token={"sub": ""})
    assert (await nobody.put("/homes/x", content=b"")).status_code in (401, 403)
    assert (await nobody.get("/homes")).status_code in (401, 403)


async def test_without_write_nobody_writes(web: httpx.AsyncClient, office: Office) -> None:
    await office.notices.put("a", b"x")
    assert (await web.get("/notices/a")).content == b"x"
    for method in ("PUT", "DELETE", "POST"):
        assert (await web.request(method, "/notices/a", content=b"y")).status_code == 403
    assert (await web.patch("/notices/a", content=b"y")).status_code == 405
    assert (await web.put("/notices", content=b"y")).status_code == 405


async def test_a_small_put_with_an_idempotency_key_takes_effect_once(
    web: httpx.AsyncClient, office: Office, h: Harness
) -> None:
    headers = {"Idempotency-Key": "one"}
    answers = [await web.put("/files/a", content=b"x", headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[1].headers["idempotent-replayed"] == "true"
    assert (await web.put("/files/a", content=b"y", headers=headers)).status_code == 422
    await h.run_until_idle()
    assert len(office.created) == 1


async def test_the_event_has_its_caller(h: Harness, office: Office) -> None:
    await h.client(office.app, token={"sub": "ann"}).put("/homes/a", content=b"x")
    await h.client(office.app).put("/files/a", content=b"x")
    await h.run_until_idle()
    assert [event.data.key for event in office.created] == ["a"]


async def test_an_upload_whose_client_goes_leaves_no_object(h: Harness, office: Office) -> None:
    exchange = Exchange(office.app.http, "PUT", "/files/cut")
    await exchange.run(b"x" * MIB, b"x" * MIB, disconnect=True)
    assert exchange.messages == []
    assert await office.files.head("cut") is None


async def test_written_endpoints_win_and_keep_their_limit(harness: StartHarness) -> None:
    app = App("mixed")
    bucket = app.bucket("files")
    app.expose(bucket, "/files", read=anyone(), write=anyone())

    @app.http.put("/files/special")
    async def special() -> dict[str, str]:
        return {"by": "hand"}

    h = await harness(app)
    h.supervisor.limits = type(h.supervisor.limits)(body=MIB)
    web = h.client(app)
    assert (await web.put("/files/special", content=b"x")).json() == {"by": "hand"}
    assert (await web.put("/files/special", content=b"x" * (MIB + 1))).status_code == 413
    assert (await web.put("/files/other", content=b"x" * (MIB + 1))).status_code == 201


async def test_the_document_describes_the_routes(web: httpx.AsyncClient) -> None:
    document = (await web.get("/openapi.json")).json()
    assert set(document["paths"]["/files"]) == {"get"}
    assert set(document["paths"]["/files/{key}"]) == {"get", "put", "post", "delete"}
    read = document["paths"]["/files/{key}"]["get"]
    assert {"200", "206", "304", "404", "412", "416"} <= set(read["responses"])
    assert document["paths"]["/homes/{key}"]["put"]["security"]
    assert "files.object" in document["components"]["schemas"]


def test_declarations_that_would_serve_the_wrong_callers_are_refused() -> None:
    app: AnyApp[Any] = App("wrong")
    files, foreign = app.bucket("files"), App("other").bucket("files")
    rows = app.table("rows", dict, key="id")

    def refused(match: str, resource: Any, path: str = "/files", **options: Any) -> None:
        with pytest.raises(DeclarationError, match=match):
            app.expose(resource, path, **options)

    refused("lets in anyone", files, read=anyone(), own_prefix=True)
    refused("lets in anyone", files, write=anyone(), own_prefix=True)
    refused("belongs to another app", foreign, read=anyone())
    refused("is no path", files, "/files/{key}", read=anyone())
    refused("owner= is for tables", files, read=anyone(), owner="id")
    refused("methods= is for tables", files, read=anyone(), methods=["GET"])
    refused("own_prefix= is for buckets", rows, "/rows", read=require(), own_prefix=True)
    refused("say who may", files, read="everybody")
    app.expose(files, "/files", read=anyone())
    refused("declared already", app.bucket("more"), read=anyone())
    assert isinstance(files, Bucket)
