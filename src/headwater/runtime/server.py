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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import structlog
import uvicorn
from starlette.types import ASGIApp

from headwater.app import App
from headwater.clock import SystemClock
from headwater.config import Config, admin_socket
from headwater.engines import make_engine
from headwater.errors import DeclarationError
from headwater.http.admin import make_admin
from headwater.http.front import Front
from headwater.runtime.admin import About, Admin
from headwater.runtime.supervisor import Supervisor

EXIT_OK, EXIT_STORE_FAILED, EXIT_INTERRUPTED = 0, 3, 130
_HTTP_SHARE = 0.2
"""The part of the drain's time that is kept for requests when handlers use up theirs."""
log = structlog.get_logger("headwater")


class _Listener(uvicorn.Server):
    """uvicorn on a socket that is bound already, without signal handlers of its own."""

    def __init__(self, app: ASGIApp, bound: socket.socket) -> None:
        super().__init__(
            uvicorn.Config(app, lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=1)
        )
        self._bound = bound

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def start(self) -> asyncio.Task[None]:
        return asyncio.create_task(self.serve(sockets=[self._bound]))

    def end(self, grace_s: float) -> None:
        """Take no new connections; requests in flight have so long to finish."""
        self.config.timeout_graceful_shutdown = max(1, round(grace_s))
        self.should_exit = True


def spare_collector() -> None:
    """Make the garbage collector look seldom, and never at what was imported.

    A server allocates much that is soon freed by counting; at the default threshold the collector took a tenth of
    its time (measured with `bench pipeline`).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


class Server:
    """One process that serves apps on a store; `run()` returns its exit code.

    `run` raises `DeclarationError` when the address is taken, and what `Supervisor.start` raises.
    """

    def __init__(self, apps: Sequence[App[Any]], config: Config) -> None:
        self.config = config
        self.address = ""
        self._stop = asyncio.Event()
        self._clock = SystemClock()
        self._engine = make_engine(config.store, clock=self._clock)
        self.supervisor = Supervisor(
            apps,
            self._engine,
            self._clock,
            history_ms=config.history_ms,
            history_events=config.history_events,
        )

    def stop(self) -> None:
        """Begin to drain; `run` returns when that is done."""
        self._stop.set()

    async def run(self, ready: Callable[[], None] = lambda: None) -> int:
        """Serve until stopped; `ready` is called when requests are answered."""
        self._catch_signals()
        with _bind(self.config.host, self.config.port) as bound:
            self._reach_apps(bound)
            await self.supervisor.start()
            path = admin_socket(self.config.store)
            try:
                with _bind_locally(path) as local:
                    return await self._serve(_Listener(self._front(), bound), _Listener(self._admin(), local), ready)
            finally:
                await self.supervisor.stop(0)
                path.unlink(missing_ok=True)

    async def _serve(self, public: _Listener, local: _Listener, ready: Callable[[], None]) -> int:
        servers = [public.start(), local.start()]
        broken = asyncio.create_task(self._engine.broken())
        stopped = asyncio.create_task(self._stop.wait())
        try:
            await _until_started((public, local), servers)
            await self.supervisor.serve()
            spare_collector()
            ready()
            await asyncio.wait([broken, stopped, *servers], return_when=asyncio.FIRST_COMPLETED)
            failed = broken.done()
            await self._drain(public, local, 0 if failed else self.config.drain_s)
        finally:
            public.end(0)
            local.end(0)
            await asyncio.gather(*servers, return_exceptions=True)
            broken.cancel()
            stopped.cancel()
        if failed:
            log.error("the store failed; start again to recover", error=str(broken.result()))
        return EXIT_STORE_FAILED if failed else EXIT_OK

    async def _drain(self, public: _Listener, local: _Listener, drain_s: float) -> None:
        """Handlers first, requests after them; what is left at the end is cut off by `Supervisor.stop`."""
        log.info("stopping", drain=f"{drain_s:g}s")
        end_s = self._clock.monotonic() + drain_s
        share_s = drain_s * (1 - _HTTP_SHARE)
        consumers = self.supervisor.consumers.values()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(share_s):
                await asyncio.gather(*(consumer.drain(share_s) for consumer in consumers))
        left_s = max(0.0, end_s - self._clock.monotonic())
        public.end(left_s)
        local.end(0)

    def _front(self) -> Front:
        served = {app.name: http for app in self.supervisor.graph.apps if (http := app.load_http())}
        return Front(dict(served))

    def _admin(self) -> ASGIApp:
        about = About(pid=os.getpid(), address=self.address, started_ms=self._clock.wall_ms())
        admin = Admin(self._engine, self.supervisor, clock=self._clock, store=self.config.store, about=about)
        return make_admin(admin)

    def _reach_apps(self, bound: socket.socket) -> None:
        """Apps call each other at the address that is really bound: port 0 takes a free one."""
        host, port = bound.getsockname()[:2]
        near = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        self.address = f"http://{f'[{near}]' if ':' in near else near}:{port}"
        urls = self.supervisor.urls
        urls.update({app.name: (None, f"{self.address}/{app.name}") for app in self.supervisor.graph.apps})
        urls.update({name: (None, url) for name, url in self.config.services.items()})

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)

    def _signalled(self) -> None:
        if self._stop.is_set():
            os._exit(EXIT_INTERRUPTED)
        self._stop.set()


async def _until_started(listeners: Sequence[_Listener], servers: Sequence[asyncio.Task[None]]) -> None:
    while not all(listener.started for listener in listeners):
        for server in servers:
            if server.done():
                server.result()
        await asyncio.sleep(0.005)


def _bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet: connections are refused until the server is ready."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except BaseException:
            bound.close()
            raise
    except OSError as error:
        raise DeclarationError(
            f"cannot listen: {error.strerror or error}",
            operation="start",
            resource=f"{host}:{port}",
            hint="another process may listen there; choose another address with --host and --port",
        ) from error
    return bound


def _bind_locally(path: Path) -> socket.socket:
    """The admin socket, which only this user can connect to. The store's lock makes it this process's alone."""
    bound = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        path.unlink(missing_ok=True)
        bound.bind(str(path))
    except OSError as error:
        bound.close()
        raise DeclarationError(
            f"the admin socket cannot be made: {error.strerror}", operation="start", resource=str(path)
        ) from error
    finally:
        os.umask(before)
    return bound
