"""The admin API over HTTP: `POST /v1/<operation>` with a JSON object of parameters; `GET /v1` lists the operations.

Answers are JSON. Errors have the shape and the statuses of all others (`answers.error_body`, `errors.STATUS`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from headwater.errors import HeadwaterError, InvalidValue, TooLarge, status_of
from headwater.http.answers import error_body

MAX_BODY = 1024 * 1024


class Operations(Protocol):
    """What the API serves."""

    def describe(self) -> list[dict[str, Any]]: ...

    async def call(self, operation: str, parameters: Mapping[str, Any]) -> Any: ...


def make_admin(admin: Operations) -> Starlette:
    """The ASGI application of the admin API."""

    async def list_operations(_: Request) -> Response:
        return _answer({"operations": admin.describe()})

    async def run_operation(request: Request) -> Response:
        parameters = _decode(await _read(request))
        return _answer(await admin.call(request.path_params["operation"], parameters))

    return Starlette(
        routes=[
            Route("/v1", list_operations, methods=["GET"]),
            Route("/v1/{operation}", run_operation, methods=["POST"]),
        ],
        exception_handlers={HeadwaterError: _answer_error},
    )


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise TooLarge(f"the request's body is larger than {MAX_BODY} bytes", operation="admin")
    return bytes(body)


def _decode(body: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(body or b"{}")
    except msgspec.DecodeError as error:
        raise InvalidValue(f"the body is no JSON: {error}", operation="admin") from error
    if not isinstance(found, dict):
        raise InvalidValue("the body is no JSON object", operation="admin", hint="send the parameters as an object")
    return found


def _answer(content: Any) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")


async def _answer_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HeadwaterError)
    return JSONResponse(error_body(error), status_code=status_of(error))
