"""`owner=`: each caller has its own rows only, and nothing tells whether others have any."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pydantic import BaseModel, field_validator

from headwater import App, Auth, Caller, Change, require
from headwater.pages import write_cursor
from headwater.pytest_plugin import StartHarness
from headwater.testing import Harness

CHANGING = ("request_id",)


class Note(BaseModel):
    id: str
    user_id: str
    text: str = ""


class Moody(Note):
    @field_validator("user_id", "id")
    @classmethod
    def lower(cls, value: str) -> str:
        return value.lower()


def notebook() -> App:
    app = App("notebook")
    auth: dict[str, Any] = {"read": require("notes"), "write": require("notes"), "owner": "user_id"}
    own = app.table("own", Note, key=("user_id", "id"), indexes={"by-text": ("user_id", "text"), "all": "text"})
    shared = app.table("shared", Note, key="id", indexes={"mine": ("user_id", "text"), "all": "text"})
    profile = app.table("profile", Note, key="user_id")
    moody = app.table("moody", Moody, key=("user_id", "id"))
    app.expose(own, "/own", **auth)
    app.expose(shared, "/shared", **auth)
    app.expose(profile, "/profile", **auth)
    app.expose(moody, "/moody", **auth)
    return app


@pytest.fixture
async def h(harness: StartHarness) -> Harness:
    return await harness(notebook())


def caller(h: Harness, subject: str) -> httpx.AsyncClient:
    return h.client(h.apps[0], token={"sub": subject, "roles": ["notes"]})


async def make(client: httpx.AsyncClient, path: str, **fields: Any) -> httpx.Response:
    answer = await client.post(path, json=fields)
    assert answer.status_code == 201, answer.text
    return answer


def shape(answer: httpx.Response) -> tuple[Any, ...]:
    """All of an answer but what differs between any two requests."""
    body = answer.json() if answer.content else None
    if isinstance(body, dict):
        body = {name: value for name, value in body.items() if name not in CHANGING}
    headers = {name: value for name, value in answer.headers.items() if name != "headwater-trace"}
    return answer.status_code, headers, body


def requests_on(version: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every verb, with and without conditions, with bodies that fit and that don't."""
    conditions: list[dict[str, str]] = [
        {},
        {"if-match": version},
        {"if-match": "*"},
        {"if-match": '"else"'},
        {"if-none-match": version},
        {"if-none-match": "*"},
    ]
    bodies: list[dict[str, Any]] = [{"text": "x"}, {"text": 1}, {"user_id": "ann"}, {"user_id": "bob"}, {}]
    for verb, headers in itertools.product(("GET", "HEAD", "DELETE"), conditions):
        yield verb, {"headers": headers}
    for verb, headers, body in itertools.product(("PUT", "PATCH"), conditions, bodies):
        yield verb, {"headers": headers, "json": body}
    yield "GET", {"params": {"fields": "text"}}
    yield "PUT", {"content": b"{", "headers": {"content-type": "application/json"}}
    yield "PATCH", {"content": b"", "headers": {"content-type": "application/json"}}
    yield "PUT", {"content": b"{}", "headers": {"content-type": "text/plain"}}


async def test_anothers_row_is_answered_like_a_missing_one_in_every_verb(h: Harness) -> None:
    ann, bob = caller(h, "ann"), caller(h, "bob")
    row = await make(ann, "/shared", text="secret")
    id = row.json()["id"]
    missing = id[:-1] + ("0" if id[-1] != "0" else "1")
    compared = 0
    for verb, arguments in requests_on(row.headers["etag"]):
        true = await bob.request(verb, f"/shared/{id}", **arguments)
        absent = await bob.request(verb, f"/shared/{missing}", **arguments)
        assert shape(true) == shape(absent), (verb, arguments)
        assert true.status_code in (404, 415, 422), (verb, arguments, true.text)
        compared += 1
    assert compared > 80
    assert (await ann.get(f"/shared/{id}")).content == row.content


