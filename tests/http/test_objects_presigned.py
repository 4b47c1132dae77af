"""Presigned URLs over HTTP: they let in without credentials, to what they were signed for and nothing else."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest

from headwater import App, InvalidValue, ObjectInfo, anyone, require
from headwater.app import App as AnyApp
from headwater.buckets import Bucket
from headwater.errors import DeclarationError
from headwater.events import Event
from headwater.pytest_plugin import StartHarness
from headwater.testing import Harness
from tests.http.raw import Exchange

MIB = 1024 * 1024
HELLO = hashlib.sha256(b"hello").hexdigest()


class Studio:
    """An app whose pictures only presigned URLs reach; its open bucket shows that a query is no way around."""

    def __init__(self) -> None:
        self.app: AnyApp[Any] = App("studio")
        self.pictures = self.app.bucket("pictures", max_size=3 * MIB)
        self.homes = self.app.bucket("homes")
        self.public = self.app.bucket("public")
        self.hidden = self.app.bucket("hidden")
        self.app.expose(self.pictures, "/pictures")
        self.app.expose(self.homes, "/homes", read=require(), write=require(), own_prefix=True)
        self.app.expose(self.public, "/public", read=anyone(), write=anyone())
        self.created: list[Event[ObjectInfo]] = []

        @self.app.on(self.pictures.created)
        async def notice(event: Event[ObjectInfo]) -> None:
            self.created.append(event)


@pytest.fixture
def studio() -> Studio:
    return Studio()


@pytest.fixture
async def h(harness: StartHarness, studio: Studio) -> Harness:
    return await harness(studio.app)


@pytest.fixture
def web(h: Harness, studio: Studio) -> httpx.AsyncClient:
    return h.client(studio.app)


def below(url: str, app: str = "studio") -> str:
    """The URL as the harness's client takes it, whose paths begin behind the app's name."""
    assert url.startswith(f"/{app}/")
    return url.removeprefix(f"/{app}")


async def test_a_url_lets_in_to_one_key_and_one_method(web: httpx.AsyncClient, studio: Studio) -> None:
    bucket = studio.pictures
    put = below(bucket.presign("PUT", "ann/a b.txt"))
    assert (await web.put(put, content=b"hello")).status_code == 201
    assert (await web.put(put, content=b"again")).status_code == 200
    get = below(bucket.presign("GET", "ann/a b.txt"))
    assert (await web.get(get)).content == b"again"
    assert (await web.get(get, headers={"Range": "bytes=1-2"})).content == b"ga"
    assert (await web.head(get)).headers["content-length"] == "5"
    for method, url in (("GET", put), ("DELETE", put), ("POST", put), ("PUT", get), ("DELETE", get), ("POST", get)):
        assert (await web.request(method, url, content=b"x")).status_code == 403, (method, url)
    assert await bucket.get("ann/a b.txt") == b"again"
    assert (await web.get(put.partition("?")[0])).status_code == 403
    assert (await web.get("/pictures")).status_code in (404, 405)


@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_no_changed_byte_lets_in(web: httpx.AsyncClient, studio: Studio, method: str) -> None:
    """Of the key and the query. Elsewhere in the path it is another endpoint's affair."""
    await studio.pictures.put("key", b"secret")
    await studio.public.put("key", b"public")
    url = below(studio.pictures.presign(method, "key"))  # type: ignore[arg-type]
    start = len("/pictures/")
    for place in range(start, len(url)):
        for changed in {chr(ord(url[place]) ^ 1), "0", "x"} - {url[place]}:
            tampered = url[:place] + changed + url[place + 1 :]
            exchange = Exchange(studio.app.http, method, tampered.partition("?")[0])
            exchange.scope["query_string"] = tampered.partition("?")[2].encode()
            await exchange.run(b"tampered")
            assert exchange.messages[0]["status"] == 403, tampered
    assert await studio.pictures.get("key") == b"secret"
    assert len((await studio.pictures.list()).items) == 1


