"""Terms: of the processes that have a store open, one at a time does a work; when it dies, another one goes on.

Identity: a work has a name, a process the id `holder`. State: a row of `headwater/terms`, by (work, part): its holder
until a time of the store. A row whose time is over is anyone's. It is read, compared and written by versions, so of
two processes that take a term at once, one gets it. Guarantee: no two processes hold a term at the same time, as far as
their monotonic clocks run alike: the holder counts from before it looked, and stops in time by itself. A process
that stood still may go on with what it was doing when its term ended; what it writes then must be compared and set,
or do no harm.

A store that only one process can open needs none of this: `Terms` answers without asking it.
"""

from __future__ import annotations

import os
import secrets
import socket

import structlog

from headwater.clock import Clock
from headwater.engine import Engine, Query
from headwater.errors import Conflict, HeadwaterError
from headwater.runtime.wakeups import Wakeups
from headwater.system import System, Term
from headwater.unit import Write
from headwater.work import UnitOfWork

TERM_S = 15.0
"""How long a term is. After a third of it its holder renews it, and the others look whether it is over: so a dead
holder's work rests for four thirds of it at the most."""
Place = tuple[str, str]
_ONE = "one"
"""The part of a work that one process does."""
log = structlog.get_logger("headwater.terms")


class Terms:
    """`hold` before each round of a work; `wakeups` renews what is held, `release` gives it up at a graceful stop."""

    def __init__(self, engine: Engine, clock: Clock, system: System) -> None:
        self.sole = engine.features.single_process
        """Whether no other process can have the store open."""
        self.wakeups = Wakeups("terms", clock, self._renew)
        self.holder = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"
        self._engine = engine
        self._clock = clock
        self._system = system
        self._ends: dict[Place, float] = {}
        self._look_at: dict[Place, float] = {}
        self._met: dict[str, tuple[float, list[str]]] = {}
        self._claimed: set[Place] = set()

    async def hold(self, work: str) -> bool:
        """Whether the work is this process's now. Asks the store three times a term at the most."""
        return self.sole or await self._hold(work, _ONE, TERM_S)

    def holds(self, work: str) -> bool:
        """What `hold` answered last, if that is still so."""
        return self.sole or self._ends.get((work, _ONE), 0.0) > self._clock.monotonic()

    async def claim(self, work: str, term_s: float) -> None:
        """Take a term that nobody else wants, for so long; the same again renews it."""
        if not self.sole:
            self._claimed.add((work, _ONE))
            await self._hold(work, _ONE, term_s)

    async def is_held(self, work: str) -> bool:
        """Whether another process holds the term."""
        if self.sole:
            return False
        row = await self._system.read(self._system.terms, work, _ONE)
        return row is not None and row.holder != self.holder and row.until_ms > await self._engine.now_ms()

    async def meet(self, work: str) -> tuple[int, int]:
        """Take part in a work that many processes share: (this one's place, how many take part)."""
        if self.sole:
            return 0, 1
        await self._hold(work, self.holder, TERM_S)
        look_at, met = self._met.get(work, (0.0, []))
        if look_at <= self._clock.monotonic():
            met = await self._present(work)
            self._met[work] = self._clock.monotonic() + TERM_S / 3, met
        return (met.index(self.holder) if self.holder in met else len(met)), max(len(met), 1)

    async def _present(self, work: str) -> list[str]:
        page = await self._engine.query(Query(table=self._system.terms.name, partition=work, limit=1000))
        rows = [self._system.terms.codec.decode(record.body) for record in page.records]
        now_ms = await self._engine.now_ms()
        return sorted(row.holder for row in rows if row.part != _ONE and row.until_ms > now_ms)

    async def _renew(self) -> int | None:
        if self.sole:
            return None
        now = self._clock.monotonic()
        for place, end in list(self._ends.items()):
            if place not in self._claimed:
                await self._hold(*place, TERM_S)
            elif end <= now:
                self._claimed.discard(place)
                del self._ends[place], self._look_at[place]
        return self._clock.wall_ms() + round(TERM_S * 1000 / 3)

    async def release(self) -> None:
        """Give up all terms: others need not wait for their end."""
        await self.wakeups.stop()
        held, self._ends = list(self._ends), {}
        self._look_at.clear()
        for place in held:
            try:
                await self._end(place)
            except HeadwaterError as error:
                log.warning("a term could not be given up", work=place[0], error=str(error))

    async def _end(self, place: Place) -> None:
        table, unit = self._system.terms, UnitOfWork(self._engine)
        record = await unit.read(table.name, place)
        if record is not None and table.codec.decode(record.body).holder == self.holder:
            unit.write(Write(table.name, place, unit.next_id()))
            await unit.commit()

    async def _hold(self, work: str, part: str, term_s: float) -> bool:
        place, now = (work, part), self._clock.monotonic()
        if now < self._look_at.get(place, 0.0):
            return self._ends.get(place, 0.0) > now
        self._look_at[place] = now + term_s / 3
        if await self._take(place, term_s):
            if place not in self._ends and part == _ONE:
                log.info("this process takes over", work=work)
            self._ends[place] = now + term_s
        elif self._ends.pop(place, 0.0):
            log.warning("another process has taken over", work=work)
        return self._ends.get(place, 0.0) > self._clock.monotonic()

    async def _take(self, place: Place, term_s: float) -> bool:
        """Write the row, unless somebody else's term lasts or is being written now."""
        table, unit = self._system.terms, UnitOfWork(self._engine)
        record = await unit.read(table.name, place)
        now_ms = await self._engine.now_ms()
        if record is not None:
            found = table.codec.decode(record.body)
            if found.holder != self.holder and found.until_ms > now_ms:
                return False
        row = Term(work=place[0], part=place[1], holder=self.holder, until_ms=now_ms + round(term_s * 1000))
        unit.write(Write(table.name, place, unit.next_id(), table.encode(row)))
        try:
            await unit.commit()
        except Conflict:
            return False
        return True
