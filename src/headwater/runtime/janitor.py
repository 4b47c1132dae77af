"""The janitor: expiry, retention, the history's size, blobs without a record; in slices between the work of others."""

from __future__ import annotations

import structlog

from headwater.clock import Clock
from headwater.engine import Engine
from headwater.errors import CommitUnknown, StoreError, StoreFull, Unavailable
from headwater.runtime.garbage import Garbage
from headwater.runtime.terms import Terms

SLICE = 500
PERIOD_S = 1.0
HISTORY_MS = 7 * 86_400_000
HISTORY_EVENTS = 5_000_000
log = structlog.get_logger("headwater.janitor")


class Janitor:
    """`run()` until cancelled; `tick()` does what is due now."""

    def __init__(
        self, engine: Engine, clock: Clock, terms: Terms, history_ms: int = HISTORY_MS, most: int = HISTORY_EVENTS
    ) -> None:
        self.garbage: Garbage | None = None
        self._terms = terms
        self._engine = engine
        self._clock = clock
        self._history_ms = history_ms
        self._most = most

    async def run(self) -> None:
        while True:
            await self._clock.sleep(PERIOD_S)
            try:
                await self.tick()
            except StoreFull as error:
                log.warning("the disk is full", error=str(error))
            except (Unavailable, CommitUnknown) as error:
                log.warning("upkeep is tried again", error=str(error))
            except StoreError as error:
                log.error("upkeep stopped", error=str(error))
                return

    async def tick(self) -> int:
        """One slice of each kind, again while there is more, if it is this process's turn; how much was removed."""
        total = 0
        while await self._terms.hold("janitor"):
            removed = await self._engine.expire_records(SLICE)
            removed += await self._engine.expire_messages(SLICE)
            removed += await self._engine.sweep_loads(SLICE)
            removed += await self._engine.sweep(self._history_ms, SLICE, most=self._most)
            total += removed
            if removed < SLICE:
                break
        if self.garbage is not None:
            try:
                total += await self.garbage.collect()
            except StoreError as error:
                log.warning("blobs could not be looked through", error=str(error))
        return total
