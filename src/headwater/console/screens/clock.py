"""The clock of a server in development: pause, move forward, run until idle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headwater.console.past import milliseconds_of
from headwater.console.screens import Screen, View
from headwater.errors import HeadwaterError

_STEPS = (("1m", "+1 minute"), ("10m", "+10 minutes"), ("1h", "+1 hour"), ("1d", "+1 day"), ("7d", "+7 days"))


async def load_clock(view: View) -> Mapping[str, Any]:
    clock = await view.ask("clock-show")
    return {"clock": clock, "steps": _STEPS, "due": await _due(view, milliseconds_of(clock["time"]))}


async def _due(view: View, now_ms: int) -> list[tuple[int, str, str]]:
    """What the next times are that something of the apps is due at: (in how many ms, what, its page)."""
    found = []
    for schedule in (await view.ask("schedules"))["schedules"]:
        if schedule["next"] is not None:
            name = schedule["name"]
            found.append((milliseconds_of(schedule["next"]) - now_ms, f"the schedule {name}", f"/schedules/{name}"))
    for queue in (await view.ask("queues"))["queues"]:
        if queue["delayed"]:
            name = queue["name"]
            found += [
                (milliseconds_of(message["ready"]) - now_ms, f"a message of {name}", f"/queues/{name}")
                for message in await _peeked(view, name)
                if message["ready"]
            ][:3]
    return [(max(in_ms, 0), what, page) for in_ms, what, page in sorted(found)][:20]


async def _peeked(view: View, queue: str) -> list[dict[str, Any]]:
    try:
        return list((await view.ask("peek", queue=queue, limit=100))["messages"])
    except HeadwaterError:
        return []


SCREENS = [Screen("/clock", "Clock", "clock.html", load_clock, key="c", topics=("clock", "schedules", "queues"))]
