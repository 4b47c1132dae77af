"""What a request is counted under: its method and the template of its route, of which there are few."""

from __future__ import annotations

from starlette.types import Scope

from headwater.metrics import METHODS

UNMATCHED = "unmatched"
"""Requests that no endpoint takes, and those that are answered before one is looked for."""
OTHER = "other"
"""Methods that are not HTTP's, and endpoints without a template: of mounted applications, the documentation's."""


def known_method(method: str) -> str:
    return method if method in METHODS else OTHER


def route_of(scope: Scope) -> str:
    """The template of the route that took the request, never the path that was sent."""
    route = scope.get("route")
    if route is None:
        return UNMATCHED if scope.get("endpoint") is None else OTHER
    included = scope.get("fastapi", {}).get(
        "effective_route_context"
    )  # FastAPI's: the route with its routers' prefixes
    path: str = getattr(included if included is not None else route, "path", OTHER)
    return path
