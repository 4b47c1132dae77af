"""Spans: which traces are kept, and how they get into the store.

A trace is kept or not by a checksum of its id, so that all who see it decide alike and nothing need be said about it.
Callers that keep their own spans (the W3C flag "sampled") are followed as far as `ASKED` lets in, for as long as the
process runs, while the store has room; spans of failures are kept in any case. Spans wait in memory and are written
once a second, in a commit of their own. The store gets `MOST` of them for each time that the history is kept: while
they come faster, the share of traces is halved each second; what is beyond that is dropped, and counted.
"""

from __future__ import annotations

import asyncio
from typing import Protocol
from zlib import crc32

import structlog

from headwater.clock import Clock
from headwater.engine import Engine, Query, Record
from headwater.errors import DeclarationError, StoreError, Unavailable
from headwater.quota import Bucket, Plan, take
from headwater.runtime.wakeups import Wakeups
from headwater.system import System
from headwater.tracing import Span
from headwater.unit import Write
from headwater.work import UnitOfWork

MOST = 1_000_000
"""How many spans the store gets while the history is kept once."""
BURST = 100_000
"""How many of them it takes at once."""
WAITING = 1000
"""How many wait in memory."""
PERIOD_MS = 1000
ASKED = Plan(rate=10, burst=100)
ASKED_MOST = 10_000
WHOLE = 2**32
log = structlog.get_logger("headwater.spans")


class Exporter(Protocol):
    def export(self, span: Span) -> None:
        """Never raises or waits."""
        ...

    def close(self) -> None:
        """Send what is left; waits for it, some seconds at the most."""
        ...


class Spans:
    """The server's tracer (`tracing.Tracer`). `wakeups` writes, `flush` what is left at a stop."""

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        system: System,
        *,
        share: float,
        kept_ms: int,
        exporter: Exporter | None = None,
    ) -> None:
        self.wakeups = Wakeups("spans", clock, self._write_due)
        self.exporter = exporter
        self.dropped = 0
        """Since the start of the process."""
        self._engine = engine
        self._clock = clock
        self._table = system.spans
        self._share = self._below = round(share * WHOLE)
        self._asked: dict[str, None] = {}
        self._asking = Bucket(ASKED.capacity, clock.monotonic())
        self._waiting: list[Span] = []
        self._reported = 0
        self._written_ms = 0
        self._room = float(BURST)
        self._room_at = clock.monotonic()
        self._per_s = (MOST - BURST) / max(kept_ms / 1000, 1.0)

    # Tracer

    def samples(self, trace: str) -> bool:
        return (self._below > 0 and crc32(trace.encode()) < self._below) or trace in self._asked

    def ask(self, trace: str) -> None:
        if trace in self._asked or self._room < BURST / 2:
            return
        if take(self._asking, ASKED, self._clock.monotonic()) > 0:
            return
        self._asked[trace] = None
        if len(self._asked) > ASKED_MOST:
            del self._asked[next(iter(self._asked))]

    def now(self) -> float:
        return self._clock.monotonic()

    def record(self, span: Span, begun: float) -> None:
        took_s = max(self._clock.monotonic() - begun, 0.0)
        span.start_ms = self._clock.wall_ms() - round(took_s * 1000)
        span.duration_us = round(took_s * 1_000_000)
        if self.exporter is not None:
            self.exporter.export(span)
        if len(self._waiting) >= WAITING or not span.trace:
            self.dropped += 1
            return
        self._waiting.append(span)
        if len(self._waiting) == 1:
            self.wakeups.wake()

    # The store

    async def of(self, trace: str, limit: int) -> list[Span]:
        """The spans of a trace in the order in which they began, also those that are not written yet."""
        found = {span.id: span for span in self._waiting if span.trace == trace}
        if self._table.name not in (await self._engine.catalog()).tables:
            return list(found.values())
        page = await self._engine.query(Query(table=self._table.name, partition=trace, limit=limit))
        found.update({span.id: span for span in map(self._decoded, page.records)})
        return sorted(found.values(), key=lambda span: (span.start_ms, span.id))

    def _decoded(self, record: Record) -> Span:
        return self._table.codec.decode(record.body)

    async def flush(self) -> None:
        """Write what waits."""
        try:
            while self._waiting:
                await self._write()
        except (StoreError, Unavailable, DeclarationError) as error:
            log.warning("spans could not be written", spans=len(self._waiting), error=str(error))

    async def close(self) -> None:
        """Have the exporter send what it has."""
        if self.exporter is not None:
            await asyncio.to_thread(self.exporter.close)

    async def _write_due(self) -> int | None:
        if not self._waiting:
            return None
        due_ms = self._written_ms + PERIOD_MS
        now_ms = self._clock.wall_ms()
        if now_ms < due_ms <= now_ms + PERIOD_MS:
            return due_ms
        self._written_ms = now_ms
        await self._write()
        return None if not self._waiting else now_ms + PERIOD_MS

    async def _write(self) -> None:
        waiting = self._waiting[: self._engine.features.max_unit_operations]
        kept = waiting[: self._take_room(len(waiting))]
        unit = UnitOfWork(self._engine)
        for span in kept:
            key = self._table.key(span.trace, span.id)
            unit.write(Write(self._table.name, key, unit.next_id(), self._table.codec.encode(span)))
        if kept:
            await unit.commit()
        self.dropped += len(waiting) - len(kept)
        del self._waiting[: len(waiting)]
        if self.dropped > self._reported:
            log.warning("spans were dropped: too many were recorded", dropped=self.dropped - self._reported)
            self._reported = self.dropped

    def _take_room(self, wanted: int) -> int:
        """How many of them the store gets; the share of traces rises and falls with the room that is left."""
        now = self._clock.monotonic()
        self._room = min(self._room + (now - self._room_at) * self._per_s, BURST)
        self._room_at = now
        taken = min(wanted, int(self._room))
        self._room -= taken
        self._below = self._below // 2 if self._room < BURST / 2 else min(max(self._below * 2, 1), self._share)
        return taken
