"""A worker inside the test's process: what its apps may and may not do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from headwater import App, Event
from headwater.config import Config
from headwater.errors import DeclarationError, StoreError, Unavailable
from headwater.runtime.worker import Worker
from headwater.testing import Harness

pytestmark = pytest.mark.anyio


def make_app(**options: Any) -> App[None]:
    app = App("shop")
    app.on(app.queue("work", dict), name="work", **options)(lambda event: None)
    return app


def make_worker(tmp_path: Path, app: App[None], *queues: str) -> Worker:
    return Worker([app], Config(store=f"sqlite:{tmp_path}/none"), queues=queues)


async def test_there_must_be_something_to_run(tmp_path: Path) -> None:
    with pytest.raises(DeclarationError, match="nothing to run"):
        make_worker(tmp_path, make_app())
    with pytest.raises(DeclarationError, match="no handler with run_in"):
        make_worker(tmp_path, make_app(run_in="process"), "shop/other")


async def test_what_belongs_to_the_server_is_refused(tmp_path: Path) -> None:
    worker = make_worker(tmp_path, make_app(run_in="process"), "shop/work")
    for name in ("access", "pulls"):
        with pytest.raises(DeclarationError, match="a worker process does not"):
            getattr(worker, name)


async def test_what_only_a_connected_worker_can_do(tmp_path: Path) -> None:
    app = make_app(run_in="process")
    files = app.bucket("files")
    app.expose(files, "/files")
    worker = make_worker(tmp_path, app, "shop/work")
    options: dict[str, Any] = {"size": 0, "sha256": "", "content_type": "", "once": False}
    with pytest.raises(StoreError, match="no secret to sign URLs with"):
        worker.presigner.presign(files, "GET", "a", "1m", **options)
    with pytest.raises(Unavailable):
        await worker.webhooks.unsubscribe("none")


async def test_in_a_harness_the_handler_runs_at_home() -> None:
    app, seen = App("shop"), list[Any]()
    work = app.queue("work", dict)

    @app.on(work, run_in="process")
    def handle(event: Event[dict[str, Any]]) -> None:
        seen.append(event.data)

    async with Harness(app) as h:
        await work.send({"n": 1})
        await h.run_until_idle()
    assert seen == [{"n": 1}]
