"""The function that EventBridge Scheduler calls: it makes the ticks of a schedule whose time has come.

The scheduler only rings. What is due is decided as in a server, by the schedule's row (`runtime.scheduler`): a ring
that comes twice finds nothing due, missed times are dealt with as declared, a paused schedule makes no ticks.
"""

from __future__ import annotations

from typing import Any

import structlog

from headwater.functions.decoding import read_ring
from headwater.functions.home import Home
from headwater.functions.invocation import Invocation, entry_point, tell_metrics
from headwater.runtime.scheduler import Scheduler

log = structlog.get_logger("headwater.functions")


async def make_ticks(home: Home, event: Any, invocation: Invocation) -> dict[str, Any]:
    ring = read_ring(event)
    if not any(ring.schedule in app.schedules for app in home.graph.apps):
        log.error("no app has the schedule that rings", schedule=ring.schedule)
        return {"ticks": 0}
    scheduler = Scheduler(home.system, home.graph.apps, home.engine, home.clock, home.recorder)
    ticks = await scheduler.ring(ring.schedule, ring.nominal_ms)
    log.info("a schedule rang", schedule=ring.schedule, nominal=ring.nominal.isoformat(), ticks=ticks)
    tell_metrics(home, {"Schedule": ring.schedule}, {"ticks": ticks}, [])
    return {"ticks": ticks}


handle = entry_point(make_ticks)
