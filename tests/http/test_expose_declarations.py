"""What `app.expose` and `app.ingest` refuse at once, and that declaring loads no web framework."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from headwater import App, DeclarationError, anyone, require
from tests.patience import PATIENCE_S


class Note(BaseModel):
    id: str
    user_id: str = ""
    limit: int = 0


app = App("notes")
notes = app.table("notes", Note, key="id", indexes={"mine": "user_id"})
limited = app.table("limited", Note, key="id", indexes={"by-limit": ("user_id", "limit")})
sorted_by_owner = app.table("sorted", Note, key=("id", "user_id"), indexes={"mine": "user_id"})
fifo = app.queue("fifo", Note, fifo=True)
plain = app.queue("plain", Note)
other = App("other")
foreign = other.table("notes", Note, key="id")
elsewhere = other.queue("plain", Note)
some = require("notes")
taken = App("taken")
mine = taken.table("notes", Note, key="id")
inbox = taken.queue("inbox", Note)
taken.expose(mine, "/notes", read=some, write=some)

REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: app.expose(notes, "/n"), r"read= is missing \(say who may read: read=require\(...\) or read=anyone\(\)\)"),
    (lambda: app.expose(notes, "/n", methods=["GET"], write=some), "read= is missing"),
    (lambda: app.expose(notes, "/n", methods=["GET", "PUT"], read=some), "PUT is served, but write= is missing"),
    (lambda: app.expose(notes, "/n", methods=[], read=some), "methods= are some of GET, POST"),
    (lambda: app.expose(notes, "/n", methods=["TRACE"], read=some), "methods= are some of"),  # type: ignore[list-item]
    (lambda: app.expose(notes, "/n", read=some, owner="who"), "Note has no such field"),
    (lambda: app.expose(notes, "/n", read=some, owner="limit"), "neither the partition"),
    (lambda: app.expose(notes, "/n", read=anyone(), owner="user_id"), "read= lets in anyone"),
    (lambda: app.expose(notes, "/n", read=some, write=anyone(), owner="user_id"), "write= lets in anyone"),
    (lambda: app.expose(sorted_by_owner, "/n", read=some, owner="user_id"), "is the sort key"),
    (lambda: app.expose(foreign, "/n", read=some), "belongs to another app"),
    (lambda: app.expose(limited, "/n", read=some), "the name of a parameter of lists"),
    (lambda: app.expose(notes, "/n", read="me"), "read= is 'me'"),  # type: ignore[call-overload]
    (lambda: taken.expose(mine, "/notes", read=some), "GET /notes is declared already"),
    (lambda: taken.ingest(inbox, "/notes", auth=some), "POST /notes is declared already"),
    (lambda: app.ingest(fifo, "/q", auth=some), r"FIFO queue \(say which field is the group: group=\)"),
    (lambda: app.ingest(fifo, "/q", auth=some, group="who"), "Note has no such field"),
    (lambda: app.ingest(elsewhere, "/q", auth=some), "belongs to another app"),
    (lambda: app.ingest(plain, "/q", auth=None), "auth= is None"),  # type: ignore[arg-type]
    *((lambda path=path: app.ingest(plain, path, auth=some), "is no path") for path in ("q", "/", "", "/q/", "/{q}")),
    *(
        (lambda path=path: app.expose(notes, path, read=some), "is no path")
        for path in ("n", "//", "/n?", "/é", "/%41")
    ),
]


@pytest.mark.parametrize(("declare", "message"), REFUSED)
def test_what_cannot_be_served_is_refused_at_once(declare: Callable[[], Any], message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        declare()
    assert [*app.exposures, *app.ingestions] == []


def test_methods_follow_from_who_may() -> None:
    fresh = App("fresh")
    table = fresh.table("notes", Note, key="id")
    fresh.expose(table, "/r", read=some)
    fresh.expose(table, "/w", write=some)
    fresh.expose(table, "/both", read=some, write=some, methods=["GET", "POST"])
    methods = [exposure.methods for exposure in fresh.exposures]
    assert methods == [("GET",), ("POST", "PUT", "PATCH", "DELETE"), ("GET", "POST")]
    assert fresh.serves_http


def test_declaring_imports_neither_the_routes_nor_their_documentation() -> None:
    code = """
import sys
from headwater import App, require
app = App("a")
app.expose(app.table("t", dict, key="id"), "/t", read=require("x"))
app.ingest(app.queue("q"), "/q", auth=require("x"))
assert app._http is None
loaded = {"headwater.http.application", "headwater.http.direct", "headwater.http.expose"} & set(sys.modules)
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
