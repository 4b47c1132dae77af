"""A real server that kills itself: `python -m tests.acceptance.crashing_service APP FOLDER POINT PASSES`.

It serves over real HTTP on a free port, says its address, and dies (SIGKILL) when it passes the point for the n-th
time since then; before that it says "dies POINT". Without a point it serves until it is killed.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headwater.clock import Clock
from headwater.config import Config
from headwater.engines.sqlite.engine import SqliteEngine
from headwater.loading import load_app
from headwater.runtime import server as serving
from headwater.work import UnitOfWork
from tests.faults.victim import Fuse, FusedVFS, lay, say

NEVER = 10**9


def watch_units(fuse: Fuse) -> None:
    """Points around the save as the service sees it: before it is handed over, and when it was acknowledged."""
    commit = UnitOfWork.commit

    def fused(unit: UnitOfWork) -> asyncio.Future[Any]:
        fuse.burn("before-save")
        future = commit(unit)
        fuse.burn("save-under-way")
        future.add_done_callback(lambda _: fuse.burn("saved-unanswered"))
        return future

    UnitOfWork.commit = fused  # type: ignore[method-assign, assignment]


def engine_maker(folder: Path, vfs: str) -> Callable[..., SqliteEngine]:
    def make(_store: str, *, clock: Clock) -> SqliteEngine:
        return SqliteEngine(folder, clock=clock, vfs=vfs)

    return make


def main(app: str, folder: str, point: str = "", passes: str = "1") -> int:
    fuse = Fuse(point, NEVER)
    vfs = FusedVFS(fuse)
    watch_units(fuse)
    serving.make_engine = engine_maker(Path(folder), vfs.name)  # type: ignore[attr-defined]
    server = serving.Server([load_app(app)], Config(apps=(app,), store=f"sqlite:{folder}", port=0))

    def ready() -> None:
        engine = server.supervisor.engine
        assert isinstance(engine, SqliteEngine)
        lay(fuse, engine)
        fuse.passes = int(passes)
        say(server.address)

    return asyncio.run(server.run(ready))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
