"""`headwater run`: load the apps, serve them, and with --reload serve them anew after each edit."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import msgspec

import headwater
from headwater.cli import exits
from headwater.config import Config, absolute_store, find_folder, load_config
from headwater.errors import HeadwaterError
from headwater.store_url import shown_store

if TYPE_CHECKING:
    from headwater.app import App
    from headwater.runtime.server import Server

WATCHED = (".py", ".toml")


class RunOptions(msgspec.Struct, frozen=True):
    """What the command line says; "" and None leave it to `headwater.toml`."""

    apps: tuple[str, ...] = ()
    store: str = ""
    host: str = ""
    port: int | None = None
    environment: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    virtual_clock: bool = False


def configured(options: RunOptions) -> tuple[Path, Config]:
    """The folder of `headwater.toml` and the settings, the command line's on top."""
    folder = find_folder(Path.cwd())
    config = load_config(folder, environment=options.environment)
    changes: dict[str, object] = {}
    if options.apps:
        changes["apps"] = options.apps
    if options.store:
        changes["store"] = absolute_store(options.store, Path.cwd())
    if options.host:
        changes["host"] = options.host
    if options.port is not None:
        changes["port"] = options.port
    for name in ("tls_cert", "tls_key"):
        if path := getattr(options, name):
            changes[name] = str(Path.cwd() / path)
    if bool(options.tls_cert) != bool(options.tls_key):
        raise exits.UsageError("--tls-cert and --tls-key go together")
    return folder, msgspec.structs.replace(config, **changes)


def serve(options: RunOptions, *, debug: bool = False) -> int:
    """Serve until a signal; the exit code."""
    from headwater.runtime.logs import configure_logs
    from headwater.runtime.server import Server
    from headwater.runtime.supervisor import single
    from headwater.virtual_clock import SteeredClock

    configure_logs()
    folder, config = configured(options)
    if options.environment:
        os.environ["HEADWATER_ENV"] = options.environment  # for the server's worker processes
    apps = load_apps(config, folder, debug=debug)
    if apps is None:
        return exits.FAILED
    single(apps)
    from headwater.console.serving import serve_console

    server = Server(apps, config, console=serve_console, clock=SteeredClock() if options.virtual_clock else None)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        code = runner.run(server.run(ready=lambda: announce(server)))
    end_threads(code)
    return code


def load_apps(config: Config, folder: Path, *, debug: bool) -> list[App[Any]] | None:
    """The apps of the settings; None when one cannot be imported, which has been reported then."""
    from headwater.loading import load_app

    try:
        return [load_app(spec, folder) for spec in config.apps]
    except HeadwaterError as error:
        error.message += place_of(error)
        raise
    except Exception as error:
        if debug:
            raise
        exits.report(f"the app cannot be imported: {_told(error)}", "`headwater --debug run` shows the whole traceback")
        return None


def end_threads(code: int) -> None:
    """End the process when a handler's thread outlives the drain: the interpreter would wait for it."""
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.Loop


def _told(error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.msg} ({error.filename}:{error.lineno})"
    return f"{type(error).__name__}: {error}{place_of(error)}"


def place_of(error: Exception) -> str:
    """The innermost line of the user's own code that led to the error, in brackets."""
    import traceback

    foreign = (str(Path(headwater.__path__[0])), "<frozen", *sysconfig.get_paths().values())
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(foreign):
            return f" ({frame.filename}:{frame.lineno})"
    return ""


def announce(server: Server) -> None:
    """One short block on standard error when requests are answered."""
    from headwater.system import NAME

    graph = server.supervisor.graph
    shown = [app for app in graph.apps if app.name != NAME]
    served = [f"{server.address}/{app.name}" if app.serves_http else app.name for app in shown]
    lines = [
        f"headwater serves {server.address} (pid {os.getpid()})",
        f"  apps        {', '.join(served)}",
        *([f"  console     {server.console_address}"] if server.console_address else []),
        f"  store       {shown_store(server.config.store)}",
        "  durability  every commit is flushed to stable storage before it is acknowledged",
    ]
    print("\n".join(lines), file=sys.stderr, flush=True)


def serve_reloading(arguments: list[str]) -> int:
    """Keep a serving child, and start it anew when a .py or .toml file of the folder has changed."""
    from watchfiles import watch

    stop = threading.Event()
    child = _Child(arguments)

    def end(number: int, _: FrameType | None) -> None:
        if stop.is_set():
            child.signal(signal.SIGKILL)
        stop.set()
        child.signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    folder = find_folder(Path.cwd())
    child.start()
    print(f"watching {folder} for changes", file=sys.stderr)
    for changes in watch(folder, watch_filter=_Watched(folder), stop_event=stop, raise_interrupt=False):
        names = sorted(os.path.relpath(path, folder) for _, path in changes)
        print(f"changed: {', '.join(names[:3])}{' …' if len(names) > 3 else ''}; starting anew", file=sys.stderr)
        child.stop()
        if not stop.is_set():
            child.start()
    return child.wait()


class _Watched:
    """Sources and settings below the folder, not in hidden folders: the store and environments live there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, _: object, path: str) -> bool:
        below = Path(path).relative_to(self._folder).parts
        hidden = any(part.startswith(".") or part in ("__pycache__", "node_modules") for part in below)
        return path.endswith(WATCHED) and not hidden


class _Child:
    """The serving process. One that ends by itself (a broken edit) is started again by the next change."""

    def __init__(self, arguments: list[str]) -> None:
        self._command = [sys.executable, "-m", "headwater.cli", *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, start_new_session=True)

    def signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def stop(self) -> None:
        self.signal(signal.SIGTERM)
        self.wait()

    def wait(self) -> int:
        return self._process.wait() if self._process is not None else 0
