"""Rows and objects through the console: what it hides, who may change what, how bytes of strangers are answered."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from headwater import App
from headwater.console.application import make_console
from headwater.console.guard import COOKIE, ConsoleSettings, Guard
from headwater.console.hiding import MARK, Hiding
from headwater.console.serving import ServedHouse
from headwater.console.stream import Stream
from headwater.errors import Forbidden, InvalidValue
from headwater.pytest_plugin import StartHarness
from headwater.runtime.admin import Admin
from headwater.testing import Harness

HTML = b"<script>document.title = 'hacked'</script>"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


def declare() -> App[None]:
    app: App[None] = App("shop")
    app.table("rows", dict, key="id")
    app.table("lines", dict, key=("order", "n"))
    app.topic("news", dict)
    app.bucket("files", max_size=1 << 20, versions=True)
    return app


def hiding(h: Harness, *fields: str) -> Hiding:
    return Hiding(ServedHouse(Admin(h.supervisor.engine, h.supervisor, clock=h.clock)), fields)


class Client:
    """A browser that has signed in; `token` is what its pages carry."""

    def __init__(self, http: httpx.AsyncClient, guard: Guard, cookie: str) -> None:
        visitor = guard.visitor(cookie)
        assert visitor is not None
        self.http = http
        self.cookies = {COOKIE: cookie}
        self.token = visitor.csrf

    async def send(self, method: str, path: str, csrf: str | None = None, **given: Any) -> httpx.Response:
        headers = {"X-CSRF": self.token if csrf is None else csrf, "Cookie": f"{COOKIE}={self.cookies[COOKIE]}"}
        headers |= given.pop("headers", {})
        return await self.http.request(method, path, headers=headers, **given)


@asynccontextmanager
async def clients(h: Harness, *fields: str) -> AsyncIterator[tuple[Client, Client, httpx.AsyncClient]]:
    """An operator, a viewer, and somebody who has not signed in."""
    guard = Guard(ConsoleSettings(tokens={"op": "operator", "view": "viewer"}))
    house = hiding(h, *fields)
    app = make_console(house, guard, Stream(house, h.clock))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as http:
        yield Client(http, guard, await guard.sign_in("op")), Client(http, guard, await guard.sign_in("view")), http


PLACE = "/objects?bucket=shop/files&key=a%2F..%2F%3Cb%3E.html"


async def test_objects_come_in_and_go_out_and_are_never_documents(harness: StartHarness) -> None:
    h = await harness(declare())
    async with clients(h) as (operator, viewer, _):
        stored = await operator.send("PUT", PLACE, content=HTML, headers={"Content-Type": "text/html"})
        assert (stored.status_code, stored.json()["key"]) == (200, "a/../<b>.html")
        got = await viewer.send("GET", PLACE)
        assert (got.status_code, got.content) == (200, HTML)
        assert got.headers["content-type"] == "application/octet-stream"
        assert got.headers["content-disposition"].startswith("attachment")
        assert got.headers["content-security-policy"] == "default-src 'none'; sandbox"
        assert got.headers["x-content-type-options"] == "nosniff"
        refused = await viewer.send("GET", f"{PLACE}&image=1")
        assert refused.status_code == 422
        for kind, status in (("image/png", 200), ("image/svg+xml", 422), ("text/html; x=image/png", 422)):
            await operator.send("PUT", PLACE, content=PNG, headers={"Content-Type": kind})
            shown = await viewer.send("GET", f"{PLACE}&image=1")
            assert (kind, shown.status_code) == (kind, status)
            assert shown.headers["content-type"].startswith("image/png" if status == 200 else "application/json")
        head = await viewer.send("HEAD", PLACE)
        assert (head.status_code, head.headers["content-length"], head.content) == (200, str(len(PNG)), b"")
        assert (await viewer.send("GET", "/objects?bucket=shop/files&key=nothing")).status_code == 404


async def test_only_an_operator_s_own_page_puts_objects(harness: StartHarness) -> None:
    h = await harness(declare())
    async with clients(h) as (operator, viewer, stranger):
        assert (await viewer.send("PUT", PLACE, content=b"x")).status_code == 403
        assert (await operator.send("PUT", PLACE, csrf="", content=b"x")).status_code == 403
        assert (await operator.send("PUT", PLACE, csrf=viewer.token, content=b"x")).status_code == 403
        foreign = {"Origin": "http://evil.test"}
        assert (await operator.send("PUT", PLACE, content=b"x", headers=foreign)).status_code == 403
        for method in ("PUT", "GET"):
            assert (await stranger.request(method, PLACE)).status_code == 401
            rebound = await operator.send(method, PLACE, headers={"Host": "evil.test"})
            assert rebound.status_code == 403
        assert (await operator.send("GET", PLACE)).status_code == 404
        assert (await operator.send("PUT", PLACE + "&new=1", content=b"1")).status_code == 200
        assert (await operator.send("PUT", PLACE + "&new=1", content=b"2")).status_code == 412
        assert (await operator.send("PUT", PLACE, content=bytes(2 << 20))).status_code == 413
        assert (await operator.send("GET", PLACE)).content == b"1"


async def test_a_dangerous_form_of_a_page_without_scripts_asks_first(harness: StartHarness) -> None:
    h = await harness(declare())
    house = hiding(h)
    await house.call("table-put", {"table": "shop/rows", "value": {"id": "<b>"}})
    async with clients(h) as (operator, viewer, _):
        page = (await operator.send("GET", "/tables/shop/rows/row?key=%5B%22%3Cb%3E%22%5D")).text
        assert 'action="/actions/table-delete"' in page
        form = {"csrf": operator.token, "table": "shop/rows", "key": '["<b>"]', "back": "/tables/shop/rows"}
        asked = await operator.send("POST", "/actions/table-delete", data=form | {"confirm": "Delete <b>?"})
        assert (asked.status_code, "Delete &lt;b&gt;?" in asked.text) == (200, True)
        assert (await house.call("table-get", {"table": "shop/rows", "key": ["<b>"]}))["value"] == {"id": "<b>"}
        refused = await viewer.send("POST", "/actions/table-delete", data=form | {"csrf": viewer.token})
        assert refused.status_code == 403
        done = await operator.send("POST", "/actions/table-delete", data=form)
        assert (done.status_code, done.headers["location"]) == (303, "/tables/shop/rows")
    assert (await house.call("table-query", {"table": "shop/rows"}))["items"] == []


async def test_an_upload_is_streamed(harness: StartHarness) -> None:
    h = await harness(declare())
    seen: list[int] = []

    async def chunks() -> AsyncIterator[bytes]:
        for n in range(3):
            seen.append(n)
            yield bytes([n]) * 1000

    async with clients(h) as (operator, viewer, _):
        assert (await operator.send("PUT", PLACE, content=chunks())).json()["size"] == 3000
        assert (await viewer.send("GET", PLACE)).content == b"".join(bytes([n]) * 1000 for n in range(3))
    assert seen == [0, 1, 2]


async def test_older_versions_are_read_and_removed(harness: StartHarness) -> None:
    h = await harness(declare())
    async with clients(h) as (operator, viewer, _):
        for content in (b"1", b"22"):
            await operator.send("PUT", PLACE, content=content)
        page = (await viewer.send("GET", "/buckets/shop/files/object?key=a%2F..%2F%3Cb%3E.html")).text
        house = hiding(h)
        named = {"bucket": "shop/files", "key": "a/../<b>.html"}
        (older,) = (await house.call("bucket-versions", named))["items"]
        assert older["version"] in page
        assert (await viewer.send("GET", f"{PLACE}&version={older['version']}")).content == b"1"
        assert (await house.call("bucket-head", named | {"version": older["version"]}))["size"] == 1
        await house.call("bucket-delete", named | {"version": older["version"]})
        assert (await house.call("bucket-versions", named))["items"] == []
        assert (await viewer.send("GET", PLACE)).content == b"22"
        await house.call("bucket-delete", named)
        kinds = [change["type"] for change in (await house.call("bucket-history", named))["changes"]]
        assert kinds == ["removed", "modified", "inserted"]


async def test_an_export_has_all_rows_that_the_filters_leave(harness: StartHarness) -> None:
    h = await harness(declare())
    house = hiding(h)
    rows = [{"order": "a", "n": n, "big": 2**60 + n} for n in range(700)] + [{"order": "b", "n": 1}]
    for at in range(0, len(rows), 500):
        done = await house.call("table-import", {"table": "shop/lines", "rows": rows[at : at + 500]})
        assert done["refused"] == []
    async with clients(h, "big") as (operator, viewer, stranger):
        got = await viewer.send("GET", "/tables/shop/lines/export?partition=a")
        assert got.headers["content-disposition"] == 'attachment; filename="shop-lines.jsonl"'
        lines = [json.loads(line) for line in got.text.splitlines()]
        assert lines == [{"order": "a", "n": n, "big": MARK} for n in range(700)]
        some = await viewer.send("GET", "/tables/shop/lines/export?partition=a&low=3&high=4&number=1")
        assert [json.loads(line)["n"] for line in some.text.splitlines()] == [3, 4]
        assert (await stranger.get("/tables/shop/lines/export")).status_code == 401
        assert (await operator.send("GET", "/tables/shop/nothing/export")).status_code == 404


async def test_an_import_writes_what_is_right_and_tells_what_is_not(harness: StartHarness) -> None:
    h = await harness(declare())
    house = hiding(h)
    await house.call("table-put", {"table": "shop/rows", "value": {"id": "taken"}})
    given = {"table": "shop/rows", "rows": [{"id": "new"}, {"no": 1}, {"id": "taken", "x": 1}], "if_absent": True}
    done = await house.call("table-import", given)
    assert done["written"] == 1
    assert [(refused["row"], refused["detail"]) for refused in done["refused"]] == [
        (1, "the row has no field 'id', which is part of the key"),
        (2, "the row exists already"),
    ]
    assert (await house.call("table-import", {**given, "if_absent": False}))["written"] == 2


# Hidden fields


@pytest.fixture
def secret() -> str:
    return "4711-canary"


async def test_hidden_fields_are_in_no_answer_and_on_no_page(harness: StartHarness, secret: str) -> None:
    h = await harness(declare())
    house = hiding(h, "pin")
    row = {"id": "a", "pin": secret, "deep": [{"pin": {"x": secret}, "open": 1}]}
    await house.call("table-put", {"table": "shop/rows", "value": row})
    await house.call("table-put", {"table": "shop/rows", "value": row | {"n": 1}})
    await house.call("publish", {"topic": "shop/news", "data": {"pin": secret}})
    hidden = {"id": "a", "pin": MARK, "deep": [{"pin": MARK, "open": 1}], "n": 1}
    named = {"table": "shop/rows", "key": ["a"]}
    assert (await house.call("table-get", named))["value"] == hidden
    assert (await house.call("table-query", {"table": "shop/rows"}))["items"] == [hidden]
    answers = [await house.call("table-history", named), await house.call("tail", {})]
    assert secret not in json.dumps(answers)
    assert MARK in json.dumps(answers)
    with pytest.raises(Forbidden):
        await house.call("sql", {"statement": "SELECT * FROM events"})
    async with clients(h, "pin") as (operator, _, __):
        for path in ("", "/row?key=%5B%22a%22%5D", "?q=canary", "/export"):
            got = await operator.send("GET", f"/tables/shop/rows{path}")
            assert got.status_code == 200
            assert secret not in got.text
        asked = await operator.send("POST", "/ask/table-get", json=named)
        assert asked.json()["value"]["pin"] == MARK


async def test_an_edited_row_keeps_what_is_hidden(harness: StartHarness, secret: str) -> None:
    h = await harness(declare())
    house, bare = hiding(h, "pin"), hiding(h)
    await house.call("table-put", {"table": "shop/rows", "value": {"id": "a", "pin": secret, "l": [{"pin": 1}, 2]}})
    edited = {"id": "a", "pin": MARK, "l": [{"pin": MARK}, 3]}
    await house.call("table-put", {"table": "shop/rows", "value": edited})
    named = {"table": "shop/rows", "key": ["a"]}
    assert (await bare.call("table-get", named))["value"] == {"id": "a", "pin": secret, "l": [{"pin": 1}, 3]}
    for wrong in (
        {"table": "shop/rows", "value": {"id": "a", "pin": secret, "l": [MARK]}},
        {"table": "shop/rows", "value": {"id": "b", "pin": MARK}},
    ):
        with pytest.raises(InvalidValue, match="hidden"):
            await house.call("table-put", wrong)
    with pytest.raises(InvalidValue, match="hidden"):
        await house.call("publish", {"topic": "shop/news", "data": {"pin": MARK}})
    assert (await bare.call("table-get", named))["value"]["pin"] == secret


async def test_what_the_server_keeps_for_itself_is_hidden_always(harness: StartHarness) -> None:
    h = await harness(declare())
    house = hiding(h)
    made = await house.call("key-create", {"name": "acme"})
    (row,) = (await house.call("table-query", {"table": "headwater/keys"}))["items"]
    assert row["digest"] == MARK
    told = await house.call("tail", {"source": "headwater/keys"})
    assert made["digest"] not in json.dumps(told)
