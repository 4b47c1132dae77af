"""Queues: how full and how late they are, what waits in them, and what can be done about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headwater.console.screens import Screen, View
from headwater.errors import UnknownResource

_SHOWN = 50


async def load_queues(view: View) -> Mapping[str, Any]:
    wanted = view.query.get("q", "").lower()
    app = view.query.get("app", "")
    found = (await view.ask("queues"))["queues"]
    apps = sorted({queue["name"].partition("/")[0] for queue in found})
    shown = [queue for queue in found if wanted in queue["name"].lower() and queue["name"].startswith(app)]
    return {"queues": shown, "apps": apps, "total": len(found)}


async def load_queue(view: View) -> Mapping[str, Any]:
    name = f"{view.path['app']}/{view.path['name']}"
    queues = (await view.ask("queues"))["queues"]
    queue = next((queue for queue in queues if queue["name"] == name), None)
    if queue is None:
        raise UnknownResource("there is no such queue", resource=name)
    page = await view.ask("peek", queue=name, limit=_SHOWN, after=int(view.query.get("after", "0") or 0))
    return {"queue": queue, "messages": page["messages"], "next": page["next"]}


SCREENS = [
    Screen("/queues", "Queues", "queues.html", load_queues, key="q", topics=("queues",)),
    Screen("/queues/{app}/{name}", "Queue", "queue.html", load_queue, topics=("queues",)),
]
