"""The audit: who did what through the admin operations. Rows of `headwater/audit`, by day.

A row is written before its operation runs, and says afterwards how that ended: one that has "begun" only may have had
its effect. Documents and secrets stand in no row; keys of rows do until they are forgotten (`headwater.erasures`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from headwater.clock import from_ms
from headwater.codec import encode_json
from headwater.ids import new_id

AUDIT = "headwater/audit"
MAX_TEXT = 500
REDACTED = "redacted"
_SECRET = ("secret", "token", "password", "digest")
_TOLD = ("id", "ids", "missing", "key", "version", "written", "replayed", "purged", "removed")
"""What rows tell of an answer, where it is no text that could be a secret."""


class Audited(msgspec.Struct, kw_only=True):
    """One operation that was asked for. `by` says who, `result` which of the answer's ids and counts are known."""

    day: str
    id: str
    at_ms: int
    by: str
    operation: str
    parameters: dict[str, Any]
    outcome: Literal["begun", "done", "failed"] = "begun"
    error: str = ""
    result: dict[str, Any] = {}
    ended_ms: int = 0


def begun(operation: str, parameters: Mapping[str, Any], by: str, now_ms: int) -> Audited:
    told = {name: told_of(name, value) for name, value in parameters.items() if value}
    return Audited(
        day=from_ms(now_ms).strftime("%Y-%m-%d"),
        id=new_id(),
        at_ms=now_ms,
        by=by[:200] or "unknown",
        operation=operation,
        parameters=told,
    )


def told_of(name: str, value: Any) -> Any:
    """A parameter as the audit has it."""
    if any(part in name for part in _SECRET):
        return REDACTED
    if isinstance(value, dict):
        return f"{{…}} {len(encode_json(value))} bytes"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return f"[…] {len(value)} documents"
    if isinstance(value, str) and "://" in value:
        return _origin(value)
    return f"{value[:MAX_TEXT]}…" if isinstance(value, str) and len(value) > MAX_TEXT else value


def _origin(url: str) -> str:
    """A URL's path can be a secret."""
    try:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}/…"
    except ValueError:
        return REDACTED


def result_of(operation: str, answer: Any) -> dict[str, Any]:
    """Ids and counts of an answer. The new key of an API key is its secret: it is no list of parts."""
    if not isinstance(answer, dict):
        return {}
    told = {name: answer[name] for name in _TOLD if answer.get(name)}
    if isinstance(told.get("key"), str) and operation.startswith("key-"):
        del told["key"]
    return told
