"""The monitor: once a minute it samples the metrics, keeps them, and lets the alarms look at them.

One wake-up at each full minute closes the minute before it. Where time is virtual and nothing happens, minutes are
skipped: when the last one brought nothing new and no alarm's state can change by itself, the next wake-up is when the
first age reaches its threshold, and the harness wakes it when something happens before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog

from headwater.clock import Clock
from headwater.engine import Engine, QueueStats
from headwater.errors import DeclarationError, StoreError, StoreFull, Unavailable
from headwater.graph import Graph
from headwater.metrics import MINUTE_MS, Recorder, Sample, Totals
from headwater.runtime.alarms import Alarms, Facts
from headwater.runtime.recorder import RollUps, read_totals
from headwater.runtime.tally import Counting
from headwater.runtime.wakeups import Wakeups
from headwater.system import System
from headwater.tuning import BuiltIn

log = structlog.get_logger("headwater.metrics")


class Monitor:
    """`wakeups` runs it; `flush` at a graceful stop. With `skips` it leaves out minutes in which nothing can happen."""

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        system: System,
        graph: Graph,
        consumers: Mapping[str, Counting],
        *,
        recorder: Recorder,
        built_in: Sequence[BuiltIn],
        skips: bool,
    ) -> None:
        self.wakeups = Wakeups("metrics", clock, self._tick)
        self.alarms = Alarms(engine, system, built_in)
        self.rollups = RollUps(engine, system)
        self._engine = engine
        self._clock = clock
        self._graph = graph
        self._consumers = consumers
        self._recorder = recorder
        self._skips = skips
        self._minute = 0
        self._before = Totals({}, {}, {})
        self._carried: Sample | None = None
        self._dozes_at: tuple[object, ...] | None = None

    async def totals(self) -> Totals:
        """What all series show now."""
        return read_totals(await self._engine.stats(), self._consumers, self._recorder)

    def abandon(self) -> None:
        """The minute that is under way is lost, as in a crash."""
        self._minute = 0

    async def flush(self) -> None:
        """Write what the present minute has so far; nothing is sampled after it."""
        if self._minute:
            try:
                totals = await self.totals()
                await self.rollups.write(totals.since(self._before), self._minute)
                self._minute = 0
            except (StoreError, Unavailable, DeclarationError) as error:
                log.warning("the last minute's metrics could not be written", error=str(error))

    def set_skips(self, *, skips: bool) -> None:
        """Leave out such minutes from now on, or look at each again."""
        self._skips = skips
        if not skips and self._dozes_at is not None:
            self._wake()

    async def rouse(self) -> bool:
        """Look at the present minute after all, if something has happened since minutes are skipped."""
        if self._dozes_at is None or self._dozes_at == self._activity(await self._engine.stats()):
            return False
        self._wake()
        return True

    def _wake(self) -> None:
        self._minute, self._dozes_at = self._clock.wall_ms() // MINUTE_MS, None
        self.wakeups.wake()

    async def _tick(self) -> int | None:
        minute = self._clock.wall_ms() // MINUTE_MS
        if not self._minute:
            await self._begin(minute)
        elif minute > self._minute:
            self._minute = minute
            return await self._close(minute)
        self._minute = minute
        return (minute + 1) * MINUTE_MS

    async def _begin(self, minute: int) -> None:
        await self.alarms.restore(self._graph.apps, self.rollups, minute)
        self._carried = await self.rollups.minute(minute)

    async def _close(self, minute: int) -> int | None:
        """Deal with the minute that has just ended; when the next one is to be dealt with."""
        self._dozes_at = None
        stats = await self._engine.stats()
        totals = read_totals(stats, self._consumers, self._recorder)
        sample = totals.since(self._before)
        changed = bool(sample.counts or sample.durations or totals.gauges != self._before.gauges)
        self._before = totals
        if changed:
            try:
                await self.rollups.write(sample, minute - 1)
            except StoreFull as error:
                log.warning("a minute's metrics could not be written", error=str(error))
        if self._carried is not None:
            sample.add(self._carried)
            self._carried = None
        await self.alarms.evaluate(sample, Facts(stats, await self._engine.catalog()), minute * MINUTE_MS)
        if changed or not self._skips or not self.alarms.settled:
            return (minute + 1) * MINUTE_MS
        self._dozes_at = self._activity(stats)
        crosses_ms = self.alarms.next_ms
        return None if crosses_ms is None else (crosses_ms // MINUTE_MS + 1) * MINUTE_MS

    def _activity(self, stats: Sequence[QueueStats]) -> tuple[object, ...]:
        queues = [(s.queue, s.depth, s.dead, s.sent, s.settled, s.retried, s.due_ms, s.paused) for s in stats]
        attempts = [(c.stats.handled, c.stats.failed, c.stats.conflicts) for c in self._consumers.values()]
        return queues, attempts, self._recorder.changes
