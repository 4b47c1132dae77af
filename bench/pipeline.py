"""`pipeline`: publish → durable → no-op handler → durable ack. `changes`: put → change with both images → ack.

On PostgreSQL `rate_two` beside it is the rate of two processes (`sharing.py`), which share the producers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from bench.bare import bare_loop
from bench.bare_postgres import raw_limits
from bench.report import Report, Stopwatch, resident_mb
from bench.served import running
from bench.sharing import shared_rate
from bench.stores import Setting, Stores, sqlite
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


async def _floor(stores: Stores, n: int, *, changes: bool) -> tuple[float, float]:
    """(operations a second, operations a commit) of the bare loop."""
    counted = Countdown(n)

    async def handler(_: bytes) -> None:
        counted.one()

    bare = bare_loop(stores, handler, changes=changes)
    await bare.start()

    def put(number: int) -> Awaitable[None]:
        id = new_id()
        return bare.put(id, msgspec.json.encode(Row(id, number, TEXT) if changes else Note(number, TEXT)))

    with Stopwatch() as watch:
        await produce(n, put)
        await counted.done.wait()
    await bare.stop()
    return n / watch.seconds, 2 * n / bare.commits


def make_app(
    counted: Callable[[], None],
) -> tuple[App[None], Callable[[int], Awaitable[object]], Callable[[int], Awaitable[object]]]:
    """The app, and what puts one message into its queues: a publish, a put."""
    app = App("bench")
    notes = app.topic("notes", Note)
    rows = app.table("rows", Row, key="id")

    @app.on(notes, name="noted")
    async def noted(event: Event[Note]) -> None:
        counted()

    @app.on(rows, name="changed")
    async def changed(change: Change[Row]) -> None:
        counted()

    return (
        app,
        lambda number: notes.publish(Note(number, TEXT)),
        lambda number: rows.put(Row(new_id(), number, TEXT)),
    )


async def _run(name: str, n: int, setting: Setting) -> Report:
    changes = name == "changes"
    with setting() as stores:
        floor, group = await _floor(stores, n, changes=changes)
        counted = Countdown(n)
        app, publish, put = make_app(counted.one)
        async with running(stores, app):
            before_s = stores.server_cpu_s()
            with Stopwatch() as watch:
                await produce(n, put if changes else publish)
                await counted.done.wait()
            server_s = stores.server_cpu_s() - before_s
        rate = n / watch.seconds
        details = {"floor_group": round(group, 1)}
        if stores.server:
            details["server_cpu_us_per_op"] = round(server_s / n * 1e6, 1)
            details |= await raw_limits(stores, n // 2, changes=changes)
            details["rate_two"] = round(await shared_rate(stores, n, changes=changes))
        return Report(
            bench=name,
            n=n,
            rate_s=round(rate),
            floor_s=round(floor),
            ratio=round(rate / floor, 3),
            cpu_us_per_op=round(watch.cpu_s / n * 1e6, 1),
            rss_mb=resident_mb(),
            details=details,
            **stores.described(),
        )


async def pipeline(n: int = 100_000, setting: Setting = sqlite) -> Report:
    return await _run("pipeline", n, setting)


async def changes(n: int = 60_000, setting: Setting = sqlite) -> Report:
    return await _run("changes", n, setting)
