"""Engines: `open_engine(url)` chooses one by the URL of the store."""

from __future__ import annotations

from pathlib import Path

from headwater.clock import Clock, SystemClock
from headwater.engine import Engine
from headwater.errors import DeclarationError

DEFAULT_STORE = "sqlite:.headwater"


def make_engine(url: str, *, clock: Clock | None = None, read_only: bool = False) -> Engine:
    """The engine of a store's URL, not yet opened: "sqlite:DIRECTORY" (relative, or absolute with a leading /)."""
    scheme, _, rest = url.partition(":")
    if scheme == "sqlite" and rest:
        from headwater.engines.sqlite.engine import SqliteEngine

        folder = Path(rest.removeprefix("//"))
        return SqliteEngine(folder, clock=clock or SystemClock(), read_only=read_only)
    raise DeclarationError(f"no engine for the store {url!r}", operation="open", hint='write it as "sqlite:DIRECTORY"')


async def open_engine(url: str, *, clock: Clock | None = None, read_only: bool = False) -> Engine:
    """The opened engine of a store's URL; raises what `Lifecycle.open` raises."""
    engine = make_engine(url, clock=clock, read_only=read_only)
    await engine.open()
    return engine
