"""Metrics for Prometheus: its text format, and the application that serves it, and wanted numbers of workers.

The names have the prefix `headwater_`. Ages are told beside the times that they are counted from.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from headwater.http.answers import PROBLEM, problem
from headwater.metrics import BOUNDS, DUE, Histogram, Series, Totals

if TYPE_CHECKING:
    from prometheus_client.core import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "headwater_"
AGE = "queue_oldest_age_seconds"
HELP = {
    "queue_depth": "Messages that wait or are being handled.",
    "queue_in_flight": "Messages that are being handled.",
    "queue_delayed": "Messages that are not ready yet.",
    "queue_dead_letters": "Dead letters.",
    DUE: "When the message is or was ready that is so first; 0 without messages.",
    AGE: "For how long the longest-waiting message has been ready, or being handled.",
    "queue_sent": "Messages that joined the queue.",
    "queue_settled": "Messages that left the queue.",
    "queue_retried": "Messages that are to be tried again.",
    "handler_attempts": "Deliveries whose attempt ended.",
    "handler_failures": "Deliveries whose attempt failed.",
    "handler_conflicts": "Attempts that were run again after a conflict.",
    "handler_duration_seconds": "How long attempts ran.",
    "schedule_ticks": "Ticks made.",
    "schedule_missed": "Nominal times that were missed and have no tick of their own.",
    "schedule_skipped": "Ticks left out because the one before was not done.",
    "http_requests": "Requests answered, by class of status.",
    "http_request_duration_seconds": "How long requests took.",
}


def expose_text(totals: Totals, now_ms: int) -> bytes:
    """All series in Prometheus' text format."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(totals, now_ms))
    return generate_latest(registry)


class _Collector:
    def __init__(self, totals: Totals, now_ms: int) -> None:
        self._totals = totals
        self._now_s = now_ms / 1000

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        for name, of in _families(self._totals.counters).items():
            counter = CounterMetricFamily(PREFIX + name, _help(name.removesuffix("_total")), labels=_labels(of))
            for one, total in of.items():
                counter.add_metric(_values(one), total)
            yield counter
        for name, of in _families({**self._totals.gauges, **self._ages()}).items():
            gauge = GaugeMetricFamily(PREFIX + name, _help(name), labels=_labels(of))
            for one, value in of.items():
                gauge.add_metric(_values(one), value)
            yield gauge
        for name, durations in _families(self._totals.histograms).items():
            family = HistogramMetricFamily(PREFIX + name, _help(name), labels=_labels(durations))
            for one, histogram in durations.items():
                family.add_metric(_values(one), _buckets(histogram), histogram.total)
            yield family

    def _ages(self) -> dict[Series, float]:
        return {
            Series(AGE, one.labels): max(0.0, self._now_s - due_s) if due_s else 0.0
            for one, due_s in self._totals.gauges.items()
            if one.name == DUE
        }


def _families(found: dict[Series, Any]) -> dict[str, dict[Series, Any]]:
    families: dict[str, dict[Series, Any]] = {}
    for one, value in found.items():
        families.setdefault(one.name, {})[one] = value
    return families


def _help(name: str) -> str:
    return HELP.get(name, name.replace("_", " "))


def _labels(family: dict[Series, Any]) -> list[str]:
    return [name for name, _ in next(iter(family)).labels]


def _values(one: Series) -> list[str]:
    return [value for _, value in one.labels]


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """(upper bound, how many are not longer), as Prometheus counts."""
    bounds, found, seen = [*map(str, BOUNDS), "+Inf"], [], 0
    for bound, count in zip(bounds, histogram.buckets, strict=True):
        seen += count
        found.append((bound, float(seen)))
    return found


Scales = Callable[[str], dict[str, Any] | None]
"""What is wanted of a queue's workers, as JSON types; None of one that is not scaled."""


def make_metrics(
    read: Callable[[], Awaitable[Totals]], wall_ms: Callable[[], int], scales: Scales = lambda queue: None
) -> Starlette:
    """The application of a listener of its own: `/metrics`, and `/scale/{app}/{queue}` for autoscalers of clusters."""

    async def answer_scale(request: Request) -> Response:
        queue = "{app}/{queue}".format_map(request.path_params)
        found = scales(queue)
        if found is None:
            body = problem(404, "no handler of this queue has scale=", resource=queue)
            return JSONResponse(body, 404, media_type=PROBLEM)
        return JSONResponse(found, headers={"Cache-Control": "no-store"})

    return Starlette(
        routes=[
            Route("/metrics", functools.partial(_answer, read, wall_ms), methods=["GET"]),
            Route("/scale/{app}/{queue}", answer_scale, methods=["GET"]),
        ]
    )


async def _answer(read: Callable[[], Awaitable[Totals]], wall_ms: Callable[[], int], _: Request) -> Response:
    text = expose_text(await read(), wall_ms())
    return Response(text, headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"})
