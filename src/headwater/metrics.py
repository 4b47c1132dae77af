"""Metrics: what is counted in memory, and the figures of a minute that are made of it.

A `Series` is one line of figures, named as Prometheus names it: a counter ends in `_total`, a histogram has buckets of
seconds, all else is a gauge. `Recorder` counts while work runs: an increment, an array index, nothing that waits.
A `Totals` is what a process shows of all series at one moment, a `Sample` what one minute added. `Metric` picks one
number a minute out of samples; alarms look at it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of a histogram's buckets, in seconds; a last bucket takes what is longer."""
MAX_SERIES = 10_000
MAX_NAME = 1000
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
MINUTE_MS = 60_000
DUE = "queue_due_timestamp_seconds"


class Series(NamedTuple):
    """A name and labels, such as `queue_depth{queue="shop/orders"}`. The labels' values must be few."""

    name: str
    labels: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        told = ",".join(f'{name}="{_escaped(value)}"' for name, value in self.labels)
        return f"{self.name}{{{told}}}" if told else self.name

    @property
    def counted(self) -> bool:
        return self.name.endswith("_total")


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def series(name: str, **labels: str) -> Series:
    return Series(name, tuple(labels.items()))


class Histogram(msgspec.Struct):
    """Counts of durations by bucket, and their sum in seconds."""

    buckets: list[int] = msgspec.field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    total: float = 0.0

    def observe(self, seconds: float) -> None:
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds

    @property
    def count(self) -> int:
        return sum(self.buckets)

    def copy(self) -> Histogram:
        return Histogram(list(self.buckets), self.total)

    def since(self, before: Histogram | None) -> Histogram:
        if before is None:
            return self.copy()
        pairs = zip(self.buckets, before.buckets, strict=True)
        return Histogram([now - then for now, then in pairs], max(0.0, self.total - before.total))

    def add(self, other: Histogram) -> None:
        self.buckets = [ours + theirs for ours, theirs in zip(self.buckets, other.buckets, strict=True)]
        self.total += other.total

    def quantile(self, share: float) -> float | None:
        """In seconds, interpolated inside its bucket; beyond the last bound it is that bound. None without any."""
        count = self.count
        wanted, seen = share * count, 0
        for index, bound in enumerate(BOUNDS):
            here = self.buckets[index]
            if here and seen + here >= wanted:
                low = BOUNDS[index - 1] if index else 0.0
                return low + (bound - low) * (wanted - seen) / here
            seen += here
        return BOUNDS[-1] if count else None


_NOTHING = Histogram()


class Requests(msgspec.Struct):
    """The requests of one method and route: how many of each status class, and how long they took."""

    classes: list[int] = msgspec.field(default_factory=lambda: [0] * 6)
    durations: Histogram = msgspec.field(default_factory=Histogram)


