"""The stores that benchmarks run on: a folder on the disk of the working directory, or a schema of a PostgreSQL server.

The server is started for the benchmark, with its data on the same disk, unless the URL of another one is given.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.report import fdatasync_ms, scratch, versions
from tests.postgres.binaries import MISSING, find_binaries
from tests.postgres.server import run_sql, start_server

_SETTINGS: dict[str, Any] = {"shared_buffers": "256MB", "max_wal_size": "4GB"}
_DURABLE = ("fsync", "full_page_writes", "synchronous_commit")


@dataclass(frozen=True)
class Stores:
    """Where one benchmark keeps what it writes; all of it is gone afterwards.

    `folder` is on the disk of the working directory, `server` the URL of a PostgreSQL server or empty for SQLite; `pid`
    is that of a server which is the benchmark's own, with its data in the folder.
    """

    folder: Path
    server: str = ""
    prefix: str = ""
    pid: int | None = None

    @property
    def engine(self) -> str:
        return "postgres" if self.server else "sqlite"

    def url(self, name: str = "store") -> str:
        """The URL of a store; another name is another, empty one."""
        if not self.server:
            return f"sqlite:{self.folder / name}"
        return f"{self.server}{'&' if '?' in self.server else '?'}schema={self.schema(name)}"

    def schema(self, name: str = "store") -> str:
        return f"{self.prefix}{name}"

    def server_cpu_s(self) -> float:
        """Processor time of all the processes of the benchmark's own server; 0 for another one."""
        if self.pid is None:
            return 0.0
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        ticks = sum(_times(pid)[0] for pid in children) + sum(_times(str(self.pid)))
        return ticks / os.sysconf("SC_CLK_TCK")

    def described(self) -> dict[str, Any]:
        """What each report says of the store."""
        flush_ms = fdatasync_ms(self.folder) if self.pid or not self.server else None
        if not self.server:
            return {"engine": "sqlite", "fdatasync_ms": flush_ms, "versions": versions()}
        settings = {name: run_sql(self.server, f"SHOW {name}")[0][0] for name in _DURABLE}
        server = run_sql(self.server, "SHOW server_version")[0][0].split()[0]
        return {
            "engine": "postgres",
            "durability": ", ".join(f"{name}={value}" for name, value in settings.items()),
            "fdatasync_ms": flush_ms,
            "versions": versions() | {"postgres": server, "asyncpg": version("asyncpg")},
        }


Setting = Callable[[], AbstractContextManager[Stores]]
"""Makes the stores of one benchmark."""


@contextmanager
def sqlite() -> Iterator[Stores]:
    with scratch() as folder:
        yield Stores(folder)


@contextmanager
def postgres() -> Iterator[Stores]:
    """A server of the benchmark's own."""
    binaries = find_binaries()
    if binaries is None:
        raise SystemExit(MISSING)
    with scratch(_reachable()) as folder:
        folder.chmod(0o711)
        with start_server(binaries, place=folder, **_SETTINGS) as server:
            yield Stores(folder, server.url, "bench_", server.pid)


def postgres_at(url: str) -> Setting:
    """Schemas of a server that runs already."""

    @contextmanager
    def setting() -> Iterator[Stores]:
        prefix = f"bench_{secrets.token_hex(4)}_"
        with scratch() as folder:
            try:
                yield Stores(folder, url, prefix)
            finally:
                for (schema,) in run_sql(
                    url, f"SELECT nspname FROM pg_namespace WHERE starts_with(nspname, '{prefix}')"
                ):
                    run_sql(url, f"DROP SCHEMA {schema} CASCADE")

    return setting


def _times(pid: str) -> tuple[int, int]:
    """Clock ticks of a process, and of those it has started that have ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0, 0
    return int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])


def _reachable() -> Path:
    """The working directory, or where the user that PostgreSQL runs as gets to."""
    here = Path.cwd()
    open_to_all = all(folder.stat().st_mode & 0o001 for folder in (here, *here.parents))
    return here if open_to_all or os.geteuid() != 0 else Path("/var/tmp")
