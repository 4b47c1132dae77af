"""The audit: who did what, through the console, the command line and the admin API."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from headwater.console.screens import Screen, View

_OUTCOMES = ("done", "failed", "begun")


async def load_audit(view: View) -> Mapping[str, Any]:
    query = view.query
    page = await view.ask(
        "audit",
        by=query.get("by", ""),
        of=query.get("of", ""),
        outcome=query.get("outcome") if query.get("outcome") in _OUTCOMES else "",
        search=query.get("q", ""),
        before=query.get("before", ""),
    )
    names = sorted(operation["operation"] for operation in view.house.describe() if operation["writes"])
    return {
        "actions": page["actions"],
        "next": page["next"],
        "operations": names,
        "outcomes": _OUTCOMES,
        "command": shlex.join(["headwater", "audit", *_options(query)]),
    }


def _options(query: Mapping[str, str]) -> list[str]:
    named = {"by": "by", "of": "of", "outcome": "outcome", "q": "search"}
    return [word for name, option in named.items() if query.get(name) for word in (f"--{option}", query[name])]


SCREENS = [Screen("/audit", "Audit", "audit.html", load_audit, key="l", topics=("audit",))]
