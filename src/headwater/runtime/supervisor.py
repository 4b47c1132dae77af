"""The supervisor: starts a server's parts in order, and drains them in the opposite order.

Start: open the store (recovering it), install the catalog, bind the apps, load their endpoints, run what ran when
the process last died, start the consumers and the janitor. Only then is HTTP served. Stop: no new leases, running
handlers finish until the deadline, what is left is given back, the last commits are flushed, the store is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import structlog

from headwater.app import App
from headwater.clock import Clock
from headwater.engine import Engine
from headwater.errors import DeclarationError
from headwater.graph import Graph, build_graph, check_sources
from headwater.runtime.consumer import Consumer
from headwater.runtime.janitor import HISTORY_MS, Janitor
from headwater.transactions import serve_waits

if TYPE_CHECKING:
    import httpx

THREADS = 64
log = structlog.get_logger("headwater")


class Supervisor:
    """Runs apps on an engine, which it opens and closes. `reach` tells how apps call each other over HTTP."""

    def __init__(
        self,
        apps: Sequence[App[Any]],
        engine: Engine,
        clock: Clock,
        *,
        reach: Mapping[str, tuple[httpx.AsyncBaseTransport | None, str]] | None = None,
        history_ms: int = HISTORY_MS,
    ) -> None:
        self.engine = engine
        self.clock = clock
        self.graph: Graph = build_graph(apps)
        self.consumers: dict[str, Consumer] = {}
        self.janitor = Janitor(engine, clock, history_ms)
        self.urls: dict[str, tuple[httpx.AsyncBaseTransport | None, str]] = dict(reach or {})
        self.revision = 0
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="headwater-handler")
        self._upkeep: asyncio.Task[None] | None = None

    def reach(self, app: str) -> tuple[httpx.AsyncBaseTransport | None, str | None]:
        return self.urls.get(app, (None, None))

    async def start(self) -> None:
        await self.engine.open()
        try:
            await self._start()
        except BaseException:
            await self.stop(0)
            raise

    async def _start(self) -> None:
        serve_waits(asyncio.get_running_loop())
        check_sources(self.graph, await self.engine.catalog())
        self.revision = await self.engine.install(self.graph.catalog)
        for app in self.graph.apps:
            app.bind(self)
        for app in self.graph.apps:
            _ = app.settings
            app.load_http()
        installed = await self.engine.catalog()
        for queue, spec in self.graph.handlers.items():
            policy = installed.queues[queue]
            self.consumers[queue] = Consumer(self.engine, self.clock, spec, policy, self._threads)
        await self._report_orphans()

    async def serve(self) -> None:
        """Begin to consume; suspects first, alone."""
        for consumer in self.consumers.values():
            await consumer.run_suspects()
        for consumer in self.consumers.values():
            consumer.start()
        self._upkeep = asyncio.create_task(self.janitor.run(), name="janitor")

    async def orphans(self) -> list[str]:
        """Queues of the store that hold messages and that no installed app consumes."""
        consumed = set((await self.engine.catalog()).consumed)
        return [stats.queue for stats in await self.engine.stats() if stats.depth and stats.queue not in consumed]

    async def _report_orphans(self) -> None:
        for queue in await self.orphans():
            log.warning("a queue has messages and no consumer; they are kept", queue=queue)

    async def stop(self, deadline_s: float) -> None:
        if self._upkeep is not None:
            self._upkeep.cancel()
        await asyncio.gather(*(consumer.drain(deadline_s) for consumer in self.consumers.values()))
        for app in self.graph.apps:
            for service in app.services.values():
                await service.close()
            app.bind(None)
        await self.engine.close()
        self._threads.shutdown(wait=False, cancel_futures=True)


def single(apps: Sequence[App[Any]]) -> None:
    """Refuse an empty server."""
    if not apps:
        raise DeclarationError(
            "there is no app to run", operation="start", hint="name one: `headwater run package.module`"
        )
