"""Queues and topics: how full and how late queues are, what waits in them, and what can be done about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from headwater.console.charting import last_hour
from headwater.console.forms import example_of, fields_of
from headwater.console.screens import Screen, View
from headwater.console.searching import Found, find_messages
from headwater.errors import UnknownResource

_OWN = "headwater/"
_DIGITS = 19
STATES: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "": lambda _: True,
    "waiting": lambda queue: queue["depth"] > 0,
    "dead": lambda queue: queue["dead"] > 0,
    "paused": lambda queue: queue["paused"],
    "unconsumed": lambda queue: not queue["consumed"],
}


async def load_queues(view: View) -> Mapping[str, Any]:
    wanted, app = view.query.get("q", "").lower(), view.query.get("app", "")
    is_in_state = STATES.get(view.query.get("state", ""), STATES[""])
    resources = await view.ask("resources")
    found = resources["queues"]
    shown = [
        queue
        for queue in found
        if wanted in queue["name"].lower() and app in ("", queue["name"].partition("/")[0]) and is_in_state(queue)
    ]
    topics = [
        {**topic, "routes": sum(route["source"] == topic["name"] for route in _routes(resources))}
        for topic in resources["topics"]
        if wanted in topic["name"].lower() and app in ("", topic["name"].partition("/")[0])
    ]
    apps = sorted({queue["name"].partition("/")[0] for queue in found})
    shown.sort(key=lambda queue: queue["name"].startswith(_OWN))
    return {
        "queues": shown,
        "topics": topics,
        "apps": apps,
        "states": [state for state in STATES if state],
        "total": len(found),
    }


def _routes(resources: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*resources["routes"], *resources["subscriptions"]]


async def load_queue(view: View) -> Mapping[str, Any]:
    name = f"{view.path['app']}/{view.path['name']}"
    resources = await view.ask("resources")
    queue = next((queue for queue in resources["queues"] if queue["name"] == name), None)
    if queue is None:
        raise UnknownResource("there is no such queue", resource=name)
    handlers = (await view.ask("topology"))["handlers"]
    known = queue["policy"] is not None
    found = await _search(view, name) if known else None
    schema = await view.ask("schema", resource=name) if known else {"schema": None, "components": {}}
    return {
        "queue": queue,
        "found": found,
        "searched": _number(view, "searched") + (found.looked_at if found else 0),
        "handler": next((handler for handler in handlers if handler["queue"] == name), None),
        "routes": [route for route in _routes(resources) if route["target"] == name],
        "fields": fields_of(schema),
        "example": example_of(schema),
        "charts": await last_hour(view, name),
    }


async def _search(view: View, queue: str) -> Found:
    return await find_messages(
        view, queue, view.query.get("q", ""), view.query.get("group", ""), _number(view, "after")
    )


def _number(view: View, name: str) -> int:
    text = view.query.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < _DIGITS else 0


SCREENS = [
    Screen("/queues", "Queues", "queues.html", load_queues, key="q", topics=("queues",)),
    Screen("/queues/{app}/{name}", "Queue", "queue.html", load_queue, topics=("queues",)),
]
