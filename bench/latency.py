"""`latency`: from a write to the entry of its handler, at 50 writes a second on an idle server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec

from bench.bare import bare_loop
from bench.pipeline import TEXT, Row
from bench.report import Report, percentile, resident_mb
from bench.served import running
from bench.stores import Setting, Stores, sqlite
from headwater import App, Change, new_id

PERIOD_S = 0.02
PATIENCE_S = 60.0


async def _measure(n: int, write: Callable[[str], Awaitable[object]], entered: dict[str, float]) -> list[float]:
    """Milliseconds of `n` writes, one each 20 ms; the first ten warm up."""
    begun: dict[str, float] = {}
    for _ in range(n + 10):
        id = new_id()
        begun[id] = time.perf_counter()
        await write(id)
        await asyncio.sleep(PERIOD_S)
    async with asyncio.timeout(PATIENCE_S):
        while not entered.keys() >= begun.keys():  # noqa: ASYNC110
            await asyncio.sleep(PERIOD_S)
    return [(entered[id] - start) * 1000 for id, start in list(begun.items())[10:]]


async def _floor(stores: Stores, n: int) -> list[float]:
    entered: dict[str, float] = {}

    async def handler(body: bytes) -> None:
        entered[body["id"]] = time.perf_counter()  # type: ignore[call-overload]

    bare = bare_loop(stores, handler, changes=True)
    await bare.start()
    samples = await _measure(n, lambda id: bare.put(id, msgspec.json.encode(Row(id, 1, TEXT))), entered)
    await bare.stop()
    return samples


async def latency(n: int = 500, setting: Setting = sqlite) -> Report:
    entered: dict[str, float] = {}
    app = App("bench")
    rows = app.table("rows", Row, key="id")

    @app.on(rows, name="changed")
    async def changed(change: Change[Row]) -> None:
        entered[change.data.id] = time.perf_counter()

    with setting() as stores:
        floor = await _floor(stores, n)
        async with running(stores, app):
            samples = await _measure(n, lambda id: rows.put(Row(id, 1, TEXT)), entered)
        p50, floor_p50 = percentile(samples, 0.5), percentile(floor, 0.5)
        return Report(
            bench="latency",
            n=n,
            p50_ms=round(p50, 3),
            p99_ms=round(percentile(samples, 0.99), 3),
            floor_p50_ms=round(floor_p50, 3),
            ratio=round(floor_p50 / p50, 3),
            rss_mb=resident_mb(),
            details={"floor_p99_ms": round(percentile(floor, 0.99), 3)},
            **stores.described(),
        )
