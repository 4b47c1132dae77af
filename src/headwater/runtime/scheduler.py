"""The scheduler: makes the ticks of schedules, each once for its nominal time.

State: a row of `headwater/schedules` for each schedule. `last_ms` says up to which time all nominal times are dealt
with; it only grows, whatever the clock does, since the store's time never steps back. A firing is one commit:
it has read the row, writes it with the new `last_ms`, and publishes the ticks. Of two firings of one nominal time the
later is refused (`Conflict`), reads the row again, and finds nothing due. A crash before the commit leaves the nominal
time due, one after it leaves the ticks in their queues.

What is due and for how long decides what becomes of missed times, not why they were missed: a server that was
down, a clock set forward and a full disk are the same. A new schedule, a changed expression and a resumed schedule
begin at the present time.

Every process that has the store open fires, by the declaration that its row has: one that declares another expression,
because it runs an older or newer deploy, leaves the schedule to the others. All look at the rows from time to time, for
what others have changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice, takewhile
from typing import Any

import msgspec
import structlog

from headwater.app import App
from headwater.clock import Clock, from_ms
from headwater.cron import Every
from headwater.engine import Engine
from headwater.metrics import Recorder, series
from headwater.runtime.wakeups import Wakeups
from headwater.schedules import Schedule, ScheduleRow, ScheduleSpec, Tick
from headwater.system import Alarm, System
from headwater.unit import Write
from headwater.work import UnitOfWork, alone

ON_TIME_MS = 60_000
"""Later than this after its time a run was missed."""
LOOK_MS = 30_000
"""When a schedule is looked at again that others may have changed."""
COUNTED = 10_000
"""How many missed times are counted at the most."""
log = structlog.get_logger("headwater.scheduler")


class Firing(msgspec.Struct, frozen=True):
    """What one commit makes of the nominal times that are due: ticks, each with the number of times missed before it.

    `untold` is the number that no tick has told yet; `late` whether the first was missed.
    """

    ticks: tuple[tuple[int, int], ...]
    untold: int
    late: bool


def due_times(name: str, spec: ScheduleSpec, last_ms: int, now_ms: int) -> list[int]:
    """The nominal times after `last_ms` whose ticks are to be made by now, the newest `COUNTED` of them, in order."""
    found = list(islice(takewhile(lambda ms: ms > last_ms, spec.timetable().back(now_ms)), COUNTED))
    if found and spec.starts_ms(name, found[0]) > now_ms:  # jitter is shorter than the way to the time before
        del found[0]
    return found[::-1]


def plan_firing(name: str, spec: ScheduleSpec, due: list[int], now_ms: int, untold: int) -> Firing:
    """What becomes of due times (at least one), by the schedule's rule for missed ones."""
    late = now_ms - spec.starts_ms(name, due[0]) > ON_TIME_MS
    if spec.missed == "skip" and now_ms - spec.starts_ms(name, due[-1]) > ON_TIME_MS:
        return Firing((), untold + len(due), late)
    kept = due[-spec.most :] if spec.missed == "catch_up" else due[-1:]
    missed = untold + len(due) - len(kept)
    return Firing(tuple((nominal, 0 if n else missed) for n, nominal in enumerate(kept)), 0, late)


