"""A server's side of worker processes: the socket that they reach the store by, and those that it runs itself.

Of a store that many processes may have open workers open it themselves: then there is no socket.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog

from headwater.clock import Clock
from headwater.config import Config, worker_socket
from headwater.engine import Counted, Engine
from headwater.engines import share_engine
from headwater.errors import StoreError
from headwater.runtime.listener import bind_locally
from headwater.runtime.worker_pool import WorkerPool

if TYPE_CHECKING:
    import socket

    from headwater.catalog import RouteSpec
    from headwater.engines.remote.owner import Holder
    from headwater.runtime.supervisor import Supervisor
    from headwater.runtime.webhooks import Webhooks

WORKER_SHARE = 0.7
"""The part of the drain's time in which a worker finishes what it runs."""
log = structlog.get_logger("headwater.workers")


def _places(config: Config) -> dict[str, str]:
    """Where a worker finds store and objects; not in a command line, which others may read: there may be a password."""
    places = {"HEADWATER_STORE": config.store, "HEADWATER_OBJECTS_SHARED": str(config.objects_shared).lower()}
    return {**places, "HEADWATER_OBJECTS": config.objects} if config.objects else places


class _Subscriptions:
    """What workers ask for, made by the server."""

    def __init__(self, webhooks: Webhooks) -> None:
        self._webhooks = webhooks
        self.unsubscribe = webhooks.unsubscribe

    async def subscribe(self, route: RouteSpec, url: str, secret: str | None) -> tuple[str, str]:
        made = await self._webhooks.subscribe(route, url, secret)
        return str(made), made.secret


class Workers:
    """`bind`, `start` when the store is open, `run` when the apps are served; then `drain` and `close`."""

    def __init__(self, config: Config, engine: Engine, clock: Clock) -> None:
        self._config = config
        self._owns = engine.features.single_process
        self._address = ""
        self._owner = share_engine(engine, report=self._count, hold=self._hold)
        self._supervisor: Supervisor | None = None
        variables = {} if self._owns else _places(config)
        self.pool = WorkerPool(self._command, clock, drain_s=config.drain_s * WORKER_SHARE, variables=variables)

    @property
    def local(self) -> WorkerPool | None:
        """The processes of this server; None when it is to have none."""
        return self.pool if self._config.workers else None

    @contextmanager
    def bind(self) -> Iterator[socket.socket | None]:
        if not self._owns:
            yield None
            return
        path = worker_socket(self._config.store)
        try:
            with bind_locally(path) as bound:
                yield bound
        finally:
            path.unlink(missing_ok=True)

    async def start(self, bound: socket.socket | None, supervisor: Supervisor, address: str) -> None:
        """Take workers."""
        self._supervisor = supervisor
        self._address = address
        if bound is None:
            return
        self._owner.address = address
        self._owner.public_url = supervisor.presigner.public_url
        self._owner.presigning = self._presigning
        self._owner.subscriptions = _Subscriptions(supervisor.webhooks)
        await self._owner.start(bound)

    def started(self) -> dict[int, str]:
        """The processes that this server has started and that live: their queues by pid."""
        return self.pool.started()

    def connected(self) -> list[Holder]:
        """The worker processes that are connected, with what each holds, whoever has started them."""
        return self._owner.connected()

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

    def _hold(self, worker: object, blobs: Sequence[str]) -> None:
        if self._supervisor is not None:
            self._supervisor.uncommitted.hold_only(worker, blobs)

    def _presigning(self) -> bytes:
        """Empty when no bucket is exposed, or without a key."""
        assert self._supervisor is not None
        if not any(app.object_exposures for app in self._supervisor.graph.apps):
            return b""
        try:
            return self._supervisor.presigner.secret()
        except StoreError as error:
            log.warning("workers cannot presign URLs", error=str(error))
            return b""

    def _command(self, queue: str) -> list[str]:
        config = self._config
        command = [sys.executable, "-m", "headwater.cli", "worker", *config.apps, "--queue", queue, "--attached"]
        return [*command, "--store", config.store] if self._owns else [*command, "--server", self._address]
