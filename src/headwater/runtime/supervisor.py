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
from headwater.graph import Graph, build_graph, check_features, check_sources
from headwater.http.lifespan import Lifespan
from headwater.runtime.consumer import Consumer
from headwater.runtime.janitor import HISTORY_EVENTS, HISTORY_MS, Janitor
from headwater.transactions import end_waits, serve_waits

if TYPE_CHECKING:
    import httpx

THREADS = 64
SUSPECTS_PATIENCE_S = 0.05
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
        history_events: int = HISTORY_EVENTS,
        upkeep: bool = True,
    ) -> None:
        self.engine = engine
        self.clock = clock
        self.graph: Graph = build_graph(apps)
        self.consumers: dict[str, Consumer] = {}
        self.janitor = Janitor(engine, clock, history_ms, history_events)
        self.urls: dict[str, tuple[httpx.AsyncBaseTransport | None, str]] = dict(reach or {})
        self.revision = 0
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="headwater-handler")
        self._keeps_up = upkeep
        self._upkeep: asyncio.Task[None] | None = None
        self._lifespans: list[Lifespan] = []
        self._serving: asyncio.Task[None] | None = None

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
        check_features(self.graph, self.engine.features)
        check_sources(self.graph, await self.engine.catalog())
        self.revision = await self.engine.install(self.graph.catalog)
        for app in self.graph.apps:
            app.bind(self)
        for app in self.graph.apps:
            _ = app.settings
            http = app.load_http()
            if http is not None:
                self._lifespans.append(Lifespan(http))
        installed = await self.engine.catalog()
        for queue, spec in self.graph.handlers.items():
            policy = installed.queues[queue]
            self.consumers[queue] = Consumer(self.engine, self.clock, spec, policy, self._threads)
        await self._report_orphans()
        for lifespan in self._lifespans:
            await lifespan.start()

    async def serve(self) -> None:
        """Begin to consume; what ran when the process died runs first, alone, and is not waited for here."""
        self._serving = asyncio.create_task(self._serve(), name="serve")
        await asyncio.wait([self._serving], timeout=SUSPECTS_PATIENCE_S)
        if self._serving.done():
            self._serving.result()

    async def _serve(self) -> None:
        for consumer in self.consumers.values():
            await consumer.run_suspects()
        for consumer in self.consumers.values():
            consumer.start()
        if self._keeps_up:
            self._upkeep = asyncio.create_task(self.janitor.run(), name="janitor")

    async def orphans(self) -> list[str]:
        """Queues of the store that hold messages and that no installed app consumes."""
        consumed = set((await self.engine.catalog()).consumed)
        return [stats.queue for stats in await self.engine.stats() if stats.depth and stats.queue not in consumed]

    async def _report_orphans(self) -> None:
        for queue in await self.orphans():
            log.warning("a queue has messages and no consumer; they are kept", queue=queue)

    async def stop(self, deadline_s: float) -> None:
        await self._end_serving()
        await asyncio.gather(*(consumer.drain(deadline_s) for consumer in self.consumers.values()))
        await self._close()

    async def crash(self) -> None:
        """Stop as a killed process does, for tests: what runs ends where it stands, nothing is given back."""
        await self._end_serving()
        await asyncio.gather(*(consumer.abandon() for consumer in self.consumers.values()))
        await self._close()

    async def _end_serving(self) -> None:
        for task in (self._serving, self._upkeep):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])

    async def _close(self) -> None:
        for lifespan in reversed(self._lifespans):
            await lifespan.stop()
        self._lifespans.clear()
        for app in self.graph.apps:
            for service in app.services.values():
                await service.close()
            app.bind(None)
        end_waits(asyncio.get_running_loop())
        await self.engine.close()
        self._threads.shutdown(wait=False, cancel_futures=True)


def single(apps: Sequence[App[Any]]) -> None:
    """Refuse an empty server."""
    if not apps:
        raise DeclarationError(
            "there is no app to run", operation="start", hint="name one: `headwater run package.module`"
        )
