"""A worker process: runs handlers with `run_in="process"` on the store that its `worker_home` gives.

It holds its apps' declarations against the store's catalog. While the store lacks
something that they declare, or has it with another key or model version, the worker ends instead of writing what the
other side reads wrongly. So old and new code run side by side exactly as long as they mean the same by what they share.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import msgspec
import structlog

from headwater.app import App
from headwater.blobs import BlobStore, Uncommitted
from headwater.catalog import Catalog, QueueSpec
from headwater.clock import Clock, SystemClock
from headwater.config import Config
from headwater.engine import Engine
from headwater.errors import DeclarationError, HeadwaterError
from headwater.grants import Permits
from headwater.graph import build_graph
from headwater.handlers import HandlerSpec
from headwater.http.limits import Limits
from headwater.http.presigned import Presigner
from headwater.metrics import Recorder
from headwater.runtime.agreement import check_agreement
from headwater.runtime.consumer import Consumer
from headwater.runtime.mail import Mailer
from headwater.runtime.places import place_of_objects
from headwater.runtime.spans import Spans
from headwater.runtime.tally import Counter
from headwater.runtime.wakeups import Wakeups
from headwater.runtime.worker_home import make_home
from headwater.runtime.workers import WORKER_SHARE
from headwater.system import System
from headwater.tracing import Tracer
from headwater.transactions import end_waits, serve_waits

if TYPE_CHECKING:
    import httpx

    from headwater.http.access import Access
    from headwater.http.opened import Pulling
    from headwater.webhooks import Deliverer

R = TypeVar("R")
EXIT_OK, EXIT_REFUSED, EXIT_NO_MEMORY, EXIT_INTERRUPTED = 0, 3, 71, 130
NO_MEMORY = b"out of memory: the worker ends\n"
REPORT_MS = 1_000
log = structlog.get_logger("headwater.worker")


class _Threads(ThreadPoolExecutor):
    """Knows which jobs have no end yet, and calls `none_free` when one comes and all threads have such a job."""

    def __init__(self, workers: int, none_free: Callable[[], None]) -> None:
        super().__init__(workers, thread_name_prefix="headwater-handler")
        self.workers = workers
        self._none_free = none_free
        self.jobs: set[Future[Any]] = set()

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        if len(self.jobs) >= self.workers:
            self._none_free()
        job = super().submit(fn, *args, **kwargs)
        self.jobs.add(job)
        job.add_done_callback(self.jobs.discard)
        return job


class Worker:
    """One worker process; it is the binding (`app.Binding`) of its apps. `run` returns the exit code.

    `queues` limits it to some of the handlers, `concurrency` overrides what they declare. When `attached`, it ends with
    its standard input. `server` is where the apps are served, when no connection to it tells. Raises `DeclarationError`
    when nothing is to run here.
    """

    def __init__(
        self,
        apps: Sequence[App[Any]],
        config: Config,
        *,
        queues: Sequence[str] = (),
        concurrency: int = 0,
        attached: bool = False,
        server: str = "",
    ) -> None:
        self.config = config
        self.clock: Clock = SystemClock()
        self.limits = Limits()
        self.recorder = Recorder()
        self.uncommitted = Uncommitted()
        self.system = System()
        self.graph = build_graph([*apps, self.system.app])
        self.permits = Permits(self.graph)
        self.specs = _chosen(self.graph.handlers, queues, concurrency)
        self.mail = Mailer(self.system)
        self._home = make_home(
            config,
            self.clock,
            self.system,
            self.graph,
            recorder=self.recorder,
            uncommitted=self.uncommitted,
            check=self._check,
            server=server,
        )
        self.engine: Engine = self._home.engine
        self._spans = Spans(
            self.engine, self.clock, self.system, share=config.trace_sample, kept_ms=max(config.history_ms, 1000)
        )
        self.tracer: Tracer = self._spans
        self._reports = Wakeups("reports", self.clock, self._report)
        threads = sum(spec.concurrency for spec in self.specs.values() if spec.in_thread)
        self._threads = _Threads(max(threads, 1), self._give_up)
        self._stuck = False
        self._attached = attached
        self._stop = asyncio.Event()
        self._policies: dict[str, QueueSpec] = {}
        self._consumers: list[Consumer] = []
        self._counters: list[Counter] = []
        self._blobs: BlobStore | None = None

    # Binding

    @property
    def blobs(self) -> BlobStore:
        if self._blobs is None:
            raise DeclarationError("no app of this worker has buckets", operation="use")
        return self._blobs

    @property
    def presigner(self) -> Presigner:
        return Presigner(self._home.presigning, self.clock, self._home.public_url)

    @property
    def access(self) -> Access:
        _not_here("answer requests")

    @property
    def webhooks(self) -> Deliverer:
        return self._home.webhooks

    @property
    def pulls(self) -> Pulling:
        _not_here("open queues")

    def reach(self, app: str) -> tuple[httpx.AsyncBaseTransport | None, str | None]:
        if app in self.config.services:
            return None, self.config.services[app]
        return None, f"{self._home.address}/{app}" if self._home.address else None

    # The life of the process

    async def run(self) -> int:
        self._catch_signals()
        asyncio.get_running_loop().set_exception_handler(_end_without_memory)
        opening = asyncio.create_task(self._open())
        stopped = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([opening, stopped], return_when=asyncio.FIRST_COMPLETED)
            if not opening.done():
                return EXIT_OK
            opening.result()
            return await self._work(stopped)
        finally:
            opening.cancel()
            stopped.cancel()
            await self._close()

    async def _open(self) -> None:
        await self._home.open()
        serve_waits(asyncio.get_running_loop())
        for app in self.graph.apps:
            app.bind(self)
            _ = app.settings
        await self._home.bound()
        if any(app.buckets for app in self.graph.apps):
            self._blobs = place_of_objects(self.config, self.engine.features, self.graph.apps)
        if self._blobs is not None:
            await self._blobs.check(await self.system.owner())

    async def _work(self, stopped: asyncio.Task[Any]) -> int:
        for queue, spec in self.specs.items():
            policy = self._policies[queue]
            permit = self.permits.of_queue(queue)
            consumer = Consumer(self.engine, self.clock, spec, policy, self._threads, tracer=self.tracer, permit=permit)
            self._consumers.append(consumer)
            self._counters.append(Counter(consumer))
            consumer.start()
        self._home.start({consumer.spec.queue: consumer for consumer in self._consumers})
        self._reports.start()
        self._spans.wakeups.start()
        log.info("worker runs", pid=os.getpid(), queues=sorted(self.specs))
        broken = asyncio.create_task(self._home.broken())
        try:
            await asyncio.wait([broken, stopped], return_when=asyncio.FIRST_COMPLETED)
            hopeless = self._stuck and self._threads.workers == 1
            patience_s = 0 if hopeless else self.config.drain_s * WORKER_SHARE
            await asyncio.gather(*(consumer.drain(patience_s) for consumer in self._consumers))
            if broken.done():
                log.error("the worker ends", error=str(broken.result()))
                return EXIT_REFUSED
            return EXIT_OK
        finally:
            broken.cancel()

    async def _close(self) -> None:
        await self._reports.stop()
        await self._spans.wakeups.stop()
        await self._report()
        with contextlib.suppress(HeadwaterError):
            await self._spans.flush()
        await self._home.stop()
        for app in self.graph.apps:
            for service in app.services.values():
                await service.close()
            app.bind(None)
        end_waits(asyncio.get_running_loop())
        if self._blobs is not None:
            await self._blobs.close()
        await self.engine.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _report(self) -> int | None:
        """Tell what was counted and what may be committed, and look whether jobs go on that were given up."""
        if len(self._threads.jobs) > sum(consumer.stats.running for consumer in self._consumers):
            self._give_up()
        self._home.report(self.uncommitted.ids(), self._counters)
        return self.clock.wall_ms() + REPORT_MS

    def _give_up(self) -> None:
        """No thread can be ended from outside: one that nobody waits for ends with the process."""
        if not self._stuck:
            self._stuck = True
            log.error("a job runs on beyond its time-out: the worker ends")
            self._stop.set()

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        if self._attached:
            loop.add_reader(sys.stdin.fileno(), self._input_ended)

    def _input_ended(self) -> None:
        """Whatever comes: nobody writes there, so it has ended, and with it the server."""
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        self._stop.set()

    def _signalled(self) -> None:
        if self._stop.is_set():
            os._exit(EXIT_INTERRUPTED)
        self._stop.set()

    # The store's catalog

    def _check(self, stored: Catalog) -> None:
        check_agreement(self.graph.catalog, stored)
        policies = {queue: stored.queues[queue] for queue in self.specs}
        if self._policies and policies != self._policies:
            raise DeclarationError(
                "the policy of a queue has changed", operation="connect", hint="start the worker again"
            )
        self._policies = policies


def _end_without_memory(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A task or callback of this process ended in its middle: only without the process do its leases end, too."""
    if isinstance(context.get("exception"), MemoryError):
        os.write(2, NO_MEMORY)
        os._exit(EXIT_NO_MEMORY)
    loop.default_exception_handler(context)


def _chosen(handlers: dict[str, HandlerSpec], queues: Sequence[str], concurrency: int) -> dict[str, HandlerSpec]:
    """The handlers that run here."""
    chosen = {queue: spec for queue, spec in handlers.items() if spec.in_process and (not queues or queue in queues)}
    if missing := sorted(set(queues) - set(chosen)):
        raise DeclarationError(
            'the queue has no handler with run_in="process"',
            operation="work",
            resource=missing[0],
            hint="queues are named app/queue; name the app, too, when headwater.toml does not",
        )
    if not chosen:
        raise DeclarationError(
            "there is nothing to run in a worker process",
            operation="work",
            hint='declare a handler with @app.on(source, run_in="process")',
        )
    if concurrency:
        return {queue: msgspec.structs.replace(spec, concurrency=concurrency) for queue, spec in chosen.items()}
    return chosen


def _not_here(what: str) -> NoReturn:
    raise DeclarationError(f"a worker process does not {what}", operation="use", hint="do it in the server")
