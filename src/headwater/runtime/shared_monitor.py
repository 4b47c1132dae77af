"""The monitor of a store that many processes have open: each keeps its own figures, one judges the sum.

At each full minute of the store a process appends what it counted itself to the roll-ups of the minute before: points
of one minute belong together, whoever wrote them. `SETTLE_MS` later the one that holds the term of the alarms adds what
is the store's (depths, messages sent and settled), reads what all have written, and lets the alarms look at it. A
process that comes later than that is missing in the alarms of this minute, not in the metrics. When the holder
dies, another one judges from the next minute on, beginning with the minutes and states that are in the store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import structlog

from headwater.clock import Clock
from headwater.engine import Engine, QueueStats
from headwater.errors import DeclarationError, StoreError, StoreFull, Unavailable
from headwater.graph import Graph
from headwater.metrics import MINUTE_MS, Recorder, Sample, Totals
from headwater.runtime.alarms import Alarms, Facts
from headwater.runtime.recorder import RollUps, read_totals
from headwater.runtime.tally import Counting
from headwater.runtime.terms import Terms
from headwater.runtime.wakeups import Wakeups
from headwater.system import System
from headwater.tuning import BuiltIn

SETTLE_MS = 10_000
"""How long after a minute its figures are waited for."""
_LONGEST_NAME = 500
log = structlog.get_logger("headwater.metrics")


class _Minute(NamedTuple):
    """One that is over and not judged yet: what of it is the store's, and the queues at its end."""

    number: int
    sample: Sample
    stats: Sequence[QueueStats]


class SharedMonitor:
    """See `monitor.Monitor`. Without `judges` it only keeps this process's own figures."""

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        system: System,
        graph: Graph,
        consumers: Mapping[str, Counting],
        *,
        recorder: Recorder,
        terms: Terms,
        built_in: Sequence[BuiltIn] = (),
        judges: bool = True,
    ) -> None:
        self.wakeups = Wakeups("metrics", clock, self._tick)
        self.alarms: Alarms | None = None
        """Of the process that judges."""
        self._engine = engine
        self._clock = clock
        self._system = system
        self._apps = graph.apps
        self._consumers = consumers
        self._recorder = recorder
        self._terms = terms
        self._built_in = built_in
        self._judges = judges
        self._own = RollUps(engine, system)
        self._store = RollUps(engine, system)
        self._minute = 0
        self._before = Totals({}, {}, {})
        self._unjudged: _Minute | None = None

    @property
    def work(self) -> str:
        """What the term is named: servers of other apps judge other alarms."""
        name = f"alarms of {','.join(sorted(app.name for app in self._apps))}"
        return name if len(name) <= _LONGEST_NAME else hashlib.sha256(name.encode()).hexdigest()

    async def totals(self) -> Totals:
        """What all series show now: those of queues are the store's, the others this process's."""
        return read_totals(await self._engine.stats(), self._consumers, self._recorder)

    def abandon(self) -> None:
        """The minute that is under way is lost, as in a crash."""
        self._minute = 0

    async def rouse(self) -> bool:
        """No minute is ever skipped."""
        return False

    async def flush(self) -> None:
        """Write what this process counted in the present minute; nothing is sampled after it."""
        if self._minute:
            try:
                await self._own.write(
                    _split(read_totals([], self._consumers, self._recorder).since(self._before))[0], self._minute
                )
                self._minute = 0
            except (StoreError, Unavailable, DeclarationError) as error:
                log.warning("the last minute's metrics could not be written", error=str(error))

    async def _tick(self) -> int | None:
        now_ms = await self._engine.now_ms()
        minute = now_ms // MINUTE_MS
        if not self._minute:
            totals = await self.totals()
            queues = {one: n for one, n in totals.counters.items() if _is_queue(one.name)}
            self._before, self._minute = Totals(queues, {}, {}), minute
        elif minute > self._minute:
            self._minute = minute
            await self._close(minute)
        if self._unjudged is not None and now_ms >= minute * MINUTE_MS + SETTLE_MS:
            minute_over, self._unjudged = self._unjudged, None
            await self._judge(minute_over)
        due_ms = minute * MINUTE_MS + SETTLE_MS if self._unjudged is not None else (minute + 1) * MINUTE_MS
        return due_ms - (now_ms - self._clock.wall_ms())

    async def _close(self, minute: int) -> None:
        """Write this process's figures of the minute before."""
        stats = await self._engine.stats()
        totals = read_totals(stats, self._consumers, self._recorder)
        own, stored = _split(totals.since(self._before))
        self._before = totals
        if self._judges:
            self._unjudged = _Minute(minute - 1, stored, stats)
        await self._write(self._own, own, minute - 1)

    async def _write(self, rollups: RollUps, sample: Sample, minute: int) -> None:
        try:
            await rollups.write(sample, minute)
        except StoreFull as error:
            log.warning("a minute's metrics could not be written", error=str(error))

    async def _judge(self, minute: _Minute) -> None:
        if not await self._terms.hold(self.work):
            self.alarms = None
            return
        if self.alarms is None:
            self._store = RollUps(self._engine, self._system)
            alarms = Alarms(self._engine, self._system, self._built_in)
            await alarms.restore(self._apps, self._store, minute.number)
            self.alarms = alarms
        await self._write(self._store, minute.sample, minute.number)
        sample = await self._store.minute(minute.number)
        sample.gauges = minute.sample.gauges
        facts = Facts(list(minute.stats), await self._engine.catalog())
        await self.alarms.evaluate(sample, facts, (minute.number + 1) * MINUTE_MS)


def _is_queue(name: str) -> bool:
    return name.startswith("queue_")


def _split(sample: Sample) -> tuple[Sample, Sample]:
    """What the process has counted itself, and what is the store's."""
    own = {one: n for one, n in sample.counts.items() if not _is_queue(one.name)}
    stored = {one: n for one, n in sample.counts.items() if _is_queue(one.name)}
    return Sample(own, {}, sample.durations), Sample(stored, sample.gauges, {})
