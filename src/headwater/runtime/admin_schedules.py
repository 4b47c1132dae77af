"""Admin operations on schedules: when they run, by hand, and not for a while."""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import msgspec

from headwater.clock import from_ms
from headwater.errors import UnknownResource
from headwater.runtime.admin_base import AdminBase, time_of
from headwater.runtime.operations import Document, Name, operation
from headwater.schedules import Schedule, ScheduleRow
from headwater.unit import Write
from headwater.work import UnitOfWork, alone

Many = Annotated[int, msgspec.Meta(ge=1, le=100)]


class ScheduleOperations(AdminBase):
    @operation()
    async def schedules(self) -> dict[str, Any]:
        """All schedules: when they run, in words too, and what came of them. A paused one has no next run."""
        now_ms = await self.engine.now_ms()
        return {"schedules": [_schedule_json(row, now_ms) for row in await self._rows()]}

    @operation()
    async def schedule_next(self, *, schedule: Name, limit: Many = 10) -> dict[str, Any]:
        """The next nominal times of a schedule, in UTC and on the clocks of its zone; jitter comes on top of them."""
        row = await self._row(schedule)
        after_ms = max(row.last_ms, await self.engine.now_ms())
        zone = ZoneInfo(row.spec.tz)
        times = islice(row.spec.timetable().ahead(after_ms), limit)
        return {
            "schedule": schedule,
            "words": row.spec.timetable().words,
            "tz": row.spec.tz,
            "paused": row.paused,
            "next": [
                {"time": time_of(ms), "local": from_ms(ms).astimezone(zone).isoformat(timespec="seconds")}
                for ms in times
            ],
        }

    @operation(writes=True)
    async def schedule_run(
        self, *, schedule: Name, parameters: Document | None = None, dedup: str = ""
    ) -> dict[str, Any]:
        """Make a tick now, by hand, with parameters for whoever handles it; a paused schedule stays paused."""
        await self._row(schedule)
        return {"id": await Schedule(self.stand_in, schedule, "1d", {}).run(parameters, dedup=dedup)}

    @operation(writes=True)
    async def schedule_pause(self, *, schedule: Name) -> dict[str, Any]:
        """Make no ticks of a schedule, durably, until it is resumed; what is in queues is handled."""
        return await self._change(schedule, paused=True)

    @operation(writes=True)
    async def schedule_resume(self, *, schedule: Name) -> dict[str, Any]:
        """Make ticks of a paused schedule from now on; those of the pause are not made up for."""
        return await self._change(schedule, paused=False)

    async def _change(self, schedule: str, *, paused: bool) -> dict[str, Any]:
        await self._row(schedule)
        table, now_ms = self.system.schedules, await self.engine.now_ms()

        async def work(unit: UnitOfWork) -> None:
            record = await unit.read(table.name, table.key(schedule))
            if record is None:
                return
            row = table.codec.decode(record.body)
            if row.paused != paused:
                last_ms = row.last_ms if paused else max(row.last_ms, now_ms)
                changed = msgspec.structs.replace(row, paused=paused, last_ms=last_ms)
                unit.write(Write(table.name, table.key(schedule), unit.next_id(), table.codec.encode(changed)))

        await alone(self.engine, work)
        if self.supervisor is not None:
            self.supervisor.scheduler.look_again()
        return {"schedule": schedule, "paused": paused}

    async def _row(self, schedule: str) -> ScheduleRow:
        row = next((row for row in await self._rows() if row.name == schedule), None)
        if row is None:
            raise UnknownResource(
                "the store has no schedule of this name", resource=schedule, hint="`headwater schedule ls` lists them"
            )
        return row

    async def _rows(self) -> list[ScheduleRow]:
        """Those that an app declares."""
        declared = await self.schedule_names()
        return [row for row in await self.system.rows(self.system.schedules) if row.name in declared]


def _schedule_json(row: ScheduleRow, now_ms: int) -> dict[str, Any]:
    spec: dict[str, Any] = msgspec.to_builtins(row.spec)
    timetable = row.spec.timetable()
    following = None if row.paused else next(timetable.ahead(max(row.last_ms, now_ms)), None)
    return {
        "name": row.name,
        **spec,
        "words": timetable.words,
        "next": None if following is None else time_of(following),
        "last": None if row.nominal_ms is None else time_of(row.nominal_ms),
        "paused": row.paused,
        "fired": row.fired,
        "missed_runs": row.missed,
        "skipped": row.skipped,
    }
