"""`console`: how long its pages take over a store with `n` messages and `n` documents, beside those of an empty one.

There are `n` / 10 dead letters, too. Searches are for a text that nothing has, so that they look as far as they may.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx

from bench.report import Report, fdatasync_ms, percentile, resident_mb, scratch, versions
from bench.served import running
from bench.stores import Stores
from headwater import App, Event, Undeliverable
from headwater.clock import SystemClock
from headwater.config import Config
from headwater.console.serving import ServedHouse, console_of
from headwater.engine import Engine
from headwater.runtime.admin import Admin

PAGES = (
    "/",
    "/queues",
    "/queues/bench/jobs",
    "/queues/bench/jobs?q=nowhere",
    "/letters",
    "/letters?q=nowhere",
    "/letters?queue=bench/broken",
    "/letters?queue=bench/broken&exception=Undeliverable",
    "/letters/1",
    "/traces",
    "/traces?q=nowhere",
    "/traces?state=dead",
    "/tables",
    "/tables/bench/rows",
    "/tables/bench/rows?index=by-group",
    "/tables/bench/rows?q=nowhere",
    "/tables/bench/rows/row?key=%5B%2200000000%22%5D",
    "/operations",
    "/schedules",
    "/alarms",
    "/metrics",
    "/mail",
    "/buckets",
    "/apis",
    "/keys",
    "/workers",
    "/audit",
)
EACH = 9
SLICE = 500
TEXT = "x" * 100


async def console(n: int = 1_000_000) -> Report:
    with scratch() as folder:
        empty = await _measured(folder / "empty", 1)
        full = await _measured(folder / "full", n)
        slow = sorted(full.items(), key=lambda timed: -timed[1])[:6]
        slowest = slow[0][0]
        typical, floor = percentile(list(full.values()), 0.5), percentile(list(empty.values()), 0.5)
        return Report(
            bench="console",
            n=n,
            p50_ms=round(typical, 3),
            p99_ms=round(full[slowest], 3),
            floor_p50_ms=round(floor, 3),
            ratio=round(floor / typical, 3),
            rss_mb=resident_mb(),
            fdatasync_ms=fdatasync_ms(folder),
            details={"slowest": slowest, "slow_ms": {page: round(ms) for page, ms in slow}},
            versions=versions(),
        )


async def _measured(folder: Path, n: int) -> dict[str, float]:
    """The median of each page in milliseconds."""
    app = App("bench")
    rows = app.table("rows", dict, key="id", indexes={"by-group": ("group", "id")}, images="none")
    jobs = app.queue("jobs", dict)
    broken = app.queue("broken", dict)

    @app.on(broken, name="broken")
    async def bury(message: Event[dict[str, Any]]) -> None:
        raise Undeliverable(f"{message.data['n'] % 7} is broken")

    folder.mkdir()
    async with running(Stores(folder), app) as supervisor:
        for first in range(0, n, SLICE):
            async with app.transaction():
                for at in range(first, min(first + SLICE, n)):
                    await rows.put({"id": f"{at:08}", "group": f"g{at % 100}", "text": TEXT})
                    await jobs.send({"n": at, "text": TEXT})
                    if at % 10 == 0:
                        await broken.send({"n": at, "text": TEXT})
        await _until_dead(supervisor.engine, -(-n // 10))
        house = ServedHouse(Admin(supervisor.engine, supervisor))
        pages, _ = console_of(house, Config(), SystemClock(), None)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(pages), base_url="http://localhost") as http:
            return {page: await _median(http, page) for page in PAGES}


async def _until_dead(engine: Engine, n: int) -> None:
    for _ in range(6_000):
        if sum(stats.dead for stats in await engine.stats()) >= n:
            return
        await asyncio.sleep(0.1)
    raise RuntimeError("the letters do not die")


async def _median(http: httpx.AsyncClient, page: str) -> float:
    samples = []
    for _ in range(EACH):
        begun = time.perf_counter()
        answer = await http.get(page)
        samples.append((time.perf_counter() - begun) * 1000)
        assert answer.status_code == 200, f"{page}: {answer.text[:500]}"
    return percentile(samples, 0.5)
