"""Queues as they were at a minute of the last hours, from their metrics: a pure function of the operation's answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from headwater.console.topology import Figures
from headwater.metrics import DUE
from headwater.rollups import read_series

MINUTE_MS = 60_000
_GAUGES = {
    "queue_depth": "depth",
    "queue_in_flight": "in_flight",
    "queue_delayed": "delayed",
    "queue_dead_letters": "dead",
    DUE: "due_s",
}
_COUNTERS = {
    "queue_sent_total": "sent",
    "queue_settled_total": "settled",
    "queue_retried_total": "retried",
    "handler_failures_total": "failed",
}


def figures_at(series: Iterable[Mapping[str, Any]], minute: int) -> dict[str, Figures]:
    """The figures of each queue at the end of a minute since the epoch; a gauge stays what it last was.

    Of a gauge that no point before the minute tells nothing is known.
    """
    found: dict[str, dict[str, float]] = {}
    for one in series:
        named = read_series(one["series"])
        queue = dict(named.labels).get("queue")
        if queue is None:
            continue
        values = found.setdefault(queue, {})
        points = [(minute_of(point["time"]), point["value"]) for point in one["points"] if "value" in point]
        if named.name in _GAUGES:
            before = [value for at, value in points if at <= minute]
            if before:
                values[_GAUGES[named.name]] = before[-1]
        elif named.name in _COUNTERS:
            values[_COUNTERS[named.name]] = sum(value for at, value in points if at == minute) / 60
    return {queue: _figures(values, (minute + 1) * MINUTE_MS) for queue, values in found.items()}


def _figures(values: dict[str, float], end_ms: int) -> Figures:
    due_s = values.pop("due_s", None)
    oldest_ms = None if due_s is None else max(0.0, end_ms - due_s * 1000) if due_s else 0.0
    return Figures(oldest_ms=oldest_ms, **values)


def totals(
    series: Iterable[Mapping[str, Any]], first: int, last: int, *, name: str = "queue_sent_total", own: bool = False
) -> list[float]:
    """What all series of a counter counted in each minute; those of the server's own queues only when asked for."""
    found = [0.0] * (last - first + 1)
    for one in series:
        named = read_series(one["series"])
        is_own = dict(named.labels).get("queue", "").startswith("headwater/")
        if named.name != name or (is_own and not own):
            continue
        for point in one["points"]:
            at = minute_of(point["time"])
            if first <= at <= last:
                found[at - first] += point["value"]
    return found


def minute_of(time: str) -> int:
    """The minute since the epoch of an RFC 3339 time."""
    return int(datetime.fromisoformat(time).timestamp()) // 60


def milliseconds_of(time: str) -> int:
    """An RFC 3339 time as milliseconds since the epoch."""
    return int(datetime.fromisoformat(time).timestamp() * 1000)
