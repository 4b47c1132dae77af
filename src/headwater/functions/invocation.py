"""One event's run in a function: how long it may take, who asked, and what its log says.

Logs are JSON lines on standard output, where CloudWatch takes them from. Metrics are lines, too, in CloudWatch's
embedded metric format: no request is made for them.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

import structlog

from headwater.functions.home import Home, here, make_home
from headwater.functions.xray import VARIABLE, read_xray
from headwater.runtime.logs import configure_logs

NAMESPACE = "Headwater"
MARGIN, LEAST_MARGIN_S, MOST_MARGIN_S = 0.1, 0.2, 2.0
"""The share of a function's time that is kept for the end of what runs: its commit, and the answer."""
MOST_VALUES = 100
"""How many values of a metric a line may have."""
_INITIALIZATION = "AWS_LAMBDA_INITIALIZATION_TYPE"


class LambdaContext(Protocol):
    """What Lambda tells of an event, as far as it is used."""

    aws_request_id: str

    def get_remaining_time_in_millis(self) -> int: ...


class Invocation:
    """An event that is being handled."""

    def __init__(self, context: LambdaContext) -> None:
        left_s = context.get_remaining_time_in_millis() / 1000
        self.margin_s = min(max(left_s * MARGIN, LEAST_MARGIN_S), MOST_MARGIN_S)
        self._ends = time.monotonic() + left_s - self.margin_s
        self.request_id = context.aws_request_id
        self.trace = read_xray(os.environ.get(VARIABLE, ""))

    @property
    def left_s(self) -> float:
        """How long work may still run; never negative."""
        return max(0.0, self._ends - time.monotonic())


Work = Callable[[Home, Any, Invocation], Coroutine[Any, Any, Any]]
Prepare = Callable[[Home], Coroutine[Any, Any, Any]]


async def _nothing(home: Home) -> None:
    """The home is all that there is to prepare."""


def entry_point(work: Work, prepare: Prepare = _nothing) -> Callable[[Any, LambdaContext], Any]:
    """The function that Lambda calls with each event; in Lambda all is prepared before the first one comes."""
    if _INITIALIZATION in os.environ:
        _configure()
        here.run(prepare, make_home)

    def handle(event: Any, context: LambdaContext) -> Any:
        invocation = Invocation(context)
        _configure()
        told = {"request": invocation.request_id}
        if invocation.trace is not None:
            told["xray"] = invocation.trace.trace
        with structlog.contextvars.bound_contextvars(**told):
            return here.run(lambda home: work(home, event, invocation), make_home)

    return handle


def _configure() -> None:
    if not structlog.is_configured():
        configure_logs(sys.stdout, {"HEADWATER_LOG": "json", **os.environ})


def metric_line(dimensions: Mapping[str, str], counts: Mapping[str, float], took: Sequence[float], now_ms: int) -> str:
    """A line in the embedded metric format: a metric for each count, and "duration" in seconds.

    Of more durations than a line may have, some that are evenly picked stand for all.
    """
    step = max(1, -(-len(took) // MOST_VALUES))
    picked = [round(one, 6) for one in took[::step]]
    metrics = [{"Name": name, "Unit": "Count"} for name in counts]
    if picked:
        metrics.append({"Name": "duration", "Unit": "Seconds"})
    described = {"Namespace": NAMESPACE, "Dimensions": [list(dimensions)], "Metrics": metrics}
    told: dict[str, Any] = {"_aws": {"Timestamp": now_ms, "CloudWatchMetrics": [described]}, **dimensions, **counts}
    if picked:
        told["duration"] = picked
    return json.dumps(told)


def tell_metrics(home: Home, dimensions: Mapping[str, str], counts: Mapping[str, float], took: Sequence[float]) -> None:
    """Write a line of metrics of this stack; `took` are durations in seconds."""
    stack = home.config.store.partition(":")[2]
    sys.stdout.write(metric_line({"Stack": stack, **dimensions}, counts, took, home.clock.wall_ms()) + "\n")
    sys.stdout.flush()
