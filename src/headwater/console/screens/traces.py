"""Traces: what requests led to, as waterfalls; and for each event why it fired what it did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headwater.console.differences import differences
from headwater.console.screens import Screen, View
from headwater.console.waterfall import MAX_DEPTH, Row, axis_of, rows_of
from headwater.errors import InvalidValue

_SHOWN = 50
_OWN = "headwater/"


async def load_traces(view: View) -> Mapping[str, Any]:
    before = view.query.get("before", "")
    page = await view.ask(
        "traces",
        search=view.query.get("q") or None,
        state=view.query.get("state") or None,
        limit=_SHOWN,
        before=int(before) if before.isdigit() else None,
    )
    return {"traces": page["traces"], "next": page["next"], "states": ("waiting", "dead", "done")}


async def load_trace(view: View) -> Mapping[str, Any]:
    answer = await view.ask("trace", id=view.path["id"])
    rows = rows_of(answer)
    axis = axis_of(rows)
    hops = [
        {
            "row": row,
            "bars": [axis.bar(segment) for segment in row.segments],
            "depth": min(row.depth, MAX_DEPTH),
            "differences": _differences(row),
        }
        for row in rows
    ]
    return {
        "trace": answer,
        "is_own": all(event["source"].startswith(_OWN) for root in answer["roots"] for event in root["events"]),
        "hops": hops,
        "marks": axis.marks(),
        "took": max((r.start + r.took for r in rows), default=0),
    }


def _differences(row: Row) -> list[Any]:
    item = row.item
    changed = row.what == "event" and item["old"] is not None and item["type"] == "modified"
    return differences(item["old"], item["data"]) if changed else []


async def load_test(view: View) -> Mapping[str, Any]:
    """Without code where there is no such test, with the reason."""
    id = view.path["id"]
    try:
        return {"id": id, "code": (await view.ask("trace-test", id=id))["code"], "refused": None}
    except InvalidValue as error:
        return {"id": id, "code": "", "refused": error}


async def load_event(view: View) -> Mapping[str, Any]:
    event = await view.ask("event", id=view.path["id"])
    why = await view.ask("why", id=view.path["id"])
    return {"event": event, "why": why, "differences": differences(event["old"] or {}, event["data"] or {})}


SCREENS = [
    Screen("/traces", "Traces", "traces.html", load_traces, key="t", topics=("tail",)),
    Screen("/traces/{id}", "Trace", "trace.html", load_trace, topics=("tail", "letters")),
    Screen("/traces/{id}/test", "Trace as a test", "trace_test.html", load_test),
    Screen("/events/{id}", "Event", "event.html", load_event, topics=("tail",)),
]
