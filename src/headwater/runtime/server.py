"""Serving: the apps under their names on one address, the admin API on a local socket, and signals.

Order of a stop (SIGTERM or SIGINT), all within the `drain` setting: consumers lease no more and finish what runs
(their handlers may still call the apps over HTTP), then no new connections and requests in flight finish, then the
store is closed. A second signal ends the process at once. A store that failed ends it too, with exit code 3:
starting again recovers.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import structlog
from starlette.types import ASGIApp

from headwater.app import App
from headwater.clock import Clock, SystemClock
from headwater.config import Config, admin_socket
from headwater.engines import make_engine
from headwater.errors import DeclarationError
from headwater.http.admin import make_admin
from headwater.http.edge import Edge
from headwater.http.front import RESERVED, Front, allow_origins
from headwater.http.prometheus import make_metrics
from headwater.runtime.admin import About, Admin
from headwater.runtime.listener import (
    Listener,
    PublicListener,
    address_at,
    bind,
    bind_console,
    bind_locally,
    make_private,
    until_started,
)
from headwater.runtime.places import place_of_objects
from headwater.runtime.posting import mail_rules
from headwater.runtime.rules import access_rules, scale_rules, webhook_rules
from headwater.runtime.supervisor import Supervisor
from headwater.runtime.telemetry import make_exporter
from headwater.runtime.workers import Workers
from headwater.virtual_clock import SteeredClock

if TYPE_CHECKING:
    import httpx

EXIT_OK, EXIT_STORE_FAILED, EXIT_INTERRUPTED = 0, 3, 130
_HTTP_SHARE = 0.2
"""The part of the drain's time that is kept for requests when handlers use up theirs."""
MakeConsole = Callable[[Admin, Config, Clock], tuple[ASGIApp, Callable[[], None]]]
"""From the admin operations to the console's application, and what ends its streams."""
log = structlog.get_logger("headwater")


