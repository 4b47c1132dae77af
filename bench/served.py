"""Running an app in this process for a benchmark, without HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bench.stores import Stores
from headwater.app import App
from headwater.clock import SystemClock
from headwater.engines import make_engine
from headwater.objects import make_blobs
from headwater.runtime.server import tune_interpreter
from headwater.runtime.supervisor import Supervisor


@asynccontextmanager
async def running(stores: Stores, *apps: App[Any]) -> AsyncIterator[Supervisor]:
    async with running_at(stores.url(), stores.folder, *apps) as supervisor:
        yield supervisor


@asynccontextmanager
async def running_at(url: str, folder: Path, *apps: App[Any]) -> AsyncIterator[Supervisor]:
    clock = SystemClock()
    engine = make_engine(url, clock=clock)
    supervisor = Supervisor(apps, engine, clock, blobs=make_blobs(str(folder / "objects")))
    await supervisor.start()
    await supervisor.serve()
    tune_interpreter()
    try:
        yield supervisor
    finally:
        await supervisor.stop(5)
