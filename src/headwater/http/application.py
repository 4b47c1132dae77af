"""An app's FastAPI application."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from headwater.errors import HeadwaterError, status_of
from headwater.http.answers import PROBLEM, error_body, error_headers, invalid_values, problem
from headwater.http.api_page import add_api_page
from headwater.http.context import KEY, RequestContext
from headwater.http.expose import routes_of
from headwater.http.ingest import route_of
from headwater.http.lane import Endpoints
from headwater.http.object_routes import routes_of as object_routes_of
from headwater.http.openapi import describe_api
from headwater.http.opened import routes_of as open_routes_of
from headwater.http.unit_layer import UnitLayer

if TYPE_CHECKING:
    from headwater.app import App


def make_http(app: App[Any]) -> FastAPI:
    """A FastAPI application whose innermost layer makes each request a unit of work.

    The layer stands last in the middleware, so that what users add lies outside of it, and inside of it only
    FastAPI's handling of exceptions: a handled exception is a response like any other, judged by its status.
    """
    http = Endpoints(title=app.name, exception_handlers=HANDLERS, docs_url=None, redoc_url=None)
    http.user_middleware.append(Middleware(UnitLayer, owner=app))
    describe_api(http)
    add_api_page(http)
    return http


def serve_declared(app: App[Any]) -> None:
    """Serve what the app exposes, ingests and opens, behind its own endpoints."""
    routes = [route for exposure in app.exposures for route in routes_of(exposure)]
    routes += [route for exposure in app.object_exposures for route in object_routes_of(exposure)]
    routes += [route_of(ingestion) for ingestion in app.ingestions]
    routes += [route for opening in app.openings.values() for route in open_routes_of(opening)]
    http = app.http
    assert isinstance(http, Endpoints)
    http.serve_direct(routes)


async def answer_error(request: Request, error: Exception) -> Response:
    """Our errors: what, where, how to mend it, and whether to try again."""
    assert isinstance(error, HeadwaterError)
    return _answer(status_of(error), error_body(error, _request_id(request)), error_headers(error))


async def answer_exception(request: Request, error: Exception) -> Response:
    """`HTTPException`, of endpoints and of the router (404, 405)."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code in (204, 304) or error.status_code < 200:
        return Response(status_code=error.status_code, headers=headers)
    detail: Any = error.detail
    told = {"detail": detail} if isinstance(detail, str) else {"detail": "", "errors": detail}
    return _answer(error.status_code, problem(error.status_code, request_id=_request_id(request), **told), headers)


async def answer_invalid(request: Request, error: Exception) -> Response:
    """Invalid input: `errors` has the place of each invalid value."""
    assert isinstance(error, RequestValidationError)
    found = invalid_values(error.errors())
    first = f"{'.'.join(str(part) for part in found[0]['loc'])}: {found[0]['msg']}" if found else "invalid input"
    detail = first if len(found) < 2 else f"{first} (and {len(found) - 1} more)"
    return _answer(422, problem(422, detail, _request_id(request), error="InvalidValue", errors=found))


async def answer_failure(request: Request, _: Exception) -> Response:
    """Whatever else an endpoint raises: what it was is told to the log only."""
    return _answer(500, problem(500, "the request failed unexpectedly", _request_id(request), retryable=False))


def _answer(status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(body, enc_hook=str), status, headers, PROBLEM)


def _request_id(request: Request) -> str:
    context = request.scope.get(KEY)
    return context.request_id if isinstance(context, RequestContext) else ""


HANDLERS = {
    HeadwaterError: answer_error,
    HTTPException: answer_exception,
    RequestValidationError: answer_invalid,
    Exception: answer_failure,
}
