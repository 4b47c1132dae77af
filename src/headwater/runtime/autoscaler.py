"""The autoscaler: as many workers for a queue as its backlog asks for.

Once a second it looks at the queues that have a `Scale`, decides (`scaling.wanted`), and tells its target. A queue at
zero workers is not looked at: a doorbell waits for its first message, by leasing it and giving it back at once,
uncounted. Changes of a number are rows of `headwater/scalings`, each with its reason. A target that fails is told
again; it is always told how many there should be in all, so telling it twice does no harm. After a start the numbers
go on from the last rows, if messages wait.

Of the servers that have a store open one decides for a queue (`runtime.terms`); the others follow its rows, to tell
the number and to go on from it when the decider dies. Where each server runs workers of its own, each runs its share.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
import structlog

from headwater.clock import Clock
from headwater.engine import MANY_GROUPS, Engine, Query, QueueStats
from headwater.errors import HeadwaterError, StoreError
from headwater.graph import Graph
from headwater.handlers import HandlerSpec
from headwater.runtime.admin_base import time_of
from headwater.runtime.terms import Terms
from headwater.runtime.wakeups import Wakeups
from headwater.scaling import Counts, Decision, Need, Observation, Scale, Scaling, Throughput, wanted
from headwater.system import System
from headwater.unit import Write
from headwater.work import UnitOfWork

TICK_MS = 1_000
FOLLOW_MS = 5_000
"""How often a server looks that neither decides nor runs workers."""
RETOLD_MS = 60_000
"""After this time a target is told again, where another decider may have told it something else, late."""
RETRY_MS = 5_000
"""When a target that failed is told again."""
LOOKED_AT = 64
"""So many of the oldest messages are looked at for those that failed before, when a number is about to rise."""
log = structlog.get_logger("headwater.autoscaler")


def scaled(graph: Graph, apart: bool) -> list[HandlerSpec]:
    """The handlers whose workers are scaled; none unless worker processes are `apart` from the server."""
    return [spec for spec in graph.handlers.values() if apart and spec.scale is not None]


class Target(Protocol):
    """Where workers run."""

    async def set(self, queue: str, wanted: int) -> None:
        """Have so many workers for the queue, from now on; returns when that is under way. Idempotent.

        Raises a `HeadwaterError` when it could not be told.
        """
        ...

    def running(self, queue: str) -> int | None:
        """How many there are; None when it is not known."""
        ...


class Nowhere:
    """No target: others read the wanted numbers, and start workers themselves."""

    async def set(self, queue: str, wanted: int) -> None:
        pass

    def running(self, queue: str) -> int | None:
        return None


class Watch:
    """A queue that is scaled. `told` is the number that the target was last told, None before the first time."""

    def __init__(self, spec: HandlerSpec) -> None:
        self.queue = spec.queue
        self.scale = spec.scale or Scale()
        self.concurrency = spec.concurrency
        self.throughput = Throughput()
        self.seen: Observation | None = None
        self.decision: Decision | None = None
        self.recorded = 0
        self.since_ms: int | None = None
        self.told: int | None = None
        self.told_ms = 0
        self.followed: Scaling | None = None
        self.telling: asyncio.Task[None] | None = None
        self.again_ms = 0
        self.bell: asyncio.Task[None] | None = None

    @property
    def number(self) -> int:
        if self.decision is not None:
            return self.decision.number
        return 0 if self.followed is None else self.followed.wanted

    def follow(self, last: Scaling | None) -> None:
        """Another process decides, and this is what it last decided."""
        if self.decision is not None:
            self.seen = self.decision = None
            self.throughput = Throughput()
        if self.bell is not None:
            self.bell.cancel()
        self.followed = last
        if last is not None:
            self.recorded, self.since_ms = last.wanted, last.at_ms

    @property
    def rests(self) -> bool:
        """Whether nothing changes before a message is ready."""
        return self.decision is not None and self.number == 0 == self.told


class Autoscaler:
    """`wakeups` runs it; `stop` ends it, the workers stay as they are.

    With `shares` each server has a target of its own, which gets its share of the number.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        system: System,
        handlers: Sequence[HandlerSpec],
        target: Target,
        *,
        terms: Terms,
        shares: bool = False,
    ) -> None:
        self.wakeups = Wakeups("autoscaler", clock, self._tick)
        self.watches = {spec.queue: Watch(spec) for spec in handlers}
        self._engine = engine
        self._clock = clock
        self._system = system
        self._target = target
        self._terms = terms
        self._shares = shares and not terms.sole

    async def stop(self) -> None:
        """Idempotent."""
        await self.wakeups.stop()
        tasks = [task for watch in self.watches.values() for task in (watch.bell, watch.telling) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def report(self) -> list[dict[str, Any]]:
        """What is wanted of each queue's workers, and what was seen of it last, as JSON types."""
        return [self._shown(watch) for _, watch in sorted(self.watches.items())]

    def reported(self, queue: str) -> dict[str, Any] | None:
        watch = self.watches.get(queue)
        return None if watch is None else self._shown(watch)

    def _shown(self, watch: Watch) -> dict[str, Any]:
        seen, decision, scale = watch.seen, watch.decision, watch.scale
        return {
            "queue": watch.queue,
            "wanted": watch.number,
            "running": self._target.running(watch.queue),
            "busy": 0 if seen is None else seen.busy,
            "backlog": 0 if seen is None else seen.backlog,
            "oldest_age_ms": 0 if seen is None else seen.oldest_age_ms,
            "reason": decision.reason if decision else watch.followed.reason if watch.followed else "",
            "since": None if watch.since_ms is None else time_of(watch.since_ms),
            "min": scale.min,
            "max": scale.max,
        }

    async def _tick(self) -> int | None:
        mine = [watch for watch in self.watches.values() if await self._terms.hold(f"scale {watch.queue}")]
        stats = {stats.queue: stats for stats in await self._engine.stats()} if mine else {}
        now_ms = await self._engine.now_ms()
        for watch in self.watches.values():
            found = stats.get(watch.queue)
            if watch not in mine:
                watch.follow(await self._last(watch.queue))
                if self._shares:
                    await self._tell(watch)
            elif found is not None:
                await self._look(watch, found, now_ms)
        rests = all(watch.rests for watch in mine)
        if rests and self._terms.sole:
            return None
        return self._clock.wall_ms() + (FOLLOW_MS if rests and not self._shares else TICK_MS)

    async def _look(self, watch: Watch, stats: QueueStats, now_ms: int) -> None:
        if watch.decision is None:
            await self._resume(watch, stats)
        before = watch.decision
        seen = self._observe(watch, stats, now_ms)
        decision = wanted(watch.scale, seen, before)
        if decision.number > max(1, watch.number):
            seen = msgspec.structs.replace(seen, retrying=await self._retrying(watch.queue, seen.backlog))
            decision = wanted(watch.scale, seen, before)
        watch.seen, watch.decision = seen, decision
        await self._tell(watch)
        if decision.number != watch.recorded:
            await self._record(watch, decision, seen)
        if watch.rests and watch.bell is None:
            watch.bell = asyncio.create_task(self._listen(watch), name=f"doorbell {watch.queue}")

    def _observe(self, watch: Watch, stats: QueueStats, store_ms: int) -> Observation:
        now_ms = int(self._clock.monotonic() * 1000)
        known = watch.number if self._shares else self._target.running(watch.queue)
        running = (watch.told or 0) if known is None else known
        busy = min(-(-stats.in_flight // watch.concurrency), running)
        flow = watch.throughput
        flow.add(
            Counts(at_ms=now_ms, settled=stats.settled, dead=stats.dead, retried=stats.retried, busy=busy),
        )
        waiting_ms = store_ms - stats.due_ms if stats.due_ms else 0
        return Observation(
            now_ms=now_ms,
            backlog=max(stats.depth - stats.delayed, stats.in_flight),
            oldest_age_ms=max(0, waiting_ms),
            busy=busy,
            running=running,
            handled=flow.handled,
            job_s=flow.job_s,
            failing=flow.failing,
            paused=stats.paused,
            groups=None if stats.groups is None or stats.groups >= MANY_GROUPS else stats.groups,
        )

    async def _retrying(self, queue: str, backlog: int) -> int:
        """How many of the oldest messages failed before and are to be tried now."""
        now_ms = await self._engine.now_ms()
        oldest = await self._engine.peek(queue, LOOKED_AT)
        return min(backlog, sum(1 for message in oldest if message.receives and message.ready_ms <= now_ms))

    async def _listen(self, watch: Watch) -> None:
        """Wait for a message at a queue without workers."""
        try:
            deliveries = await self._engine.receive(watch.queue, 1)
            await asyncio.shield(self._engine.release(deliveries))
        except HeadwaterError as error:
            log.warning("the doorbell of a queue failed", queue=watch.queue, error=str(error))
        finally:
            watch.bell = None
        self.wakeups.wake()

    # The target

    async def _tell(self, watch: Watch) -> None:
        number, now_ms = await self._share_of(watch), self._clock.wall_ms()
        late = not self._terms.sole and now_ms >= watch.told_ms + RETOLD_MS
        if watch.telling is None and (watch.told != number or late) and now_ms >= watch.again_ms:
            watch.telling = asyncio.create_task(self._set(watch, number), name=f"scale {watch.queue}")

    async def _share_of(self, watch: Watch) -> int:
        """How many workers this server's target is to run."""
        if not self._shares:
            return watch.number
        place, servers = await self._terms.meet(f"workers of {watch.queue}")
        return watch.number // servers + (place < watch.number % servers)

    async def _set(self, watch: Watch, number: int) -> None:
        try:
            await self._target.set(watch.queue, number)
            watch.told, watch.told_ms = number, self._clock.wall_ms()
            if watch.rests:
                self.wakeups.wake()
        except HeadwaterError as error:
            watch.again_ms = self._clock.wall_ms() + RETRY_MS
            log.warning("workers could not be scaled", queue=watch.queue, wanted=number, error=str(error))
        finally:
            watch.telling = None

    # The record

    async def _resume(self, watch: Watch, stats: QueueStats) -> None:
        """Go on from the number that was last wanted: the messages that wait may need it."""
        last = await self._last(watch.queue)
        if last is None:
            return
        watch.recorded, watch.since_ms = last.wanted, last.at_ms
        number = min(max(last.wanted, watch.scale.min), watch.scale.max)
        if stats.depth > stats.delayed and not stats.paused:
            now_ms = int(self._clock.monotonic() * 1000)
            watch.decision = Decision(number, last.reason, (Need(now_ms, number),))

    async def _last(self, queue: str) -> Scaling | None:
        """The last change of the queue's number."""
        table = self._system.scalings
        page = await self._engine.query(Query(table=table.name, partition=queue, limit=1, reverse=True))
        return table.codec.decode(page.records[0].body) if page.records else None

    async def _record(self, watch: Watch, decision: Decision, seen: Observation) -> None:
        """Write the row; scaling goes on without it where the disk is full."""
        at_ms = await self._engine.now_ms()
        row = Scaling(
            queue=watch.queue,
            at_ms=at_ms,
            wanted=decision.number,
            before=watch.recorded,
            reason=decision.reason,
            backlog=seen.backlog,
            oldest_age_ms=seen.oldest_age_ms,
            busy=seen.busy,
        )
        watch.recorded, watch.since_ms = row.wanted, at_ms
        log.info("scaled", queue=row.queue, wanted=row.wanted, before=row.before, reason=row.reason)
        table = self._system.scalings
        unit = UnitOfWork(self._engine)
        unit.write(Write(table.name, table.key(row.queue, row.at_ms), unit.next_id(), table.encode(row)))
        try:
            await unit.commit()
        except StoreError as error:
            log.warning("a scaling could not be recorded", queue=row.queue, error=str(error))
