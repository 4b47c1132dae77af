"""Alarms as apps declare them.

An alarm is a source. Each change of its state is one commit: the row of `headwater/alarm-states` and an event, of the
alarm for those that an app declares, of the topic `headwater/alarms` for the built-in ones.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from headwater.errors import DeclarationError
from headwater.messaging import Queue, Topic
from headwater.metrics import Metric, MetricName, queue_metric, request_metric
from headwater.sources import Target
from headwater.thresholds import Condition, State

if TYPE_CHECKING:
    from headwater.app import App

STATES = "headwater/alarm-states"


class AlarmState(msgspec.Struct, frozen=True, kw_only=True):
    """The data of an alarm's event: it went from `previous` to `state`.

    `value` is the metric's value of the last minute, None when that had no data. `since` is the end of that minute.
    `detail` tells it in words.
    """

    name: str
    resource: str
    metric: str
    state: State
    previous: State
    value: float | None
    threshold: float
    since: datetime
    detail: str


class AlarmRow(msgspec.Struct, kw_only=True):
    """A row of `headwater/alarm-states`. Without a metric it is kept by the messages of `headwater/alarms`."""

    name: str
    resource: str
    state: str
    since_ms: int
    previous: str = "insufficient"
    metric: str = ""
    threshold: float | None = None
    value: float | None = None
    detail: str = ""


class AlarmSource(Topic[AlarmState]):
    """Declared by `app.alarm`: its events are the changes of its state."""

    def __init__(self, app: App[Any], name: str, metric: Metric, condition: Condition) -> None:
        super().__init__(app, name, AlarmState)
        self.metric = metric
        self.condition = condition


def declare_alarm(
    app: App[Any],
    name: str,
    metric: Metric,
    condition: Condition,
    notify: Target | None,
) -> AlarmSource:
    """The alarm as one of the app's sources, routed to `notify`."""
    alarm = AlarmSource(app, app.qualify(name, "alarm"), metric, condition)
    app.topics[alarm.name] = alarm
    app.alarms[alarm.name] = alarm
    if notify is not None:
        alarm.to(notify)
    return alarm


def find_metric(app: App[Any], name: MetricName, of: Queue[Any] | Callable[..., Any] | str) -> Metric:
    """See `App.metric`."""
    found = _metric(app, name, of)
    if found is None:
        kind = (
            "HTTP endpoints have" if isinstance(of, str) and (" " in of or not of) else "a queue and its handler have"
        )
        raise DeclarationError(f"{kind} no metric {name!r}", operation="declare metric", resource=str(of) or app.name)
    return found


def _metric(app: App[Any], name: str, of: Queue[Any] | Callable[..., Any] | str) -> Metric | None:
    if isinstance(of, Queue):
        return queue_metric(name, of.name)
    if callable(of):
        handled = [queue for queue, spec in app.handlers.items() if spec.fn is of]
        if not handled:
            raise DeclarationError(
                f"{getattr(of, '__name__', of)!r} is no handler of this app",
                operation="declare metric",
                resource=app.name,
                hint="declare it after the handler: the function that @app.on is written above",
            )
        return queue_metric(name, handled[0])
    if not of:
        return request_metric(name, app.name)
    method, separator, route = of.partition(" ")
    if separator:
        return request_metric(name, app.name, method, route)
    return queue_metric(name, of if "/" in of else f"{app.name}/{of}")
