"""Errors as problem details (RFC 9457), the same shape everywhere.

Beside the members of the standard (`type`, `title`, `status`, `detail`) a problem has `error` (the class of the
error), `operation`, `resource`, `hint` and `retryable` where they say something, `errors` (a list with the place of
each invalid value), and `request_id`, which `headwater trace` takes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from headwater.errors import HeadwaterError, Unauthenticated, status_of

PROBLEM = "application/problem+json"
Headers = list[tuple[bytes, bytes]]


def problem(status: int, detail: str, request_id: str = "", **members: Any) -> dict[str, Any]:
    """A problem as JSON types; members that are empty are left out."""
    title = HTTPStatus(status).phrase if status in _STATUSES else "Error"
    body: dict[str, Any] = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    body.update({name: value for name, value in members.items() if value})
    if request_id:
        body["request_id"] = request_id
    return body


def error_body(error: HeadwaterError, request_id: str = "") -> dict[str, Any]:
    """What went wrong, where, how to mend it, and whether the same call may succeed later."""
    return problem(
        status_of(error),
        error.message,
        request_id,
        error=type(error).__name__,
        operation=error.operation,
        resource=error.resource,
        hint=error.hint,
        retryable=error.retryable,
        errors=getattr(error, "errors", ()),
    )


def error_headers(error: HeadwaterError) -> dict[str, str]:
    """What an error adds to its answer: when to try again (RFC 9110 §10.2.3), how to authenticate (§11.6.1)."""
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="headwater"'
    return headers


def raw_problem(body: dict[str, Any], headers: dict[str, str] | None = None) -> tuple[Headers, bytes]:
    """Headers and body of a problem as ASGI sends them."""
    content = msgspec.json.encode(body)
    raw: Headers = [(b"content-type", PROBLEM.encode()), (b"content-length", str(len(content)).encode())]
    raw += [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    return raw, content


def invalid_values(found: Sequence[Any]) -> list[dict[str, Any]]:
    """Validation errors as a problem's `errors`: kind, place and message, without the input (it may be a secret,
    or none that JSON can carry)."""
    return [{"type": item["type"], "loc": list(item["loc"]), "msg": item["msg"]} for item in found]


_STATUSES = frozenset(status.value for status in HTTPStatus)
