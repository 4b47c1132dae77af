"""`console`: how long its pages take over a store with `n` messages and `n` documents, beside those of an empty one."""

from __future__ import annotations

import time
from pathlib import Path

import httpx

from bench.report import Report, fdatasync_ms, percentile, resident_mb, scratch, versions
from bench.served import running
from bench.stores import Stores
from headwater import App
from headwater.clock import SystemClock
from headwater.config import Config
from headwater.console.serving import ServedHouse, console_of
from headwater.runtime.admin import Admin

PAGES = (
    "/",
    "/queues",
    "/queues/bench/jobs",
    "/letters",
    "/traces",
    "/tables",
    "/tables/bench/rows",
    "/tables/bench/rows?index=by-group",
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
        slowest = max(full, key=lambda page: full[page])
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
            details={"slowest": slowest},
            versions=versions(),
        )


async def _measured(folder: Path, n: int) -> dict[str, float]:
    """The median of each page in milliseconds."""
    app = App("bench")
    rows = app.table("rows", dict, key="id", indexes={"by-group": ("group", "id")}, images="none")
    jobs = app.queue("jobs", dict)
    folder.mkdir()
    async with running(Stores(folder), app) as supervisor:
        for first in range(0, n, SLICE):
            async with app.transaction():
                for at in range(first, min(first + SLICE, n)):
                    await rows.put({"id": f"{at:08}", "group": f"g{at % 100}", "text": TEXT})
                    await jobs.send({"n": at, "text": TEXT})
        house = ServedHouse(Admin(supervisor.engine, supervisor))
        pages, _ = console_of(house, Config(), SystemClock(), None)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(pages), base_url="http://localhost") as http:
            return {page: await _median(http, page) for page in PAGES}


async def _median(http: httpx.AsyncClient, page: str) -> float:
    samples = []
    for _ in range(EACH):
        begun = time.perf_counter()
        answer = await http.get(page)
        samples.append((time.perf_counter() - begun) * 1000)
        assert answer.status_code == 200, f"{page}: {answer.text[:500]}"
    return percentile(samples, 0.5)
