"""`http`: POST → durable accept at 64 connections, beside a bare FastAPI echo of the same body.

Both servers run alike (uvicorn, uvloop, httptools, one process); the load comes from this process over raw
sockets, so that the client costs little. Rounds alternate between the two.
"""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bench.report import Report, fdatasync_ms, resident_mb, scratch, versions

CONNECTIONS = 64
ROUNDS = 3
BODY = json.dumps({"n": 1, "text": "abcdefghijklmnop"}).encode()

_ECHO = """
import sys, uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

class Note(BaseModel):
    n: int
    text: str

app = FastAPI()

@app.post("/echo", status_code=202)
async def echo(note: Note) -> Note:
    return note

uvicorn.run(app, port=int(sys.argv[1]), log_config=None, access_log=False, lifespan="off")
"""
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


@asynccontextmanager
async def _served(code: str, *arguments: str) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, *arguments)
    try:
        await _until_open(int(arguments[0]))
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _until_open(port: int) -> None:
    for _ in range(200):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise RuntimeError(f"nothing listens on port {port}")


async def _load(port: int, path: str, n: int) -> float:
    """Requests a second of `n` POSTs over 64 kept connections."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n"
    request = head.encode() + BODY
    numbers = iter(range(n))

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in numbers:
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            if not answer.startswith(b"HTTP/1.1 202"):
                raise RuntimeError(answer.decode())
            length = int(answer.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
        writer.close()

    begun = asyncio.get_running_loop().time()
    await asyncio.gather(*(connection() for _ in range(CONNECTIONS)))
    return n / (asyncio.get_running_loop().time() - begun)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


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
    echo, accept = _free_port(), _free_port()
    async with _served(_ECHO, str(echo)), _served(_ACCEPT, str(accept), f"sqlite:{folder / 'store'}"):
        await _load(echo, "/echo", 500)
        await _load(accept, "/bench/notes", 500)
        for _ in range(ROUNDS):
            floors.append(await _load(echo, "/echo", n))
            rates.append(await _load(accept, "/bench/notes", n))
    return rates, floors
