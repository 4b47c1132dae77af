"""The store as a worker process has it: over a socket, from an owner in the same process.

What only the owner does (opening, catalogs, upkeep, looking into queues) goes to its engine directly.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
from pathlib import Path

from headwater.catalog import Catalog
from headwater.clock import Clock
from headwater.engine import DeadLetter, Engine, Features, TracedEvent, Waiting
from headwater.engines import make_engine, share_engine
from headwater.engines.remote.engine import RemoteEngine
from headwater.errors import HeadwaterError
from tests.conformance.workbench import MakeEngine


class SharedEngine(RemoteEngine):
    def __init__(self, owned: Engine) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="shared-"))
        super().__init__(self._folder / "s", clock=owned.clock)
        self.owned = owned
        self.owner = share_engine(owned, report=lambda _: None)

    @property
    def features(self) -> Features:
        return self.owned.features

    async def open(self) -> None:
        await self.owned.open()
        bound = socket.socket(socket.AF_UNIX)
        bound.bind(str(self._folder / "s"))
        await self.owner.start(bound)
        await super().open()

    async def close(self) -> None:
        await super().close()
        await self.owner.close()
        await self.owned.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def install(self, catalog: Catalog) -> int:
        return await self.owned.install(catalog)

    async def check(self) -> list[str]:
        return await self.owned.check()

    async def broken(self) -> HeadwaterError:
        return await self.owned.broken()

    async def peek(self, queue: str, limit: int, after: int = 0) -> list[Waiting]:
        return await self.owned.peek(queue, limit, after)

    async def pause(self, queue: str, paused: bool) -> None:
        await self.owned.pause(queue, paused)

    async def purge(self, queue: str) -> int:
        return await self.owned.purge(queue)

    async def dead_letters(self, queue: str = "", limit: int = 100, after: int = 0) -> list[DeadLetter]:
        return await self.owned.dead_letters(queue, limit, after)

    async def event(self, id: str) -> TracedEvent | None:
        return await self.owned.event(id)

    async def trace(self, trace: str, limit: int = 1000) -> list[TracedEvent]:
        return await self.owned.trace(trace, limit)

    async def events(self, after: int, limit: int = 100) -> list[TracedEvent]:
        return await self.owned.events(after, limit)

    async def expire_records(self, limit: int) -> int:
        return await self.owned.expire_records(limit)

    async def expire_messages(self, limit: int) -> int:
        return await self.owned.expire_messages(limit)

    async def expand(self, table: str) -> int:
        return await self.owned.expand(table)

    async def sweep_loads(self, limit: int) -> int:
        await self.now_ms()  # comes after what the owner was told
        return await self.owned.sweep_loads(limit)

    async def sweep(self, history_ms: int, limit: int, *, most: int | None = None) -> int:
        return await self.owned.sweep(history_ms, limit, most=most)


def shared(folder: Path) -> MakeEngine:
    def make(clock: Clock, *, read_only: bool = False) -> Engine:
        owned = make_engine(f"sqlite:{folder}/store", clock=clock, read_only=read_only)
        return owned if read_only else SharedEngine(owned)

    return make