def tune_interpreter() -> None:
    """Fit the interpreter to a server: its garbage collector looks seldom, its writer's thread waits less long.

    A server allocates much that is soon freed by counting; at the default threshold the collector took a tenth of
    its time (`bench pipeline`). And the loop, busy with requests, gave way to the writer only every five
    milliseconds, by which time all clients waited for it (`bench intake`: a twentieth more with two).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    sys.setswitchinterval(0.002)


class Server:
    """One process that serves apps on a store; `run()` returns its exit code.

    `run` raises `DeclarationError` when the address is taken, and what `Supervisor.start` raises.
    """

    def __init__(
        self,
        apps: Sequence[App[Any]],
        config: Config,
        *,
        console: MakeConsole | None = None,
        clock: Clock | None = None,
    ) -> None:
        _check_names(apps)
        self._make_console = console
        self.console_address = ""
        self.config = config
        self.address = ""
        self._front = Front()
        self._end_streams: Callable[[], None] = lambda: None
        self._stop = asyncio.Event()
        self._machine = SystemClock()
        """For what must go on while `clock` is paused: connections, the drain, the console's streams."""
        self._clock = clock or self._machine
        self._engine = make_engine(config.store, clock=self._clock)
        self._workers = Workers(config, self._engine, self._clock)
        self.supervisor = Supervisor(
            apps,
            self._engine,
            self._clock,
            history_ms=config.history_ms,
            history_events=config.history_events,
            rules=access_rules(config),
            webhooks=webhook_rules(config),
            mail=mail_rules(config),
            limits=config.limits,
            public_url=config.public_url,
            blobs=place_of_objects(config, self._engine.features, apps),
            alarms=config.alarms,
            trace_sample=config.trace_sample,
            exporter=make_exporter(config.otlp),
            scaling=scale_rules(config),
            leaves_processes=True,
            pool=self._workers.local,
        )

    def stop(self) -> None:
        """Begin to drain; `run` returns when that is done."""
        self._stop.set()

    async def run(self, ready: Callable[[], None] = lambda: None) -> int:
        """Serve until stopped; `ready` is called when requests are answered."""
        self._catch_signals()
        with bind(self.config.host, self.config.port) as bound:
            edge = Edge(self.config.limits, self._machine)
            public = PublicListener(allow_origins(self._front, self.config.cors), bound, edge, self.config)
            self._reach_apps(bound)
            await self.supervisor.start()
            if isinstance(self._clock, SteeredClock):
                self._clock.catch_up(await self._engine.now_ms())
            apps = {app.name: http for app in self.supervisor.graph.apps if (http := app.load_http())}
            self._front.apps = dict(apps)
            path = admin_socket(self.config.store)
            if not self._engine.features.single_process:
                make_private(path.parent)
            try:
                admin = self._admin()
                with (
                    bind_locally(path) as local,
                    self._metrics_listener() as metrics,
                    self._console_listener(admin) as console,
                    self._workers.bind() as near,
                ):
                    await self._workers.start(near, self.supervisor, self.address)
                    return await self._serve(public, [Listener(make_admin(admin), local), *metrics, *console], ready)
            finally:
                await self.supervisor.stop(0)
                path.unlink(missing_ok=True)

    async def _serve(self, public: Listener, inner: Sequence[Listener], ready: Callable[[], None]) -> int:
        servers = [listener.start() for listener in (public, *inner)]
        broken = asyncio.create_task(self._engine.broken())
        stopped = asyncio.create_task(self._stop.wait())
        try:
            await until_started((public, *inner), servers)
            await self.supervisor.serve()
            await self._workers.run()
            tune_interpreter()
            self._front.unready = ""
            ready()
            await asyncio.wait([broken, stopped, *servers], return_when=asyncio.FIRST_COMPLETED)
            failed = broken.done()
            self._front.unready = "the store failed" if failed else "the server stops"
            await self._drain(public, inner, 0 if failed else self.config.drain_s)
        finally:
            await self._workers.close()
            for listener in (public, *inner):
                listener.end(0)
            await asyncio.gather(*servers, return_exceptions=True)
            broken.cancel()
            stopped.cancel()
        if failed:
            log.error("the store failed; start again to recover", error=str(broken.result()))
        return EXIT_STORE_FAILED if failed else EXIT_OK

    async def _drain(self, public: Listener, inner: Sequence[Listener], drain_s: float) -> None:
        """Handlers first, requests after them; what is left at the end is cut off by `Supervisor.stop`."""
        log.info("stopping", drain=f"{drain_s:g}s")
        end_s = self._machine.monotonic() + drain_s
        share_s = drain_s * (1 - _HTTP_SHARE)
        self._end_streams()
        self.supervisor.pulls.drain()
        await self.supervisor.autoscaler.stop()
        consumers = self.supervisor.consumers.values()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(share_s):
                drains = [consumer.drain(share_s) for consumer in consumers]
                await asyncio.gather(self._workers.drain(share_s), *drains)
        left_s = max(0.0, end_s - self._machine.monotonic())
        public.end(left_s)
        for listener in inner:
            listener.end(0)

    @contextlib.contextmanager
    def _metrics_listener(self) -> Iterator[list[Listener]]:
        """The listener for Prometheus, when the settings have an address for it."""
        if not self.config.metrics:
            yield []
            return
        with bind(*self.config.metrics_address) as bound:
            scales = self.supervisor.autoscaler.reported
            yield [Listener(make_metrics(self.supervisor.monitor.totals, self._clock.wall_ms, scales), bound)]

    def _admin(self) -> Admin:
        about = About(pid=os.getpid(), address=self.address, started_ms=self._clock.wall_ms())
        store, processes = self.config.store, self._workers
        return Admin(self._engine, self.supervisor, clock=self._clock, store=store, about=about, processes=processes)

    @contextlib.contextmanager
    def _console_listener(self, admin: Admin) -> Iterator[list[Listener]]:
        """The listener of the console, when the settings have an address for it. Its streams end when it drains."""
        if self._make_console is None or self.config.console.address == "":
            yield []
            return
        app, self._end_streams = self._make_console(admin, self.config, self._machine)
        with bind_console(self.config.console.address) as bound:
            self.console_address = address_at(bound, self.config)
            yield [PublicListener(app, bound, Edge(self.config.limits, self._machine), self.config, headers={})]

    def _reach_apps(self, bound: socket.socket) -> None:
        """Apps call each other at the address that is really bound: port 0 takes a free one."""
        host, port = bound.getsockname()[:2]
        near = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        scheme = "https" if self.config.tls_cert else "http"
        self.address = f"{scheme}://{f'[{near}]' if ':' in near else near}:{port}"
        urls = self.supervisor.urls
        transport = self._transport()
        urls.update({app.name: (transport, f"{self.address}/{app.name}") for app in self.supervisor.graph.apps})
        urls.update({name: (None, url) for name, url in self.config.services.items()})

    def _transport(self) -> httpx.AsyncBaseTransport | None:
        """With TLS the apps reach each other in this process: the certificate need not be one that they trust."""
        if not self.config.tls_cert:
            return None
        import httpx

        return httpx.ASGITransport(self._front, raise_app_exceptions=False)

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)

    def _signalled(self) -> None:
        if self._stop.is_set():
            os._exit(EXIT_INTERRUPTED)
        self._stop.set()


def _check_names(apps: Sequence[App[Any]]) -> None:
    for app in apps:
        if app.name in RESERVED:
            raise DeclarationError(
                f"an app cannot have this name: /{app.name} tells the server's health",
                operation="start",
                resource=app.name,
                hint="rename the app",
            )