async def test_it_ends_at_its_time(h: Harness, web: httpx.AsyncClient, studio: Studio) -> None:
    await studio.pictures.put("a", b"x")
    url = below(studio.pictures.presign("GET", "a", expires="10m"))
    await h.advance(minutes=9, seconds=59)
    assert (await web.get(url)).status_code == 200
    await h.advance(seconds=1)
    refused = await web.get(url)
    assert refused.status_code == 403
    assert refused.json()["detail"] == "the URL has expired"
    assert refused.headers["content-type"] == "application/problem+json"


async def test_it_is_of_no_use_for_another_bucket(web: httpx.AsyncClient, studio: Studio) -> None:
    await studio.homes.put("a", b"x")
    query = studio.pictures.presign("GET", "a").partition("?")[2]
    assert (await web.get(f"/homes/a?{query}")).status_code == 403
    assert (await web.get(f"/public/a?{query}")).status_code == 403


async def test_a_query_is_no_way_around_credentials_nor_credentials_around_it(h: Harness, studio: Studio) -> None:
    ann = h.client(studio.app, token={"sub": "ann"})
    await ann.put("/homes/a", content=b"x")
    assert (await ann.get("/homes/a?expires=1&signature=0")).status_code == 403
    assert (await h.client(studio.app).get("/homes/a")).status_code == 401
    url = below(studio.homes.presign("GET", "ann/a"))
    assert (await h.client(studio.app).get(url)).content == b"x"
    assert (await h.client(studio.app, token={"sub": "bob"}).get(url)).content == b"x"


async def test_the_size_is_bound(web: httpx.AsyncClient, studio: Studio) -> None:
    url = below(studio.pictures.presign("PUT", "a", size=5))
    assert (await web.put(url, content=b"123456")).status_code == 413
    exchange = Exchange(studio.app.http, "PUT", "/pictures/a")
    exchange.scope["query_string"] = url.partition("?")[2].encode()
    await exchange.run(b"123", b"456")
    assert exchange.messages[0]["status"] == 413
    assert await studio.pictures.head("a") is None
    assert (await web.put(url, content=b"12345")).status_code == 201


async def test_a_larger_size_does_not_widen_the_buckets(web: httpx.AsyncClient, studio: Studio) -> None:
    url = below(studio.pictures.presign("PUT", "a", size=99 * MIB))
    assert (await web.put(url, content=b"x" * (3 * MIB + 1))).status_code == 413
    form = below(studio.pictures.presign("POST", "a", size=99 * MIB))
    assert (await web.post(form, files={"file": ("a", b"x" * (3 * MIB + 1), "a/b")})).status_code == 413
    assert (await web.post(form, files={"file": ("a", b"x" * (3 * MIB), "a/b")})).status_code == 201


async def test_checksum_and_content_type_are_bound(web: httpx.AsyncClient, studio: Studio) -> None:
    url = below(studio.pictures.presign("PUT", "a", sha256=HELLO, content_type="text/plain"))
    plain = {"Content-Type": "text/plain"}
    assert (await web.put(url, content=b"hullo", headers=plain)).status_code == 422
    for other in ("text/html", "text/plain; charset=utf-8", "Text/Plain"):
        assert (await web.put(url, content=b"hello", headers={"Content-Type": other})).status_code == 403
    assert (await web.put(url, content=b"hello")).status_code == 403
    lies = {"Repr-Digest": "sha-256=:" + "A" * 43 + "=:"}
    assert (await web.put(url, content=b"hello", headers=plain | lies)).status_code == 403
    assert await studio.pictures.head("a") is None
    assert (await web.put(url, content=b"hello", headers=plain)).status_code == 201


async def test_metadata_are_never_signed_for(web: httpx.AsyncClient, studio: Studio) -> None:
    url = below(studio.pictures.presign("PUT", "a"))
    assert (await web.put(url, content=b"x", headers={"X-Meta-Owner": "me"})).status_code == 403
    assert await studio.pictures.head("a") is None


