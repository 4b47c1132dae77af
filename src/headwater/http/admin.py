"""The admin API over HTTP: `POST /v1/<operation>` with a JSON object of parameters; `GET /v1` lists the operations.

`PUT /v1/objects` and `GET /v1/objects` stream the bytes of objects; their parameters are a JSON object in the query's
`parameters`. All other answers are JSON. Errors have the shape and the statuses of all others (`answers.error_body`,
`errors.STATUS`).
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Protocol
from urllib.parse import unquote

import msgspec
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from headwater.errors import HeadwaterError, InvalidValue, TooLarge, status_of
from headwater.http.answers import error_body
from headwater.http.objects import described

MAX_BODY = 1024 * 1024
BY = "Headwater-By"
"""The header that says who asks, percent-encoded."""


class Operations(Protocol):
    """What the API serves."""

    def describe(self) -> list[dict[str, Any]]: ...

    async def call(self, operation: str, parameters: Mapping[str, Any], by: str = "") -> Any: ...

    async def put_object(
        self, parameters: Mapping[str, Any], data: AsyncIterator[bytes], by: str = ""
    ) -> dict[str, Any]: ...

    async def open_object(self, parameters: Mapping[str, Any]) -> AbstractAsyncContextManager[Any]: ...


def make_admin(admin: Operations) -> Starlette:
    """The ASGI application of the admin API."""

    async def list_operations(_: Request) -> Response:
        return _answer({"operations": admin.describe()})

    async def run_operation(request: Request) -> Response:
        parameters = _decode(await _read(request))
        return _answer(await admin.call(request.path_params["operation"], parameters, _by(request)))

    async def put_object(request: Request) -> Response:
        try:
            return _answer(await admin.put_object(_parameters(request), _chunks(request), _by(request)))
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it

    async def get_object(request: Request) -> Response:
        stack = AsyncExitStack()
        body = await stack.enter_async_context(await admin.open_object(_parameters(request)))
        told = json.dumps(described(body.info))
        headers = {"Content-Length": str(body.end - body.start), "Headwater-Object": told}
        return StreamingResponse(_closing(stack, body), headers=headers, media_type="application/octet-stream")

    return Starlette(
        routes=[
            Route("/v1/objects", put_object, methods=["PUT"]),
            Route("/v1/objects", get_object, methods=["GET"]),
            Route("/v1", list_operations, methods=["GET"]),
            Route("/v1/{operation}", run_operation, methods=["POST"]),
        ],
        exception_handlers={HeadwaterError: _answer_error},
    )


def _by(request: Request) -> str:
    """Who asks, as he says: only the user who runs the server can connect."""
    return unquote(request.headers.get(BY, "")) or "admin API"


def _parameters(request: Request) -> dict[str, Any]:
    return _decode(request.query_params.get("parameters", "").encode())


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        if chunk:
            yield chunk


async def _closing(stack: AsyncExitStack, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async with stack:
        async for chunk in body:
            yield chunk


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
