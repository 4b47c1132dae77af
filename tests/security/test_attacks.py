"""Tricks with requests that no table of limits or tokens has: each is answered as if it were not tried."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Any

import httpx
import pytest
from fastapi import WebSocket

from headwater import App, Caller, require
from headwater.config import Config
from headwater.http.front import Front
from headwater.pytest_plugin import StartHarness
from headwater.testing import Harness
from tests.http.sockets import post, served
from tests.security.two_tenants import KEY, ROLE, accept, add_key, clients, tenants

TWICE = b'{"id":"a","id":"b","text":"x","user_id":"bob"}'


@pytest.fixture
async def h(harness: StartHarness) -> Harness:
    running = await harness(tenants(), services={"partner.example": accept})
    await add_key(running)
    return running


@pytest.mark.parametrize("path", ["/incoming", "/by-hand"])
@pytest.mark.parametrize(
    "types",
    [
        ["application/json\xa0"],
        ["\x85application/json"],
        ["application/json\x1c; charset=utf-8"],
        ["APPLICATION/problem+JSON \xa0;"],
        ["application/json", "text/plain"],
        ["text/plain", "application/json"],
    ],
)
async def test_no_content_type_evades_the_check_of_json(h: Harness, path: str, types: list[str]) -> None:
    app: App[None] = h.apps[0]

    @app.http.post("/by-hand")
    async def by_hand(body: dict[str, Any]) -> None: ...

    headers = [(b"content-type", kind.encode("latin-1")) for kind in types]
    answer = await clients(h)["bob"].post(path, content=TWICE, headers=headers)
    assert answer.status_code in (400, 415, 422), answer.text
    assert answer.json()["error"] in ("InvalidJson", "InvalidRequest")


async def test_no_content_type_evades_it_on_the_wire(h: Harness) -> None:
    app: Any = h.apps[0]
    front = Front()
    front.apps = {"tenants": app.http}
    key = f"X-Api-Key: {KEY}"
    async with served(front, Config()) as server:
        for kind in ("application/json", "application/json\xa0", "application/json\x85"):
            wire = await server.connect()
            answer = await wire.ask(post(TWICE, key, f"Content-Type: {kind}", path="/tenants/incoming"))
            assert (answer.status, answer.problem["error"]) == (422, "InvalidJson"), kind


async def test_an_idempotency_key_is_of_the_path_as_it_was_sent(harness: StartHarness) -> None:
    app: App[None] = App("desk")
    pairs = app.table("pairs", dict, key=("a", "b"))
    app.expose(pairs, "/pairs", read=require(), write=require())
    client = (await harness(app)).client(app, token={"sub": "ann"})
    for path, row in (("/pairs/x%2Fy/z", ("x/y", "z")), ("/pairs/x/y%2Fz", ("x", "y/z"))):
        answer = await client.put(path, json={}, headers={"Idempotency-Key": "k"})
        assert (answer.json()["a"], answer.json()["b"]) == row
        assert "idempotent-replayed" not in answer.headers
        assert (await client.get(path)).status_code == 200


async def test_an_idempotency_key_is_sent_once(h: Harness) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    assert (await clients(h)["bob"].post("/own", json={}, headers=headers)).status_code == 400


async def test_a_key_is_taken_as_it_was_made_only(h: Harness) -> None:
    client = h.client(h.apps[0])
    assert (await client.get("/me", headers={"X-Api-Key": KEY})).json() == ["carol", "other", "key"]
    for sent in (
        KEY.lower(),
        KEY.upper(),
        f"{KEY} ",
        f" {KEY}",
        f'"{KEY}"',
        f"{KEY},{KEY}",
        f"{KEY}\t",
        f"Bearer {KEY}",
    ):
        assert (await client.get("/me", headers={"X-Api-Key": sent})).status_code == 401, sent
    for headers in ({"Authorization": f"Bearer {KEY}"}, {"Authorization": KEY}, {"Cookie": f"x-api-key={KEY}"}):
        assert (await client.get("/me", headers=headers)).status_code == 401
    for name in ("x-api-key", "api_key", "access_token", "authorization"):
        assert (await client.get("/me", params={name: KEY})).status_code == 401


OVERRIDES = ("X-Http-Method-Override", "X-Http-Method", "X-Method-Override")
REWRITES = ("X-Original-Url", "X-Rewrite-Url", "X-Forwarded-Prefix", "X-Forwarded-Path")


async def test_no_header_changes_method_path_or_caller(h: Harness) -> None:
    bob = clients(h)["bob"]
    place = (await bob.post("/own", json={"text": "x"})).headers["location"]
    for name in OVERRIDES:
        assert (await bob.get(place, headers={name: "DELETE"})).status_code == 200
        assert (await bob.post(f"{place}?_method=DELETE", json={}, headers={name: "DELETE"})).status_code == 405
    for name in REWRITES:
        assert (await bob.get("/me", headers={name: place})).json()[0] == "bob"
    for name in ("X-Forwarded-User", "X-User", "X-Remote-User", "X-Tenant", "X-Amzn-Oidc-Identity"):
        assert (await bob.get("/me", headers={name: "ann"})).json() == ["bob", "", "token"]
    assert (await bob.get(place)).status_code == 200


async def test_without_credentials_nothing_but_the_document_is_shown(h: Harness) -> None:
    app: Any = h.apps[0]
    nobody = h.client(app)
    for path, operations in app.http.openapi()["paths"].items():
        for verb in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"):
            answer = await nobody.request(verb, path.replace("{", "").replace("}", ""), content=b"")
            served = verb.lower() in operations or (verb == "HEAD" and "get" in operations and path != "/me")
            assert answer.status_code == (401 if served else 405), (verb, path)
    shown = [route.path for route in app.http.routes if (await nobody.get(route.path)).status_code < 400]
    assert shown == ["/openapi.json", "/docs"]
    for path in ("//own", "/own//", "/OWN", "/own;x", "/own%2F", "/openapi.json/../own"):
        assert (await nobody.get(path)).status_code in (307, 401, 404), path


async def test_a_websocket_is_not_let_in_by_a_requirement_of_requests(harness: StartHarness) -> None:
    app: App[None] = App("desk")
    sent: list[Any] = []

    @app.http.websocket("/live")
    async def live(socket: WebSocket, caller: Annotated[Caller, require()]) -> None:
        await socket.accept()

    await harness(app)

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/live", "headers": [], "query_string": b"", "root_path": "", "scheme": "ws"}
    with pytest.raises(TypeError):
        await app.http(scope, receive, send)
    assert sent == []


@pytest.mark.parametrize("id", ["a\r\nSet-Cookie: x=y", "\0", "a/../b", "ä\u2028", "%2e%2e%2f", "x" * 1024])
async def test_a_key_of_any_characters_stays_in_its_header_and_its_row(h: Harness, id: str) -> None:
    bob = clients(h)["bob"]
    made = await bob.post("/own", json={"id": id, "text": "x"})
    assert made.status_code == 201
    assert made.headers["location"].isascii()
    assert not set("\r\n\0 ") & set(made.headers["location"])
    assert (await bob.get(made.headers["location"])).json()["id"] == id
    assert [row["id"] for row in (await bob.get("/own")).json()["items"]] == [id]


async def test_subjects_that_look_alike_are_different_owners(h: Harness) -> None:
    names = ["ännä", unicodedata.normalize("NFD", "ännä"), "ÄNNÄ", "ännä ", "\u0430nn", "ann", "ann\0", "\uff41nn"]
    owners: list[httpx.AsyncClient] = [h.client(h.apps[0], token={"sub": n, "roles": [ROLE]}) for n in names]
    for owner, name in zip(owners, names, strict=True):
        answer = await owner.put("/own/same", json={"text": name})
        assert (answer.status_code, answer.json()["user_id"]) == (201, name)
    for owner, name in zip(owners, names, strict=True):
        assert [row["text"] for row in (await owner.get("/own")).json()["items"]] == [name]
