"""Admin operations on metrics and alarms."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from headwater.alarms import AlarmRow
from headwater.durations import to_ms
from headwater.errors import InvalidValue, UnknownResource
from headwater.http.prometheus import expose_text
from headwater.metrics import MINUTE_MS, Histogram, Recorder, Series
from headwater.rollups import MINUTES, RollUp, minutes_of, read_series
from headwater.runtime.admin_base import AdminBase, time_of
from headwater.runtime.alarms import read_states
from headwater.runtime.operations import Name, operation
from headwater.runtime.recorder import RollUps, read_totals
from headwater.system import Alarm

MOST_HOURS = 24
"""How many hours of all series may be asked for at once; of one series it may be any."""


class AlarmOperations(AdminBase):
    @operation()
    async def alarms(self) -> dict[str, Any]:
        """The states of alarms, declared ones and those that were ever raised; what is raised comes first."""
        rows = await read_states(self.engine, self.system)
        found = [state_json(row) for row in rows]
        return {"alarms": sorted(found, key=lambda row: (row["state"] != "alarm", row["name"], row["resource"]))}

    @operation()
    async def alarm_show(self, *, name: Name, resource: Name, last: str = "3h") -> dict[str, Any]:
        """An alarm's state, its condition, and its metric minute by minute over the `last` duration.

        A `value` is null where the minute had no data. Without a server, and of alarms without a metric, the condition
        and the values are not known.
        """
        rows = await read_states(self.engine, self.system)
        row = next((row for row in rows if (row.name, row.resource) == (name, resource)), None)
        if row is None:
            raise UnknownResource("there is no such alarm", operation="alarm-show", resource=f"{name} {resource}")
        alarms = self.supervisor.monitor.alarms if self.supervisor else None
        watches = alarms.watches if alarms else []
        watch = next((watch for watch in watches if watch.place == (name, resource)), None)
        if watch is None:
            return {**state_json(row), "condition": None, "values": []}
        end = await self.engine.now_ms() // MINUTE_MS - 1
        first = max(end - min(to_ms(last) // MINUTE_MS, MOST_HOURS * MINUTES) + 1, 0)
        samples = await RollUps(self.engine, self.system).samples(watch.metric.needs, first, end)
        condition = {**msgspec.to_builtins(watch.condition), "words": watch.condition.in_words}
        values = [
            {"time": time_of(minute * MINUTE_MS), "value": watch.metric.value(sample, (minute + 1) * MINUTE_MS)}
            for minute, sample in samples
        ]
        return {**state_json(row), "condition": condition, "values": values}

    @operation(writes=True)
    async def alarm_clear(self, *, name: Name, resource: Name) -> dict[str, Any]:
        """Tell that what an alarm was about is mended: for those that nothing measures. Its recovery is announced."""
        rows = await read_states(self.engine, self.system)
        row = next((row for row in rows if (row.name, row.resource) == (name, resource)), None)
        if row is None:
            raise UnknownResource("there is no such alarm", operation="alarm-clear", resource=f"{name} {resource}")
        if row.metric:
            raise InvalidValue(
                "the alarm follows its metric, which clears it",
                operation="alarm-clear",
                resource=f"{name} {resource}",
                hint=row.detail,
            )
        if row.state != "ok":
            await self.system.alarms.publish(Alarm(name=name, resource=resource, state="ok", detail="cleared by hand"))
        return {"name": name, "resource": resource, "state": "ok"}

    @operation()
    async def metrics(
        self, *, series: str = "", last: str = "1h", begin: str | None = None, end: str | None = None
    ) -> dict[str, Any]:
        """The roll-ups of series whose names begin so, by the minute: of the `last` duration, or from `begin` to `end`.

        Times are RFC 3339. Of a whole series, with its labels, any time of the last two weeks may be asked for, of
        several 24 hours. The minute under way comes when it is over.
        """
        end_ms = await self.engine.now_ms() if end is None else _moment(end)
        begin_ms = end_ms - to_ms(last) if begin is None else _moment(begin)
        first, stop = begin_ms // MINUTE_MS, -(-end_ms // MINUTE_MS)
        if self.system.metrics.name not in (await self.engine.catalog()).tables:
            return {"series": []}
        rows = await self._rollups(series, first // MINUTES, (stop - 1) // MINUTES)
        found: dict[str, dict[str, Any]] = {}
        for minute, values in sorted(minutes_of(rows).items()):
            for one, value in values.items():
                if str(one).startswith(series) and (first <= minute < stop):
                    shown = found.setdefault(str(one), {"series": str(one), "kind": _kind(one, value), "points": []})
                    shown["points"].append({"time": time_of(minute * MINUTE_MS), **_value(value)})
        return {"series": [found[name] for name in sorted(found)]}

    async def _rollups(self, name: str, first: int, last: int) -> list[RollUp]:
        rollups = RollUps(self.engine, self.system)
        if name.endswith("}"):
            return await rollups.of(str(read_series(name)), first, last)
        if last - first > MOST_HOURS:
            raise InvalidValue(
                f"of several series at most {MOST_HOURS} hours are told at once",
                operation="metrics",
                hint='name one as it is listed, such as queue_depth{queue="shop/orders"}',
            )
        return await rollups.hours(first, last, name)

    @operation()
    async def prometheus(self) -> dict[str, Any]:
        """What all series show now, in Prometheus' text format; without a server only the store's figures."""
        if self.supervisor is not None:
            totals = await self.supervisor.monitor.totals()
        else:
            totals = read_totals(await self.engine.stats(), {}, Recorder())
        return {"text": expose_text(totals, self.clock.wall_ms()).decode()}


def state_json(row: AlarmRow) -> dict[str, Any]:
    """An alarm's state as the admin API shows it."""
    return {
        "name": row.name,
        "resource": row.resource,
        "state": row.state,
        "previous": row.previous,
        "since": time_of(row.since_ms),
        "detail": row.detail,
        "metric": row.metric or None,
        "value": row.value,
        "threshold": row.threshold,
    }


def _moment(text: str) -> int:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidValue(f"{text!r} is no time (RFC 3339)", operation="metrics") from error
    if found.tzinfo is None:
        raise InvalidValue(f"{text!r} has no time zone", operation="metrics", hint="end it with Z for UTC")
    return int(found.timestamp() * 1000)


def _kind(one: Series, value: float | Histogram) -> str:
    return "histogram" if isinstance(value, Histogram) else "counter" if one.counted else "gauge"


def _value(value: float | Histogram) -> dict[str, Any]:
    if isinstance(value, Histogram):
        quantiles = {f"p{percent}": value.quantile(percent / 100) for percent in (50, 95, 99)}
        return {"count": value.count, "sum": value.total, **quantiles}
    return {"value": value}