async def test_conditions_may_narrow_it(web: httpx.AsyncClient, studio: Studio) -> None:
    url = below(studio.pictures.presign("PUT", "a"))
    assert (await web.put(url, content=b"1", headers={"If-None-Match": "*"})).status_code == 201
    assert (await web.put(url, content=b"2", headers={"If-None-Match": "*"})).status_code == 412


@pytest.mark.parametrize("size", [1, 2 * MIB])
async def test_a_single_use_is_one_also_when_raced(
    web: httpx.AsyncClient, studio: Studio, h: Harness, size: int
) -> None:
    url = below(studio.pictures.presign("PUT", "a", once=True))
    contents = [bytes([n]) * size for n in range(5)]
    answers = await asyncio.gather(*(web.put(url, content=content) for content in contents))
    assert sorted(answer.status_code for answer in answers) == [201, 403, 403, 403, 403]
    winner = next(n for n, answer in enumerate(answers) if answer.status_code == 201)
    assert await studio.pictures.get("a") == contents[winner]
    late = await web.put(url, content=b"late")
    assert late.status_code == 403
    assert "one use" in late.json()["detail"]
    await h.run_until_idle()
    assert len(studio.created) == 1


async def test_a_single_use_is_one_also_for_forms_of_different_keys(web: httpx.AsyncClient, studio: Studio) -> None:
    """They meet nowhere but in the use of the URL."""
    url = below(studio.pictures.presign("POST", "p/", once=True))
    files = [{"file": (f"{n}", b"x" * MIB, "image/png")} for n in range(5)]
    answers = await asyncio.gather(*(web.post(url, files=file) for file in files))
    assert sorted(answer.status_code for answer in answers) == [201, 403, 403, 403, 403]
    assert {answer.json()["detail"] for answer in answers if answer.status_code == 403} == {
        "the URL was good for one use, and has been used"
    }
    assert len((await studio.pictures.list()).items) == 1


async def test_what_fails_uses_nothing_up(web: httpx.AsyncClient, studio: Studio) -> None:
    url = below(studio.pictures.presign("PUT", "a", once=True, sha256=HELLO))
    assert (await web.put(url, content=b"hullo")).status_code == 422
    assert (await web.put(url, content=b"hello", headers={"If-Match": '"x"'})).status_code == 412
    cut = Exchange(studio.app.http, "PUT", "/pictures/a")
    cut.scope["query_string"] = url.partition("?")[2].encode()
    await cut.run(b"hel", b"l", disconnect=True)
    assert (await web.put(url, content=b"hello")).status_code == 201


async def test_a_single_use_with_an_idempotency_key_can_be_repeated(web: httpx.AsyncClient, studio: Studio) -> None:
    """The answer that got lost comes again; a second effect does not."""
    url = below(studio.pictures.presign("PUT", "a", once=True))
    key = {"Idempotency-Key": "k"}
    first, again = [await web.put(url, content=b"x", headers=key) for _ in range(2)]
    assert first.status_code == again.status_code == 201
    assert again.headers["idempotent-replayed"] == "true"
    assert (await web.put(url, content=b"x", headers={"Idempotency-Key": "l"})).status_code == 403


async def test_a_single_use_of_a_download(web: httpx.AsyncClient, studio: Studio) -> None:
    await studio.pictures.put("a", b"x")
    url = below(studio.pictures.presign("GET", "a", once=True))
    assert (await web.head(url)).status_code == 200
    assert (await web.get(url)).content == b"x"
    assert (await web.get(url)).status_code == 403


async def test_a_single_use_survives_a_restart(h: Harness, studio: Studio) -> None:
    used, unused = (below(studio.pictures.presign("PUT", "a", once=True)) for _ in range(2))
    assert (await h.client(studio.app).put(used, content=b"1")).status_code == 201
    await h.restart()
    assert (await h.client(studio.app).put(used, content=b"2")).status_code == 403
    assert (await h.client(studio.app).put(unused, content=b"3")).status_code == 200


