"""Charts of metrics as SVG: from values by the minute to paths and marks. Pure; `templates/charts.html` draws them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from headwater.console.filters import number
from headwater.console.past import minute_of
from headwater.rollups import read_series

WIDTH, HEIGHT = 560, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 12, 20
_STEPS = (1, 2, 2.5, 5, 10)
Values = Sequence[float | None]
"""One a minute; None where nothing is known."""


class Curve(NamedTuple):
    """A line. `tone` is its class: 0, 1, 2."""

    name: str
    path: str
    tone: int


class Mark(NamedTuple):
    """A line across with its words, at a height or at a place."""

    at: float
    text: str


class Chart(NamedTuple):
    """`summary` tells it in words. `threshold` is the height of an alarm's bound, `beyond` the area that it means."""

    title: str
    curves: tuple[Curve, ...]
    levels: tuple[Mark, ...]
    times: tuple[Mark, ...]
    summary: str
    threshold: Mark | None = None
    beyond: tuple[float, float] = (0, 0)
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    bottom: int = HEIGHT - _BOTTOM


def make_chart(
    title: str, lines: Mapping[str, Values], first: int, *, threshold: float | None = None, below: bool = False
) -> Chart:
    """Lines of values from the minute `first` since the epoch on, all of the same length."""
    known = [value for values in lines.values() for value in values if value is not None]
    most = top_of(max([*known, threshold or 0, 0]))
    length = max((len(values) for values in lines.values()), default=0)
    bound = None if threshold is None else Mark(_y(threshold, most), number(threshold))
    beyond = (0.0, 0.0)
    if bound is not None:
        beyond = (bound.at, HEIGHT - _BOTTOM - bound.at) if below else (_TOP, bound.at - _TOP)
    return Chart(
        title,
        tuple(Curve(name, path_of(values, most), tone % 3) for tone, (name, values) in enumerate(lines.items())),
        tuple(Mark(_y(level, most), _short(level)) for level in (0, most / 2, most)),
        _times(first, length),
        _summary(lines, threshold, below=below),
        bound,
        beyond,
    )


def top_of(most: float) -> float:
    """The next round number: the end of the scale."""
    if most <= 0:
        return 1.0
    size = float(10 ** math.floor(math.log10(most)))
    return next(step * size for step in _STEPS if step * size >= most * (1 - 1e-9))


def path_of(values: Values, most: float) -> str:
    """A line that is broken where nothing is known; a value alone is a dot."""
    step = (WIDTH - _LEFT - _RIGHT) / max(len(values) - 1, 1)
    told: list[str] = []
    for n, value in enumerate(values):
        if value is None:
            continue
        place = f"{_LEFT + n * step:.1f} {_y(value, most):.1f}"
        starts = n == 0 or values[n - 1] is None
        ends = n == len(values) - 1 or values[n + 1] is None
        told.append(f"M{place}" if starts else f"L{place}")
        if starts and ends:
            told.append("h0.1")
    return " ".join(told)


def _y(value: float, most: float) -> float:
    room = HEIGHT - _TOP - _BOTTOM
    return round(_TOP + room * (1 - min(max(value / most, 0), 1)), 1)


def _short(value: float) -> str:
    return number(value) if value == 0 or abs(value) >= 1 else f"{value:.3g}"


def _times(first: int, length: int) -> tuple[Mark, ...]:
    """The time at the beginning, in the middle and at the end."""
    if length < 2:
        return ()
    step = (WIDTH - _LEFT - _RIGHT) / (length - 1)
    places = (0, (length - 1) // 2, length - 1)
    return tuple(
        Mark(_LEFT + n * step, datetime.fromtimestamp((first + n) * 60, UTC).strftime("%H:%M")) for n in places
    )


def _summary(lines: Mapping[str, Values], threshold: float | None, *, below: bool) -> str:
    told = []
    for name, values in lines.items():
        known = [value for value in values if value is not None]
        figures = f"last {_short(known[-1])}, at most {_short(max(known))}" if known else "no data"
        told.append(f"{name}: {figures}")
    if threshold is not None:
        told.append(f"threshold {'below' if below else 'above'} {_short(threshold)}")
    return "; ".join(told)


def lines_of(series: Mapping[str, Any], first: int, last: int) -> dict[str, list[float | None]]:
    """The minutes of a series of the operation `metrics`: a gauge stays, a counter without a point counted nothing."""
    kind = series["kind"]
    points = {minute_of(point["time"]): point for point in series["points"]}
    minutes = range(first, last + 1)
    if kind == "histogram":
        return {
            f"{name} in ms": [_thousandfold(points[minute][name]) if minute in points else None for minute in minutes]
            for name in ("p50", "p95", "p99")
        }
    if kind == "counter":
        return {"a minute": [points[minute]["value"] if minute in points else 0.0 for minute in minutes]}
    return {"value": list(_staying(points, minutes))}


def _thousandfold(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


def _staying(points: Mapping[int, Mapping[str, Any]], minutes: Iterable[int]) -> Iterable[float | None]:
    shown: float | None = None
    for minute in minutes:
        shown = points[minute]["value"] if minute in points else shown
        yield shown


def title_of(series: str) -> str:
    """The labels of a series in a few words."""
    labels = dict(read_series(series).labels)
    if "route" in labels:
        status = f" {labels['status']}" if "status" in labels else ""
        return f"{labels['method']} /{labels['app']}{labels['route']}{status}"
    return ", ".join(labels.values()) or series
