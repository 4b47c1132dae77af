"""Alarms: their states, their thresholds over what they measure, their history; clearing what nothing measures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headwater.alarms import STATES
from headwater.console.charts import Chart, make_chart
from headwater.console.past import minute_of
from headwater.console.screens import Screen, View
from headwater.console.screens.metrics import SPANS
from headwater.errors import UnknownResource

_STATES = ("alarm", "ok", "insufficient")
TONES = {"alarm": "bad", "ok": "good"}


async def load_alarms(view: View) -> Mapping[str, Any]:
    wanted, state = view.query.get("q", "").lower(), view.query.get("state", "")
    found = (await view.ask("alarms"))["alarms"]
    shown = [
        alarm
        for alarm in found
        if wanted in f"{alarm['name']} {alarm['resource']} {alarm['detail']}".lower() and state in ("", alarm["state"])
    ]
    raised = [alarm for alarm in shown if alarm["state"] == "alarm" and alarm["metric"]][:6]
    told = [await view.ask("alarm-show", name=one["name"], resource=one["resource"], last="1h") for one in raised]
    charts = [(alarm, chart) for alarm in told if (chart := chart_of(alarm)) is not None]
    return {"alarms": shown, "total": len(found), "states": _STATES, "charts": charts, "tones": TONES}


def chart_of(alarm: Mapping[str, Any]) -> Chart | None:
    """The alarm's metric under its threshold; None without a metric."""
    values, condition = alarm["values"], alarm["condition"]
    if not values or condition is None:
        return None
    return make_chart(
        f"{alarm['metric'].replace('_', ' ')} of {alarm['resource']}, {condition['words']}",
        {"value": [one["value"] for one in values]},
        minute_of(values[0]["time"]),
        threshold=condition["threshold"],
        below=condition["below"],
    )


async def load_alarm(view: View) -> Mapping[str, Any]:
    name, resource = view.query.get("name", ""), view.query.get("resource", "")
    last = view.query.get("last", "") if view.query.get("last") in SPANS else "3h"
    if not (name and resource):
        raise UnknownResource("the address names no alarm", operation="alarm")
    alarm = await view.ask("alarm-show", name=name, resource=resource, last=last)
    changes = (await view.ask("table-history", table=STATES, key=[name, resource], limit=50))["changes"]
    return {
        "alarm": alarm,
        "chart": chart_of(alarm),
        "changes": [change for change in changes if change["data"]],
        "spans": SPANS,
        "last": last,
        "tones": TONES,
    }


SCREENS = [
    Screen("/alarms", "Alarms", "alarms.html", load_alarms, key="a", topics=("alarms", "minute")),
    Screen("/alarms/one", "Alarm", "alarm.html", load_alarm, topics=("alarms", "minute")),
]
