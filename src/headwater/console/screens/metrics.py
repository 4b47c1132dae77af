"""Metrics: the charts of all series."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from headwater.console.charts import Chart, lines_of, make_chart, title_of
from headwater.console.past import minute_of
from headwater.console.screens import Screen, View
from headwater.durations import to_ms

SPANS = {"1h": "hour", "3h": "3 hours", "12h": "12 hours", "24h": "day"}
PAGE = 24


async def load_metrics(view: View) -> Mapping[str, Any]:
    name, wanted = view.query.get("name", ""), view.query.get("q", "").lower()
    last = last_of(view)
    found = (await view.ask("metrics", last=last))["series"]
    families = Counter(one["series"].partition("{")[0] for one in found)
    name = name if name in families else min(families, default="")
    chosen = [one for one in found if one["series"].partition("{")[0] == name and wanted in one["series"].lower()]
    chosen.sort(key=lambda one: '"headwater/' in one["series"])
    page = int(view.query["page"]) if view.query.get("page", "").isdecimal() else 0
    shown = chosen[page * PAGE : (page + 1) * PAGE]
    return {
        "families": sorted(families.items()),
        "chosen": name,
        "charts": await charts_of(view, shown, last),
        "matching": len(chosen),
        "page": page,
        "more": len(chosen) > (page + 1) * PAGE,
        "spans": SPANS,
        "last": last,
    }


def last_of(view: View) -> str:
    """The span of time that the address asks for."""
    asked = view.query.get("last", "")
    return asked if asked in SPANS else "1h"


async def charts_of(view: View, series: Sequence[Mapping[str, Any]], last: str) -> list[Chart]:
    """Each series over the last full minutes."""
    end = minute_of((await view.ask("status"))["time"]) - 1
    first = end - to_ms(last) // 60_000 + 1
    return [make_chart(title_of(one["series"]), lines_of(one, first, end), first) for one in series]


SCREENS = [Screen("/metrics", "Metrics", "metrics.html", load_metrics, key="x", topics=("minute",))]
