from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from headwater.catalog import QueueSpec, TableSpec
from headwater.clock import Clock
from headwater.engine import Engine
from headwater.engines import make_engine
from tests.conformance.sharing import SharedEngine
from tests.conformance.workbench import Store

QUEUE, TABLE = "shop/jobs", "shop/rows"
SPECS = (QueueSpec(name=QUEUE, visibility_ms=30_000), TableSpec(name=TABLE, partition="id"))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Shared(Store):
    """A store whose engine is a worker's; `other()` makes a second worker of the same owner."""

    engine: SharedEngine

    @property
    def owned(self) -> Engine:
        return self.engine.owned


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Shared]:
    def make(clock: Clock, *, read_only: bool = False) -> Engine:
        return SharedEngine(make_engine(f"sqlite:{tmp_path}/store", clock=clock, read_only=read_only))

    store = Shared(make)
    await store.open(*SPECS)
    yield store
    await store.engine.close()
