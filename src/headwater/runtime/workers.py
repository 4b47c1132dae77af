"""A server's side of worker processes: the socket that they reach the store by, and those that it runs itself."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from headwater.clock import Clock
from headwater.config import Config, worker_socket
from headwater.engine import Counted, Engine
from headwater.engines import share_engine
from headwater.runtime.listener import bind_locally
from headwater.runtime.worker_pool import WorkerPool

if TYPE_CHECKING:
    import socket

    from headwater.runtime.supervisor import Supervisor

WORKER_SHARE = 0.7
"""The part of the drain's time in which a worker finishes what it runs."""


class Workers:
    """`bind`, `start` when the store is open, `run` when the apps are served; then `drain` and `close`."""

    def __init__(self, config: Config, engine: Engine, clock: Clock) -> None:
        self._config = config
        self._owner = share_engine(engine, report=self._count)
        self._supervisor: Supervisor | None = None
        self.pool = WorkerPool(self._command, clock, drain_s=config.drain_s * WORKER_SHARE)

    @property
    def local(self) -> WorkerPool | None:
        """The processes of this server; None when it is to have none."""
        return self.pool if self._config.workers else None

    @contextmanager
    def bind(self) -> Iterator[socket.socket]:
        path = worker_socket(self._config.store)
        try:
            with bind_locally(path) as bound:
                yield bound
        finally:
            path.unlink(missing_ok=True)

    async def start(self, bound: socket.socket, supervisor: Supervisor, address: str) -> None:
        """Take workers."""
        self._supervisor = supervisor
        self._owner.address = address
        await self._owner.start(bound)

    async def run(self) -> None:
        """Run the processes of handlers whose number nothing else decides."""
        assert self._supervisor is not None
        for queue, spec in self._supervisor.graph.handlers.items():
            if spec.in_process and spec.scale is None:
                await self.pool.set(queue, self._config.workers)

    async def drain(self, deadline_s: float) -> None:
        """Hand out nothing more; workers finish what they run, or are cut off at the deadline."""
        await asyncio.gather(self._owner.drain(deadline_s), self.pool.stop(deadline_s))

    async def close(self) -> None:
        """End the processes and connections that are left. Idempotent."""
        await self.pool.stop(0)
        await self._owner.close()

    def _count(self, counted: Counted) -> None:
        tally = self._supervisor.tallies.get(counted.queue) if self._supervisor else None
        if tally is not None:
            tally.add(counted)

    def _command(self, queue: str) -> list[str]:
        config = self._config
        command = [sys.executable, "-m", "headwater.cli", "worker", *config.apps]
        return [*command, "--queue", queue, "--store", config.store, "--attached"]
