"""`consoles`: the pipeline while ten consoles look at it, beside the same pipeline without; rounds alternate.

A console is what a browser makes of one: a stream, and its page anew whenever the stream names it. They are a process
of their own, so that what is measured is what they cost the server: of its rate, and (`cpu_ratio`, which other work on
the machine disturbs less) of its processor time for each message.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import sys
from collections.abc import AsyncIterator
from typing import NamedTuple

from bench.pipeline import make_app, produce
from bench.report import Report, Stopwatch, fdatasync_ms, resident_mb, scratch, versions
from bench.served import running
from bench.stores import Stores
from headwater.clock import SystemClock
from headwater.config import Config
from headwater.console.screens import all_screens
from headwater.console.serving import ServedHouse, console_of
from headwater.runtime.admin import Admin
from headwater.runtime.listener import Listener, bind

ROUNDS = 5
LOOKED_AT = {
    "/": "/",
    "/queues": "/queues",
    "/queues/{app}/{name}": "/queues/bench/noted",
    "/topics/{app}/{name}": "/topics/bench/notes",
    "/traces": "/traces",
    "/letters": "/letters",
    "/tables/{app}/{name}": "/tables/bench/rows",
    "/metrics": "/metrics",
    "/workers": "/workers",
    "/alarms": "/alarms",
}
"""Screens and their addresses: each of the ten consoles shows another."""
_BROWSERS = """
import asyncio, json, sys
import httpx

async def look(http, path, topics):
    await http.get(path)
    known = {}
    async with http.stream("GET", "/stream", params={"topics": " ".join(topics)}) as stream:
        print("open", flush=True)
        async for line in stream.aiter_lines():
            if not line.startswith("data: "):
                continue
            marks = json.loads(line[6:])
            stale = any(name in known and known[name] != mark for name, mark in marks.items())
            known |= marks
            if stale:
                (await http.get(path, headers={"accept": "text/html"})).raise_for_status()
                print("page", flush=True)

async def main():
    async with httpx.AsyncClient(base_url=sys.argv[1], timeout=60) as http:
        await asyncio.gather(*(look(http, path, topics) for path, topics in json.loads(sys.argv[2])))

asyncio.run(main())
"""


class Round(NamedTuple):
    rate: float
    cpu_us: float
    pages: int


async def consoles(n: int = 200_000) -> Report:
    with scratch() as folder:
        alone, watched = await _rounds(Stores(folder), n)
        rate, floor = (statistics.median(one.rate for one in rounds) for rounds in (watched, alone))
        cpu, floor_cpu = (statistics.median(one.cpu_us for one in rounds) for rounds in (watched, alone))
        return Report(
            bench="consoles",
            n=n * ROUNDS,
            rate_s=round(rate),
            floor_s=round(floor),
            ratio=round(rate / floor, 3),
            cpu_us_per_op=round(cpu, 1),
            rss_mb=resident_mb(),
            fdatasync_ms=fdatasync_ms(folder),
            details={
                "cpu_ratio": round(floor_cpu / cpu, 3),
                "floor_cpu_us_per_op": round(floor_cpu, 1),
                "pages": sum(one.pages for one in watched),
                "rates_s": [round(one.rate) for one in watched],
                "floors_s": [round(one.rate) for one in alone],
            },
            versions=versions(),
        )


async def _rounds(stores: Stores, n: int) -> tuple[list[Round], list[Round]]:
    """Those without consoles, those with."""
    left = 0
    done = asyncio.Event()

    def one() -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set()

    app, publish, _ = make_app(one)

    async def measured() -> tuple[float, float]:
        nonlocal left
        left = n
        done.clear()
        with Stopwatch() as watch:
            await produce(n, publish)
            await done.wait()
        return n / watch.seconds, watch.cpu_s / n * 1e6

    alone, watched = [], []
    async with running(stores, app) as supervisor:
        pages, end = console_of(ServedHouse(Admin(supervisor.engine, supervisor)), Config(), SystemClock(), None)
        bound = bind("127.0.0.1", 0)
        listener = Listener(pages, bound)
        serving = listener.start()
        await measured()  # warm
        for _ in range(ROUNDS):
            alone.append(Round(*await measured(), 0))
            async with _looked_at(f"http://127.0.0.1:{bound.getsockname()[1]}") as shown:
                figures = await measured()
                watched.append(Round(*figures, len(shown)))
        end()
        listener.end(1)
        await serving
    return alone, watched


@contextlib.asynccontextmanager
async def _looked_at(url: str) -> AsyncIterator[list[bytes]]:
    """Ten consoles are open; what they were shown anew."""
    topics = {screen.path: screen.topics for screen in all_screens()}
    looks = json.dumps([(address, topics[path]) for path, address in LOOKED_AT.items()])
    browsers = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _BROWSERS, url, looks, stdout=asyncio.subprocess.PIPE
    )
    assert browsers.stdout is not None
    opened = 0
    while opened < len(LOOKED_AT):
        line = await browsers.stdout.readline()
        assert line, "the consoles cannot be opened"
        opened += line == b"open\n"
    shown: list[bytes] = []

    async def follow(told: asyncio.StreamReader) -> None:
        async for line in told:
            shown.append(line)

    following = asyncio.create_task(follow(browsers.stdout))
    try:
        yield shown
    finally:
        browsers.terminate()
        await browsers.wait()
        await following
