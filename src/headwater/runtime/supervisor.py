"""The supervisor: starts a server's parts in order, and drains them in the opposite order.

Start: open the store (recovering it), install the catalog, bind the apps, load their endpoints, run what ran when
the process last died, start the consumers and the janitor. Only then is HTTP served. Stop: no new leases, running
handlers finish until the deadline, what is left is given back, the last commits are flushed, the store is closed.
"""

from __future__ import annotations

import asyncio
from collections import ChainMap
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import structlog

from headwater.app import App
from headwater.blobs import BlobStore, Uncommitted
from headwater.clock import Clock
from headwater.engine import Engine
from headwater.errors import DeclarationError, StoreError, Unavailable
from headwater.grants import Permits
from headwater.graph import Graph, build_graph, check_features, check_sources
from headwater.http.access import Access, AccessRules
from headwater.http.lifespan import Lifespan
from headwater.http.limits import Limits
from headwater.http.presigned import Presigner
from headwater.metrics import Recorder
from headwater.runtime.autoscaler import Autoscaler, Target, scaled
from headwater.runtime.consumer import Consumer
from headwater.runtime.drop_folder import DropFolder, drop_folders
from headwater.runtime.garbage import Garbage, Holds
from headwater.runtime.janitor import HISTORY_EVENTS, HISTORY_MS, Janitor
from headwater.runtime.mail import Mailer, MailRules
from headwater.runtime.monitor import Monitor
from headwater.runtime.neighbours import Neighbours, check_secret_key
from headwater.runtime.pulls import Pulls
from headwater.runtime.scale_targets import ScaleRules, make_target
from headwater.runtime.scheduler import Scheduler
from headwater.runtime.seal import PRESIGNING, RECEIPTS, Seal
from headwater.runtime.shared_monitor import SharedMonitor
from headwater.runtime.spans import Exporter, Spans
from headwater.runtime.tally import Counting, Tally
from headwater.runtime.terms import Terms
from headwater.runtime.wakeups import Wakeups
from headwater.runtime.webhooks import WebhookRules, Webhooks
from headwater.system import System
from headwater.transactions import end_waits, serve_waits
from headwater.tuning import Tuning, built_in_alarms

if TYPE_CHECKING:
    import httpx
    from fastapi import FastAPI

THREADS = 64
SUSPECTS_PATIENCE_S = 0.05
log = structlog.get_logger("headwater")


