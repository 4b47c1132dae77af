"""`http`: POST → durable accept at 64 connections, beside a bare FastAPI echo of the same body.

Both servers run alike (uvicorn, uvloop, httptools, one process); the load comes from this process over raw
sockets, so that the client costs little. Rounds alternate between the two.
"""

from __future__ import annotations

import itertools
import json
import statistics
from pathlib import Path

from bench.echo import echo_with
from bench.load import free_port, post, run_load, served
from bench.report import Report, fdatasync_ms, resident_mb, scratch, versions

CONNECTIONS = 64
ROUNDS = 3
BODY = json.dumps({"n": 1, "text": "abcdefghijklmnop"}).encode()

_ACCEPT = """
import asyncio, sys
import uvloop
from pydantic import BaseModel
from headwater import App
from headwater.config import Config
from headwater.runtime.logs import configure_logs
from headwater.runtime.server import Server

class Note(BaseModel):
    n: int
    text: str

configure_logs(lowest="warning")
app = App("bench")
notes = app.queue("notes", Note)

@app.http.post("/notes", status_code=202)
async def accept(note: Note) -> Note:
    await notes.send(note)
    return note

async def main() -> int:
    return await Server([app], Config(store=sys.argv[2], port=int(sys.argv[1]))).run()

sys.exit(uvloop.run(main()))
"""


async def http(n: int = 10_000) -> Report:
    with scratch() as folder:
        rates, floors = await _rounds(folder, n)
        rate, floor = statistics.median(rates), statistics.median(floors)
        return Report(
            bench="http",
            n=n * ROUNDS,
            rate_s=round(rate),
            floor_s=round(floor),
            ratio=round(rate / floor, 3),
            rss_mb=resident_mb(),
            fdatasync_ms=fdatasync_ms(folder),
            details={"rates_s": [round(r) for r in rates], "floors_s": [round(f) for f in floors]},
            versions=versions(),
        )


async def _rounds(folder: Path, n: int) -> tuple[list[float], list[float]]:
    rates, floors = [], []
    echo, accept = free_port(), free_port()
    async with (
        served(echo_with("fastapi", "n: int", "text: str"), str(echo)),
        served(_ACCEPT, str(accept), f"sqlite:{folder / 'store'}"),
    ):
        await _rate(echo, "/echo", 500)
        await _rate(accept, "/bench/notes", 500)
        for _ in range(ROUNDS):
            floors.append(await _rate(echo, "/echo", n))
            rates.append(await _rate(accept, "/bench/notes", n))
    return rates, floors


async def _rate(port: int, path: str, n: int) -> float:
    """Requests a second of `n` POSTs over 64 kept connections."""
    load = await run_load(port, itertools.repeat(post(path, BODY), n), CONNECTIONS)
    if load.accepted != n:
        raise RuntimeError(f"not all were accepted: {dict(load.statuses)}")
    return load.rate_s
