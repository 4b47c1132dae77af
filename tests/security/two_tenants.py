"""An app of two tenants with every kind of resource, the requests that one could ask of it, and their answers."""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Iterator
from typing import Annotated, Any
from urllib.parse import quote

import httpx
import msgspec
from pydantic import BaseModel
from starlette.responses import Response

from headwater import App, Caller, Event, Table, attempt, require, webhook
from headwater.http.keys import Key, digest_of, make_id, make_key
from headwater.pages import write_cursor
from headwater.testing import Harness

ROLE = "notes"
SECRET = "whsec_Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5"
KEY = make_key("test", make_id())
VERBS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
PLAIN = {"Accept-Encoding": "identity"}
"""Random ids compress differently."""
QUERIED = 2
"""Of how many rows of the other's each parameter is asked with each value."""
NAMED = 4
"""How many of them are asked with each pair of a header and a body."""
TEXT = "the secret of ann"
_ID = re.compile(rb"[0-9a-f]{32}(?:-[a-z]*[0-9]+)?")
_CURSOR = re.compile(rb'"cursor":"([\w-]+)"')
_VARYING = frozenset({"headwater-trace"})


class Note(BaseModel):
    id: str
    user_id: str
    text: str = ""


class Seat(BaseModel):
    user_id: str
    number: int
    text: str = ""


def tenants() -> App[None]:
    """Tables of every shape with an owner, a queue whose handler persists or fails, and webhooks of all changes."""
    app: App[None] = App("tenants")
    may: dict[str, Any] = {"read": require(ROLE), "write": require(ROLE), "owner": "user_id"}
    own = app.table("own", Note, key=("user_id", "id"), indexes={"by-text": ("user_id", "text"), "all": "text"})
    shared = app.table("shared", Note, key="id", indexes={"mine": ("user_id", "text"), "all": "text"})
    seats = app.table("seats", Seat, key=("user_id", "number"))
    profile = app.table("profile", Note, key="user_id")
    tables: dict[str, Table[Any]] = {"own": own, "shared": shared, "seats": seats, "profile": profile}
    for name, table in tables.items():
        app.expose(table, f"/{name}", **may)
        table.to(webhook("https://partner.example/hooks", secret=SECRET, name=f"{name}-hook"))
    incoming = app.queue("incoming", Note, max_receives=1)
    app.ingest(incoming, "/incoming", auth=require(ROLE))

    @app.on(incoming, batch=50)
    async def persist(events: list[Event[Note]]) -> None:
        for event in events:
            async with attempt(event):
                if "poison" in event.data.text:
                    raise ValueError(event.data.text)
                assert event.caller is not None
                await own.put(Note(id=event.id, user_id=event.caller.subject, text=event.data.text))

    @app.http.get("/me")
    async def me(caller: Annotated[Caller, require()]) -> list[str]:
        return [caller.subject, caller.tenant, caller.method]

    return app


async def accept(scope: Any, receive: Any, send: Any) -> None:
    await Response(status_code=204)(scope, receive, send)


async def add_key(h: Harness) -> None:
    """The API key of carol, who belongs to another tenant."""
    id = KEY.split("_")[2]
    await h.supervisor.system.keys.put(
        Key(id=id, name="carol", digest=digest_of(KEY), environment="test", roles=(ROLE,), tenant="other")
    )


def clients(h: Harness) -> dict[str, httpx.AsyncClient]:
    bob = h.client(h.apps[0], token={"sub": "bob", "roles": [ROLE]}, headers=PLAIN)
    return {"bob": bob, "carol": h.client(h.apps[0], headers={"X-Api-Key": KEY, **PLAIN})}


async def fill(h: Harness, client: httpx.AsyncClient, name: str) -> dict[str, Any]:
    """Rows in every table, an accepted message, a dead letter, idempotency keys; what they are known by."""
    text = TEXT if name == "ann" else f"of {name}"
    rows: list[httpx.Response] = [
        await client.post("/own", json={"id": "same", "text": text}, headers={"Idempotency-Key": "first"}),
        await client.post("/own", json={"text": text}),
        await client.post("/shared", json={"text": text}, headers={"Idempotency-Key": "first"}),
        await client.post("/shared", json={"text": f"{text}, too"}),
        await client.post("/seats", json={"number": 7, "text": text}),
        await client.post("/profile", json={"id": "p", "text": text}),
    ]
    assert [row.status_code for row in rows] == [201] * len(rows), [row.text for row in rows]
    note = {"id": "x", "user_id": name, "text": text}
    sent = await client.post("/incoming", json=[note, {**note, "text": f"poison, {text}"}])
    assert sent.status_code == 202
    await h.run_until_idle()
    (letter,) = [letter for letter in await h.dead_letters("tenants/incoming") if text in (letter.reason or "")]
    pages = [await client.get(path, params={"limit": 1}) for path in ("/own", "/shared")]
    return {
        "ids": [*(row.json()["id"] for row in rows if "id" in row.json()), *sent.json()["ids"]],
        "letter": str(letter.id),
        "etags": [row.headers["etag"] for row in (rows[0], rows[2])],
        "cursors": [page.json()["cursor"] for page in pages],
        "rows": [row.json() for row in rows],
    }


