"""A load on a store whose effects can be counted: what was acknowledged must be there, once, whatever happened."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from headwater.engines.postgres.engine import PostgresEngine
from headwater.errors import Conflict, LeaseLost, Unavailable
from headwater.unit import new_commit
from tests.postgres.shop import JOBS, ack, add, balance, send, soon, until, waiting

WRITERS = 8


class Load:
    """Each writer adds to an account of its own and sends a job; each consumer adds to one account with its ack."""

    def __init__(self, engines: Sequence[PostgresEngine]) -> None:
        self.engines = engines
        self.written: Counter[str] = Counter()
        self.consumed = 0
        self._over = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        writers = [self._write(self.engines[n % len(self.engines)], f"writer-{n}") for n in range(WRITERS)]
        consumers = [asyncio.ensure_future(self._consume(engine)) for engine in self.engines]
        tasks = [asyncio.ensure_future(writer) for writer in writers]
        try:
            yield
            self._over = True
            await soon(asyncio.gather(*tasks))
            await until(self._is_done, "all jobs are done")
        finally:
            for task in (*tasks, *consumers):
                task.cancel()
            await asyncio.gather(*tasks, *consumers, return_exceptions=True)

    async def _write(self, engine: PostgresEngine, name: str) -> None:
        while not self._over:
            try:
                await engine.commit(add(send(new_commit(), JOBS, name), name))
            except Unavailable:
                continue
            self.written[name] += 1

    async def _consume(self, engine: PostgresEngine) -> None:
        while True:
            deliveries = await engine.receive(JOBS, 5)
            try:
                await engine.commit(add(ack(new_commit(), *deliveries), "consumed", len(deliveries)))
            except (LeaseLost, Conflict, Unavailable):
                continue
            self.consumed += len(deliveries)

    async def _is_done(self) -> bool:
        return self.consumed >= self.written.total() or not await waiting(self.engines[0], JOBS)

    async def progress(self, of: int = 100) -> None:
        """So many more commits by each engine's writers."""
        begun = Counter(self.written)
        await until(lambda: (self.written - begun).total() >= of, "writers go on")
        done = self.consumed
        await until(lambda: self.consumed > done, "consumers go on")

    async def faults(self, engine: PostgresEngine) -> list[str]:
        """What is not as it was acknowledged."""
        found = [
            f"{name}: {present} of {count} acknowledged"
            for name, count in sorted(self.written.items())
            if (present := await balance(engine, name)) != count
        ]
        consumed = await balance(engine, "consumed")
        if consumed != self.written.total():
            found.append(f"consumed {consumed} of {self.written.total()} sent")
        return found + await engine.check()
