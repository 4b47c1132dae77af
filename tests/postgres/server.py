"""PostgreSQL servers that tests start, kill, start again, copy to a standby and promote.

A server has a throw-away folder: its data, its log, its socket. It listens on 127.0.0.1, at a port that stays the same
for its life, and takes a password there. Its settings are PostgreSQL's own (`fsync` is on) but for those given. All
calls block, for parts of a second; a test with a running event loop that minds calls them in a thread.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.patience import PATIENCE_S
from tests.ports import free_port
from tests.postgres.binaries import Binaries, unprivileged
from tests.postgres.certificates import Certificate
from tests.postgres.guard import run_guard

USER = "headwater"
STILL_IN_USE = ("pre-existing shared memory block", 'lock file "postmaster.pid" already exists')
_DEFAULTS = {"shared_buffers": "32MB", "max_connections": "200", "dynamic_shared_memory_type": "mmap"}


class Server:
    """One server; made by `start_server` or `Server.standby`. Leaving the context ends it and removes its folder."""

    def __init__(
        self, binaries: Binaries, options: dict[str, str], *, password: str = "", place: Path | None = None
    ) -> None:
        self.binaries = binaries
        self.options = options
        self.password = password or secrets.token_hex(8)
        self.port = free_port()
        self.folder = make_folder(place)
        self.data = self.folder / "data"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    @property
    def url(self) -> str:
        return self.url_through(self.port)

    def url_through(self, port: int, host: str = "127.0.0.1") -> str:
        """As `url`, by way of a proxy or a pooler."""
        return f"postgresql://{USER}:{self.password}@{host}:{port}/postgres"

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text("utf-8", "replace")

    @property
    def pid(self) -> int:
        assert self._process is not None, "it does not run"
        return self._process.pid

    def start(self, **options: str) -> None:
        """Start on the present data (after a kill: recover) and wait until it takes connections."""
        self.options |= options
        end = time.monotonic() + PATIENCE_S
        while not self._start_once(end):
            assert time.monotonic() < end, f"PostgreSQL does not start:\n{self.log}"
            time.sleep(0.05)

    def _start_once(self, end: float) -> bool:
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": str(self.folder), **self.options}
        flags = [flag for name, value in settings.items() for flag in ("-c", f"{name}={value}")]
        begun = len(self.log) if (self.folder / "log").exists() else 0
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self.binaries["postgres"], "-D", self.data, "-p", str(self.port), *flags],
                cwd=self.folder,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **unprivileged(),
            )
        run_guard().keep(self.pid)
        while not self._ready():
            assert time.monotonic() < end, f"PostgreSQL is not ready:\n{self.log}"
            if self._process.poll() is not None:
                self._reap()
                told = self.log[begun:]
                assert any(reason in told for reason in STILL_IN_USE), f"PostgreSQL ended:\n{told}"
                return False
            time.sleep(0.01)
        return True

    def _ready(self) -> bool:
        """As `pg_ctl` sees it: the server writes its state into the eighth line of its pid file."""
        with suppress(FileNotFoundError):
            lines = (self.data / "postmaster.pid").read_text("utf-8").splitlines()
            return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"
        return False

    def stop(self) -> None:
        """An orderly end: open transactions are aborted."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """`kill -9` of all its processes at once; none finishes what it is at."""
        os.kill(self.pid, signal.SIGSTOP)
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        for child in children.read_text("utf-8").split() if children.exists() else ():
            with suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        assert self._process is not None, "it does not run"
        self._process.send_signal(number)
        self._process.wait(PATIENCE_S)
        self._reap()

    def _reap(self) -> None:
        run_guard().forget(self.pid)
        self._process = None

    def close(self) -> None:
        if self._process is not None:
            self._end(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def execute(self, *statements: str) -> list[Any]:
        return run_sql(self.url, *statements)

    def configure(self, **settings: str) -> None:
        """Change settings of the running server, and wait until they hold."""
        for name, value in settings.items():
            self.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        self.execute("SELECT pg_reload_conf()")
        wait_until(
            lambda: all(self.execute(f"SHOW {name}")[0][0] == settings[name] for name in settings), str(settings)
        )
        self.execute("CHECKPOINT")  # the checkpointer is who makes commits wait for a standby: it has read them, too

    def standby(self, *, port: int | None = None, **options: str) -> Server:
        """A started streaming standby; `port`: of a proxy by which it reaches this server."""
        copy = Server(self.binaries, {**self.options, "cluster_name": "standby", **options}, password=self.password)
        source = self.url_through(port or self.port)
        flags = ["-D", copy.data, "-d", source, "-R", "-X", "stream", "-c", "fast", "-C", "-S", f"to_{copy.port}"]
        _run([self.binaries["pg_basebackup"], *flags], copy.folder)
        copy.start()
        wait_until(lambda: self.execute("SELECT 1 FROM pg_stat_replication"), "the standby streams")
        return copy

    def promote(self) -> None:
        """Make a standby the primary; it takes writes afterwards."""
        self.execute("SELECT pg_promote(false)")
        try:
            wait_until(lambda: not self.execute("SELECT pg_is_in_recovery()")[0][0], "the standby is promoted")
        except AssertionError as error:
            raise AssertionError(self.log) from error


def start_server(
    binaries: Binaries, *, certificate: Certificate | None = None, place: Path | None = None, **options: str
) -> Server:
    """A new, empty, started server. With a certificate it takes connections with TLS only.

    `place` is where its folder goes, for measurements that are to include a disk: everybody must get there.
    """
    server = Server(binaries, {**_DEFAULTS, **options}, place=place)
    password = server.folder / "password"
    password.write_text(server.password, "utf-8")
    give(password)
    flags = ["-D", server.data, "-U", USER, f"--pwfile={password}", "--auth-local=trust", "--auth-host=md5"]
    _run([binaries["initdb"], *flags, "--no-sync", "--encoding=UTF8", "--locale=C"], server.folder)
    if certificate is not None:
        _use_certificate(server, certificate)
    server.start()
    return server


def _use_certificate(server: Server, certificate: Certificate) -> None:
    for name, file in (("server.crt", certificate.server), ("server.key", certificate.key)):
        shutil.copy(file, server.data / name)
        give(server.data / name)
    access = server.data / "pg_hba.conf"
    access.write_text(access.read_text("utf-8").replace("\nhost ", "\nhostssl "), "utf-8")
    server.options["ssl"] = "on"


def run_sql(url: str, *statements: str, patience_s: float = PATIENCE_S) -> list[Any]:
    """The last one's rows, on a connection of their own, whether or not an event loop runs in this thread."""
    import asyncpg

    async def run() -> list[Any]:
        connection = await asyncpg.connect(url, timeout=PATIENCE_S)
        try:
            return [await connection.fetch(sql, timeout=patience_s) for sql in statements][-1]
        finally:
            await connection.close()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, run()).result()


def make_folder(place: Path | None = None) -> Path:
    """A throw-away folder of the user that PostgreSQL and its companions run as."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-", dir=place or run_guard().folder))
    give(folder)
    if place is not None:
        run_guard().discard(folder)
    return folder


def give(path: Path) -> None:
    if user := unprivileged():
        os.chown(path, user["user"], user["group"])


def wait_until(what: Callable[[], Any], expected: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < end, f"it does not come to pass: {expected}"
        time.sleep(0.02)


def _run(command: list[Any], folder: Path) -> None:
    done = subprocess.run(
        command, cwd=folder, env=_environment(), capture_output=True, text=True, check=False, **unprivileged()
    )
    assert done.returncode == 0, f"{command[0]}:\n{done.stdout}{done.stderr}"


def _environment() -> dict[str, str]:
    """Without settings of libpq's, and with messages in English."""
    return {**{name: value for name, value in os.environ.items() if not name.startswith("PG")}, "LC_ALL": "C"}
