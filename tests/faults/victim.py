"""The process that the fault tests kill: `python -m tests.faults.victim ROLE FOLDER ...`.

It writes a line to its standard output for each thing that happened, before anything else can happen, and never
ends by itself as long as nobody closes its standard input.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import apsw

from headwater.clock import SystemClock
from headwater.engines.sqlite.engine import SqliteEngine
from headwater.errors import StoreError
from headwater.events import Delivery
from headwater.unit import Settle, new_commit
from tests.faults import datasets
from tests.faults.workload import CATALOG, Load, checkpoint

WRITERS = 64
POINTS = (
    "before-begin",
    "after-apply",
    "before-commit",
    "before-flush",
    "after-flush",
    "after-commit",
    "before-results",
    "after-results",
    "before-checkpoint",
    "in-checkpoint",
)
QUEUE = "shop/direct"


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Fuse:
    """Kills the process when the point has been passed so many times; `burn` is called at every point."""

    def __init__(self, point: str, passes: int) -> None:
        self.point = point
        self.passes = passes

    def burn(self, point: str) -> None:
        if point == self.point:
            self.passes -= 1
            if self.passes == 0:
                say(f"dies {point}")
                die()


class _FusedFile(apsw.VFSFile):
    def __init__(self, name: str | apsw.URIFilename | None, flags: list[int], fuse: Fuse) -> None:
        super().__init__("unix", name, flags)
        self._fuse = fuse
        self._wal = bool(flags[0] & apsw.SQLITE_OPEN_WAL)

    def xSync(self, flags: int) -> None:
        self._fuse.burn("before-flush" if self._wal else "in-checkpoint")
        super().xSync(flags)
        if self._wal:
            self._fuse.burn("after-flush")


class FusedVFS(apsw.VFS):
    def __init__(self, fuse: Fuse) -> None:
        self._fuse = fuse
        self.name = "fused"
        super().__init__(self.name, "unix")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return _FusedFile(name, flags, self._fuse)


def lay(fuse: Fuse, engine: SqliteEngine) -> None:
    """Lead the fuse through an open engine's way of a commit, from outside."""
    statements = {"BEGIN IMMEDIATE": "before-begin", "UPDATE head": "after-apply", "COMMIT": "before-commit"}

    def trace(_cursor: apsw.Cursor, statement: str, _bindings: object) -> bool:
        for start, point in statements.items():
            if statement.startswith(start):
                fuse.burn(point)
        return True

    engine._connection.exec_trace = trace
    for owner, method, point in (
        (engine.board, "flushed", "after-commit"),
        (engine.writer, "_post", "before-results"),
        (engine.writer, "_checkpoint", "before-checkpoint"),
    ):
        setattr(owner, method, _after(fuse, point, getattr(owner, method)))


def _after(fuse: Fuse, point: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def fused(*arguments: Any) -> Any:
        fuse.burn(point)
        return method(*arguments)

    return fused


async def load(folder: str, seed: str, point: str = "", passes: str = "0") -> None:
    """Run the workload without end, saying the id of each acknowledged commit."""
    fuse = Fuse(point, int(passes))
    vfs = FusedVFS(fuse)
    engine = SqliteEngine(Path(folder), clock=SystemClock(), vfs=vfs.name)
    await engine.open()
    await engine.install(CATALOG)
    lay(fuse, engine)

    def acknowledged(id: str) -> None:
        say(id)
        fuse.burn("after-results")

    async def checkpoints() -> None:
        while True:
            await engine.writer.run(checkpoint, durable=False)
            await asyncio.sleep(0.01)

    say("loads")
    await asyncio.gather(Load(engine, acknowledged, int(seed)).run(WRITERS, 100_000), checkpoints())


async def handle(folder: str, poison: str) -> None:
    """A runtime in small: suspects run alone, or are buried; then all else side by side. At the poison it dies.

    Says "runs NAME RECEIVES" when a handler starts, and "handled NAME" or "buried NAME" when that was committed.
    The last of a full hand is leased, but its handler never starts.
    """
    engine = SqliteEngine(Path(folder), clock=SystemClock())
    await engine.open()
    most = engine.state.queues[QUEUE].max_receives

    def begin(delivery: Delivery) -> None:
        say(f"runs {delivery.event.id} {delivery.receives}")
        engine.begin(delivery)

    async def settle(delivery: Delivery, said: str, settle: Settle) -> None:
        commit = new_commit()
        commit.settles.append(settle)
        await engine.commit(commit)
        engine.end(delivery)
        say(f"{said} {delivery.event.id}")

    async def run(deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            begin(delivery)
        if any(delivery.event.id == poison for delivery in deliveries):
            die()
        for delivery in deliveries:
            await settle(delivery, "handled", Settle(QUEUE, delivery.position, delivery.fence))

    for suspect in await engine.suspects(QUEUE):
        if suspect.receives > most:
            await settle(suspect, "buried", Settle(QUEUE, suspect.position, suspect.fence, "bury", reason="died"))
        else:
            await run([suspect])
    while any(stats.depth for stats in await engine.stats() if stats.queue == QUEUE):
        deliveries = await engine.receive(QUEUE, 4)
        await run(deliveries[:3])
        await engine.release(deliveries[3:])
    say("idle")
    await engine.close()


async def load_datasets(folder: str, phase: str, point: str, passes: str) -> None:
    """Load one dataset after the other, saying "flipped GENERATION"; in the third one's phase the fuse is lit."""
    fuse = Fuse("", int(passes))
    vfs = FusedVFS(fuse)
    engine = SqliteEngine(Path(folder), clock=SystemClock(), vfs=vfs.name)
    await engine.open()
    await engine.install(datasets.CATALOG)
    lay(fuse, engine)
    first = await datasets.present(engine)

    def enter(generation: int, entered: str) -> None:
        fuse.point = point if generation == first + 3 and entered == phase else ""

    for generation in range(first + 1, first + 6):
        await datasets.load(engine, generation, enter, lambda flipped: say(f"flipped {flipped}"))
    say("unharmed")
    sys.stdin.read()


async def hold(folder: str) -> None:
    """Own the store until standard input ends."""
    engine = SqliteEngine(Path(folder), clock=SystemClock())
    await engine.open()
    say("owns")
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await engine.close()


async def fork(folder: str) -> None:
    """Open a store, leave a child behind, and die; the child ends with standard input."""
    engine = SqliteEngine(Path(folder), clock=SystemClock())
    await engine.open()
    child = os.fork()
    if child == 0:
        try:
            await engine.commit(new_commit())
        except StoreError:
            say("refused")
        os.kill(os.getppid(), signal.SIGKILL)
        while os.read(0, 1):
            pass
        say("child ends")
        os._exit(0)
    await asyncio.sleep(600)


if __name__ == "__main__":
    roles: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
        "load": load,
        "handle": handle,
        "datasets": load_datasets,
        "hold": hold,
        "fork": fork,
    }
    asyncio.run(roles[sys.argv[1]](*sys.argv[2:]))
