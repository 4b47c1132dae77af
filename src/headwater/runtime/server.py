"""Serving: the apps under their names on one address, the admin API on a local socket, and signals.

Order of a stop (SIGTERM or SIGINT): no new connections, requests in flight finish, then the supervisor drains. A
second signal ends the process at once. A store that failed ends it too, with exit code 3: starting again recovers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import structlog
import uvicorn
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from headwater.app import App
from headwater.clock import SystemClock
from headwater.config import Config, admin_socket
from headwater.engines import make_engine
from headwater.http.admin import make_admin
from headwater.runtime.admin import Admin
from headwater.runtime.supervisor import Supervisor

EXIT_OK, EXIT_STORE_FAILED = 0, 3
log = structlog.get_logger("headwater")


class Front:
    """Each app under `/<its name>`; `/` lists them."""

    def __init__(self, apps: dict[str, ASGIApp]) -> None:
        self._apps = apps

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return
        path: str = scope["path"]
        name = path[1:].partition("/")[0]
        app = self._apps.get(name)
        if app is not None:
            scope["root_path"] = f"{scope.get('root_path', '')}/{name}"
            await app(scope, receive, send)
        elif scope["type"] == "http":
            await self._index(path)(scope, receive, send)

    def _index(self, path: str) -> JSONResponse:
        if path == "/":
            return JSONResponse({"apps": {name: {"docs": f"/{name}/docs"} for name in self._apps}})
        hint = f"the apps served here are {', '.join(sorted(self._apps)) or 'none'}"
        return JSONResponse({"detail": "no app of this name is served here", "hint": hint}, status_code=404)


class _Server(uvicorn.Server):
    """uvicorn without signal handlers of its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Server:
    """One process that serves apps on a store; `run()` returns its exit code."""

    def __init__(self, apps: Sequence[App[Any]], config: Config) -> None:
        self._config = config
        self._stop = asyncio.Event()
        clock = SystemClock()
        self._engine = make_engine(config.store, clock=clock)
        base = f"http://{config.host}:{config.port}"
        reach = {app.name: (None, f"{base}/{app.name}") for app in apps}
        reach.update({name: (None, url) for name, url in config.services.items()})
        self.supervisor = Supervisor(apps, self._engine, clock, reach=reach, history_ms=config.history_ms)

    def stop(self) -> None:
        self._stop.set()

    async def run(self, ready: Callable[[], None] = lambda: None) -> int:
        """Serve until stopped; `ready` is called when requests are answered."""
        self._catch_signals()
        await self.supervisor.start()
        served = {app.name: http for app in self.supervisor.graph.apps if (http := app.load_http())}
        public = _Server(self._public(Front(dict(served))))
        local = _Server(self._local())
        broken = asyncio.create_task(self._engine.broken())
        stopped = asyncio.create_task(self._stop.wait())
        listener = self._listen_locally()
        servers = [asyncio.create_task(public.serve()), asyncio.create_task(local.serve(sockets=[listener]))]
        try:
            await self._until_started(public, local, servers)
            await self.supervisor.serve()
            ready()
            await asyncio.wait([broken, stopped, *servers], return_when=asyncio.FIRST_COMPLETED)
        finally:
            public.should_exit = local.should_exit = True
            await asyncio.gather(*servers, return_exceptions=True)
            failed = broken.done()
            broken.cancel()
            stopped.cancel()
            await self.supervisor.stop(self._config.drain_s)
            admin_socket(self._config.store).unlink(missing_ok=True)
        if failed:
            log.error("the store failed; start again to recover", error=str(broken.result()))
        return EXIT_STORE_FAILED if failed else EXIT_OK

    async def _until_started(self, *parts: Any) -> None:
        public, local, servers = parts
        while not (public.started and local.started):
            for server in servers:
                if server.done():
                    server.result()
                    raise OSError(f"cannot listen on {self._config.host}:{self._config.port}")
            await asyncio.sleep(0.005)

    def _public(self, front: ASGIApp) -> uvicorn.Config:
        return uvicorn.Config(
            front,
            host=self._config.host,
            port=self._config.port,
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=int(self._config.drain_s) or 1,
        )

    def _local(self) -> uvicorn.Config:
        app = make_admin(Admin(self._engine, self.supervisor))
        return uvicorn.Config(app, lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=1)

    def _listen_locally(self) -> socket.socket:
        """The admin socket, which only this user can connect to."""
        path = admin_socket(self._config.store)
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen()
        return listener

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)

    def _signalled(self) -> None:
        if self._stop.is_set():
            os._exit(130)
        self._stop.set()
