"""The front of a server: each app under its name, an index of them, and the server's health."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from headwater.errors import HeadwaterError, Stopping, Unavailable, UnknownResource, status_of
from headwater.http.answers import PROBLEM, error_body, error_headers
from headwater.http.limits import Cors
from headwater.ids import new_id

RESERVED = ("live", "ready")
"""Names that no app may have: `/live` and `/ready` are the server's own."""
EXPOSED = (
    "Content-Disposition",
    "Content-Range",
    "ETag",
    "Headwater-Trace",
    "Idempotent-Replayed",
    "Location",
    "RateLimit",
    "RateLimit-Policy",
    "Repr-Digest",
    "Retry-After",
)


class Front:
    """Each app under `/<its name>`, behind the root path; `/` lists them, `/live` and `/ready` tell how the server is.

    `unready` says why the server is not ready, "" when it is. A request that a stop cuts off is answered with 503.
    """

    def __init__(self) -> None:
        self.apps: Mapping[str, ASGIApp] = {}
        self.unready = "the server starts"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        root: str = scope.get("root_path", "")
        path: str = scope["path"].removeprefix(root)
        name = path[1:].partition("/")[0]
        app = self.apps.get(name)
        if app is not None:
            scope["root_path"] = f"{root}/{name}"
            try:
                await app(scope, receive, send)
            except asyncio.CancelledError:
                if scope["type"] != "http":
                    raise
                await _answer_cut_off(scope, receive, send)
        elif scope["type"] == "http":
            await self._own(path or "/", root)(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    def _own(self, path: str, root: str) -> Response:
        if path == "/live":
            return _fresh({"status": "live"})
        if path == "/ready":
            return (
                _problem(Unavailable(self.unready, operation="ready")) if self.unready else _fresh({"status": "ready"})
            )
        if path == "/":
            urls = {name: f"{root}/{name}" for name in self.apps}
            return JSONResponse({"apps": {name: {"url": url, "docs": f"{url}/docs"} for name, url in urls.items()}})
        hint = f"the apps served here are {', '.join(sorted(self.apps)) or 'none'}"
        return _problem(UnknownResource("no app of this name is served here", operation="request", hint=hint))


def allow_origins(app: ASGIApp, cors: Cors) -> ASGIApp:
    """The application, answering to pages of other origins as the settings say."""
    if not cors.origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=cors.origins,
        allow_methods=cors.methods,
        allow_headers=cors.headers,
        allow_credentials=cors.credentials,
        expose_headers=EXPOSED,
        max_age=cors.max_age_s,
    )


def _fresh(content: dict[str, Any]) -> Response:
    return JSONResponse(content, headers={"Cache-Control": "no-store"})


def _problem(error: HeadwaterError) -> Response:
    id = new_id()
    headers = {"Cache-Control": "no-store", "Headwater-Trace": id, **error_headers(error)}
    return JSONResponse(error_body(error, id), status_of(error), headers, PROBLEM)


async def _answer_cut_off(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer instead of the app; raises `CancelledError` when its answer has begun."""
    error = Stopping(
        "the server stopped before the request ended; whether it had an effect is not known",
        operation="request",
        hint="with an Idempotency-Key it can be sent again safely",
    )
    try:
        await _problem(error)(scope, receive, send)
    except RuntimeError:
        raise asyncio.CancelledError from None
