"""What the OpenAPI document says beyond FastAPI's own: problems, credentials, idempotency keys.

FastAPI documents what an endpoint's signature tells. Here each operation gets the problems that it can answer with, the
credentials that its `Auth` takes, and for writes the Idempotency-Key header.
"""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, cast

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts

from headwater.http.answers import PROBLEM
from headwater.http.require import Auth

WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_REPLACED = ("HTTPValidationError", "ValidationError")
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
}
_PLACE = {
    "type": "object",
    "required": ["type", "loc", "msg"],
    "properties": {
        "type": {"type": "string"},
        "loc": {"type": "array", "items": {"type": ["string", "integer"]}},
        "msg": {"type": "string"},
    },
}
_PROBLEM = {
    "title": "Problem",
    "description": "What went wrong, where, and how to mend it (RFC 9457).",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "error": {"type": "string"},
        "operation": {"type": "string"},
        "resource": {"type": "string"},
        "hint": {"type": "string"},
        "retryable": {"type": "boolean"},
        "errors": {"type": "array", "items": _PLACE},
        "request_id": {"type": "string"},
    },
}
_RETRY_AFTER = {"Retry-After": {"description": "Seconds until it may succeed.", "schema": {"type": "string"}}}
_CHALLENGE = {"WWW-Authenticate": {"description": "How to authenticate.", "schema": {"type": "string"}}}
_HEADERS = {401: _CHALLENGE, 429: _RETRY_AFTER, 503: _RETRY_AFTER}
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same request with the same key takes effect once.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}


class ApiDescription:
    """The OpenAPI document of an app's endpoints, made when it is asked for after a change of the routes."""

    def __init__(self, http: FastAPI) -> None:
        self._http = http
        self._generate = http.openapi
        self._described: dict[str, Any] | None = None

    def __call__(self) -> dict[str, Any]:
        document = self._generate()
        if document is not self._described:
            _describe(self._http, document)
            self._described = document
        return document


def describe_api(http: FastAPI) -> None:
    """Have the app's OpenAPI document tell of problems, credentials and idempotency keys."""
    http.openapi = ApiDescription(http)  # type: ignore[method-assign]


def auths_of(dependant: Dependant) -> Iterator[Auth]:
    """The requirements among an endpoint's dependencies."""
    auth = getattr(dependant.call, "__auth__", None)
    if isinstance(auth, Auth):
        yield auth
    for dependency in dependant.dependencies:
        yield from auths_of(dependency)


def plans_named(http: FastAPI) -> dict[str, str]:
    """The usage plans that endpoints name, each with the path of one that does."""
    found: dict[str, str] = {}
    for context in iter_route_contexts(http.routes):
        if isinstance(context.original_route, APIRoute):
            for auth in auths_of(cast("Dependant", context.dependant)):
                found.update({name: str(context.path_format) for name in (*auth.plans, auth.throttle) if name})
    return found


def _describe(http: FastAPI, document: dict[str, Any]) -> None:
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    statuses: set[int] = set()
    for context in iter_route_contexts(http.routes):
        route = context.original_route
        if not isinstance(route, APIRoute) or not context.include_in_schema:
            continue
        schemas.update(getattr(route, "schemas", {}))
        operations = document["paths"].get(context.path_format, {})
        for method in context.methods or ():
            if operation := operations.get(method.lower()):
                auths = list(auths_of(cast("Dependant", context.dependant)))
                statuses |= _describe_operation(operation, method, auths)
    schemas["Problem"] = _PROBLEM
    components["responses"] = {f"Problem{status}": _response(status) for status in sorted(statuses)}
    components.setdefault("securitySchemes", {}).update(_SCHEMES)
    for name in _REPLACED:
        if schemas.get(name, {}).get("title") == name:
            del schemas[name]


def _describe_operation(operation: dict[str, Any], method: str, auths: list[Auth]) -> set[int]:
    """Complete one operation; the statuses that it answers with problems."""
    if method in WRITES:
        operation["parameters"] = [*operation.get("parameters", []), _IDEMPOTENCY_KEY]
    if closed := [auth for auth in auths if not auth.open]:
        operation["security"] = _security(closed)
    found = _problems(operation, method, auths)
    responses = operation["responses"]
    for status in found:
        known = responses.get(str(status))
        if known is None or "HTTPValidationError" in str(known.get("content", "")):
            responses[str(status)] = {"$ref": f"#/components/responses/Problem{status}"}
        elif not known.get("content"):
            known["content"] = _response(status)["content"]
    return found


def _problems(operation: dict[str, Any], method: str, auths: list[Auth]) -> set[int]:
    found = {400, 503, 504}
    closed = [auth for auth in auths if not auth.open]
    if closed:
        found |= {401, 429}
    if any(auth.roles or auth.plans for auth in closed):
        found.add(403)
    if any(auth.throttle for auth in auths):
        found.add(429)
    if operation.get("parameters"):
        found.add(422)
    if any(parameter["in"] == "path" for parameter in operation.get("parameters", ())):
        found.add(404)
    if method in WRITES:
        found |= {409, 412, 413, 422, 507}
    if method in WITH_BODY:
        found |= {408, 415, 422}
    declared = {int(status) for status in operation["responses"] if status.isdigit() and int(status) >= 400}
    return found | declared


def _security(auths: list[Auth]) -> list[dict[str, list[str]]]:
    """Either credential, or an API key only where a usage plan is required; the roles needed stand beside."""
    roles = sorted({role for auth in auths for role in auth.roles})
    schemes = ["apiKey"] if any(auth.plans for auth in auths) else ["bearer", "apiKey"]
    return [{scheme: roles} for scheme in schemes]


def _response(status: int) -> dict[str, Any]:
    try:
        title = HTTPStatus(status).phrase
    except ValueError:
        title = "Error"
    told: dict[str, Any] = {"description": title}
    if headers := _HEADERS.get(status):
        told["headers"] = headers
    return told | {"content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
