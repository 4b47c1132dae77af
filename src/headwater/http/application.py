"""An app's FastAPI application."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.exception_handlers import request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from starlette.middleware import Middleware
from starlette.responses import JSONResponse

from headwater.errors import HeadwaterError, status_of
from headwater.http.answers import error_body
from headwater.http.unit_layer import UnitLayer

if TYPE_CHECKING:
    from headwater.app import App


def make_http(app: App[Any]) -> FastAPI:
    """A FastAPI application whose innermost layer makes each request a unit of work.

    The layer stands last in the middleware, so that what users add lies outside of it, and inside of it only
    FastAPI's handling of exceptions: a handled exception is a response like any other, judged by its status.
    """
    http = FastAPI(title=app.name)
    http.user_middleware.append(Middleware(UnitLayer, owner=app))
    http.add_exception_handler(HeadwaterError, answer_error)
    http.add_exception_handler(RequestValidationError, answer_invalid)
    return http


async def answer_error(_: Request, error: Exception) -> JSONResponse:
    """Our errors as JSON: what, where, how to mend it, and whether to try again."""
    assert isinstance(error, HeadwaterError)
    return JSONResponse(error_body(error), status_code=status_of(error))


async def answer_invalid(request: Request, error: Exception) -> JSONResponse:
    """FastAPI's answer to invalid input, without repeating input that JSON cannot carry (NaN, lone surrogates)."""
    assert isinstance(error, RequestValidationError)
    try:
        return await request_validation_exception_handler(request, error)
    except ValueError:
        known = [{name: item[name] for name in ("type", "loc", "msg")} for item in error.errors()]
        return JSONResponse({"detail": known}, status_code=422)
