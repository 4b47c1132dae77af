"""Looking through the messages that wait in a queue, slice by slice, without leasing them.

A page looks for a moment only: how far it came, and where to go on, is in its answer.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from headwater.console.screens import View

SHOWN = 50
SLICE = 250
MOST = 5000
"""So many messages are looked at for one page,"""
LOOKING_S = 0.12
"""and for so long: a slice that was begun is looked at to its end."""


class Found(NamedTuple):
    """Messages, and where to look on; the groups of all that were looked at."""

    messages: list[Mapping[str, Any]]
    next: int | None
    looked_at: int
    groups: list[tuple[str, int]]


async def find_messages(view: View, queue: str, wanted: str, group: str, after: int) -> Found:
    """The next messages whose id, subject or payload has a text in it, of one group or of all."""
    found: list[Mapping[str, Any]] = []
    groups: Counter[str] = Counter()
    looked_at, more = 0, True
    step = SLICE if wanted or group else SHOWN
    end = view.clock.monotonic() + LOOKING_S
    while more and looked_at < MOST and len(found) < SHOWN and (not looked_at or view.clock.monotonic() < end):
        page = await view.ask("peek", queue=queue, limit=step, after=after)
        more = page["next"] is not None
        for message in page["messages"]:
            after = message["position"]
            looked_at += 1
            groups[message["group"] or ""] += 1
            if _is_wanted(message, wanted.lower(), group):
                found.append(message)
                if len(found) == SHOWN:
                    more = more or message is not page["messages"][-1]
                    break
    named = [(name, count) for name, count in groups.most_common(20) if name]
    return Found(found, after if more else None, looked_at, named)


def _is_wanted(message: Mapping[str, Any], wanted: str, group: str) -> bool:
    if group and message["group"] != group:
        return False
    if not wanted:
        return True
    event = message["event"]
    texts = (
        message["id"],
        event["subject"],
        *(json.dumps(event[part], ensure_ascii=False) for part in ("data", "old")),
    )
    return any(wanted in text.lower() for text in texts)
