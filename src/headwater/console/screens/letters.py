"""Dead letters: what died of what, by which attempts; edited, tried out, redriven or discarded."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from headwater.console.screens import Screen, View

_SHOWN = 50


async def load_letters(view: View) -> Mapping[str, Any]:
    query = view.query
    chosen = {name: query.get(name, "") for name in ("queue", "exception")} | {"search": query.get("q", "")}
    groups = (await view.ask("dead-letter-groups", queue=chosen["queue"], search=chosen["search"]))["groups"]
    matching = sum(g["count"] for g in groups if chosen["exception"] in ("", g["exception"]))
    after = query.get("after", "")
    page: Mapping[str, Any] = {"dead_letters": [], "next": None}
    if any(chosen.values()):
        page = await view.ask("dead-letters", **chosen, limit=_SHOWN, after=int(after) if after.isdigit() else 0)
    return {
        "groups": groups,
        "chosen": chosen,
        "filtered": any(chosen.values()),
        "matching": matching,
        "letters": page["dead_letters"],
        "next": page["next"],
        "command": _command(chosen),
    }


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
