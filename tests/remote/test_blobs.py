"""What a worker has put and not committed yet is no garbage for the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from headwater import App, Event
from headwater.blobs import Uncommitted
from headwater.config import Config
from headwater.runtime.worker import EXIT_OK, Worker
from headwater.runtime.workers import Workers
from headwater.testing import Harness
from tests.patience import PATIENCE_S
from tests.remote.conftest import Shared
from tests.remote.test_leases import cut, worker

pytestmark = pytest.mark.anyio


class Drawing:
    """An app whose job puts an object, and then takes its time."""

    def __init__(self) -> None:
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()

    def app(self, *, works: bool) -> App[None]:
        app = App[None]("shop")
        files = app.bucket("files")
        jobs = app.queue("jobs", dict, visibility="1d")
        if works:

            @app.on(jobs, run_in="process")
            async def draw(event: Event[dict[str, Any]]) -> None:
                await files.put("sheet", b"bytes")
                self.begun.set()
                await self.go_on.wait()

        return app


@asynccontextmanager
async def worker_of(h: Harness, app: App[None], folder: Path) -> AsyncIterator[Worker]:
    config = Config(store=f"sqlite:{folder}", drain="0s")
    workers = Workers(config, h.supervisor.engine, h.clock)
    with workers.bind() as bound:
        await workers.start(bound, h.supervisor, "")
        worker = Worker([app], config)
        worker.clock = h.clock  # which blobs are named by
        running = asyncio.create_task(worker.run())
        try:
            yield worker
        finally:
            worker._stop.set()
            assert await asyncio.wait_for(running, PATIENCE_S) == EXIT_OK
            await workers.close()


async def until(happened: Callable[[], bool]) -> None:
    for _ in range(int(PATIENCE_S / 0.01)):
        if happened():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it does not happen")


async def test_what_a_long_job_has_put_stays_until_its_commit(tmp_path: Path) -> None:
    drawing = Drawing()
    app = drawing.app(works=False)
    async with Harness(app, store=tmp_path) as h:
        async with worker_of(h, drawing.app(works=True), tmp_path):
            await app.queues["shop/jobs"].send({})
            await asyncio.wait_for(drawing.begun.wait(), PATIENCE_S)
            await until(lambda: len(h.supervisor.uncommitted.ids()) == 1)
            (id,) = h.supervisor.uncommitted.ids()
            await h.advance(hours=3)
            assert await h.supervisor.blobs.ids("", 10) == [id]
            drawing.go_on.set()
            await until(lambda: not h.supervisor.uncommitted.ids())
        assert await app.buckets["shop/files"].get("sheet") == b"bytes"


async def test_what_a_worker_that_ends_has_put_is_collected(tmp_path: Path) -> None:
    drawing = Drawing()
    app = drawing.app(works=False)
    async with Harness(app, store=tmp_path) as h:
        async with worker_of(h, drawing.app(works=True), tmp_path):
            await app.queues["shop/jobs"].send({})
            await asyncio.wait_for(drawing.begun.wait(), PATIENCE_S)
            await until(lambda: len(h.supervisor.uncommitted.ids()) == 1)
        await h.advance(hours=3)
        assert await h.supervisor.blobs.ids("", 10) == []


async def test_blobs_are_held_by_the_connection(store: Shared) -> None:
    uncommitted = Uncommitted()
    store.engine.owner.hold = uncommitted.hold_only
    async with worker(store) as first, worker(store) as second:
        first.hold({"a", "b"})
        second.hold({"c"})
        await asyncio.gather(first.now_ms(), second.now_ms())
        assert uncommitted.ids() == {"a", "b", "c"}
        first.hold({"b"})
        await first.now_ms()
        assert uncommitted.ids() == {"b", "c"}
        lost = first._link
        cut(first)
        await until(lambda: first._link not in (None, lost))
        await first.now_ms()
        assert uncommitted.ids() == {"b", "c"}
        connections = list(store.engine.owner.connections)
    await until(lambda: not uncommitted.ids())
    assert len(connections) == 3, "they exist, and hold nothing"
