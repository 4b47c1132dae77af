"""A PgBouncer in front of a server, in transaction mode: a connection to the server is held for a transaction only."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from contextlib import suppress
from types import TracebackType

import pytest

from tests.patience import PATIENCE_S
from tests.ports import free_port
from tests.postgres.binaries import unprivileged
from tests.postgres.guard import run_guard
from tests.postgres.server import USER, Server, give, make_folder

NAMES = ("pgbouncer", "/usr/sbin/pgbouncer")
"""Debian puts it where the PATH of most users does not lead."""
needs_pgbouncer = pytest.mark.needs(*NAMES, package="pgbouncer")


class Bouncer:
    """A running PgBouncer; leaving the context ends it."""

    def __init__(self, server: Server, *, pool: int = 5) -> None:
        self.port = free_port()
        self.url = server.url_through(self.port)
        self.folder = make_folder()
        self._settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "md5",
            "auth_file": self.folder / "users",
            "pool_mode": "transaction",
            "default_pool_size": pool,
            "max_client_conn": 500,
        }
        self._write("users", f'"{USER}" "{server.password}"\n')
        lines = [f"{name} = {value}" for name, value in self._settings.items()]
        target = f"* = host=127.0.0.1 port={server.port}"
        self._write("settings", "\n".join(["[databases]", target, "[pgbouncer]", *lines, ""]))

    def _write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, "utf-8")
        give(self.folder / name)

    def __enter__(self) -> Bouncer:
        binary = next(filter(None, map(shutil.which, NAMES)))
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [binary, "settings"],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **unprivileged(),
            )
        run_guard().keep(self._process.pid)
        self._await_port()
        return self

    def _await_port(self) -> None:
        end = time.monotonic() + PATIENCE_S
        while True:
            with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", self.port)):
                return
            told = (self.folder / "log").read_text("utf-8")
            assert self._process.poll() is None, f"PgBouncer ended:\n{told}"
            assert time.monotonic() < end, f"PgBouncer does not listen:\n{told}"
            time.sleep(0.01)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait(PATIENCE_S)
        run_guard().forget(self._process.pid)
        shutil.rmtree(self.folder, ignore_errors=True)
