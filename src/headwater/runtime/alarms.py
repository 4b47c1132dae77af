"""Alarms that run: the last minutes of each metric, and the commits by which states change.

A watch is one alarm on one resource. Identities: its row in `headwater/alarm-states` is keyed by (name, resource). A
change of state is one commit: the row, which is read and validated, and the event. When somebody else has written the
state already (a second evaluator, a commit whose answer was lost), nothing is announced again. The first "ok" of a
watch is no news: it writes the row of a declared alarm, and announces nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import structlog

from headwater.alarms import AlarmRow, AlarmSource, AlarmState
from headwater.app import App
from headwater.catalog import Catalog, QueueSpec
from headwater.clock import from_ms
from headwater.engine import Engine, Query, QueueStats
from headwater.errors import Conflict, StoreFull
from headwater.messaging import Topic
from headwater.metrics import MINUTE_MS, Metric, Sample, queue_metric
from headwater.runtime.recorder import RollUps
from headwater.system import Alarm, System
from headwater.thresholds import Condition, State, Window
from headwater.tuning import BuiltIn
from headwater.unit import Write
from headwater.work import UnitOfWork

PAGE = 1000
_ADJUSTED = ("no-consumer", "oldest-message")
"""Built-in alarms whose value is not their metric's alone: their minutes before a start are not known."""
log = structlog.get_logger("headwater.alarms")


class Watch:
    """One alarm on one resource; `source` is None for the built-in ones."""

    def __init__(self, name: str, metric: Metric, condition: Condition, source: AlarmSource | None = None) -> None:
        self.name = name
        self.metric = metric
        self.condition = condition
        self.source = source
        self.window = Window(condition.window)
        self.state: State = "insufficient"
        self.judged: State = "insufficient"
        """What the last minutes say; `state` follows with its commit."""
        self.since_ms = 0
        self.value: float | None = None
        self.verdict: bool | None = None

    @property
    def place(self) -> tuple[str, str]:
        return self.name, self.metric.of

    def push(self, value: float | None) -> State:
        """One more minute; the state that follows."""
        self.value = value
        self.verdict = self.condition.judge(value)
        self.window.push(self.verdict)
        self.judged = self.window.state(self.condition.datapoints, self.judged)
        return self.judged

    @property
    def settled(self) -> bool:
        """Whether minutes without anything new change nothing."""
        if self.judged != self.state:
            return False
        if self.metric.kind in ("gauge", "age"):
            return self.window.settled(self.verdict)
        return self.window.settled(self.condition.judge(0.0 if self.metric.kind == "count" else None))

    def crosses_ms(self, sample: Sample, end_ms: int) -> int | None:
        """When an age that only grows reaches the threshold; None when it has, or when it does not grow."""
        due_s = sample.gauges.get(self.metric.series, 0.0)
        crossing = int((due_s + self.condition.threshold) * 1000)
        return crossing if self.metric.kind == "age" and due_s and crossing >= end_ms else None

    def told(self, state: State) -> str:
        """The detail of a change of state."""
        prefix = "" if state == "alarm" else "no longer "
        return f"{self.metric.in_words(self.value)}, {prefix}{self.condition.in_words}"


class Facts(msgspec.Struct, frozen=True):
    """What built-in alarms must know of the queues beside their figures."""

    stats: Sequence[QueueStats]
    catalog: Catalog


