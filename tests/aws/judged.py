"""`python -m tests.aws.judged`: ministack, telling in the file JUDGEMENTS what was asked for by whom, and allowed.

A line for each check of a request: `n` counts requests (a transaction is one, and has a check for each of its items),
`call` is the request's operation, `role` whose credentials signed it, "" for the root's.
"""

from __future__ import annotations

import contextvars
import itertools
import json
import os
from typing import Any

from ministack import app
from ministack.core import iam_actions, iam_evaluator
from ministack.core.responses import get_account_id

_requests = itertools.count(1)
_request: contextvars.ContextVar[tuple[int, str]] = contextvars.ContextVar("request", default=(0, ""))
_extract, _enforce = iam_actions.extract_iam_action, iam_evaluator.enforce


def extract_iam_action(*arguments: Any, **named: Any) -> Any:
    found = _extract(*arguments, **named)
    _request.set((next(_requests), found or ""))
    return found


def enforce(access_key_id: str, iam_action: str, service: str, region: str, **more: Any) -> Any:
    denied = _enforce(access_key_id, iam_action, service, region, **more)
    arn = getattr(iam_evaluator.resolve_principal(access_key_id or "", get_account_id()), "arn", "")
    role = arn.split("/")[1] if ":assumed-role/" in arn else ""
    number, call = _request.get()
    told = {"n": number, "call": call or iam_action, "role": role, "action": iam_action}
    told |= {"resource": more.get("resource_arn", "*"), "allowed": denied is None}
    os.write(_file, json.dumps(told).encode() + b"\n")
    return denied


if __name__ == "__main__":
    _file = os.open(os.environ["JUDGEMENTS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    iam_actions.extract_iam_action, iam_evaluator.enforce = extract_iam_action, enforce
    app.main()
