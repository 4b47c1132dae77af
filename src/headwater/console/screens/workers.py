"""Workers: the processes, what each holds, and how many the autoscaler wants, with its reasons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headwater.console.screens import Screen, View

_DECISIONS = 20


async def load_workers(view: View) -> Mapping[str, Any]:
    found = await view.ask("workers")
    handlers = (await view.ask("topology"))["handlers"]
    scales = (await view.ask("scales"))["scales"]
    app = view.query.get("app", "")
    wanted = view.query.get("queue", "")
    decisions = [
        decision
        for scale in scales
        if wanted in ("", scale["queue"])
        for decision in (await view.ask("scalings", queue=scale["queue"], limit=_DECISIONS))["scalings"]
    ]
    holds = found["server"]["holds"] if found["server"] else []
    return {
        "server": found["server"],
        "holds": [one for one in holds if app in ("", one["queue"].partition("/")[0])],
        "workers": found["workers"],
        "terms": found["terms"],
        "apart": [handler for handler in handlers if handler["runs"] == "process"],
        "scales": scales,
        "decisions": sorted(decisions, key=lambda decision: decision["time"], reverse=True)[:_DECISIONS],
        "apps": sorted({one["queue"].partition("/")[0] for one in holds}),
    }


SCREENS = [Screen("/workers", "Workers", "workers.html", load_workers, key="w", topics=("workers", "queues"))]
