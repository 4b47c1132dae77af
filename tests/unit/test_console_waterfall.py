"""A trace as rows on an axis: nested as it happened, with long pauses cut out."""

from __future__ import annotations

from typing import Any

import pytest

from headwater.console.waterfall import Axis, Row, Segment, axis_of, rows_of


def message(queue: str, **more: Any) -> dict[str, Any]:
    told: dict[str, Any] = {"receives": None, "failures": [], "dead_letter": None, "reason": None, "events": []}
    return {"queue": queue, "state": "done", **told, **more}


def event(id: str, time: str, *messages: Any) -> dict[str, Any]:
    told: dict[str, Any] = {"source": "shop/orders", "type": "message", "subject": "", "data": {}, "old": None}
    return {"id": id, "time": f"2026-01-01T00:00:{time}Z", **told, "messages": messages, "edited": []}


def span(id: str, kind: str, start: str, took: float, **more: Any) -> dict[str, Any]:
    told = {"parent": "", "of": "", "name": id, "attempt": 0, "outcome": "ok", "start": f"2026-01-01T00:00:{start}Z"}
    return {"id": id, "kind": kind, "duration_ms": took, **told, **more}


def test_rows_nest_as_it_happened() -> None:
    later = event("b", "02.500")
    root = {"cause": "POST /orders", "events": [event("a", "00.010", message("shop/bills", events=[later]))]}
    spans = [
        span("r", "request", "00.000", 12, of="POST /orders"),
        span("t", "attempt", "02.000", 600, of="a/shop/bills", attempt=1),
        span("s", "step", "02.100", 300, parent="t", of="x"),
        span("c", "call", "02.150", 200, parent="s", of="http://vendor"),
        span("q", "request", "02.160", 100, parent="c", of="GET /prices"),
    ]
    rows = rows_of({"roots": [root], "spans": spans})
    assert [(row.what, row.depth) for row in rows] == [
        ("request", 0),
        ("event", 1),
        ("message", 2),
        ("attempt", 3),
        ("step", 4),
        ("call", 5),
        ("request", 6),
        ("event", 3),
    ]
    (bills,) = [row for row in rows if row.what == "message"]
    assert bills.segments == [Segment(10, 2000, "waiting"), Segment(2000, 2600, "ok")]
    assert bills.took == 2590


def test_without_spans_the_failures_and_what_was_made_are_the_attempts() -> None:
    begin_ms = 1767225600000
    failure = {"receive": 1, "started_ms": begin_ms + 100, "ended_ms": begin_ms + 150}
    made = event("b", "01.000")
    root = {
        "cause": None,
        "events": [event("a", "00.000", message("q/x", failures=[failure]), message("q/y", events=[made]))],
    }
    rows = {row.label: row for row in rows_of({"roots": [root], "spans": []})}
    assert rows["q/x"].segments == [Segment(0, 100, "waiting"), Segment(100, 150, "failed")]
    assert rows["q/y"].segments == [Segment(0, 1000, "waiting"), Segment(1000, 1000, "ok")]


def row(*segments: Segment) -> Row:
    return Row("x", "message", "q", "done", 0, list(segments), {})


def test_a_pause_of_an_hour_does_not_hide_milliseconds() -> None:
    hour = 3_600_000.0
    axis = axis_of([row(Segment(0, 10, "ok")), row(Segment(10, hour, "waiting"), Segment(hour, hour + 10, "failed"))])
    early, late = axis.bar(Segment(0, 10, "ok")), axis.bar(Segment(hour, hour + 10, "failed"))
    assert early.width == late.width == pytest.approx(47.5)
    assert early.x + early.width < late.x
    assert [(mark.ms, mark.skipped) for mark in axis.marks()] == [(0, 0), (hour, hour - 10)]


def test_bars_stay_on_the_axis_and_in_order() -> None:
    segments = [Segment(n * 700.0, n * 700.0 + 30 * (n % 3), "ok") for n in range(40)]
    axis = axis_of([row(segment) for segment in segments])
    bars = [axis.bar(segment) for segment in segments]
    assert [bar.x for bar in bars] == sorted(bar.x for bar in bars)
    assert all(bar.x >= 0 and bar.x + bar.width <= 100.01 for bar in bars)


def test_nothing_timed_has_an_axis_all_the_same() -> None:
    assert isinstance(axis_of([]), Axis)
    assert axis_of([row()]).marks()[0].x == 0
