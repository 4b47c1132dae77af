"""The front of a server: each app under its name, and an index of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from headwater.errors import Stopping, status_of
from headwater.http.answers import error_body


class Front:
    """Each app under `/<its name>`; `/` lists them. A request that a stop cuts off is answered with 503."""

    def __init__(self, apps: Mapping[str, ASGIApp]) -> None:
        self._apps = apps

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        name = path[1:].partition("/")[0]
        app = self._apps.get(name)
        if app is not None:
            scope["root_path"] = f"{scope.get('root_path', '')}/{name}"
            try:
                await app(scope, receive, send)
            except asyncio.CancelledError:
                if scope["type"] != "http":
                    raise
                await _answer_cut_off(scope, receive, send)
        elif scope["type"] == "http":
            await self._index(path)(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    def _index(self, path: str) -> JSONResponse:
        if path == "/":
            return JSONResponse({"apps": {name: {"url": f"/{name}", "docs": f"/{name}/docs"} for name in self._apps}})
        hint = f"the apps served here are {', '.join(sorted(self._apps)) or 'none'}"
        return JSONResponse({"detail": "no app of this name is served here", "hint": hint}, status_code=404)


async def _answer_cut_off(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer instead of the app; raises `CancelledError` when its answer has begun."""
    error = Stopping(
        "the server stopped before the request ended; whether it had an effect is not known",
        operation="request",
        hint="with an Idempotency-Key it can be sent again safely",
    )
    answer = JSONResponse(error_body(error), status_code=status_of(error))
    try:
        await answer(scope, receive, send)
    except RuntimeError:
        raise asyncio.CancelledError from None