# Forms


def form(*parts: tuple[str, bytes], tail: bytes = b"", boundary: str = "b0und") -> tuple[bytes, dict[str, str]]:
    """A form of (head, content), and its header."""
    pieces = [f"--{boundary}\r\n{head}\r\n\r\n".encode() + content + b"\r\n" for head, content in parts]
    end = f"--{boundary}--\r\n".encode()
    return b"".join(pieces) + end + tail, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def file(name: str, content_type: str = "image/png") -> str:
    return f'Content-Disposition: form-data; name="file"; filename="{name}"\r\nContent-Type: {content_type}'


def field(name: str) -> str:
    return f'Content-Disposition: form-data; name="{name}"'


async def test_a_browsers_form_uploads_below_a_prefix(web: httpx.AsyncClient, studio: Studio) -> None:
    url = below(studio.pictures.presign("POST", "ann/"))
    done = await web.post(url, files={"file": ("C:\\Users\\me/my cat.png", b"meow", "image/png")})
    assert done.status_code == 201
    assert done.json()["key"] == "ann/my cat.png"
    assert done.headers["location"] == "/pictures/ann%2Fmy%20cat.png"
    named = await web.post(url, data={"key": "ann/2026/cat.png"}, files={"file": ("x.png", b"purr", "image/png")})
    assert named.json()["key"] == "ann/2026/cat.png"
    assert named.json()["content_type"] == "image/png"
    assert await studio.pictures.get("ann/2026/cat.png") == b"purr"


@pytest.mark.parametrize("key", ["bob/a", "ann", "ann/", "an", "/ann/a", "a"])
async def test_a_form_stays_below_its_prefix(web: httpx.AsyncClient, studio: Studio, key: str) -> None:
    url = below(studio.pictures.presign("POST", "ann/"))
    refused = await web.post(url, data={"key": key}, files={"file": ("x", b"x", "image/png")})
    assert refused.status_code == 403
    assert (await studio.pictures.list()).items == []


async def test_a_form_of_one_key(web: httpx.AsyncClient, studio: Studio) -> None:
    url = below(studio.pictures.presign("POST", "ann/me.png", content_type="image/png", size=4, once=True))
    png = {"file": ("whatever.exe", b"face", "image/png")}
    assert (await web.post(url, data={"key": "ann/other"}, files=png)).status_code == 403
    assert (await web.post(url, files={"file": ("x", b"faces", "image/png")})).status_code == 413
    assert (await web.post(url, files={"file": ("x", b"face", "text/html")})).status_code == 403
    assert (await web.post(url, files=png)).json()["key"] == "ann/me.png"
    assert (await web.post(url, files=png)).status_code == 403


@pytest.mark.parametrize("cut", range(1, 12))
async def test_a_form_in_pieces_of_any_size(web: httpx.AsyncClient, studio: Studio, cut: int) -> None:
    url = below(studio.pictures.presign("POST", "p/"))
    content = b"\r\n--b0un\r\n--b0und\r-\n" * 3 + b"\r\n"
    body, headers = form((field("key"), b"p/k"), (file("f"), content))
    exchange = Exchange(studio.app.http, "POST", "/pictures/p%2F", headers)
    exchange.scope["path"] = "/pictures/p/"
    exchange.scope["query_string"] = url.partition("?")[2].encode()
    await exchange.run(*(body[at : at + cut] for at in range(0, len(body), cut)))
    assert exchange.messages[0]["status"] == 201
    assert await studio.pictures.get("p/k") == content


