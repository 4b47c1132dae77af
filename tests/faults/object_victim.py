"""The process that the tests of objects kill: `python -m tests.faults.object_victim FOLDER POINT PASSES`.

It puts, overwrites and deletes objects without end, and says "put KEY ETAG SHA256" or "deleted KEY" when that was
acknowledged.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO

from headwater import App, Bucket, Event, ObjectInfo
from headwater.clock import SystemClock
from headwater.engines.sqlite.engine import SqliteEngine
from headwater.objects.local import Disk, LocalBlobs
from headwater.runtime.supervisor import Supervisor
from tests.faults.victim import Fuse, say

POINTS = (
    "after-create",
    "after-write",
    "after-flush",
    "after-rename",
    "after-flush-folder",
    "before-commit",
    "after-commit",
    "after-acknowledged",
)
KEYS = 12
PUTTERS = 4
SIZE = 600_000


def puts_in(turn: int) -> bool:
    """Whether a putter's turn is a put, else it is a deletion."""
    return turn % 5 != 4


def declare() -> tuple[App[None], Bucket, list[ObjectInfo]]:
    """The app, and what its handler has been given in this process."""
    app = App("shop")
    bucket = app.bucket("uploads")
    seen: list[ObjectInfo] = []

    @app.on(bucket.created)
    async def created(event: Event[ObjectInfo]) -> None:
        seen.append(event.data)

    return app, bucket, seen


class SharedFuse(Fuse):
    """A fuse that several threads burn."""

    def __init__(self, point: str, passes: int) -> None:
        super().__init__(point, passes)
        self._lock = threading.Lock()

    def burn(self, point: str) -> None:
        with self._lock:
            super().burn(point)


class FusedDisk(Disk):
    def __init__(self, fuse: Fuse) -> None:
        self._fuse = fuse

    def create(self, path: Path) -> BinaryIO:
        file = super().create(path)
        self._fuse.burn("after-create")
        return file

    def write(self, file: BinaryIO, data: bytes) -> None:
        super().write(file, data)
        self._fuse.burn("after-write")

    def flush(self, file: BinaryIO) -> None:
        super().flush(file)
        self._fuse.burn("after-flush")

    def rename(self, old: Path, new: Path) -> None:
        super().rename(old, new)
        self._fuse.burn("after-rename")

    def flush_folder(self, path: Path) -> None:
        super().flush_folder(path)
        self._fuse.burn("after-flush-folder")


def lay(fuse: Fuse, engine: SqliteEngine) -> None:
    commit = engine.commit

    def fused(unit: Any) -> Any:
        fuse.burn("before-commit")
        committed = commit(unit)
        committed.add_done_callback(lambda _: fuse.burn("after-commit"))
        return committed

    setattr(engine, "commit", fused)  # noqa: B010


async def put_without_end(folder: Path, fuse: Fuse) -> None:
    app, bucket, _ = declare()
    clock = SystemClock()
    engine = SqliteEngine(folder, clock=clock)
    blobs = LocalBlobs(folder / "objects", FusedDisk(fuse))
    supervisor = Supervisor([app], engine, clock, upkeep=False, blobs=blobs)
    await supervisor.start()
    lay(fuse, engine)

    async def put(number: int) -> None:
        for turn in range(100_000):
            key = f"{number}/{turn % KEYS}"
            if puts_in(turn):
                info = await bucket.put(key, os.urandom(SIZE))
                say(f"put {key} {info.etag} {info.sha256}")
            else:
                await bucket.delete(key)
                say(f"deleted {key}")
            fuse.burn("after-acknowledged")

    await asyncio.gather(*(put(number) for number in range(PUTTERS)))


if __name__ == "__main__":
    asyncio.run(put_without_end(Path(sys.argv[1]), SharedFuse(sys.argv[2], int(sys.argv[3]))))