# What is asked


class Ask(msgspec.Struct, frozen=True):
    verb: str
    url: str
    headers: dict[str, str] = {}
    content: bytes = b""


def requests_of(document: dict[str, Any], known: dict[str, Any]) -> Iterator[Ask]:
    """Each route of the document with each verb, ids, parameters, conditions and bodies that the other is known by."""
    for path, operations in document["paths"].items():
        parameters = operations.get("get", {}).get("parameters", [])
        for n, url in enumerate(urls(path, known)):
            if n < QUERIED:
                yield from with_query(url, parameters, known)
            for verb in VERBS:
                yield from with_headers(verb, url, known, served=verb.lower() in operations, named=n < NAMED)


def urls(template: str, known: dict[str, Any]) -> Iterator[str]:
    """The path with everything that could name a row of the other's; a new name of a parameter needs a line here."""
    ids = [*dict.fromkeys(known["ids"]), known["letter"], "missing", "ann/same", "ann", "same\0"]
    values = {"id": ids, "user_id": ["ann", "Ann", "ann ", "ann\0", "\uff21nn", "%", "missing"], "number": [7, 8, "07"]}
    names = re.findall(r"\{(\w+)\}", template)
    for found in itertools.product(*(values[name] for name in names)):
        encoded = {name: quote(str(value), safe="") for name, value in zip(names, found, strict=True)}
        yield template.format(**encoded)
    if names:
        yield re.sub(r"\{\w+\}", "ann/same", template, count=1)
        yield re.sub(r"\{\w+\}", "../own/same", template, count=1)


def with_query(url: str, parameters: list[dict[str, Any]], known: dict[str, Any]) -> Iterator[Ask]:
    """Each parameter of the list with each value that could select a row of the other's."""
    names = {p["name"] for p in parameters if p["in"] == "query"} | {"user_id", "user_id.from", "owner", "sub", "index"}
    cursors = [*(cursor for cursor in known["cursors"] if cursor), *crafted(known)]
    values = ["ann", TEXT, TEXT[:3], "", "0", "7", "user_id", "*", known["ids"][0], *cursors]
    for name, value in itertools.product(sorted(names), values):
        yield Ask("GET", f"{url}?{name}={quote(value)}")
    for cursor in cursors:
        for more in ("order=desc", "limit=1", f"text={quote(TEXT)}", "text.prefix=the", "number.from=0"):
            yield Ask("GET", f"{url}?cursor={cursor}&{more}")


def crafted(known: dict[str, Any]) -> Iterator[str]:
    """Cursors as the server writes them, of places among the other's rows."""
    id = known["ids"][1]
    for place in (("ann", ""), ("ann", "same"), ("ann", TEXT, "ann", id), ("ann", "", id, ""), ("", ""), (id, "")):
        yield str(write_cursor(place))
    for place in (("bob", TEXT), ("bob", TEXT, "ann", id), ("bob", TEXT, id, ""), ("carol", "", "ann", "same")):
        yield str(write_cursor(place))


def with_headers(verb: str, url: str, known: dict[str, Any], *, served: bool, named: bool) -> Iterator[Ask]:
    """The verb with the other's versions and idempotency keys, with bodies that the other sent or that name it.

    Each of these with each of those when the URL is `named`, a row of the other's; else each of them at least once.
    """
    headers: list[dict[str, str]] = [{}, {"Idempotency-Key": "first"}, {"If-Match": "*"}, {"If-None-Match": "*"}]
    headers += [{name: tag} for tag in known["etags"] for name in ("If-Match", "If-None-Match")]
    headers += [{"X-Http-Method-Override": "DELETE"}, {"X-Forwarded-User": "ann", "X-User-Id": "ann"}]
    first = known["rows"][0]
    bodies: list[Any] = [
        {"text": "x"},
        first,
        {"id": known["rows"][2]["id"], "text": "x"},
        {"id": "same", "text": TEXT},
        {"user_id": "ann"},
    ]
    bodies += [{"user_id": "ann", "number": 7}, [first], {"userId": "ann", "text": "x"}]
    for n, sent in enumerate(headers):
        if verb not in ("POST", "PUT", "PATCH"):
            yield Ask(verb, url, sent)
            continue
        for body in bodies if served and (named or not n) else bodies[:1]:
            yield Ask(verb, url, {**sent, "Content-Type": "application/json"}, json.dumps(body).encode())


# What is answered


def shape(answer: httpx.Response, known: dict[str, Any]) -> tuple[Any, ...]:
    """All of an answer byte for byte, but the trace and ids that were made for this request or the asker's own rows."""
    kept = {id.encode() for id in known["ids"]} | {tag.strip('"').encode() for tag in known["etags"]}

    def hide(found: re.Match[bytes]) -> bytes:
        return found[0] if found[0] in kept else b"<id>"

    def open_cursor(found: re.Match[bytes]) -> bytes:
        return b'"cursor":' + base64.urlsafe_b64decode(found[1] + b"==")

    body = _ID.sub(hide, _CURSOR.sub(open_cursor, answer.content))
    headers = [(name, _ID.sub(hide, value)) for name, value in answer.headers.raw if name.decode() not in _VARYING]
    return answer.status_code, headers, body
