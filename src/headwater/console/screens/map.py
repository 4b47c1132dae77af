"""The map: what there is, how it is connected, what flows through it, now or at a minute of the last hour."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from headwater.console.drawing import draw, draw_tree, outline
from headwater.console.past import figures_at, totals
from headwater.console.screens import Screen, View
from headwater.console.topology import Answers, Figures, live_figures, make_topology

MINUTES = 60
CHART = (720, 34)


async def load_map(view: View) -> Mapping[str, Any]:
    resources, topology = await view.ask("resources"), await view.ask("topology")
    now = await _present_minute(view)
    at = _minute(view.query.get("at", ""), now)
    sent = (await view.ask("metrics", series="queue_sent_total", last="1h"))["series"]
    figures = await _figures_at(view, at) if at else {q["name"]: live_figures(q) for q in resources["queues"]}
    app = view.query.get("app", "")
    shown = make_topology(Answers(resources, topology, figures, {} if at else await _alarms(view)), app)
    return {
        "drawings": {"wide": draw(shown), "narrow": draw_tree(shown)},
        "apart": shown.apart,
        "apps": resources["apps"],
        "app": app,
        "at": at,
        "now": now,
        "first": now - MINUTES,
        "moment": _in_words(at) if at else "",
        "chart": outline(totals(sent, now - MINUTES, now), *CHART),
        "chart_size": CHART,
        "links": _listed(resources),
    }


async def _present_minute(view: View) -> int:
    time = (await view.ask("status"))["time"]
    return int(datetime.fromisoformat(time).timestamp()) // 60


def _minute(text: str, now: int) -> int:
    """The minute that is asked for; 0 for the present."""
    minute = int(text) if text.isascii() and text.isdigit() and len(text) < 12 else now
    return max(minute, now - MINUTES) if minute < now else 0


def _in_words(minute: int) -> str:
    return datetime.fromtimestamp(minute * 60, UTC).strftime("%H:%M UTC")


async def _figures_at(view: View, minute: int) -> dict[str, Figures]:
    end = datetime.fromtimestamp((minute + 1) * 60, UTC).isoformat()
    begin = datetime.fromtimestamp((minute - MINUTES) * 60, UTC).isoformat()
    found = [
        one
        for series in ("queue_", "handler_failures_total")
        for one in (await view.ask("metrics", series=series, begin=begin, end=end))["series"]
    ]
    return figures_at(found, minute)


async def _alarms(view: View) -> dict[str, str]:
    alarms = (await view.ask("alarms"))["alarms"]
    return {alarm["resource"]: alarm["name"] for alarm in alarms if alarm["state"] == "alarm"}


def _listed(resources: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return sorted(
        (*resources["routes"], *resources["subscriptions"]), key=lambda route: (route["source"], route["target"])
    )


SCREENS = [Screen("/", "Map", "map.html", load_map, key="m", topics=("queues", "alarms"))]
