"""Dead letters: what died of what, by which attempts; edited, tried out, redriven or discarded."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from headwater.console.screens import Screen, View
from headwater.errors import TimedOut

_SHOWN = 50
_COUNTING_S, _PATIENT_S = 0.15, 60.0
"""A page does not count for longer, unless it is asked to (`count`)."""


async def load_letters(view: View) -> Mapping[str, Any]:
    query = view.query
    chosen = {name: query.get(name, "") for name in ("queue", "exception")} | {"search": query.get("q", "")}
    groups = await _groups(view, chosen["queue"], chosen["search"])
    matching = sum(g["count"] for g in groups or () if chosen["exception"] in ("", g["exception"]))
    after = query.get("after", "")
    page: Mapping[str, Any] = {"dead_letters": [], "next": None}
    if any(chosen.values()):
        page = await view.ask("dead-letters", **chosen, limit=_SHOWN, after=int(after) if after.isdigit() else 0)
    return {
        "groups": groups,
        "queues": [] if groups is not None else await _with_letters(view, chosen["queue"]),
        "counting": urlencode({**query, "count": "1"}),
        "chosen": chosen,
        "filtered": any(chosen.values()),
        "matching": matching,
        "letters": page["dead_letters"],
        "next": page["next"],
        "command": _command(chosen),
    }


async def _groups(view: View, queue: str, search: str) -> list[Any] | None:
    """None where there are too many letters to be counted in a moment."""
    seconds = _PATIENT_S if view.query.get("count") else _COUNTING_S
    try:
        return list((await view.ask("dead-letter-groups", queue=queue, search=search, seconds=seconds))["groups"])
    except TimedOut:
        return None


async def _with_letters(view: View, queue: str) -> list[Mapping[str, Any]]:
    """The queues that have dead letters, most first."""
    found = [one for one in (await view.ask("queues"))["queues"] if one["dead"] and queue in ("", one["name"])]
    return sorted(found, key=lambda one: -one["dead"])


def _command(chosen: Mapping[str, str]) -> str:
    """The options of `headwater dlq redrive` that choose the same."""
    return " ".join(f"--{name} {shlex.quote(value)}" for name, value in chosen.items() if value)


async def load_letter(view: View) -> Mapping[str, Any]:
    id = view.path["id"]
    letter = await view.ask("dead-letter", id=int(id) if id.isdigit() else 0)
    return {"letter": letter, "body": json.dumps(letter["event"]["data"], indent=2, ensure_ascii=False)}


SCREENS = [
    Screen("/letters", "Dead letters", "letters.html", load_letters, key="d", topics=("letters",)),
    Screen("/letters/{id}", "Dead letter", "letter.html", load_letter),
]
