"""What is counted of attempts elsewhere: by worker processes, who tell it, and of consumers over HTTP."""

from __future__ import annotations

from typing import Protocol

from headwater.engine import Counted
from headwater.metrics import Histogram
from headwater.runtime.consumer import Consumer, ConsumerStats


class Counting(Protocol):
    """Whose attempts metrics show: a consumer, or a `Tally`."""

    @property
    def stats(self) -> ConsumerStats: ...

    @property
    def durations(self) -> Histogram: ...


class Tally:
    """The attempts of all worker processes, or consumers over HTTP, at one queue, since the start of the server."""

    def __init__(self) -> None:
        self.stats = ConsumerStats()
        self.durations = Histogram()

    def add(self, counted: Counted) -> None:
        self.stats.handled += counted.handled
        self.stats.failed += counted.failed
        self.stats.conflicts += counted.conflicts
        if len(counted.durations) == len(self.durations.buckets):
            self.durations.add(Histogram(counted.durations, counted.total_s))


class Counter:
    """What a worker's consumer has counted since it was last asked."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._told = ConsumerStats()
        self._durations = Histogram()

    def news(self) -> Counted | None:
        stats, before = self._consumer.stats, self._told
        fresh = self._consumer.durations.since(self._durations)
        counted = Counted(
            queue=self._consumer.spec.queue,
            handled=stats.handled - before.handled,
            failed=stats.failed - before.failed,
            conflicts=stats.conflicts - before.conflicts,
            durations=fresh.buckets,
            total_s=fresh.total,
        )
        if not (counted.handled or counted.failed or counted.conflicts or fresh.count):
            return None
        self._told = ConsumerStats(stats.handled, stats.failed, stats.conflicts)
        self._durations = self._consumer.durations.copy()
        return counted
