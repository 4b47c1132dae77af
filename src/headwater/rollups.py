"""Roll-ups: the minutes of each series as rows of `headwater/metrics`, an hour a row.

A point is a list: the minute of the hour, then the value. That is what a counter was raised by, what a gauge shows from
here on, or of a histogram the sum of seconds and the counts of its buckets, without the empty ones at the end. Minutes
without activity, and in which a gauge stays, have no point. Several points of one minute (a restart was in it) belong
together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from headwater.metrics import BOUNDS, Histogram, Sample, Series

METRICS = "headwater/metrics"
MINUTES = 60
Point = list[float]
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class RollUp(msgspec.Struct, kw_only=True):
    """A row: the points of one series in one hour since the epoch."""

    series: str
    hour: int
    points: list[Point] = []


def read_series(text: str) -> Series:
    """The series that a row is named after."""
    name, _, labels = text.partition("{")
    return Series(name, tuple((label, _unescaped(value)) for label, value in _LABEL.findall(labels)))


def _unescaped(value: str) -> str:
    return re.sub(r"\\(.)", lambda found: "\n" if found[1] == "n" else found[1], value)


def histogram_point(minute: int, histogram: Histogram) -> Point:
    counts = list(histogram.buckets)
    while counts and not counts[-1]:
        counts.pop()
    return [minute, round(histogram.total, 6), *counts]


def _histogram(point: Point) -> Histogram:
    counts = [int(count) for count in point[2:]]
    return Histogram(counts + [0] * (len(BOUNDS) + 1 - len(counts)), point[1])


def minutes_of(rows: Iterable[RollUp]) -> dict[int, dict[Series, float | Histogram]]:
    """The points of rows by minute since the epoch."""
    found: dict[int, dict[Series, float | Histogram]] = {}
    for row in rows:
        series = read_series(row.series)
        for point in row.points:
            values = found.setdefault(row.hour * MINUTES + int(point[0]), {})
            before = values.get(series)
            if len(point) > 2:
                added = _histogram(point)
                if isinstance(before, Histogram):
                    added.add(before)
                values[series] = added
            elif series.counted and isinstance(before, float):
                values[series] = before + point[1]
            else:
                values[series] = float(point[1])
    return found


def sample_of(values: dict[Series, float | Histogram]) -> Sample:
    """A minute of roll-ups as a sample; of gauges it has those that changed."""
    sample = Sample({}, {}, {})
    for series, value in values.items():
        if isinstance(value, Histogram):
            sample.durations[series] = value
        else:
            (sample.counts if series.counted else sample.gauges)[series] = value
    return sample


def points_of(sample: Sample, minute: int, before: dict[Series, float]) -> dict[Series, Point]:
    """What is written of a minute: activity, and the gauges that show something else than `before`."""
    points: dict[Series, Point] = {series: [minute, _short(n)] for series, n in sample.counts.items()}
    points.update({one: histogram_point(minute, histogram) for one, histogram in sample.durations.items()})
    changed = {one: value for one, value in sample.gauges.items() if before.get(one, 0.0) != value}
    gone = {one: 0.0 for one, value in before.items() if value and one not in sample.gauges}
    points.update({series: [minute, _short(value)] for series, value in (changed | gone).items()})
    return points


def _short(value: float) -> float:
    """Whole numbers are written without a fraction."""
    return int(value) if value == int(value) else value