async def test_key_spaces_of_owners_are_apart(h: Harness) -> None:
    ann, bob = caller(h, "ann"), caller(h, "bob")
    first = await make(ann, "/own", id="same", text="of ann")
    assert (await bob.get("/own/same")).status_code == 404
    assert (await bob.put("/own/same", json={"text": "x"}, headers={"if-match": "*"})).status_code == 412
    second = await make(bob, "/own", id="same", text="of bob")
    assert second.json()["user_id"] == "bob"
    assert (await bob.delete("/own/same")).status_code == 204
    assert (await ann.get("/own/same")).content == first.content
    assert (await ann.post("/own", json={"id": "same"})).status_code == 409


@pytest.mark.parametrize("path", ["/own", "/shared"])
async def test_lists_filters_and_cursors_show_own_rows_only(h: Harness, path: str) -> None:
    ann, bob, eve = caller(h, "ann"), caller(h, "bob"), caller(h, "eve")
    for n in range(5):
        await make(ann, path, text=f"ann {n}")
        await make(bob, path, text=f"bob {n}")
    seen: list[str] = []
    cursor = None
    for _ in range(3):
        page = (await bob.get(path, params={"limit": "2", **({"cursor": cursor} if cursor else {})})).json()
        cursor = page["cursor"]
        seen += [row["user_id"] for row in page["items"]]
    assert (seen, cursor) == (["bob"] * 5, None)
    assert (await eve.get(path)).json() == {"items": [], "cursor": None}
    for query in ("text.prefix=ann", "text.from=ann&text.to=ann 9", "text=ann 1"):
        assert (await bob.get(f"{path}?{query}")).json() == {"items": [], "cursor": None}
    for query in ("user_id=ann", "user_id=bob", "text.prefix=bob&user_id=ann"):
        assert (await bob.get(f"{path}?{query}")).status_code == 422


@pytest.mark.parametrize("path", ["/own", "/shared"])
async def test_anothers_cursor_opens_nothing(h: Harness, path: str) -> None:
    ann, bob = caller(h, "ann"), caller(h, "bob")
    ids = [(await make(ann, path, text=f"{n}")).json()["id"] for n in range(3)]
    own = (await make(bob, path, text="1")).json()["id"]
    stolen = (await ann.get(path, params={"limit": "1"})).json()["cursor"]
    assert stolen
    parts: list[tuple[Any, ...]] = [("ann", ids[0]), ("ann", "", ids[0], ""), ("", ""), ("", "", "", "")]
    for cursor in (stolen, *(write_cursor(part) for part in parts)):
        for query in ({}, {"text.from": "0"}, {"order": "desc"}):
            answer = await bob.get(path, params={"cursor": str(cursor), **query})
            assert answer.status_code == 422, cursor
    for part in [("bob", ""), ("bob", "", ids[0], ""), ("bob", "0", "", "")]:
        answer = await bob.get(path, params={"cursor": str(write_cursor(part))})
        assert answer.status_code in (200, 422)
        assert {row["id"] for row in answer.json().get("items", [])} <= {own}


async def test_ids_cannot_be_probed_by_creating(h: Harness) -> None:
    ann, bob = caller(h, "ann"), caller(h, "bob")
    id = (await make(ann, "/shared")).json()["id"]
    answers = [await bob.post("/shared", json={"id": given}) for given in (id, "free")]
    assert shape(answers[0]) == shape(answers[1])
    assert answers[0].status_code == 422
    answers = [await bob.put(f"/shared/{given}", json={"text": "x"}) for given in (id, "free")]
    assert [answer.status_code for answer in answers] == [404, 404]


