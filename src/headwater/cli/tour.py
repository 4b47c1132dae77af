"""`headwater tour`: serve the apps on a fresh store, play the tour of each over real HTTP, and tell what came of it.

The steps belong to the apps: beside an app's module `package.app` the module `package.tour` may have a function
`steps(http, admin, command)` that returns them in order (see `tour_stage.Stage` for the three). A step's name is
its function's; `PAGES` are the paths to open afterwards. The first step that does not come true ends the tour. A module
may have `partner()`, an async context manager that is open while the apps run: what they call and is not
theirs. It yields environment variables, by which the app's settings find it.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import os
import shutil
import socket
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import msgspec

from headwater.cli import exits
from headwater.cli.tour_stage import Stage, Step
from headwater.config import Config, admin_socket, find_folder, load_config
from headwater.engines import drop_store
from headwater.errors import DeclarationError
from headwater.store_url import is_file_store, shown_store, with_schema

if TYPE_CHECKING:
    from headwater.runtime.server import Server

STORE = ".headwater/tour"
SCHEMA = "headwater_tour"
STEP_S = 120.0
PORTS = 100


def tour(once: bool, database: str = "") -> int:
    """Play the tour and go on serving until Ctrl-C, or end after it; 0 when every step came true.

    The store is a folder, or with the URL of a PostgreSQL database a schema of it.
    """
    from headwater.console.serving import serve_console
    from headwater.loading import load_app
    from headwater.runtime.logs import configure_logs
    from headwater.runtime.server import Server
    from headwater.runtime.supervisor import single

    os.environ.setdefault("HEADWATER_LOG_LEVEL", "critical")  # its failures are on purpose; for worker processes, too
    configure_logs()
    folder = find_folder(Path.cwd())
    config = tour_config(folder, database)
    clear_store(config.store, folder / STORE)
    if database:
        asyncio.run(drop_store(config.store))
    apps = [load_app(spec, folder) for spec in config.apps]
    single(apps)
    server = Server(apps, config, console=serve_console)
    return asyncio.run(_Tour(server, config, folder, once).run())


def tour_config(folder: Path, database: str = "") -> Config:
    """The settings of `headwater.toml`, but with a store of the tour's own and a port that is free."""
    config = load_config(folder)
    port = free_port(config.host, config.port)
    store = with_schema(database, SCHEMA) if database else f"sqlite:{folder / STORE}"
    objects = str(folder / STORE / "objects")
    return msgspec.structs.replace(config, store=store, objects=objects, objects_shared=True, port=port)


def clear_store(url: str, folder: Path) -> None:
    """Remove what the last tour left; raises `DeclarationError` when a tour runs on it."""
    with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
        probe.connect(str(admin_socket(url)))
        raise DeclarationError(
            "another tour is running here", operation="tour", resource=str(folder), hint="end it with Ctrl-C first"
        )
    shutil.rmtree(folder, ignore_errors=True)


def free_port(host: str, first: int) -> int:
    """The first port from `first` on that nobody listens on."""
    for port in range(first, min(first + PORTS, 65536)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise DeclarationError(f"the ports {first} to {first + PORTS} are all taken", operation="tour", resource=host)


def tour_of(spec: str) -> ModuleType | None:
    """The tour module of one app; None when it has none."""
    package = spec.partition(":")[0].rpartition(".")[0]
    name = f"{package}.tour"
    if not package or importlib.util.find_spec(name) is None:
        return None
    return importlib.import_module(name)


class _Tour:
    def __init__(self, server: Server, config: Config, folder: Path, once: bool) -> None:
        self._server = server
        self._config = config
        self._folder = folder
        self._once = once
        self._store = shown_store(config.store) if not is_file_store(config.store) else f"sqlite:{STORE}"
        self._ready = asyncio.Event()

    async def run(self) -> int:
        async with contextlib.AsyncExitStack() as partners:
            for module in filter(None, map(tour_of, self._config.apps)):
                if hasattr(module, "partner"):
                    os.environ.update(await partners.enter_async_context(module.partner()))
            return await self._run_server()

    async def _run_server(self) -> int:
        playing = asyncio.create_task(self._play_when_ready())
        try:
            code = await self._server.run(self._ready.set)
        finally:
            playing.cancel()
            (played,) = await asyncio.gather(playing, return_exceptions=True)
        if played is True or (isinstance(played, asyncio.CancelledError) and not self._once):
            return code
        return code or exits.FAILED

    async def _play_when_ready(self) -> bool:
        """Whether every step came true; ends the server unless it is to go on."""
        await self._ready.wait()
        came_true = False
        try:
            came_true = await self._play()
        finally:
            if self._once or not came_true:
                self._server.stop()
        return came_true

    async def _play(self) -> bool:
        begun = time.monotonic()
        _say(f"Headwater serves {self._server.address} with the store {self._store}")
        count, pages = 0, ["/"]
        async with Stage(self._server.address, self._config.store, self._folder) as stage:
            for spec in self._config.apps:
                module = tour_of(spec)
                if module is None:
                    continue
                _say(f"\n{module.__name__.removesuffix('.tour')}")
                for step in module.steps(stage.http, stage.admin, stage.command):
                    if not await _play_step(spec, step):
                        return False
                    count += 1
                pages += module.PAGES
        _say(f"\nAll {count} steps came true in {time.monotonic() - begun:.1f} s. Open:")
        for page in pages:
            _say(f"  {self._server.address}{page}")
        if self._server.console_address:
            _say(f"  {self._server.console_address}/  the console")
        if not self._once:
            _say(f"Commands such as `headwater ls` reach it with HEADWATER_STORE={self._store}")
            _say("Ctrl-C ends the server.")
        return True


async def _play_step(spec: str, step: Step) -> bool:
    name = step.__name__.replace("_", " ").strip()
    try:
        async with asyncio.timeout(STEP_S):
            lines = await step()
    except Exception as error:
        why = f"it took longer than {STEP_S:g} s" if isinstance(error, TimeoutError) else f"{error}"
        print(f"error: tour of {spec}: the step {name!r} did not come true: {why}", file=sys.stderr, flush=True)
        return False
    _say(f"  ✓ {name}")
    for line in lines:
        _say(f"      {line}")
    return True


def _say(line: str) -> None:
    print(line, flush=True)
