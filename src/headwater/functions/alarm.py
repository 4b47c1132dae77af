"""The function that tells of CloudWatch's alarms, which come by SNS, each change of a state once.

What an app declares (`app.alarm`) is an event of that alarm; all else is a message of the topic `headwater/alarms`. The
alarm's description says what it is about: "headwater:NAME:RESOURCE: words", the resource of a declared one is its name.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, cast

import structlog

from headwater.alarms import AlarmRow, AlarmSource, AlarmState
from headwater.engine import AlreadyClaimed
from headwater.functions.decoding import AlarmNotice, read_alarms
from headwater.functions.home import Home
from headwater.functions.invocation import Invocation, entry_point
from headwater.system import Alarm
from headwater.thresholds import State
from headwater.unit import Claim, Write
from headwater.work import UnitOfWork, alone

DECLARED = "declared"
CLAIMED_MS = 7 * 86_400_000
_ABOUT = re.compile(r"headwater:([a-z0-9-]+):([^:\s]+): ?(.*)", re.DOTALL)
log = structlog.get_logger("headwater.functions")


async def tell(home: Home, event: Any, invocation: Invocation) -> dict[str, int]:
    """Publish the changes of states; how many were not told before."""
    notices = read_alarms(event)
    return {"told": sum([await _tell(home, notice) for notice in notices])}


async def _tell(home: Home, notice: AlarmNotice) -> bool:
    about = _ABOUT.fullmatch(notice.description)
    name, resource, words = about.groups() if about else (notice.name, _resource_of(notice), notice.description)
    detail = f"{words}: {notice.reason}" if words else notice.reason
    source = next((found for app in home.graph.apps if (found := app.alarms.get(resource))), None)
    claim = Claim("cloudwatch", notice.id, await home.engine.now_ms() + CLAIMED_MS)

    async def work(unit: UnitOfWork) -> None:
        unit.claim(claim)
        if name == DECLARED and source is not None:
            await _publish(home, unit, source, notice, detail)
            return
        alarm = Alarm(name=name, resource=resource, detail=detail, state=notice.state)
        unit.publish(home.system.alarms.name, home.system.alarms.codec.encode(alarm), {})

    try:
        await alone(home.engine, work)
    except AlreadyClaimed:
        return False
    log.info("an alarm has changed", alarm=name, resource=resource, state=notice.state)
    return True


async def _publish(home: Home, unit: UnitOfWork, source: AlarmSource, notice: AlarmNotice, detail: str) -> None:
    """The alarm's event and the row of its state."""
    since = notice.changed or datetime.now(UTC)
    state = AlarmState(
        name=source.name,
        resource=source.metric.of,
        metric=source.metric.name,
        state=notice.state,
        previous=cast("State", notice.before),
        value=None,
        threshold=source.condition.threshold,
        since=since,
        detail=detail,
    )
    unit.publish(source.name, source.codec.encode(state), {})
    row = AlarmRow(
        name=source.name,
        resource=source.metric.of,
        state=notice.state,
        since_ms=round(since.timestamp() * 1000),
        previous=notice.before,
        metric=source.metric.name,
        threshold=source.condition.threshold,
        detail=detail,
    )
    table = home.system.alarm_states
    unit.write(Write(table.name, table.key(row.name, row.resource), unit.next_id(), table.codec.encode(row)))


def _resource_of(notice: AlarmNotice) -> str:
    return ", ".join(notice.dimensions.values()) or notice.metric or notice.name


handle = entry_point(tell)