class Supervisor:
    """Runs apps on an engine, which it opens and closes. `reach` tells how apps call each other over HTTP.

    With `leaves_processes` it leaves handlers with `run_in="process"` to worker processes, and `tallies` has what those
    count.
    """

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
        rules: AccessRules | None = None,
        webhooks: WebhookRules | None = None,
        mail: MailRules | None = None,
        limits: Limits | None = None,
        public_url: str = "",
        blobs: BlobStore | None = None,
        alarms: Mapping[str, bool | Tuning] | None = None,
        trace_sample: float = 0.0,
        exporter: Exporter | None = None,
        leaves_processes: bool = False,
        scaling: ScaleRules | None = None,
        pool: Target | None = None,
    ) -> None:
        self.engine = engine
        self.clock = clock
        self.recorder = Recorder()
        self.limits = limits or Limits()
        self.uncommitted = Uncommitted()
        self._blobs = blobs
        self.system = System(spans_kept=timedelta(milliseconds=max(history_ms, 1000)))
        self.tracer = Spans(engine, clock, self.system, share=trace_sample, kept_ms=history_ms, exporter=exporter)
        shared = not engine.features.single_process
        self.access = Access(rules or AccessRules(), clock, keys=self.system, usage=self.system, shared=shared)
        self.mail = Mailer(self.system, mail)
        self.graph: Graph = build_graph([*apps, self.system.app])
        self.webhooks = Webhooks(self.system, self.graph, webhooks, self.reach, consume=self._consume)
        seal = self._seal = Seal((webhooks or WebhookRules()).key_file)
        self.presigner = Presigner(lambda make: seal.derive(PRESIGNING, make=make), clock, public_url)
        self.pulls = self._make_pulls(seal)
        self.consumers: dict[str, Consumer] = {}
        self.tallies: dict[str, Tally] = {}
        self._leaves_processes = leaves_processes
        self.terms = Terms(engine, clock, self.system)
        self.janitor = Janitor(engine, clock, self.terms, history_ms, history_events)
        self.urls: dict[str, tuple[httpx.AsyncBaseTransport | None, str]] = dict(reach or {})
        self.revision = 0
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="headwater-handler")
        self._keeps_up = upkeep
        self._upkeep: asyncio.Task[None] | None = None
        self._metering: asyncio.Task[None] | None = None
        self._lifespans: list[Lifespan] = []
        self._serving: asyncio.Task[None] | None = None
        self._consuming = False
        self.drop_folders: list[DropFolder] = []
        self.scheduler = Scheduler(self.system, self.graph.apps, engine, clock, self.recorder)
        self.monitor = self._make_monitor(alarms or {})
        self.autoscaler = self._make_autoscaler(scaling or ScaleRules(), pool)
        neighbours = Neighbours(clock, self.terms, self.webhooks, Holds(self.terms, self.uncommitted, clock))
        timed = (self.scheduler, self.tracer, self.monitor, self.autoscaler, self.terms, neighbours)
        self.wakeups: list[Wakeups] = [part.wakeups for part in timed]

    @cached_property
    def permits(self) -> Permits:
        return Permits(self.graph)

    def _make_pulls(self, seal: Seal) -> Pulls:
        return Pulls(
            self.engine,
            self.clock,
            {queue: self.graph.catalog.queues[queue] for app in self.graph.apps for queue in app.openings},
            lambda: seal.derive(RECEIPTS, make=True),
            most_waiting=max(self.limits.requests // 2, 1),
            tracer=self.tracer,
        )

    def _make_autoscaler(self, rules: ScaleRules, pool: Target | None) -> Autoscaler:
        target = make_target(rules, self.webhooks.outbound, self.clock, pool)
        handlers = scaled(self.graph, self._leaves_processes)
        return Autoscaler(
            self.engine, self.clock, self.system, handlers, target, terms=self.terms, shares=target is pool
        )

    def _make_monitor(self, alarms: Mapping[str, bool | Tuning]) -> Monitor | SharedMonitor:
        counted = ChainMap[str, Counting](self.consumers, self.tallies, self.pulls.tallies)  # type: ignore[arg-type]
        parts = (self.engine, self.clock, self.system, self.graph, counted)
        built_in = built_in_alarms(alarms)
        if self.terms.sole:
            return Monitor(*parts, recorder=self.recorder, built_in=built_in, skips=not self._keeps_up)
        return SharedMonitor(*parts, recorder=self.recorder, built_in=built_in, terms=self.terms)

    @property
    def blobs(self) -> BlobStore:
        if self._blobs is None:
            raise DeclarationError("no place for objects is given", operation="use")
        return self._blobs

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
        self.system.app.bind(self)
        await self.webhooks.restore()
        self.revision = await self.engine.install(self.graph.catalog)
        for app in self.graph.apps:
            app.bind(self)
        if not self.terms.sole:
            await check_secret_key(self.system, self._seal)
        await self._open_blobs()
        for app in self.graph.apps:
            _ = app.settings
            for webhook in app.webhooks.values():
                self.webhooks.check(*webhook.resolve(app))
            for operation in app.operations.values():
                operation.check()
            for target in app.mails.values():
                target.resolve(app)
                target.digest_ms(app)
            http = app.load_http()
            if http is not None:
                self._check_plans(app, http)
                self._lifespans.append(Lifespan(http))
        await self.scheduler.prepare()
        for queue in self.graph.handlers:
            await self._consume(queue)
        await self._report_orphans()
        self.mail.warn([queue for app in self.graph.apps for queue in app.mails], self.access.rules.environment)
        for lifespan in self._lifespans:
            await lifespan.start()
        self.drop_folders = [folder for app in self.graph.apps for folder in drop_folders(app, self.clock)]

    async def _open_blobs(self) -> None:
        """Take the place for objects, if there are buckets; from then on what nobody refers to is collected."""
        declared = any(app.buckets for app in self.graph.apps)
        stored = any(spec.bucket for spec in (await self.engine.catalog()).tables.values())
        if declared or (stored and self._blobs is not None):
            await self.blobs.open(await self.system.owner())
            self.janitor.garbage = Garbage(self.engine, self.clock, self.blobs, self.uncommitted, self.terms)

    def _check_plans(self, app: App[Any], http: FastAPI) -> None:
        from headwater.http.openapi import plans_named

        for plan, path in plans_named(http).items():
            if plan not in self.access.rules.plans:
                raise DeclarationError(
                    f"the endpoint {path} names the usage plan {plan!r}, which is not declared",
                    operation="start",
                    resource=app.name,
                    hint=f"declare it in headwater.toml under [{self.access.rules.environment}.plans.{plan}]",
                )

    async def serve(self) -> None:
        """Begin to consume; what ran when the process died runs first, alone, and is not waited for here."""
        self._serving = asyncio.create_task(self._serve(), name="serve")
        await asyncio.wait([self._serving], timeout=SUSPECTS_PATIENCE_S)
        if self._serving.done():
            self._serving.result()

    async def _serve(self) -> None:
        for consumer in list(self.consumers.values()):
            await consumer.run_suspects()
        for consumer in self.consumers.values():
            consumer.start()
        self._consuming = True
        for wakeups in self.wakeups:
            wakeups.start()
        if self._keeps_up:
            self.begin_upkeep()

    def begin_upkeep(self) -> None:
        """From now on look after expiry, retention, metering and drop folders each second."""
        self._upkeep = asyncio.create_task(self.janitor.run(), name="janitor")
        self._metering = asyncio.create_task(self.access.meter.run(self.clock.sleep), name="metering")
        for folder in self.drop_folders:
            folder.start()

    async def end_upkeep(self) -> None:
        for task in (self._upkeep, self._metering):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        await asyncio.gather(*(folder.stop() for folder in self.drop_folders))

    async def _consume(self, queue: str) -> None:
        """Have a consumer for a queue, also for one that is declared while the server runs."""
        policy = (await self.engine.catalog()).queues[queue]
        spec = self.graph.handlers[queue]
        if self._leaves_processes and spec.in_process:
            self.tallies.setdefault(queue, Tally())
        elif queue not in self.consumers:
            permit = self.permits.of_queue(queue)
            self.consumers[queue] = Consumer(
                self.engine, self.clock, spec, policy, self._threads, tracer=self.tracer, permit=permit
            )
            if self._consuming:
                self.consumers[queue].start()

    async def orphans(self) -> list[str]:
        """Queues of the store that hold messages and that no installed app consumes."""
        consumed = set((await self.engine.catalog()).consumed)
        return [stats.queue for stats in await self.engine.stats() if stats.depth and stats.queue not in consumed]

    async def _report_orphans(self) -> None:
        for queue in await self.orphans():
            log.warning("a queue has messages and no consumer; they are kept", queue=queue)

    async def stop(self, deadline_s: float) -> None:
        self.pulls.drain()
        await self._end_serving()
        await asyncio.gather(*(consumer.drain(deadline_s) for consumer in self.consumers.values()))
        await self._write_usage()
        await self.monitor.flush()
        await self.tracer.flush()
        await self.terms.release()
        await self._close()

    async def _write_usage(self) -> None:
        """What was counted since the last second."""
        try:
            await self.access.meter.flush()
        except (StoreError, Unavailable, DeclarationError) as error:
            log.warning("usage could not be written", error=str(error))

    async def crash(self) -> None:
        """Stop as a killed process does, for tests: what runs ends where it stands, nothing is given back."""
        self.monitor.abandon()
        await self._end_serving()
        await asyncio.gather(*(consumer.abandon() for consumer in self.consumers.values()))
        await self._close()

    async def _end_serving(self) -> None:
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.wait([self._serving])
        await self.end_upkeep()
        await self.autoscaler.stop()
        await asyncio.gather(*(wakeups.stop() for wakeups in self.wakeups))

    async def _close(self) -> None:
        for lifespan in reversed(self._lifespans):
            await lifespan.stop()
        self._lifespans.clear()
        for app in self.graph.apps:
            for service in app.services.values():
                await service.close()
            app.bind(None)
        end_waits(asyncio.get_running_loop())
        await self.access.close()
        await self.webhooks.outbound.close()
        if self._blobs is not None:
            await self._blobs.close()
        await self.engine.close()
        await self.tracer.close()
        self._threads.shutdown(wait=False, cancel_futures=True)


def single(apps: Sequence[App[Any]]) -> None:
    """Refuse an empty server."""
    if not apps:
        raise DeclarationError(
            "there is no app to run", operation="start", hint="name one: `headwater run package.module`"
        )
