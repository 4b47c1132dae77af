"""Engines: `open_engine(url)` chooses one by the URL of the store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from headwater.aws.names import is_stack
from headwater.clock import Clock, SystemClock
from headwater.engine import Counted, Engine
from headwater.errors import DeclarationError
from headwater.store_url import is_file_store, shown_store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headwater.engines.remote.engine import Check, RemoteEngine
    from headwater.engines.remote.owner import Owner

DEFAULT_STORE = "sqlite:.headwater"


def make_engine(url: str, *, clock: Clock | None = None, read_only: bool = False) -> Engine:
    """The engine of a store's URL, not yet opened.

    "sqlite:DIRECTORY" (relative, or absolute with a leading /), "postgresql://USER@HOST:PORT/DATABASE?schema=NAME",
    or "aws:STACK" for what is deployed under this name where the environment's AWS_… say.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "sqlite" and rest:
        from headwater.engines.sqlite.engine import SqliteEngine

        folder = Path(rest.removeprefix("//"))
        return SqliteEngine(folder, clock=clock or SystemClock(), read_only=read_only)
    if scheme in ("postgresql", "postgres"):
        from headwater.engines.postgres.engine import PostgresEngine

        return PostgresEngine(url, clock=clock or SystemClock(), read_only=read_only)
    if scheme == "aws" and is_stack(rest):
        from headwater.engines.aws.engine import AwsEngine

        return AwsEngine(rest, clock=clock or SystemClock(), read_only=read_only)
    raise DeclarationError(
        f"no engine for the store {shown_store(url)!r}",
        operation="open",
        hint='write it as "sqlite:DIRECTORY", "postgresql://HOST/DATABASE" or "aws:STACK"',
    )


async def open_engine(url: str, *, clock: Clock | None = None, read_only: bool = False) -> Engine:
    """The opened engine of a store's URL; raises what `Lifecycle.open` raises."""
    engine = make_engine(url, clock=clock, read_only=read_only)
    await engine.open()
    return engine


async def migrate_store(url: str, *, check: bool = False) -> list[str]:
    """Run the steps that the store's schema lacks, and name them; with `check` only name them.

    A SQLite store has none: the process that opens it brings it up to date. Nor has one on AWS, which is deployed.
    """
    if is_file_store(url) or url.startswith("aws:"):
        return []
    from headwater.engines.postgres.database import Address, Database
    from headwater.engines.postgres.migrations import migrate, missing_steps

    database = Database(Address(url))
    await database.open()
    try:
        return await (missing_steps(database) if check else migrate(database))
    finally:
        await database.close()


async def drop_store(url: str) -> None:
    """Remove all of a PostgreSQL store, its schema, if it is there."""
    from headwater.engines.postgres.database import Address, Database

    database = Database(Address(url))
    await database.open()
    try:
        await database.fetch(f"DROP SCHEMA IF EXISTS {database.address.schema} CASCADE")
    finally:
        await database.close()


def remote_engine(path: Path, *, clock: Clock, check: Check, trusted: int | None = None) -> RemoteEngine:
    """The engine of a worker process, not yet opened: the store of the process that listens at `path`."""
    from headwater.engines.remote.engine import RemoteEngine

    return RemoteEngine(path, clock=clock, check=check, trusted=trusted)


def share_engine(
    engine: Engine,
    *,
    report: Callable[[Counted], None],
    hold: Callable[[object, Sequence[str]], None] = lambda *_: None,
) -> Owner:
    """Let worker processes use an engine that is open here (`engines.remote.owner.Owner`)."""
    from headwater.engines.remote.owner import Owner

    return Owner(engine, report=report, hold=hold)
