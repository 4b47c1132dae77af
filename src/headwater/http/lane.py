"""FastAPI with a lane for direct routes.

On the way to an endpoint FastAPI has telemetry, limits and stacks of its own, and asks its routes one after the other:
a third of what a message costs that goes straight into a queue. A direct route needs the unit layer and the handling
of errors only. The lane has just these, and is taken where leaving the rest out cannot be told: the app has no
middleware and no telemetry, and no route of its own matches.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from headwater.errors import HeadwaterError
from headwater.http.context import context_of
from headwater.http.direct import DirectRoute, route_path, with_head

_TELEMETRY = "opentelemetry.sdk"


class Endpoints(FastAPI):
    """An app's endpoints, and behind them its direct routes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._own_handlers = dict(self.exception_handlers)
        self._lane: ASGIApp | None = None
        self._direct: dict[tuple[str, str], DirectRoute] = {}
        self._streamed: list[DirectRoute] = []
        self._routes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._find(scope) if scope["type"] == "http" else None
        if route is None:
            await super().__call__(scope, receive, send)
            return
        if self._lane is None:
            self._lane = self._open_lane()
        scope.update(app=self, route=route, endpoint=route.endpoint, path_params={})
        await self._lane(scope, receive, send)

    def mount(self, path: str, app: ASGIApp, name: str | None = None) -> None:
        """Mount an application; one of FastAPI's or Starlette's answers our errors as this one does."""
        if isinstance(app, Starlette):
            app.exception_handlers.setdefault(HeadwaterError, self.exception_handlers[HeadwaterError])
        super().mount(path, app, name)

    def _find(self, scope: Scope) -> DirectRoute | None:
        route = self._direct.get((scope["method"], route_path(scope)))
        bare = len(self.user_middleware) == 1 and not (_TELEMETRY in sys.modules and _is_observed())
        return route if bare and len(self.router.routes) == self._routes else None

    def most_streamed(self, scope: Scope) -> int:
        """How many bytes the streaming route takes that the request is for; 0 when it is for another endpoint."""
        for route in self._streamed:
            if route.matches(scope)[0] is Match.FULL:
                others = (other for other in self.router.routes if not isinstance(other, DirectRoute))
                return 0 if any(other.matches(scope)[0] is Match.FULL for other in others) else route.streams
        return 0

    def _open_lane(self) -> ASGIApp:
        """What FastAPI builds, without what a direct route does not need.

        The unit layer answers our errors itself: handlers are asked only when the app has some of its own.
        """
        (layer,) = self.user_middleware
        handlers = dict(self.exception_handlers)
        failure = handlers.pop(Exception, None) or handlers.pop(500, None)
        if self.exception_handlers == self._own_handlers:
            return _Failing(layer.cls(_serve, *layer.args, **layer.kwargs), failure)
        inner = ExceptionMiddleware(_serve, handlers=handlers, debug=self.debug)
        return ServerErrorMiddleware(layer.cls(inner, *layer.args, **layer.kwargs), failure, self.debug)

    def serve_direct(self, routes: Sequence[DirectRoute]) -> None:
        """Put the routes behind all others, in place of those put there before: written endpoints win."""
        written = [route for route in self.router.routes if not isinstance(route, DirectRoute)]
        for route in routes:
            same = [other for other in (*written, *routes) if getattr(other, "path", None) == route.path]
            route.allowed = frozenset().union(*(with_head(getattr(other, "methods", None)) for other in same))
        self.router.routes[:] = [*written, *routes]
        self.openapi_schema = None
        self._routes = len(self.router.routes)
        self._streamed = [route for route in routes if route.streams]
        self._direct = {
            (method, route.path): route
            for route in routes
            for method in with_head(route.methods)
            if not route.parts and not any(_matches(other, method, route.path) for other in written)
        }


def _is_observed() -> bool:
    """Whether the app's own telemetry wants to see requests. A loaded SDK does not say so: we export with it."""
    from opentelemetry import _logs, metrics, trace

    providers = (trace.get_tracer_provider(), metrics.get_meter_provider(), _logs.get_logger_provider())
    modules = [type(provider).__module__ for provider in providers]
    return not all(name.startswith("opentelemetry.") and not name.startswith(_TELEMETRY) for name in modules)


def most_streamed(scope: Scope) -> int:
    """See `Endpoints.most_streamed`."""
    http = scope.get("app")
    return http.most_streamed(scope) if isinstance(http, Endpoints) else 0


class _Failing:
    """Answers what nobody expected, if nothing was answered yet, and lets the server log it."""

    def __init__(self, inner: ASGIApp, failure: Any) -> None:
        self._inner = inner
        self._failure = failure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._inner(scope, receive, send)
        except Exception as error:
            if not context_of(scope).answered:
                answer = await self._failure(Request(scope), error)
                await answer(scope, receive, send)
            raise


async def _serve(scope: Scope, receive: Receive, send: Send) -> None:
    await scope["route"].handle(scope, receive, send)


def _matches(route: BaseRoute, method: str, path: str) -> bool:
    """Whether a route of the app's own would take the request."""
    scope = {"type": "http", "method": method, "path": path, "root_path": "", "headers": [], "query_string": b""}
    return route.matches(scope)[0] is Match.FULL