class Alarms:
    """`restore`, then `evaluate` each minute."""

    def __init__(self, engine: Engine, system: System, built_in: Sequence[BuiltIn]) -> None:
        self._engine = engine
        self._system = system
        self._built_in = built_in
        self._apps: list[str] = []
        self._rows: dict[tuple[str, str], AlarmRow] = {}
        self._declared: list[Watch] = []
        self._watches: dict[str, dict[str, Watch]] = {}
        self._next_ms: int | None = None

    async def restore(self, apps: Sequence[App[Any]], rollups: RollUps, minute: int) -> None:
        """Take the states and the last minutes from the store; `minute` is under way."""
        self._apps = [app.name for app in apps]
        self._rows = {(row.name, row.resource): row for row in await read_states(self._engine, self._system)}
        for source in (source for app in apps for source in app.alarms.values()):
            watch = Watch(source.name, source.metric, source.condition, source)
            self._declared.append(watch)
            await self._resume(watch, rollups, minute)
        for queue, spec in (await self._engine.catalog()).queues.items():
            for watch in self._built_in_watches(queue, spec).values():
                await self._resume(watch, rollups, minute)

    async def _resume(self, watch: Watch, rollups: RollUps, minute: int) -> None:
        row = self._rows.get(watch.place)
        if row is not None and row.state in ("ok", "alarm", "insufficient"):
            watch.state, watch.since_ms = row.state, row.since_ms  # type: ignore[assignment]
        minutes = watch.condition.window - 1
        watch.judged = watch.state
        if not minutes or watch.name in _ADJUSTED:
            return
        known = False
        for at, sample in await rollups.samples(watch.metric.needs, minute - minutes, minute - 1):
            known = known or bool(sample.counts or sample.gauges or sample.durations)
            if known or row is not None:
                watch.push(watch.metric.value(sample, (at + 1) * MINUTE_MS))
        watch.judged = watch.state

    def _built_in_watches(self, queue: str, spec: QueueSpec | None) -> dict[str, Watch]:
        watches = self._watches.get(queue)
        if watches is None:
            watches = self._watches[queue] = {}
            for alarm in self._built_in:
                metric, condition = queue_metric(alarm.metric, queue), alarm.condition
                if alarm.name == "queue-full":
                    most = spec.max_depth if spec is not None else 0
                    metric = metric if most else None
                    condition = msgspec.structs.replace(condition, threshold=condition.threshold + most)
                if metric is not None and queue not in alarm.ignore:
                    watches[alarm.name] = Watch(alarm.name, metric, condition)
        return watches

    @property
    def watches(self) -> list[Watch]:
        return [*self._declared, *(watch for queue in self._watches.values() for watch in queue.values())]

    @property
    def settled(self) -> bool:
        """Whether no state can change before `next_ms` without anything new."""
        return all(watch.settled for watch in self.watches)

    @property
    def next_ms(self) -> int | None:
        """When the first age reaches its threshold."""
        return self._next_ms

    async def evaluate(self, sample: Sample, facts: Facts, end_ms: int) -> None:
        """Judge the minute that ended at `end_ms`, and announce what changed."""
        self._next_ms = None
        for watch in self._declared:
            await self._judge(watch, watch.metric.value(sample, end_ms), sample, end_ms)
        consumed = frozenset(facts.catalog.consumed)
        for stats in facts.stats:
            spec = facts.catalog.queues.get(stats.queue)
            for watch in self._built_in_watches(stats.queue, spec).values():
                value = watch.metric.value(sample, end_ms)
                works = stats.queue in consumed and not stats.paused
                if (watch.name == "no-consumer" and stats.queue in consumed) or (
                    watch.name == "oldest-message" and not works
                ):
                    value = 0.0
                await self._judge(watch, value, sample, end_ms)
        await self._forget_gone()

    async def _forget_gone(self) -> None:
        """Remove the states of alarms that are declared no more, and of queues that are gone."""
        places = {watch.place for watch in self.watches}
        gone = [row for place, row in self._rows.items() if row.metric and place not in places]
        self._rows.clear()
        table, unit = self._system.alarm_states, UnitOfWork(self._engine)
        for row in gone:
            app, separator, _ = row.name.partition("/")
            if not separator or app in self._apps:
                unit.write(Write(table.name, table.key(row.name, row.resource), unit.next_id()))
        if unit.writes_anything:
            await unit.commit()

    async def _judge(self, watch: Watch, value: float | None, sample: Sample, end_ms: int) -> None:
        state = watch.push(value)
        if state != watch.state:
            await self._change(watch, state, end_ms)
        crosses_ms = watch.crosses_ms(sample, end_ms)
        if crosses_ms is not None and (self._next_ms is None or crosses_ms < self._next_ms):
            self._next_ms = crosses_ms

    async def _change(self, watch: Watch, state: State, end_ms: int) -> None:
        """Have the state and its event in the store; what cannot be written now is left to the next minute."""
        first = watch.state == "insufficient" and state == "ok"
        if not first or watch.source is not None:
            try:
                await self._commit(watch, state, end_ms, announced=not first)
            except (Conflict, StoreFull) as error:
                log.warning("an alarm changes a minute later", alarm=watch.name, of=watch.metric.of, error=str(error))
                return
        watch.state, watch.since_ms = state, end_ms

    async def _commit(self, watch: Watch, state: State, end_ms: int, *, announced: bool) -> None:
        table = self._system.alarm_states
        key = table.key(*watch.place)
        unit = UnitOfWork(self._engine)
        present = await unit.read(table.name, key)
        if present is not None and table.codec.decode(present.body).state == state:
            return
        row = AlarmRow(
            name=watch.name,
            resource=watch.metric.of,
            state=state,
            since_ms=end_ms,
            previous=watch.state,
            metric=watch.metric.name,
            threshold=watch.condition.threshold,
            value=watch.value,
            detail=watch.told(state),
        )
        unit.write(Write(table.name, key, unit.next_id(), table.encode(row)))
        if announced:
            topic, body = self._announcement(watch, row)
            unit.publish(topic.name, body, {})
        await unit.commit()

    def _announcement(self, watch: Watch, row: AlarmRow) -> tuple[Topic[object], bytes]:
        since = from_ms(row.since_ms)
        if watch.source is None:
            told = Alarm(
                name=row.name,
                resource=row.resource,
                detail=row.detail,
                state=row.state,
                metric=row.metric,
                value=row.value,
                since=since,
            )
            return self._system.alarms, self._system.alarms.codec.encode(told)  # type: ignore[return-value]
        state = AlarmState(
            name=row.name,
            resource=row.resource,
            metric=row.metric,
            state=row.state,  # type: ignore[arg-type]
            previous=watch.state,
            value=row.value,
            threshold=watch.condition.threshold,
            since=since,
            detail=row.detail,
        )
        return watch.source, watch.source.codec.encode(state)  # type: ignore[return-value]


async def read_states(engine: Engine, system: System) -> list[AlarmRow]:
    """The rows of `headwater/alarm-states`; none in a store that no server has opened yet."""
    table = system.alarm_states
    if table.name not in (await engine.catalog()).tables:
        return []
    found, after = [], None
    while True:
        page = await engine.query(Query(table=table.name, limit=PAGE, after=after))
        found += [table.codec.decode(record.body) for record in page.records]
        after = page.next
        if after is None:
            return found