BAD_FORMS: dict[str, tuple[bytes, dict[str, str]]] = {
    "no file": form((field("key"), b"p/a")),
    "a file that is none": form((field("file"), b"x")),
    "the file is not last": form((file("a"), b"x"), (field("key"), b"p/b")),
    "two files": form((file("a"), b"x"), (file("b"), b"y")),
    "an unknown field": form((field("acl"), b"public"), (file("a"), b"x")),
    "a field twice": form((field("key"), b"p/a"), (field("key"), b"p/b"), (file("a"), b"x")),
    "no name and no key": form((file(""), b"x")),
    "a name that is a folder": form((file("a/"), b"x")),
    "no end": (form((file("a"), b"x"))[0][:-10], form()[1]),
    "cut behind the file": (form((file("a"), b"x"))[0][:-4] + b"\r\n", form()[1]),
    "cut in the file": (form((file("a"), b"x" * 100))[0][:120], form()[1]),
    "empty": (b"", form()[1]),
    "rubbish": (b"x" * 1000, form()[1]),
    "another boundary": (form((file("a"), b"x"))[0], {"Content-Type": "multipart/form-data; boundary=other"}),
    "a key that is no text": form((field("key"), b"p/\xff"), (file("a"), b"x")),
    "a key that is too long": form((field("key"), b"p/" + b"x" * 1023), (file("a"), b"x")),
    "a content type that is none": form((file("a", "x"), b"x")),
    "an endless field": form((field("key"), b"x" * 20_000), (file("a"), b"x")),
    "an endless header": form((field("key") + "\r\nX: " + "x" * 20_000, b"p/a"), (file("a"), b"x")),
}


@pytest.mark.parametrize("name", BAD_FORMS)
async def test_a_malformed_form_stores_nothing(web: httpx.AsyncClient, studio: Studio, name: str) -> None:
    body, headers = BAD_FORMS[name]
    url = below(studio.pictures.presign("POST", "p/"))
    refused = await web.post(url, content=body, headers=headers)
    assert refused.status_code in (413, 422), refused.text
    assert refused.headers["content-type"] == "application/problem+json"
    assert (await studio.pictures.list()).items == []


async def test_other_bodies_than_forms_are_refused(web: httpx.AsyncClient, studio: Studio) -> None:
    url = below(studio.pictures.presign("POST", "p/"))
    for content_type in ("", "application/json", "multipart/form-data", "multipart/mixed; boundary=b0und"):
        refused = await web.post(url, content=b"x", headers={"Content-Type": content_type})
        assert refused.status_code in (400, 415), content_type


# Signing


async def test_what_cannot_be_signed(h: Harness, studio: Studio) -> None:
    bucket: Bucket = studio.pictures
    wrong: list[dict[str, Any]] = [
        {"method": "DELETE"},
        {"key": ""},
        {"key": "x" * 1025},
        {"expires": 0},
        {"expires": "8d"},
        {"size": -1},
        {"sha256": "x"},
        {"method": "GET", "size": 5},
    ]
    for changes in wrong:
        options: dict[str, Any] = {"method": "PUT", "key": "a", **changes}
        with pytest.raises(InvalidValue):
            bucket.presign(options.pop("method"), options.pop("key"), **options)
    with pytest.raises(DeclarationError, match="not exposed"):
        studio.hidden.presign("GET", "a")


async def test_the_url_is_below_the_path_and_has_all_in_it(h: Harness, studio: Studio) -> None:
    url = urlsplit(studio.pictures.presign("PUT", "ä/b?&#", once=True))
    assert (url.scheme, url.netloc, url.fragment) == ("", "", "")
    assert url.path == f"/studio/pictures/{quote('ä/b?&#', safe='')}"
    h.supervisor.presigner.public_url = "https://files.example"
    assert studio.pictures.presign("GET", "a").startswith("https://files.example/studio/pictures/a?expires=")


async def test_without_the_key_no_url_is_valid(h: Harness, studio: Studio, web: httpx.AsyncClient) -> None:
    """Checking makes no key, and tells nothing of where it would be."""
    refused = await web.get("/pictures/a?expires=99999999999999&signature=" + "0" * 64)
    assert refused.status_code == 403
    assert "secret" not in refused.text
    assert h._folder is not None
    assert not (h._folder / "secret.key").exists()
