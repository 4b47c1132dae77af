"""Generated requests to all apps of `headwater.toml`: no 5xx, no status, type or body that is not documented.

The number of requests is fixed, and so are the requests: a failure comes again.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from schemathesis.core.failures import FailureGroup
from starlette.responses import Response

from apps.erasure.vendor.service import Vendor, make_vendor
from apps.gallery.tests.pictures import picture
from headwater import App, wait
from headwater.config import load_config
from headwater.loading import load_app
from headwater.testing import Harness
from tests.http.generated import CHECKS, MODES, Case, each_case, operations_of, send

ROOT = Path(__file__).parents[2]
MOST = 40
MOST_REFUSED = 10
ROLES = ["data.read", "data.write", "staff.write", "customers.read", "customers.write", "images.read", "images.write"]
TOKEN = "token-of-the-vendor"
APPS = load_config(ROOT, environ={}).apps
PRESIGNED = ("/drops", "/uploads", "/sheets")
"""Buckets, part of which only presigned URLs let in to; `tests/http/test_objects.py` has the like of them."""
KNOWN = {"id": "known", "category": "Tools"}
"""Of each case there is a second one, on something that exists."""
PRODUCT = {"name": "Hammer", "category": "Tools", "price_cents": 100}
READING = {"informationOne": "Door 7 opened", "informationTwo": "south wing"}


def settings_in(folder: Path) -> dict[str, dict[str, Any]]:
    vendor = {"vendor_url": "http://vendor", "vendor_token": TOKEN, "technical_contact": "tech@example.org"}
    return {"directory": {"drop_folder": folder / "drops"}, "erasure": vendor}


def services() -> dict[str, Any]:
    return {"vendor": make_vendor(Vendor(token=TOKEN, work_s=3600))}


def fill(h: Harness, client: httpx.AsyncClient, app: App[Any]) -> dict[str, str]:
    """Something in each app that a request can find; the path parameters that name it."""
    if app.name == "intake":
        id = wait(client.post("/data", json=READING)).json()["id"]
        wait(h.run_until_idle())
        assert wait(client.get(f"/data/{id}")).status_code == 200
        return {"id": id}
    if app.name == "directory":
        staff = (ROOT / "apps/directory/samples/staff.csv").read_bytes()
        assert wait(client_of(h, app, "/drops").put("/drops/staff/staff.csv", content=staff)).status_code == 201
        wait(h.run_until_idle())
        assert wait(client.get("/departments/Kitchen")).status_code == 200
        return {"department": "Kitchen"}
    if app.name == "erasure":
        assert wait(client.put("/customers/known", json={"name": "Ann"})).status_code == 201
        return {"id": "known"}
    if app.name == "gallery":
        assert wait(client.put("/uploads/summer/1.png", content=picture(1))).status_code == 201
        wait(h.run_until_idle())
        assert wait(client.get("/albums/summer")).status_code == 200
        return {"name": "summer"}
    catalog = next(known for known in h.apps if known.name == "catalog")
    assert wait(h.client(catalog).put("/products/known", json=PRODUCT)).status_code == 201
    wait(h.advance(seconds=10))
    return KNOWN


def client_of(h: Harness, app: App[Any], path: str = "") -> httpx.AsyncClient:
    """Who may send requests to this path."""
    if app.name == "directory" and not path.startswith("/drops"):
        return h.client(app, key="internal")
    return h.client(app, token={"sub": "ann", "Role": ROLES})


def document_of(client: httpx.AsyncClient) -> dict[str, Any]:
    """The document as it is served, to anybody."""
    answer = wait(client.get("/openapi.json", headers={"Authorization": ""}))
    assert answer.status_code == 200
    document: dict[str, Any] = answer.json()
    return document


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: str(mode.value))
@pytest.mark.parametrize("spec", APPS)
def test_generated_requests_are_answered_as_documented(
    spec: str, mode: schemathesis.GenerationMode, tmp_path: Path
) -> None:
    apps = {spec: load_app(spec, ROOT) for spec in APPS}
    with Harness.sync(*apps.values(), plans={"intake": {}}, settings=settings_in(tmp_path), services=services()) as h:
        client = client_of(h, apps[spec])
        known = fill(h, client, apps[spec])
        statuses: Counter[int] = Counter()

        def ask(case: Case) -> None:
            for parameters in (case.path_parameters, {**case.path_parameters, **known}):
                if parameters.keys() == case.path_parameters.keys():
                    case.path_parameters = parameters
                    answer = wait(send(client, case))
                    case.validate_response(answer, checks=CHECKS)
                    statuses[answer.status_code] += 1
            if apps[spec].operations:
                wait(
                    h.run_until_idle()
                )  # what they lead to draws random numbers, Hypothesis forbids that while it generates

        operations = [found for found in operations_of(document_of(client)) if not found.path.startswith(PRESIGNED)]
        asked = sum(each_case(operation, mode, MOST, ask) for operation in operations)
    assert asked >= 10 or not mode.is_positive
    assert not {401, 403, 429} & statuses.keys()
    assert statuses.keys() & ({200, 202} if mode.is_positive else {404, 405, 422}) or not asked


def test_without_credentials_every_protected_operation_is_401(tmp_path: Path) -> None:
    apps = [load_app(spec, ROOT) for spec in APPS]
    protected = 0
    with Harness.sync(*apps, plans={"intake": {}}, settings=settings_in(tmp_path), services=services()) as h:
        for app in apps:
            client = h.client(app)

            def ask(case: Case, client: httpx.AsyncClient = client) -> None:
                answer = wait(send(client, case))
                assert answer.status_code in (401, 422), answer.text  # 422: a body that is no JSON is never admitted
                case.validate_response(answer, checks=CHECKS)

            for operation in operations_of(document_of(client)):
                if "security" in operation.definition.raw:
                    protected += 1
                    for mode in MODES:
                        each_case(operation, mode, MOST_REFUSED, ask)
    assert protected == 23


NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@pytest.mark.parametrize(
    ("status", "body"), [(500, b"{}"), (418, b"{}"), (200, b'{"n": "text"}'), (200, b"{}"), (200, b"no JSON")]
)
def test_what_is_not_documented_is_found(status: int, body: bytes) -> None:
    app: App[None] = App("wrong")

    @app.http.get("/n", responses={200: {"content": {"application/json": {"schema": NUMBER}}}})
    async def read() -> Response:
        return Response(body, status, media_type="application/json")

    with Harness.sync(app) as h:
        client = h.client(app)

        def ask(case: Case) -> None:
            case.validate_response(wait(send(client, case)), checks=CHECKS)

        (operation,) = operations_of(document_of(client))
        with pytest.raises(FailureGroup):
            each_case(operation, MODES[0], 1, ask)
