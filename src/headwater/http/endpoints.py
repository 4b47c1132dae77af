"""What an app's endpoints are: their addresses, and what they ask of callers."""

from __future__ import annotations

from typing import NamedTuple, cast

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts

from headwater.http.openapi import auths_of


class Endpoint(NamedTuple):
    """`route` is its path as metrics name it. Without `asks` nobody is authenticated; `plans` are of its callers' keys.

    `throttle` is the usage plan that meters callers without a key of their own.
    """

    method: str
    route: str
    name: str
    asks: bool
    roles: tuple[str, ...]
    plans: tuple[str, ...]
    throttle: str


def endpoints_of(http: FastAPI) -> list[Endpoint]:
    """In the order of their declaration."""
    found: list[Endpoint] = []
    for context in iter_route_contexts(http.routes):
        route = context.original_route
        if not isinstance(route, APIRoute):
            continue
        auths = list(auths_of(cast("Dependant", context.dependant)))
        roles = sorted({role for auth in auths for role in auth.roles})
        plans = sorted({plan for auth in auths for plan in auth.plans})
        throttle = next((auth.throttle for auth in auths if auth.throttle), "")
        asks = any(not auth.open for auth in auths)
        found += [
            Endpoint(
                method,
                str(context.path_format),
                route.summary or route.name,
                asks,
                tuple(roles),
                tuple(plans),
                throttle,
            )
            for method in sorted(context.methods or ())
            if method != "HEAD"
        ]
    return found