@pytest.mark.parametrize("path", ["/own", "/shared"])
async def test_the_owner_is_filled_in_and_never_changes(h: Harness, path: str) -> None:
    ann = caller(h, "ann")
    row = await make(ann, path, text="a")
    place = row.headers["location"]
    assert row.json()["user_id"] == "ann"
    assert (await ann.put(place, json={"text": "b"})).json()["user_id"] == "ann"
    assert (await ann.put(place, json={"text": "b", "user_id": "ann"})).status_code == 200
    for verb in ("PUT", "PATCH"):
        for other in ("bob", "", None, 1):
            answer = await ann.request(verb, place, json={"text": "c", "user_id": other})
            assert answer.status_code == 422, (verb, other)
            assert answer.json()["errors"][0]["loc"] == ["body", "user_id"]
    assert (await ann.post(path, json={"user_id": "bob"})).status_code == 422
    assert (await ann.get(place)).json()["text"] == "b"
    assert (await caller(h, "bob").get(path)).json()["items"] == []


async def test_a_model_cannot_move_a_row_to_another(h: Harness) -> None:
    upper = caller(h, "ANN")
    for answer in (
        await upper.post("/moody", json={"id": "x"}),
        await upper.put("/moody/x", json={}),
        await caller(h, "ann").put("/moody/X", json={}),
    ):
        assert answer.status_code == 422
    assert (await caller(h, "ann").get("/moody")).json()["items"] == []


async def test_one_row_for_each_caller(h: Harness) -> None:
    ann, bob = caller(h, "ann"), caller(h, "bob")
    row = await make(ann, "/profile", id="1")
    assert row.headers["location"] == "/profile/ann"
    for verb in ("GET", "PUT", "PATCH", "DELETE"):
        body: dict[str, Any] = {} if verb in ("GET", "DELETE") else {"json": {"id": "2"}}
        for other in ("ann", "nobody"):
            assert (await bob.request(verb, f"/profile/{other}", **body)).status_code == 404
    assert (await bob.put("/profile/bob", json={"id": "2"})).status_code == 201
    assert [row["user_id"] for row in (await ann.get("/profile")).json()["items"]] == ["ann"]


async def test_reading_and_writing_need_credentials_and_roles(h: Harness) -> None:
    nobody = h.client(h.apps[0])
    guest = h.client(h.apps[0], token={"sub": "ann", "roles": ["else"]})
    for client, status in ((nobody, 401), (guest, 403)):
        for verb, path in (("GET", "/own"), ("GET", "/own/a"), ("POST", "/own"), ("DELETE", "/own/a")):
            assert (await client.request(verb, path)).status_code == status


async def test_changes_carry_the_caller_through_re_runs(harness: StartHarness) -> None:
    app = notebook()
    callers: list[str] = []

    @app.on(app.tables["notebook/own"])
    async def watch(change: Change[Note]) -> None:
        assert change.caller is not None
        callers.append(change.caller.subject)

    h = await harness(app)
    ann = caller(h, "ann")
    place = (await make(ann, "/own", text="0")).headers["location"]
    answers = await asyncio.gather(*(ann.patch(place, json={"text": str(n)}) for n in range(1, 5)))
    assert [answer.status_code for answer in answers] == [200] * 4
    await h.run_until_idle()
    assert callers == ["ann"] * 5


class Nameless(Auth):
    """Callers that are authenticated and have no subject."""

    async def admit(self, scope: Any) -> Caller:
        return Caller(subject="")


@pytest.mark.parametrize("key", [("user_id", "id"), "id"])
async def test_an_empty_subject_owns_nothing(harness: StartHarness, key: str | tuple[str, str]) -> None:
    app = App("loose")
    notes = app.table("notes", Note, key=key, indexes={"mine": "user_id"})
    nameless = Nameless(frozenset(), frozenset(), "", open=False)
    app.expose(notes, "/notes", read=nameless, write=nameless, owner="user_id")
    client = (await harness(app)).client(app)
    if key == "id":
        await notes.put(Note(id="a", user_id=""))
    assert (await client.get("/notes")).json() == {"items": [], "cursor": None}
    for verb in ("GET", "PUT", "PATCH", "DELETE"):
        body: dict[str, Any] = {"json": {}} if verb in ("PUT", "PATCH") else {}
        assert (await client.request(verb, "/notes/a", **body)).status_code == 404
    assert (await client.post("/notes", json={"text": "x"})).status_code == 403