class Recorder:
    """Counts in memory since the start of the process. Nothing here waits or writes; calls belong to the event loop."""

    def __init__(self) -> None:
        self.counters: dict[Series, float] = {}
        self.gauges: dict[Series, float] = {}
        self.requests: dict[tuple[str, str, str], Requests] = {}
        self.changes = 0
        """Rises with everything that is recorded."""
        self._refused = False

    def count(self, series: Series, n: float = 1) -> None:
        """Add to a counter; its name ends in `_total`."""
        if series in self.counters or self._admits(series):
            self.counters[series] = self.counters.get(series, 0.0) + n
            self.changes += 1

    def gauge(self, series: Series, value: float) -> None:
        """Set what a gauge shows from now on."""
        if series in self.gauges or self._admits(series):
            self.gauges[series] = value
            self.changes += 1

    def request(self, place: tuple[str, str, str], status: int, seconds: float) -> None:
        """One request to (app, method, route) has been answered."""
        found = self.requests.get(place)
        if found is None:
            found = self.requests[place] = Requests()
        found.classes[status // 100 if 100 <= status < 600 else 5] += 1
        found.durations.observe(seconds)
        self.changes += 1

    def _admits(self, series: Series) -> bool:
        """Labels with too many values must not fill the memory: what is new beyond the maximum is not recorded."""
        if len(self.counters) + len(self.gauges) < MAX_SERIES and len(str(series)) <= MAX_NAME:
            return True
        if not self._refused:
            import structlog

            self._refused = True
            structlog.get_logger("headwater.metrics").warning(
                "a series of metrics is not recorded: there are too many, or its name is too long", most=MAX_SERIES
            )
        return False


class Totals(msgspec.Struct):
    """All series at one moment: counters and histograms since the start of the process."""

    counters: dict[Series, float]
    gauges: dict[Series, float]
    histograms: dict[Series, Histogram]

    def since(self, before: Totals) -> Sample:
        """What was added; series without activity are left out, gauges stay."""
        counts = {one: n - before.counters.get(one, 0.0) for one, n in self.counters.items()}
        durations = {
            one: now.since(before.histograms.get(one))
            for one, now in self.histograms.items()
            if now.buckets != (before.histograms.get(one) or _NOTHING).buckets
        }
        return Sample({one: n for one, n in counts.items() if n > 0}, self.gauges, durations)


class Sample(msgspec.Struct):
    """One minute: counts and durations of the series with activity, and all gauges as they stand at its end."""

    counts: dict[Series, float] = {}
    gauges: dict[Series, float] = {}
    durations: dict[Series, Histogram] = {}

    def add(self, other: Sample) -> None:
        """Count the activity of the same minute that another process recorded."""
        for one, n in other.counts.items():
            self.counts[one] = self.counts.get(one, 0.0) + n
        for one, histogram in other.durations.items():
            self.durations.setdefault(one, Histogram()).add(histogram)

    def total(self, wanted: Series) -> float:
        return sum(self.counts[one] for one in matching(wanted, self.counts))


def matching(wanted: Series, present: Mapping[Series, object] | Iterable[Series]) -> Sequence[Series]:
    """The series that have the wanted name and labels. Requests may be asked for by some of their labels only."""
    if not wanted.name.startswith("http_"):
        return (wanted,) if wanted in present else ()
    labels = set(wanted.labels)
    return [one for one in present if one.name == wanted.name and labels.issubset(one.labels)]


Kind = Literal["gauge", "age", "count", "ratio", "quantile"]


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """One number a minute: `name` of the resource `of`. Made by `app.metric`, `queue.depth` and the like.

    `gauge` is what a series shows at the end of the minute, `age` the seconds since the time that it shows, `count`
    what the minute added, `ratio` the quotient of two counts, `quantile` (`share`) of a histogram. A ratio or quantile
    of a minute without activity, and a gauge that nobody has set, have no data.
    """

    name: str
    of: str
    kind: Kind
    series: Series
    base: Series = Series("")
    share: float = 0.0

    def value(self, sample: Sample, end_ms: int) -> float | None:
        """The number of the minute that ended at `end_ms`; None when it has no data."""
        if self.kind == "gauge":
            return sample.gauges.get(self.series)
        if self.kind == "age":
            due_s = sample.gauges.get(self.series)
            return None if due_s is None else max(0.0, end_ms / 1000 - due_s) if due_s else 0.0
        if self.kind == "count":
            return sample.total(self.series)
        if self.kind == "ratio":
            base = sample.total(self.base)
            return sample.total(self.series) / base if base else None
        merged = Histogram()
        for one in matching(self.series, sample.durations):
            merged.add(sample.durations[one])
        return merged.quantile(self.share)

    @property
    def needs(self) -> tuple[Series, ...]:
        """The series it is made of."""
        return (self.series, self.base) if self.base.name else (self.series,)

    def in_words(self, value: float | None) -> str:
        """ "depth of shop/orders is 12"."""
        shown = "without data" if value is None else f"{value:.6g}"
        unit = " s" if value is not None and self.kind in ("age", "quantile") else ""
        return f"{self.name.replace('_', ' ')} of {self.of} is {shown}{unit}"


QueueMetric = Literal["depth", "in_flight", "delayed", "oldest_age", "dead_letters", "sent", "retried"]
WorkMetric = Literal["attempts", "failures", "conflicts", "error_rate", "duration_p50", "duration_p95", "duration_p99"]
RequestMetric = Literal["requests", "errors", "error_rate", "duration_p50", "duration_p95", "duration_p99"]
MetricName = QueueMetric | WorkMetric | RequestMetric
_GAUGES = ("depth", "in_flight", "delayed", "dead_letters")
_QUANTILES = {"duration_p50": 0.5, "duration_p95": 0.95, "duration_p99": 0.99}


def queue_metric(name: str, queue: str) -> Metric | None:
    """A figure of a queue or of its handler; None when there is none of this name."""
    if name in _GAUGES:
        return Metric(name=name, of=queue, kind="gauge", series=series(f"queue_{name}", queue=queue))
    if name == "oldest_age":
        return Metric(name=name, of=queue, kind="age", series=series(DUE, queue=queue))
    if name in ("sent", "retried"):
        return Metric(name=name, of=queue, kind="count", series=series(f"queue_{name}_total", queue=queue))
    if name in ("attempts", "failures", "conflicts"):
        return Metric(name=name, of=queue, kind="count", series=series(f"handler_{name}_total", queue=queue))
    if name == "error_rate":
        failures, attempts = (series(f"handler_{one}_total", queue=queue) for one in ("failures", "attempts"))
        return Metric(name=name, of=queue, kind="ratio", series=failures, base=attempts)
    if name in _QUANTILES:
        durations = series("handler_duration_seconds", queue=queue)
        return Metric(name=name, of=queue, kind="quantile", series=durations, share=_QUANTILES[name])
    return None


def request_metric(name: str, app: str, method: str = "", route: str = "") -> Metric | None:
    """A figure of an app's HTTP endpoints: of all, or of one; None when there is none of this name."""
    labels = {"app": app, **({"method": method, "route": route} if route else {})}
    of = f"{method} /{app}{route}" if route else f"/{app}"
    requests, errors = series("http_requests_total", **labels), series("http_requests_total", **labels, status="5xx")
    if name == "requests":
        return Metric(name=name, of=of, kind="count", series=requests)
    if name == "errors":
        return Metric(name=name, of=of, kind="count", series=errors)
    if name == "error_rate":
        return Metric(name=name, of=of, kind="ratio", series=errors, base=requests)
    if name in _QUANTILES:
        durations = series("http_request_duration_seconds", **labels)
        return Metric(name=name, of=of, kind="quantile", series=durations, share=_QUANTILES[name])
    return None
