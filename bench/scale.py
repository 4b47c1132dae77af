"""`scale`: a burst of jobs that only compute, at a queue without workers; two processes, and one (the floor).

The rate is that of jobs while both processes work, the ratio the speed-up. Beside it, in seconds: from the burst to
the begin of the first job, to two busy processes, to empty, and from there to no process (the cool-down is two
seconds). The speed-up of bare processes with the same work tells how much of two cores there was.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec

from bench.mill import COOLDOWN_S, ROUNDS, Done, done
from bench.report import Report, Stopwatch, fdatasync_ms, resident_mb, scratch, versions
from headwater.codec import encode_json
from headwater.config import admin_socket
from headwater.engine import Query
from headwater.engines import make_engine

PATIENCE_S = 120.0
A_REQUEST = 100


class Burst(msgspec.Struct, frozen=True):
    """What became of a burst that was sent at `sent`; `zero` is when no worker was left."""

    sent: float
    zero: float
    rows: list[Done]

    @property
    def begins(self) -> list[float]:
        """When each process began its first job."""
        first: dict[int, float] = {}
        for row in self.rows:
            first[row.process] = min(row.begun, first.get(row.process, row.begun))
        return sorted(first.values())

    @property
    def empty(self) -> float:
        return max(row.ended for row in self.rows)

    @property
    def rate_s(self) -> float:
        """Jobs a second since all processes work."""
        since = self.begins[-1]
        return sum(1 for row in self.rows if row.begun >= since) / (self.empty - since)


async def scale(n: int = 500) -> Report:
    with Stopwatch() as watch, scratch() as folder:
        one = await _burst(folder / "one", n, 1)
        two = await _burst(folder / "two", n, 2)
        bare = await _bare(2, n) / await _bare(1, n)
        flush_ms = fdatasync_ms(folder)
    return Report(
        bench="scale",
        n=n,
        rate_s=round(two.rate_s, 1),
        floor_s=round(one.rate_s, 1),
        ratio=round(two.rate_s / one.rate_s, 3),
        cpu_us_per_op=round(watch.cpu_s / n * 1e6, 1),
        rss_mb=resident_mb(),
        fdatasync_ms=flush_ms,
        details={
            "first_job_s": round(two.begins[0] - two.sent, 3),
            "two_busy_s": round(two.begins[1] - two.sent, 3) if len(two.begins) > 1 else None,
            "empty_s": round(two.empty - two.sent, 3),
            "empty_one_process_s": round(one.empty - one.sent, 3),
            "back_at_zero_s": round(two.zero - two.empty, 3),
            "cooldown_s": COOLDOWN_S,
            "bare_speed_up": round(bare, 3),
        },
        versions=versions(),
    )


async def _bare(processes: int, n: int) -> float:
    """Jobs a second of processes that do nothing else: what the machine gives at this time."""
    count = max(1, n // processes)
    code = f"""
import hashlib, time
begun = time.time()
for _ in range({count}):
    hashlib.pbkdf2_hmac("sha256", b"grain", b"salt", {ROUNDS})
print(begun, time.time())
"""
    started = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
        for _ in range(processes)
    ]
    times = [[float(word) for word in (await process.communicate())[0].split()] for process in started]
    return count * processes / (max(end for _, end in times) - min(begin for begin, _ in times))


async def _burst(folder: Path, n: int, workers: int) -> Burst:
    folder.mkdir()
    store = f"sqlite:{folder}"
    async with _serving(store, workers) as admin:
        address = (await _ask(admin, "status"))["server"]["address"]
        async with httpx.AsyncClient() as client:
            sent = time.time()
            for start in range(0, n, A_REQUEST):
                body = encode_json([{"n": number} for number in range(start, min(start + A_REQUEST, n))])
                answer = await client.post(
                    f"{address}/mill/jobs", content=body, headers={"content-type": "application/json"}
                )
                answer.raise_for_status()
        zero = await _until_zero(admin)
    return Burst(sent, zero, await _rows(store))


@asynccontextmanager
async def _serving(store: str, workers: int) -> AsyncIterator[httpx.AsyncClient]:
    """A server of the mill; a client of its admin API."""
    environment = {**os.environ, "HEADWATER_STORE": store, "MILL_WORKERS": str(workers), "HEADWATER_LOG_LEVEL": "error"}
    command = (sys.executable, "-m", "headwater.cli", "run", "bench.mill", "--port", "0")
    server = await asyncio.create_subprocess_exec(*command, env=environment, stderr=asyncio.subprocess.DEVNULL)
    transport = httpx.AsyncHTTPTransport(uds=str(admin_socket(store)))
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://admin") as admin:
            async with asyncio.timeout(PATIENCE_S):
                while not await _ready(admin):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            yield admin
    finally:
        server.send_signal(signal.SIGTERM)
        await server.wait()


async def _ready(admin: httpx.AsyncClient) -> bool:
    try:
        return bool((await _ask(admin, "scales"))["scales"][0]["reason"])
    except httpx.TransportError:
        return False


async def _ask(admin: httpx.AsyncClient, operation: str) -> Any:
    return (await admin.post(f"/v1/{operation}", json={})).raise_for_status().json()


async def _until_zero(admin: httpx.AsyncClient) -> float:
    """When no worker is left; first there must have been one."""
    seen = False
    async with asyncio.timeout(PATIENCE_S):
        while True:
            (shown,) = (await _ask(admin, "scales"))["scales"]
            seen = seen or bool(shown["running"])
            if seen and not (shown["running"] or shown["backlog"]):
                return time.time()
            await asyncio.sleep(0.05)


async def _rows(store: str) -> list[Done]:
    engine = make_engine(store)
    await engine.open()
    try:
        found, query = list[Done](), Query(table=done.name, limit=1000)
        while True:
            page = await engine.query(query)
            found += [done.codec.decode(record.body) for record in page.records]
            if page.next is None:
                return found
            query = msgspec.structs.replace(query, after=page.next)
    finally:
        await engine.close()
