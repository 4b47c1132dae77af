"""What streams through the console: objects in and out, and the rows of a table as JSON lines.

Objects are data of strangers. They are saved, never shown, but for images that a page of ours asks for: those have the
type of an image that cannot hold a script, and a policy of their own under which nothing else is loaded or run.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from headwater.console.guard import Visitor
from headwater.console.house import House
from headwater.console.row_filters import parameters_of_query
from headwater.errors import InvalidValue
from headwater.http.object_headers import OCTETS, attachment, check_content_type

IMAGES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "image/bmp"})
_ALONE = "default-src 'none'; sandbox"
_SLICE = 500
Visit = Callable[[Request], Visitor]


class Transfers:
    """`visit` tells who asks, `act` who asks for a change; they refuse everybody else."""

    def __init__(self, house: House, visit: Visit, act: Visit, stir: Callable[[], None]) -> None:
        self._house = house
        self._visit = visit
        self._act = act
        self._stir = stir

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/objects", self.put, methods=["PUT"]),
            Route("/objects", self.get, methods=["GET"]),
            Route("/tables/{app}/{name}/export", self.export, methods=["GET"]),
        ]

    async def put(self, request: Request) -> Response:
        """Store the body as the object of `bucket` and `key`; with `new` only if there is none."""
        visitor = self._act(request)
        asked = request.query_params
        parameters = {
            "bucket": asked.get("bucket", ""),
            "key": asked.get("key", ""),
            "content_type": check_content_type(request.headers.get("content-type") or OCTETS),
            "if_absent": "new" in asked,
        }
        try:
            stored = await self._house.put_object(parameters, _chunks(request), visitor.name)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        self._stir()
        return JSONResponse(stored)

    async def get(self, request: Request) -> Response:
        """The bytes of an object, to be saved; with `image` to be shown, if they are an image."""
        self._visit(request)
        asked = request.query_params
        named = {name: asked[name] for name in ("bucket", "key", "version") if asked.get(name)}
        stack = AsyncExitStack()
        body = await stack.enter_async_context(await self._house.open_object(named))
        headers = {"Content-Length": str(body.info.size), "Content-Security-Policy": _ALONE}
        kind = body.info.content_type.partition(";")[0].strip().lower()
        if "image" not in asked:
            kind, headers["Content-Disposition"] = OCTETS, attachment(body.info.key).decode()
        elif kind not in IMAGES:
            await stack.aclose()
            raise InvalidValue("it is no image that can be shown", operation="show", resource=body.info.key)
        if request.method == "HEAD":
            await stack.aclose()
            return Response(headers=headers, media_type=kind)
        return StreamingResponse(_closing(stack, body), headers=headers, media_type=kind)

    async def export(self, request: Request) -> Response:
        """The rows that the filters of the address leave, one JSON object a line."""
        visitor = self._visit(request)
        table = f"{request.path_params['app']}/{request.path_params['name']}"
        query = {**parameters_of_query(request.query_params), "table": table, "limit": _SLICE}
        page = await self._house.call("table-query", query, visitor.name)

        async def lines() -> AsyncIterator[bytes]:
            found = page
            while True:
                yield b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in found["items"])
                if found["cursor"] is None:
                    return
                found = await self._house.call("table-query", {**query, "cursor": found["cursor"]}, visitor.name)

        headers = {"Content-Disposition": attachment(f"{table.replace('/', '-')}.jsonl").decode()}
        return StreamingResponse(lines(), headers=headers, media_type="application/x-ndjson")


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        if chunk:
            yield chunk


async def _closing(stack: AsyncExitStack, body: Any) -> AsyncIterator[bytes]:
    async with stack:
        async for chunk in body:
            yield chunk
