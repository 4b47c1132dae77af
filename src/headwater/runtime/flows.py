"""What flows where, counted from the history: each look goes on behind the last one.

When more has happened since than is looked at, the newest events stand for all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence

from headwater.engine import Engine, TracedEvent

LOOKED_AT = 1000
"""So many events are looked at, at most."""


class Flows:
    """Counts of events: `fed` by (source, queue), `made` by (queue whose handler made them, or "", source)."""

    def __init__(self) -> None:
        self.fed: Counter[tuple[str, str]] = Counter()
        self.made: Counter[tuple[str, str]] = Counter()
        self.events = 0
        self.since_ms = 0
        self._position = -1

    async def look(self, engine: Engine) -> None:
        after = self._position
        events = await engine.events(after, LOOKED_AT)
        if after >= 0 and len(events) == LOOKED_AT:
            events = await engine.events(-1, LOOKED_AT)
        queues = (await engine.catalog()).queues
        self.add([traced for traced in events if traced.position > self._position], queues)

    def add(self, events: Sequence[TracedEvent], queues: Container[str]) -> None:
        for traced in events:
            source = traced.event.source
            self.fed.update((source, queue) for queue in traced.messages)
            by = (traced.event.cause or "").partition("/")[2]
            self.made[by if by in queues else "", source] += 1
            self._position = traced.position
        self.events += len(events)
        if events and not self.since_ms:
            self.since_ms = events[0].event.time_ms
