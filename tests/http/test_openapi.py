"""The OpenAPI document: what it says of problems, credentials and exposed tables, and that it is true."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest
import schemathesis
from fastapi import APIRouter
from pydantic import BaseModel

from headwater import App, Caller, anyone, require, wait
from headwater.testing import Harness
from tests.http.generated import CHECKS, MODES, Case, each_case, operations_of, send


class Size(BaseModel):
    width: int
    height: float = 1.0


class Box(BaseModel):
    id: str
    user_id: str
    size: Size | None = None
    note: str = ""


class Seat(msgspec.Struct):
    hall: str
    number: int
    size: dict[str, int] = {}


def boxes() -> App:
    app = App("boxes")
    own = app.table("own", Box, key=("user_id", "id"), indexes={"by-note": ("user_id", "note")})
    shared = app.table("shared", Box, key="id", indexes={"mine": "user_id"})
    seats = app.table("seats", Seat, key=("hall", "number"))
    free = app.table("free", dict, key="id")
    queue = app.queue("incoming", Box)
    may = require("boxes")
    app.expose(own, "/own", read=may, write=may, owner="user_id")
    app.expose(shared, "/shared", read=may, write=may, owner="user_id")
    app.expose(seats, "/seats", read=anyone(), write=anyone())
    app.expose(free, "/v1/free", read=anyone(), write=anyone())
    app.ingest(queue, "/own/incoming", auth=require("boxes", plan="gold"))
    router = APIRouter()

    @router.get("/by-hand/{n}")
    async def by_hand(n: int, caller: Annotated[Caller, require("boxes")]) -> Size:
        return Size(width=n)

    @app.http.post("/open", responses={404: {"description": "No such box"}})
    async def unlock(size: Size) -> Size:
        return size

    app.http.include_router(router, prefix="/more")
    return app


@pytest.fixture(scope="module")
def app() -> App:
    return boxes()


@pytest.fixture(scope="module")
def document(app: App) -> dict[str, Any]:
    app.load_http()
    return app.http.openapi()


def statuses(operation: dict[str, Any]) -> set[int]:
    return {int(status) for status in operation["responses"]}


def test_every_route_is_documented(document: dict[str, Any]) -> None:
    found = {path: set(operations) for path, operations in document["paths"].items()}
    item = {"get", "put", "patch", "delete"}
    assert found == {
        "/own": {"get", "post"},
        "/own/{id}": item,
        "/shared": {"get", "post"},
        "/shared/{id}": item,
        "/seats": {"get", "post"},
        "/seats/{hall}/{number}": item,
        "/v1/free": {"get", "post"},
        "/v1/free/{id}": item,
        "/own/incoming": {"post"},
        "/more/by-hand/{n}": {"get"},
        "/open": {"post"},
    }
    ids = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(set(ids)) == len(ids) > 20


def test_problems_are_those_that_can_happen(document: dict[str, Any]) -> None:
    paths = document["paths"]
    assert statuses(paths["/seats"]["get"]) == {200, 400, 422, 503, 504}
    assert statuses(paths["/own"]["get"]) == {200, 400, 401, 403, 422, 429, 503, 504}
    assert {200, 201, 404, 409, 412, 413, 415, 422} < statuses(paths["/own/{id}"]["put"])
    assert {202, 401, 403, 413, 415, 422, 429} < statuses(paths["/own/incoming"]["post"])
    assert {401, 403, 404, 422} < statuses(paths["/more/by-hand/{n}"]["get"])
    assert not {401, 403, 429} & statuses(paths["/open"]["post"])
    problem = document["components"]["responses"]["Problem422"]
    assert list(problem["content"]) == ["application/problem+json"]
    assert list(paths["/open"]["post"]["responses"]["404"]["content"]) == ["application/problem+json"]
    assert paths["/open"]["post"]["responses"]["404"]["description"] == "No such box"
    assert "HTTPValidationError" not in str(document)
    assert "default" not in str([o["responses"].keys() for p in paths.values() for o in p.values()])


def test_credentials(document: dict[str, Any]) -> None:
    paths = document["paths"]
    assert paths["/own"]["get"]["security"] == [{"bearer": ["boxes"]}, {"apiKey": ["boxes"]}]
    assert paths["/own/incoming"]["post"]["security"] == [{"apiKey": ["boxes"]}]
    assert "security" in paths["/more/by-hand/{n}"]["get"]
    assert "security" not in paths["/seats"]["get"]
    schemes = document["components"]["securitySchemes"]
    assert schemes["bearer"]["scheme"] == "bearer"
    assert schemes["apiKey"] == {"type": "apiKey", "in": "header", "name": "X-Api-Key"}


def test_parameters_and_bodies(document: dict[str, Any]) -> None:
    def names(path: str, method: str) -> list[str]:
        return [parameter["name"] for parameter in document["paths"][path][method]["parameters"]]

    assert names("/own", "get") == [
        "limit",
        "cursor",
        "order",
        "fields",
        "id",
        "id.from",
        "id.to",
        "id.prefix",
        "note",
    ] + [f"note.{kind}" for kind in ("from", "to", "prefix")]
    assert names("/own/{id}", "put") == ["id", "If-Match", "If-None-Match", "Idempotency-Key"]
    halls = ["hall", "hall.from", "hall.to", "hall.prefix"]
    assert names("/seats", "get")[4:] == [*halls, "number", "number.from", "number.to"]
    assert names("/open", "post") == ["Idempotency-Key"]
    schemas = document["components"]["schemas"]
    assert "user_id" not in schemas["own.new"]["properties"]
    assert {"id", "user_id"}.isdisjoint(schemas["shared.new"]["properties"])
    assert "required" not in schemas["own.row"]
    assert schemas["seats.new"]["required"] == ["hall", "number"]
    assert set(schemas["own.patch"]["properties"]) == {"size", "note"}


def test_references_resolve_and_the_document_is_made_anew_for_new_routes(app: App, document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    responses = document["components"]["responses"]
    refs = set(msgspec.json.encode(document).decode().split('"$ref":"')[1:])
    named = {ref.partition('"')[0] for ref in refs}
    assert len(named) > 20
    assert {n.rpartition("/")[2] for n in named} <= {*schemas, *responses}
    assert app.http.openapi() is document

    @app.http.get("/later", include_in_schema=True)
    async def later() -> None: ...

    assert "/later" in app.http.openapi()["paths"]
    assert "Problem" in app.http.openapi()["components"]["schemas"]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: str(mode.value))
def test_generated_requests_get_documented_answers(mode: schemathesis.GenerationMode) -> None:
    app = boxes()
    with Harness.sync(app) as h:
        client = h.client(app, token={"sub": "ann", "roles": ["boxes"]})

        def ask(case: Case) -> None:
            answer = wait(send(client, case))
            assert answer.status_code != 401
            case.validate_response(answer, checks=CHECKS)

        operations = operations_of(app.http.openapi())
        assert len(operations) == 27
        for operation in operations:
            each_case(operation, mode, 8, ask)
