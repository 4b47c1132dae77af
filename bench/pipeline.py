"""`pipeline`: publish → durable → no-op handler → durable ack. `changes`: put → change with both images → ack."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from bench.bare import BareLoop
from bench.report import Report, Stopwatch, fdatasync_ms, resident_mb, scratch, versions
from bench.served import running
from headwater import App, Change, Event, new_id

PRODUCERS = 64
TEXT = "abcdefghijklmnop"


class Note(msgspec.Struct):
    n: int
    text: str


class Row(msgspec.Struct):
    id: str
    n: int
    text: str


class Countdown:
    """Set when the handlers have seen all."""

    def __init__(self, n: int) -> None:
        self._left = n
        self.done = asyncio.Event()

    def one(self) -> None:
        self._left -= 1
        if not self._left:
            self.done.set()


async def produce(n: int, produce_one: Callable[[int], Awaitable[object]]) -> None:
    """`n` calls by 64 producers, each waiting for its own."""
    numbers = iter(range(n))

    async def producer() -> None:
        for number in numbers:
            await produce_one(number)

    await asyncio.gather(*(producer() for _ in range(PRODUCERS)))


async def _floor(folder: Path, n: int, *, changes: bool) -> tuple[float, float]:
    """(operations a second, operations a commit) of the bare loop."""
    counted = Countdown(n)

    async def handler(_: bytes) -> None:
        counted.one()

    bare = BareLoop(folder, handler, changes=changes)
    bare.start()

    def put(number: int) -> Awaitable[None]:
        id = new_id()
        return bare.put(id, msgspec.json.encode(Row(id, number, TEXT) if changes else Note(number, TEXT)))

    with Stopwatch() as watch:
        await produce(n, put)
        await counted.done.wait()
    bare.stop()
    return n / watch.seconds, 2 * n / bare.commits


def _app(
    counted: Countdown,
) -> tuple[App[None], Callable[[int], Awaitable[object]], Callable[[int], Awaitable[object]]]:
    app = App("bench")
    notes = app.topic("notes", Note)
    rows = app.table("rows", Row, key="id")

    @app.on(notes, name="noted")
    async def noted(event: Event[Note]) -> None:
        counted.one()

    @app.on(rows, name="changed")
    async def changed(change: Change[Row]) -> None:
        counted.one()

    return (
        app,
        lambda number: notes.publish(Note(number, TEXT)),
        lambda number: rows.put(Row(new_id(), number, TEXT)),
    )


async def _run(name: str, n: int) -> Report:
    changes = name == "changes"
    with scratch() as folder:
        floor, group = await _floor(folder, n, changes=changes)
        counted = Countdown(n)
        app, publish, put = _app(counted)
        async with running(folder, app):
            with Stopwatch() as watch:
                await produce(n, put if changes else publish)
                await counted.done.wait()
        rate = n / watch.seconds
        return Report(
            bench=name,
            n=n,
            rate_s=round(rate),
            floor_s=round(floor),
            ratio=round(rate / floor, 3),
            cpu_us_per_op=round(watch.cpu_s / n * 1e6, 1),
            rss_mb=resident_mb(),
            fdatasync_ms=fdatasync_ms(folder),
            details={"floor_group": round(group, 1)},
            versions=versions(),
        )


async def pipeline(n: int = 100_000) -> Report:
    return await _run("pipeline", n)


async def changes(n: int = 60_000) -> Report:
    return await _run("changes", n)
