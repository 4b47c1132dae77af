"""Schedules: their next runs, in words and times; running one by hand, and not for a while."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headwater.console.past import milliseconds_of
from headwater.console.screens import Screen, View
from headwater.console.screens.tracked import now_ms
from headwater.errors import UnknownResource

_AHEAD = 10


async def load_schedules(view: View) -> Mapping[str, Any]:
    wanted, app = view.query.get("q", "").lower(), view.query.get("app", "")
    found = (await view.ask("schedules"))["schedules"]
    now = await now_ms(view)
    return {
        "schedules": [
            _with_times(one, now)
            for one in found
            if wanted in f"{one['name']} {one['words']}".lower() and app in ("", one["name"].partition("/")[0])
        ],
        "apps": sorted({one["name"].partition("/")[0] for one in found}),
        "total": len(found),
    }


def _with_times(schedule: Mapping[str, Any], now: int) -> dict[str, Any]:
    """`in_ms` until the next run, `ago_ms` since the last."""
    following, last = schedule["next"], schedule["last"]
    return {
        **schedule,
        "in_ms": None if following is None else max(milliseconds_of(following) - now, 0),
        "ago_ms": None if last is None else max(now - milliseconds_of(last), 0),
    }


async def load_schedule(view: View) -> Mapping[str, Any]:
    name = f"{view.path['app']}/{view.path['name']}"
    found = (await view.ask("schedules"))["schedules"]
    schedule = next((one for one in found if one["name"] == name), None)
    if schedule is None:
        raise UnknownResource("there is no such schedule", resource=name)
    now = await now_ms(view)
    ahead = (await view.ask("schedule-next", schedule=name, limit=_AHEAD))["next"]
    resources = await view.ask("resources")
    routes = [*resources["routes"], *resources["subscriptions"]]
    return {
        "schedule": _with_times(schedule, now),
        "ahead": [{**one, "in_ms": milliseconds_of(one["time"]) - now} for one in ahead],
        "targets": [route["target"] for route in routes if route["source"] == name],
        "ticks": (await view.ask("tail", source=name, limit=20))["events"][::-1],
    }


SCREENS = [
    Screen("/schedules", "Schedules", "schedules.html", load_schedules, key="s", topics=("schedules", "minute")),
    Screen("/schedules/{app}/{name}", "Schedule", "schedule.html", load_schedule, topics=("schedules", "minute")),
]
