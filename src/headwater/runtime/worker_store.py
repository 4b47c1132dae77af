"""The store of a worker process that opens it itself, beside the servers (`worker_home.Home`)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import structlog

from headwater.blobs import Uncommitted
from headwater.clock import Clock
from headwater.config import Config
from headwater.engines import make_engine
from headwater.errors import DeclarationError, HeadwaterError
from headwater.graph import Graph
from headwater.metrics import Recorder
from headwater.runtime.garbage import Holds
from headwater.runtime.neighbours import check_secret_key
from headwater.runtime.seal import PRESIGNING, Seal
from headwater.runtime.shared_monitor import SharedMonitor
from headwater.runtime.tally import Counter, Counting
from headwater.runtime.terms import Terms
from headwater.runtime.wakeups import Wakeups
from headwater.runtime.webhooks import WebhookRules, Webhooks
from headwater.runtime.worker_home import Check
from headwater.system import System

LOOK_MS = 5_000
"""How often the declarations are held against the store's."""
AWAITED_S = 2.0
"""How often a store is looked at in which no server has declared the apps yet."""
log = structlog.get_logger("headwater.worker")


class OwnHome:
    """Tells the metrics of the process to the store, and ends the worker when the declarations differ."""

    def __init__(
        self,
        config: Config,
        clock: Clock,
        system: System,
        graph: Graph,
        *,
        recorder: Recorder,
        uncommitted: Uncommitted,
        check: Check,
        address: str,
    ) -> None:
        self.engine = make_engine(config.store, clock=clock)
        self.address = address
        self.public_url = config.public_url
        rules = WebhookRules(config.webhooks, Path(config.secret_key_file))
        self.webhooks = Webhooks(system, graph, rules, lambda app: (None, None))
        self._clock = clock
        self._system = system
        self._graph = graph
        self._recorder = recorder
        self._check = check
        self._seal = Seal(rules.key_file)
        self._terms = Terms(self.engine, clock, system)
        self._holds = Holds(self._terms, uncommitted, clock)
        self._counting: dict[str, Counting] = {}
        self._monitor = SharedMonitor(
            self.engine, clock, system, graph, self._counting, recorder=recorder, terms=self._terms, judges=False
        )
        self._looks = Wakeups("neighbours", clock, self._look)
        self._refused: asyncio.Future[HeadwaterError] | None = None

    def presigning(self, make: bool) -> bytes:
        return self._seal.derive(PRESIGNING, make=make)

    async def open(self) -> None:
        self._refused = asyncio.get_running_loop().create_future()
        await self.engine.open()
        wanted, told = set(self._graph.catalog.apps), False
        while not wanted <= set((catalog := await self.engine.catalog()).apps):
            if not told:
                log.info("waiting for a server that declares the apps", apps=sorted(wanted - set(catalog.apps)))
            told = True
            await self._clock.sleep(AWAITED_S)
        self._check(catalog)

    async def bound(self) -> None:
        if self._seal.is_there:
            await check_secret_key(self._system, self._seal)

    def start(self, consumers: Mapping[str, Counting]) -> None:
        self._counting.update(consumers)
        for wakeups in (self._monitor.wakeups, self._looks):
            wakeups.start()

    async def _look(self) -> int | None:
        assert self._refused is not None
        try:
            self._check(await self.engine.catalog())
        except DeclarationError as error:
            if not self._refused.done():
                self._refused.set_result(error)
            return None
        await self._holds.tell()
        return self._clock.wall_ms() + LOOK_MS

    def report(self, held: set[str], counters: Iterable[Counter]) -> None:
        """Nothing: what is held is told to the store (`Holds`), and what is counted is in its metrics."""

    async def broken(self) -> HeadwaterError:
        assert self._refused is not None
        broken: asyncio.Task[HeadwaterError] = asyncio.ensure_future(self.engine.broken())
        try:
            await asyncio.wait([broken, self._refused], return_when=asyncio.FIRST_COMPLETED)
            return broken.result() if broken.done() else self._refused.result()
        finally:
            broken.cancel()

    async def stop(self) -> None:
        await asyncio.gather(self._monitor.wakeups.stop(), self._looks.stop())
        with contextlib.suppress(HeadwaterError):
            await self._monitor.flush()
            await self._terms.release()
        await self.webhooks.outbound.close()