class Scheduler:
    """Fires the schedules of a server's apps."""

    def __init__(
        self, system: System, apps: Iterable[App[Any]], engine: Engine, clock: Clock, recorder: Recorder
    ) -> None:
        self.wakeups = Wakeups("schedules", clock, self.fire_due)
        self._apps = tuple(apps)
        self._schedules: dict[str, Schedule] = {name: one for app in self._apps for name, one in app.schedules.items()}
        self._specs: dict[str, ScheduleSpec] = {}
        self._due: dict[str, int | None] = {}
        self._system = system
        self._engine = engine
        self._clock = clock
        self._recorder = recorder

    async def prepare(self) -> None:
        """Bring the rows in line with what is declared; raises `DeclarationError` for a wrong late expression."""
        self._specs = {name: schedule.spec() for name, schedule in self._schedules.items()}
        table = self._system.schedules
        ours = {app.name for app in self._apps}
        now_ms = await self._engine.now_ms()
        stale = [
            row.name
            for row in await self._system.rows(table)
            if row.name.partition("/")[0] in ours and row.name not in self._specs
        ]

        async def work(unit: UnitOfWork) -> None:
            for name in stale:
                unit.write(Write(table.name, table.key(name), unit.next_id()))
            for name, spec in self._specs.items():
                row = await self._read(unit, name)
                if row is None:
                    self._write(unit, ScheduleRow(name=name, spec=spec, last_ms=now_ms))
                elif row.spec != spec:
                    moved = (row.spec.when, row.spec.tz) != (spec.when, spec.tz)
                    last_ms = now_ms if moved else row.last_ms
                    self._write(unit, msgspec.structs.replace(row, spec=spec, last_ms=last_ms))

        if self._specs or stale:
            await alone(self._engine, work)

    def look_again(self) -> None:
        """A schedule was paused or resumed."""
        self._due.clear()
        self.wakeups.wake()

    async def fire_due(self) -> int | None:
        """Make the ticks that are due; when the next one is."""
        now_ms = await self._engine.now_ms()
        for name in self._specs:
            due_ms = self._due.get(name, 0)
            if due_ms is not None and due_ms <= now_ms:
                self._due[name] = await self._fire(name, now_ms)
        due_ms = min((due_ms for due_ms in self._due.values() if due_ms is not None), default=None)
        if due_ms is None or self._engine.features.single_process:
            return due_ms
        return due_ms - (now_ms - self._clock.wall_ms())  # this machine's clock is not the store's

    async def ring(self, name: str, nominal_ms: int) -> int:
        """Another clock says that a nominal time has come: make its tick, and deal with the times missed before it.

        However often it rings, a time has one tick, and none once a later time had its own. How many were made.
        """
        spec = self._specs[name] = self._schedules[name].spec()
        now_ms = max(nominal_ms, await self._engine.now_ms() - spec.jitter_ms)  # jitter is the other clock's matter

        async def work(unit: UnitOfWork) -> tuple[ScheduleRow, ScheduleRow] | None:
            before = await self._read(unit, name)
            if before is None or (before.spec.when, before.spec.tz) != (spec.when, spec.tz):
                fresh = before or ScheduleRow(name=name, spec=spec, last_ms=0)
                before = msgspec.structs.replace(fresh, spec=spec, last_ms=nominal_ms - 1)
            if before.paused or nominal_ms <= before.last_ms:
                return None
            before = msgspec.structs.replace(before, spec=spec)
            row = await self._emit(
                unit, before, [*_between(name, spec, before.last_ms, nominal_ms), nominal_ms], now_ms
            )
            self._write(unit, row)
            return before, row

        rows = await alone(self._engine, work)
        if rows is None:
            return 0
        self._count(*rows)
        return rows[1].fired - rows[0].fired

    async def _fire(self, name: str, now_ms: int) -> int | None:
        """Make the ticks of a schedule that are due; when to look at it again."""
        spec = self._specs[name]
        look_ms = None if self._engine.features.single_process else now_ms + LOOK_MS

        async def work(unit: UnitOfWork) -> tuple[ScheduleRow, ScheduleRow] | None:
            before = await self._read(unit, name)
            if before is None or before.paused or before.spec != spec:
                return None
            due = due_times(name, spec, before.last_ms, now_ms)
            if not due:
                return before, before
            row = await self._emit(unit, before, due, now_ms)
            self._write(unit, row)
            return before, row

        rows = await alone(self._engine, work)
        if rows is None:
            return look_ms
        self._count(*rows)
        following = next(spec.timetable().ahead(rows[1].last_ms), None)
        starts_ms = None if following is None else spec.starts_ms(name, following)
        return min((ms for ms in (starts_ms, look_ms) if ms is not None), default=None)

    def _count(self, before: ScheduleRow, row: ScheduleRow) -> None:
        counted = ("ticks", row.fired - before.fired), ("missed", row.missed - before.missed)
        for what, n in (*counted, ("skipped", row.skipped - before.skipped)):
            if n:
                self._recorder.count(series(f"schedule_{what}_total", schedule=row.name), n)

    async def _emit(self, unit: UnitOfWork, row: ScheduleRow, due: list[int], now_ms: int) -> ScheduleRow:
        """Publish the ticks; the row afterwards."""
        name = row.name
        firing = plan_firing(name, row.spec, due, now_ms, row.untold)
        row = msgspec.structs.replace(row, last_ms=due[-1], untold=firing.untold)
        row.missed += len(due) - len(firing.ticks)
        if firing.late != row.alarmed:
            row.alarmed = firing.late
            self._tell(unit, row, due, firing)
        if not firing.ticks:
            return row
        if row.spec.overlap == "skip" and await self._is_running(row.tick):
            row.skipped += 1
            row.untold = firing.ticks[0][1]
            log.info("a tick was skipped: the one before it is not done", schedule=name, nominal=_shown(due[-1]))
            return row
        codec = self._schedules[name].codec
        for nominal_ms, missed in firing.ticks:
            tick = Tick(schedule=name, nominal=from_ms(nominal_ms), missed=missed)
            row.tick = unit.publish(name, codec.encode(tick), {})
        row.fired += len(firing.ticks)
        row.nominal_ms = due[-1]
        return row

    async def _is_running(self, tick: str) -> bool:
        """Whether a message of this tick waits or is being handled."""
        found = await self._engine.event(tick) if tick else None
        return found is not None and "waiting" in found.messages.values()

    def _tell(self, unit: UnitOfWork, row: ScheduleRow, due: list[int], firing: Firing) -> None:
        """An alarm that runs were missed, or that they are on time again."""
        if firing.late:
            more = "at least " if len(due) == COUNTED else ""
            detail = f"{more}{len(due)} due since {_shown(due[0])}, none on time; {len(firing.ticks)} made now"
            log.warning("runs were missed", schedule=row.name, detail=detail)
        else:
            detail = f"on time again at {_shown(due[-1])}"
        alarm = Alarm(
            name="schedule-missed",
            resource=row.name,
            detail=detail,
            state="alarm" if firing.late else "ok",
        )
        topic = self._system.alarms
        unit.publish(topic.name, topic.codec.encode(alarm), {})

    async def _read(self, unit: UnitOfWork, name: str) -> ScheduleRow | None:
        table = self._system.schedules
        record = await unit.read(table.name, table.key(name))
        return None if record is None else table.codec.decode(record.body)

    def _write(self, unit: UnitOfWork, row: ScheduleRow) -> None:
        table = self._system.schedules
        unit.write(Write(table.name, table.key(row.name), unit.next_id(), table.codec.encode(row)))


def _between(name: str, spec: ScheduleSpec, last_ms: int, nominal_ms: int) -> list[int]:
    """The nominal times after one and before another; those of a rate are counted back from the later one."""
    timetable = spec.timetable()
    if isinstance(timetable, Every):
        return list(range(nominal_ms - timetable.period_ms, last_ms, -timetable.period_ms)[:COUNTED])[::-1]
    return due_times(name, msgspec.structs.replace(spec, jitter_ms=0), last_ms, nominal_ms - 1)


def _shown(ms: int) -> str:
    return from_ms(ms).isoformat(timespec="seconds").replace("+00:00", "Z")
