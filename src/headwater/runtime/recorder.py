"""The metrics of a running server: read once a minute from what counts in memory, and kept as roll-ups.

One commit a minute appends the points of the minute that ended; a minute in which nothing happened writes nothing.
A crash loses the minute that was under way, a graceful stop writes it. After a start the first sample has what the last
process wrote of the same minute, so that a restart changes no figure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

import msgspec

from headwater.engine import Engine, Query, QueueStats
from headwater.metrics import DUE, Recorder, Sample, Series, Totals, matching, series
from headwater.rollups import MINUTES, Point, RollUp, minutes_of, points_of, sample_of
from headwater.runtime.tally import Counting
from headwater.system import System
from headwater.unit import Merge
from headwater.work import UnitOfWork

PAGE = 1000


def read_totals(stats: list[QueueStats], consumers: Mapping[str, Counting], recorder: Recorder) -> Totals:
    """What all series show at this moment."""
    totals = Totals(dict(recorder.counters), dict(recorder.gauges), {})
    for queue in stats:
        _read_queue(totals, queue)
    for name, consumer in consumers.items():
        labels = (("queue", name),)
        counts = consumer.stats
        totals.counters[Series("handler_attempts_total", labels)] = counts.handled + counts.failed
        totals.counters[Series("handler_failures_total", labels)] = counts.failed
        totals.counters[Series("handler_conflicts_total", labels)] = counts.conflicts
        totals.histograms[Series("handler_duration_seconds", labels)] = consumer.durations.copy()
    for (app, method, route), requests in recorder.requests.items():
        for kind, count in enumerate(requests.classes):
            if count:
                one = series("http_requests_total", app=app, method=method, route=route, status=f"{kind}xx")
                totals.counters[one] = count
        one = series("http_request_duration_seconds", app=app, method=method, route=route)
        totals.histograms[one] = requests.durations.copy()
    return totals


def _read_queue(totals: Totals, queue: QueueStats) -> None:
    labels = (("queue", queue.queue),)
    totals.gauges[Series("queue_depth", labels)] = queue.depth
    totals.gauges[Series("queue_in_flight", labels)] = queue.in_flight
    totals.gauges[Series("queue_delayed", labels)] = queue.delayed
    totals.gauges[Series("queue_dead_letters", labels)] = queue.dead
    totals.gauges[Series(DUE, labels)] = queue.due_ms / 1000
    totals.counters[Series("queue_sent_total", labels)] = queue.sent
    totals.counters[Series("queue_settled_total", labels)] = queue.settled
    totals.counters[Series("queue_retried_total", labels)] = queue.retried


class RollUps:
    """The table `headwater/metrics`: `write` a minute, `read` some."""

    def __init__(self, engine: Engine, system: System) -> None:
        self._engine = engine
        self._table = system.metrics
        self._shown: dict[Series, float] | None = None

    async def write(self, sample: Sample, minute: int) -> None:
        """Append the points of a minute, in one commit unless they are very many."""
        if self._shown is None:
            self._shown = await self._left(sample)
        points = points_of(sample, minute % MINUTES, self._shown)
        left = iter(points.items())
        while part := list(islice(left, self._engine.features.max_unit_operations)):
            await self._append(part, minute // MINUTES)
        self._shown = dict(sample.gauges)

    async def _left(self, sample: Sample) -> dict[Series, float]:
        """What the last process left gauges at that are at 0 now; all others are written anew."""
        left = {}
        for one in (one for one, value in sample.gauges.items() if not value):
            page = await self._engine.query(Query(table=self._table.name, partition=str(one), limit=1, reverse=True))
            for record in page.records:
                left[one] = self._table.codec.decode(record.body).points[-1][1]
        return left

    async def _append(self, points: list[tuple[Series, Point]], hour: int) -> None:
        unit = UnitOfWork(self._engine)
        for one, point in points:
            fixed = {"series": str(one), "hour": hour}
            unit.merge(self._table.name, self._table.key(str(one), hour), Merge(fixed, {}, {"points": [point]}))
        await unit.commit()

    async def hours(self, first: int, last: int, prefix: str = "") -> list[RollUp]:
        """All rows of these hours whose series begin so."""
        found: list[RollUp] = []
        for hour in range(first, last + 1):
            query = Query(table=self._table.name, index="by-hour", partition=hour, prefix=prefix, limit=PAGE)
            found += await self._rows(query)
        return found

    async def of(self, one: str, first: int, last: int) -> list[RollUp]:
        """The rows of one series in these hours; first the last one before them, which has what a gauge shows."""
        name = self._table.name
        before = Query(table=name, partition=one, low=0, high=first - 1, limit=1, reverse=True)
        page = await self._engine.query(before)
        earlier = [self._table.codec.decode(record.body) for record in page.records]
        return earlier + await self._rows(Query(table=name, partition=one, low=first, high=last, limit=PAGE))

    async def _rows(self, query: Query) -> list[RollUp]:
        found: list[RollUp] = []
        while True:
            page = await self._engine.query(query)
            found += [self._table.codec.decode(record.body) for record in page.records]
            if page.next is None:
                return found
            query = msgspec.structs.replace(query, after=page.next)

    async def minute(self, minute: int) -> Sample:
        """What is written of one minute already, but for the gauges."""
        hour = minute // MINUTES
        found = sample_of(minutes_of(await self.hours(hour, hour)).get(minute, {}))
        return Sample(found.counts, {}, found.durations)

    async def samples(self, wanted: tuple[Series, ...], first: int, last: int) -> Iterator[tuple[int, Sample]]:
        """The minutes from `first` to `last` as samples of these series; gauges show what was last written."""
        rows: list[RollUp] = []
        for one in wanted:
            if one.name.startswith("http_"):
                rows += await self.hours(first // MINUTES, last // MINUTES, one.name)
            else:
                rows += await self.of(str(one), first // MINUTES, last // MINUTES)
        return _replayed(rows, wanted, first, last)


def _replayed(rows: list[RollUp], wanted: tuple[Series, ...], first: int, last: int) -> Iterator[tuple[int, Sample]]:
    by_minute = {minute: sample_of(values) for minute, values in minutes_of(rows).items()}
    gauges: dict[Series, float] = {}
    for minute in sorted(minute for minute in by_minute if minute < first):
        gauges.update(by_minute[minute].gauges)
    for minute in range(first, last + 1):
        sample = by_minute.get(minute, Sample({}, {}, {}))
        gauges.update(sample.gauges)
        shown = {one: gauges[one] for series in wanted for one in matching(series, gauges)}
        yield minute, Sample(sample.counts, shown, sample.durations)
