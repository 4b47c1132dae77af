"""Errors as JSON, the same shape everywhere."""

from __future__ import annotations

from typing import Any

from headwater.errors import HeadwaterError


def error_body(error: HeadwaterError) -> dict[str, Any]:
    """What went wrong, where, how to mend it, and whether the same call may succeed later."""
    body: dict[str, Any] = {"detail": error.message, "error": type(error).__name__}
    for name in ("operation", "resource", "hint"):
        if value := getattr(error, name):
            body[name] = value
    if error.retryable:
        body["retryable"] = True
    return body
