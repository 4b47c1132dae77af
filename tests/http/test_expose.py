"""A table served as REST resources: each verb, its conditions and what it refuses."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

import httpx
import msgspec
import pytest
from pydantic import BaseModel, Field

from headwater import App, Inserted, Modified, Removed, anyone
from headwater.app import App as AnyApp
from headwater.http.expose import accepts_gzip
from headwater.pytest_plugin import StartHarness
from headwater.testing import Harness
from tests.http.raw import Exchange


class Book(BaseModel):
    id: str
    title: str
    shelf: str = ""
    year: int = 0
    tags: list[str] = Field(default_factory=list)
    more: dict[str, Any] = Field(default_factory=dict)


class Seat(msgspec.Struct):
    hall: str
    number: int
    name: str = ""


def library() -> App:
    app = App("library")
    indexes = {"by-shelf": ("shelf", "title"), "by-year": ("shelf", "year")}
    books = app.table("books", Book, key="id", indexes=indexes)
    seats = app.table("seats", Seat, key=("hall", "number"))
    app.expose(books, "/books", read=anyone(), write=anyone())
    app.expose(seats, "/seats", read=anyone(), write=anyone())
    return app


@pytest.fixture
async def h(harness: StartHarness) -> Harness:
    return await harness(library())


@pytest.fixture
def client(h: Harness) -> httpx.AsyncClient:
    return h.client(h.apps[0])


async def put(client: httpx.AsyncClient, id: str, **fields: Any) -> str:
    answer = await client.put(f"/books/{id}", json={"title": id, **fields})
    assert answer.status_code in (200, 201), answer.text
    return answer.headers["etag"]


def errors_of(answer: httpx.Response) -> list[Any]:
    assert answer.headers["content-type"] == "application/problem+json"
    return [error["loc"] for error in answer.json()["errors"]]


async def test_a_created_row_has_an_id_a_location_and_a_version(client: httpx.AsyncClient) -> None:
    made = await client.post("/books", json={"title": "Emma"})
    assert made.status_code == 201
    assert made.headers["location"] == f"/books/{made.json()['id']}"
    read = await client.get(made.headers["location"])
    assert read.status_code == 200
    assert read.json() == made.json() == {**Book(id=made.json()["id"], title="Emma").model_dump()}
    assert read.headers["etag"] == made.headers["etag"]
    assert read.headers["vary"] == "accept-encoding"


async def test_creating_a_present_row_is_409_and_changes_nothing(client: httpx.AsyncClient) -> None:
    await put(client, "a", year=1)
    answer = await client.post("/books", json={"id": "a", "title": "other"})
    assert (answer.status_code, answer.json()["error"]) == (409, "AlreadyExists")
    assert (await client.get("/books/a")).json()["title"] == "a"


async def test_of_concurrent_creations_one_wins(client: httpx.AsyncClient) -> None:
    body = {"id": "same", "title": "t"}
    answers = await asyncio.gather(*(client.post("/books", json=body) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 7


async def test_put_creates_then_replaces_the_whole_row(client: httpx.AsyncClient) -> None:
    first = await client.put("/books/a", json={"id": "a", "title": "A", "year": 3})
    second = await client.put("/books/a", json={"title": "B"})
    assert (first.status_code, second.status_code) == (201, 200)
    assert (second.json()["title"], second.json()["year"]) == ("B", 0)
    assert first.headers["etag"] != second.headers["etag"]


@pytest.mark.parametrize("verb", ["put", "patch", "delete"])
async def test_if_match_refuses_a_version_that_has_passed(client: httpx.AsyncClient, verb: str) -> None:
    old = await put(client, "a")
    new = await put(client, "a", year=1)
    body: dict[str, Any] = {} if verb == "delete" else {"json": {"title": "changed"}}
    for stale in (old, f"W/{new}", '"x", "y"', ""):
        answer = await client.request(verb, "/books/a", headers={"if-match": stale}, **body)
        assert answer.status_code == 412, stale
    assert (await client.get("/books/a")).headers["etag"] == new
    answer = await client.request(verb, "/books/a", headers={"if-match": f'"x", {new}'}, **body)
    assert answer.status_code in (200, 204)


async def test_put_with_if_none_match_creates_only(client: httpx.AsyncClient) -> None:
    once = {"if-none-match": "*"}
    assert (await client.put("/books/a", json={"title": "1"}, headers=once)).status_code == 201
    assert (await client.put("/books/a", json={"title": "2"}, headers=once)).status_code == 412
    assert (await client.get("/books/a")).json()["title"] == "1"
    absent = await client.put("/books/b", json={"title": "1"}, headers={"if-match": "*"})
    assert absent.status_code == 412


async def test_if_none_match_spares_the_body(client: httpx.AsyncClient) -> None:
    version = await put(client, "a")
    for known in (version, f'"x", W/{version}', "*"):
        answer = await client.get("/books/a", headers={"if-none-match": known})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", version)
    assert (await client.get("/books/a", headers={"if-none-match": '"x"'})).status_code == 200


async def test_patch_merges_and_validates(client: httpx.AsyncClient) -> None:
    await put(client, "a", year=1, more={"x": {"y": 1, "z": 2}})
    merge = {"content-type": "application/merge-patch+json"}
    patch = msgspec.json.encode({"year": 2, "more": {"x": {"y": None}, "n": [None]}, "tags": None})
    answer = await client.patch("/books/a", content=patch, headers=merge)
    assert answer.status_code == 200
    assert answer.json() == Book(id="a", title="a", year=2, more={"x": {"z": 2}, "n": [None]}).model_dump()
    refused = await client.patch("/books/a", json={"title": None, "year": "x"})
    assert refused.status_code == 422
    assert errors_of(refused) == [["body", "title"], ["body", "year"]]
    for key in ({"id": "b"}, {"id": None}, {"id": 1}):
        answer = await client.patch("/books/a", json=key)
        assert (answer.status_code, errors_of(answer)) == (422, [["body", "id"]])
    assert (await client.get("/books/a")).json()["year"] == 2


async def test_deletion_and_absence(client: httpx.AsyncClient) -> None:
    await put(client, "a")
    assert (await client.delete("/books/a")).status_code == 204
    answers = [
        await client.get("/books/a"),
        await client.delete("/books/a"),
        await client.delete("/books/a", headers={"if-match": "*"}),
        await client.patch("/books/a", json={}),
    ]
    assert [answer.status_code for answer in answers] == [404] * 4
    assert {answer.json()["error"] for answer in answers} == {"UnknownResource"}


@pytest.mark.parametrize(
    ("content", "media", "status", "place"),
    [
        (b'{"title": 1}', "application/json", 422, ["body", "title"]),
        (b'{"id": "", "title": "x"}', "application/json", 422, None),
        (b"[]", "application/json", 422, ["body"]),
        (b'{"title":', "application/json; charset=utf-8", 422, None),
        (b"", "application/json", 422, ["body"]),
        (b"  ", "", 422, ["body"]),
        (b"[" * 50, "application/json", 422, None),
        (b'{"title": "x"}', "text/plain", 415, None),
        (b'{"title": "x"}', "application/merge-patch+json", 415, None),
        (b'{"title": "x", "year": 9223372036854775808}', "application/json", 422, None),
        (b'{"title": "x", "year": 99999999999999999999999999}', "application/json", 422, None),
        (b'{"title": "\\ud800"}', "application/json", 422, None),
        (b'{"title": "' + b"x" * 410_000 + b'"}', "application/json", 413, None),
    ],
)
async def test_wrong_bodies(
    client: httpx.AsyncClient, content: bytes, media: str, status: int, place: list[str] | None
) -> None:
    answer = await client.post("/books", content=content, headers={"content-type": media} if media else {})
    assert answer.status_code == status, answer.text
    if place is not None:
        assert errors_of(answer) == [place]
    assert (await client.get("/books")).json() == {"items": [], "cursor": None}


async def test_keys_may_hold_any_character(client: httpx.AsyncClient) -> None:
    for id, encoded in {
        "a/b%": "a%2Fb%25",
        "é ü": "%C3%A9%20%C3%BC",
        "?#": "%3F%23",
        "a%2Fb": "a%252Fb",
        "{id}": "%7Bid%7D",
    }.items():
        made = await client.post("/books", json={"id": id, "title": "x"})
        assert made.headers["location"] == f"/books/{encoded}"
        assert (await client.get(made.headers["location"])).json()["id"] == id
        assert (await client.delete(made.headers["location"])).status_code == 204
    for path in ("/books/a/b", "/books/%ff"):
        assert (await client.put(path, json={"title": "x"})).status_code == 404


async def test_composite_keys_with_integers(client: httpx.AsyncClient) -> None:
    for number in (-1, 9, 10):
        assert (await client.put(f"/seats/main%2F1/{number}", json={"name": "x"})).status_code == 201
    assert (await client.get("/seats/main%2F1/10")).json() == {"hall": "main/1", "name": "x", "number": 10}
    page = (await client.get("/seats", params={"hall": "main/1", "number.from": "9"})).json()
    assert [row["number"] for row in page["items"]] == [9, 10]
    for path in ("/seats/main/x", "/seats/main/01", "/seats/main/9223372036854775808"):
        answer = await client.get(path)
        assert (answer.status_code, errors_of(answer)) == (422, [["path", "number"]])
    answer = await client.put("/seats/main/1", json={"number": True})
    assert errors_of(answer) == [["body", "number"]]
    made = await client.post("/seats", json={"hall": "h", "number": 3})
    assert made.headers["location"] == "/seats/h/3"
    assert (await client.post("/seats", json={"hall": "h"})).status_code == 422


async def test_methods_that_are_not_served(client: httpx.AsyncClient) -> None:
    answer = await client.put("/books", json={})
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST")
    answer = await client.post("/books/a", json={})
    assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, GET, HEAD, PATCH, PUT")
    assert (await client.options("/books")).status_code == 405


async def test_head_is_get_without_the_body(client: httpx.AsyncClient) -> None:
    await put(client, "a")
    for path in ("/books/a", "/books"):
        get, head = await client.get(path), await client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        for name in ("content-length", "content-type", "vary"):
            assert head.headers[name] == get.headers[name]


async def test_fields_select(client: httpx.AsyncClient) -> None:
    await put(client, "a", year=1)
    assert (await client.get("/books/a?fields=year,id,year")).json() == {"id": "a", "year": 1}
    assert (await client.get("/books?fields=title")).json()["items"] == [{"title": "a"}]
    for wrong in ("nope", "id,", "", "more.x"):
        answer = await client.get("/books/a", params={"fields": wrong})
        assert errors_of(answer) == [["query", "fields"]], wrong


async def test_lists_filter_by_the_key_and_by_indexes(client: httpx.AsyncClient) -> None:
    for n, title in enumerate(["ant", "bee", "bear", "cow"]):
        await put(client, str(n), shelf="x", title=title, year=2000 + n)
    await put(client, "9", shelf="y", title="bee", year=2001)

    async def ids(**parameters: str) -> str:
        answer = await client.get("/books", params={name.replace("_", "."): v for name, v in parameters.items()})
        assert answer.status_code == 200, answer.text
        return "".join(row["id"] for row in answer.json()["items"])

    assert await ids() == "01239"
    assert await ids(order="desc", limit="2") == "93"
    assert await ids(id="2") == "2"
    assert await ids(shelf="x") == "0213"
    assert await ids(shelf="y", title="bee") == "9"
    assert await ids(shelf="x", title_prefix="be") == "21"
    assert await ids(shelf="x", title_from="bear", title_to="bee") == "21"
    assert await ids(shelf="x", year_from="2002") == "23"
    assert await ids(shelf="x", year="2001") == "1"
    assert await ids(shelf="x", year_to="2001", order="desc") == "10"
    assert await ids(shelf="none") == ""
    assert await ids(id_prefix="1") == "1"
    assert await ids(id_from="1", id_to="3", order="desc") == "321"
    assert await ids(shelf_prefix="x") == await ids(shelf="x")
    assert await ids(shelf_from="x") == "02139"


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("zz=1", ["zz"]),
        ("shelf=a&shelf=b", ["shelf"]),
        ("title=a", ["title"]),
        ("shelf=a&title=x&year=1", ["shelf", "title", "year"]),
        ("id=1&shelf=a", ["id", "shelf"]),
        ("id=1&id.prefix=1", ["id", "id.prefix"]),
        ("shelf.prefix=a&title=x", ["shelf.prefix", "title"]),
        ("shelf=a&title=x&title.from=y", ["title.from"]),
        ("shelf=a&year.prefix=2", ["year.prefix"]),
        ("shelf=a&year=x", ["year"]),
        ("shelf=a&year=1.0", ["year"]),
        ("shelf=a&year.from=99999999999999999999", ["year.from"]),
        ("limit=0", ["limit"]),
        ("limit=501", ["limit"]),
        ("limit=many", ["limit"]),
        ("order=up", ["order"]),
        ("cursor=x", ["cursor"]),
        ("cursor=", ["cursor"]),
        ("cursor=W10", ["cursor"]),
    ],
)
async def test_parameters_that_do_not_fit_are_named(client: httpx.AsyncClient, query: str, names: list[str]) -> None:
    answer = await client.get(f"/books?{query}")
    assert answer.status_code == 422
    assert errors_of(answer) == [["query", name] for name in names]


async def test_a_cursor_belongs_to_its_list(client: httpx.AsyncClient) -> None:
    for n in range(3):
        await put(client, str(n), shelf=f"s{n % 2}")
    cursor = (await client.get("/books?limit=1&shelf=s0")).json()["cursor"]
    assert cursor
    rest = (await client.get(f"/books?limit=1&shelf=s0&cursor={cursor}")).json()
    assert [row["id"] for row in rest["items"]] == ["2"]
    assert rest["cursor"] is None
    for other in ("/books?", "/books?shelf=s1&"):
        assert errors_of(await client.get(f"{other}cursor={cursor}")) == [["query", "cursor"]]
    crafted = msgspec.json.encode(["s0", 2**70, "0", ""])
    answer = await client.get("/books", params={"shelf": "s0", "cursor": encoded(crafted)})
    assert errors_of(answer) == [["query", "cursor"]]


def encoded(place: bytes) -> str:
    import base64

    return base64.urlsafe_b64encode(place).decode().rstrip("=")


async def test_query_strings_that_are_no_text(client: httpx.AsyncClient) -> None:
    for query in ("shelf=%ff", "&".join(f"a{n}=1" for n in range(101))):
        assert errors_of(await client.get(f"/books?{query}")) == [["query"]]


async def test_large_answers_are_compressed_when_accepted(h: Harness) -> None:
    app = h.apps[0]
    for id, size in {"small": 100, "large": 5_000, "huge": 200_000}.items():
        await put(h.client(app), id, title="x" * size)
    for id, accepted, coding in [
        ("large", "gzip", "gzip"),
        ("huge", "br, gzip;q=0.5", "gzip"),
        ("large", "gzip;q=0", None),
        ("large", "", None),
        ("small", "gzip", None),
    ]:
        exchange = await Exchange(app.http, "GET", f"/books/{id}", headers={"accept-encoding": accepted}).run()
        headers = dict(exchange.messages[0]["headers"])
        assert headers.get(b"content-encoding", b"").decode() == (coding or "")
        assert headers[b"vary"] == b"accept-encoding"
        body = gzip.decompress(exchange.body) if coding else exchange.body
        assert msgspec.json.decode(body)["id"] == id
        assert int(headers[b"content-length"]) == len(exchange.body)


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        ("gzip", True),
        ("GZIP ; q=0.001", True),
        ("*", True),
        ("identity, gzip;q=0.5", False),
        ("gzip;q=0, *", False),
        ("*;q=0", False),
        ("br", False),
        ("gzip;q=x", False),
        ("gzip;q=nan", False),
        ("", False),
    ],
)
def test_weights_of_codings(header: str, accepted: bool) -> None:
    assert accepts_gzip(header) is accepted


async def test_written_endpoints_win_and_change_events_are_made(harness: StartHarness) -> None:
    app = library()
    seen: list[str] = []

    @app.http.get("/books/special")
    async def special() -> str:
        return "by hand"

    @app.on(app.tables["library/books"])
    async def watch(change: Inserted[Book] | Modified[Book] | Removed[Book]) -> None:
        seen.append(change.type)

    h = await harness(app)
    client = h.client(app)
    assert (await client.get("/books/special")).json() == "by hand"
    await put(client, "a")
    await put(client, "a", year=1)
    await client.delete("/books/a")
    await h.run_until_idle()
    assert seen == ["inserted", "modified", "removed"]


async def test_a_write_with_an_idempotency_key_takes_effect_once(client: httpx.AsyncClient) -> None:
    key = {"idempotency-key": "k"}
    first = await client.post("/books", json={"title": "x"}, headers=key)
    again = await client.post("/books", json={"title": "x"}, headers=key)
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["location"] == first.headers["location"]
    assert len((await client.get("/books")).json()["items"]) == 1


async def test_rows_of_an_older_model_are_upgraded(harness: StartHarness, tmp_path: Any) -> None:
    old = App("library")
    books = old.table("books", dict, key="id")
    old.expose(books, "/books", read=anyone(), write=anyone())
    async with Harness(old, store=tmp_path) as h:
        await h.client(old).put("/books/a", json={"name": "A"})
    new: AnyApp[None] = App("library")

    def rename(row: dict[str, Any]) -> dict[str, Any]:
        return {"id": row["id"], "title": row["name"]}

    upgraded = new.table("books", Book, key="id", upgrade={1: rename})
    new.expose(upgraded, "/books", read=anyone(), write=anyone())
    async with Harness(new, store=tmp_path) as h:
        client = h.client(new)
        assert (await client.get("/books")).json()["items"] == [{"id": "a", "title": "A"}]
        assert (await client.patch("/books/a", json={"year": 3})).json()["title"] == "A"


async def test_a_restart_serves_the_same_routes_once(h: Harness) -> None:
    app = h.apps[0]
    before = len(app.http.router.routes)
    await h.restart()
    assert len(app.http.router.routes) == before
    assert (await h.client(app).get("/books")).status_code == 200
