"""The last hour of a queue as small charts."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from headwater.console.drawing import outline
from headwater.console.past import totals
from headwater.console.screens import View

MINUTES = 60
WIDTH, HEIGHT = 240, 44
_SHOWN = {
    "queue_sent_total": "sent",
    "queue_settled_total": "done",
    "queue_retried_total": "retried",
}


class Chart(NamedTuple):
    """What was counted in each minute, as an outline; and the most of a minute."""

    name: str
    path: str
    total: float
    most: float


async def last_hour(view: View, queue: str) -> list[Chart]:
    now = int(datetime.fromisoformat((await view.ask("status"))["time"]).timestamp()) // 60
    charts = []
    for counter, name in _SHOWN.items():
        series = (await view.ask("metrics", series=f'{counter}{{queue="{queue}"}}', last="1h"))["series"]
        values = totals(series, now - MINUTES, now, name=counter, own=True)
        charts.append(Chart(name, outline(values, WIDTH, HEIGHT), sum(values), max(values)))
    return charts
