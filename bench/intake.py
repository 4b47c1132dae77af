"""`intake`: POST /data with a token at 64 connections, until everything is persisted and acknowledged.

The server is the intake application as it is; rounds alternate with three bare servers that only echo the body:
FastAPI, Starlette and ASGI (uvicorn, uvloop and httptools, as ours). Persisting goes on while requests come in: the
rate of a round is that of all its readings from the first request to the last acknowledgement.

`overload`: the same at three times as many connections as the server takes requests at once. Clients ignore
`Retry-After`; what counts is how much is accepted and persisted while the flood lasts, and that nothing accepted
is lost.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from bench.echo import ECHOES, echo_with
from bench.load import Load, free_port, post, run_load, served
from bench.report import Report, fdatasync_ms, scratch, versions
from headwater.config import admin_socket
from headwater.http.issuers import Issuer
from headwater.http.tokens import mint

CONNECTIONS = 64
ROUNDS = 3
OVERLOAD = 3
REQUESTS_AT_ONCE = 128
MAX_FLOOD_S = 8.0
BODY = json.dumps({"informationOne": "21.5", "informationTwo": "abcdefghijklmnop"}).encode()
SECRET = b"a secret of the benchmark, 32 bytes long"

_BARE = {name: echo_with(name, "informationOne: str", "informationTwo: str") for name in ECHOES}
_INTAKE = """
import asyncio, sys
import msgspec, uvloop
from apps.intake.app import app
from headwater.config import Config
from headwater.runtime.logs import configure_logs
from headwater.runtime.server import Server

configure_logs(lowest="error")
sys.exit(uvloop.run(Server([app], msgspec.json.decode(sys.argv[2], type=Config)).run()))
"""


class Intake:
    """The served application, looked at through its admin API."""

    def __init__(self, port: int, pid: int, store: str) -> None:
        self.port = port
        self._pid = pid
        self._admin = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(admin_socket(store))), base_url="http://admin", timeout=60
        )

    async def waiting(self) -> tuple[int, int]:
        """How many readings wait to be persisted, and how many are dead letters."""
        answer = (await self._admin.post("/v1/queues", json={})).json()
        queue: dict[str, Any] = next(q for q in answer["queues"] if q["name"] == "intake/incoming")
        return queue["depth"], queue["dead"]

    async def settled(self) -> int:
        """Wait until nothing waits any more; how many died."""
        while True:
            depth, dead = await self.waiting()
            if not depth:
                return dead
            await asyncio.sleep(0.01)

    async def rows(self) -> int:
        """How many readings are stored."""
        count = 0
        query: dict[str, Any] = {"table": "intake/readings", "limit": 1000}
        while True:
            page = (await self._admin.post("/v1/table-query", json=query)).json()
            count += len(page["items"])
            if page["cursor"] is None:
                return count
            query["cursor"] = page["cursor"]

    def resident_mb(self) -> float:
        for line in Path(f"/proc/{self._pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return round(int(line.split()[1]) / 1024, 1)
        raise RuntimeError("the server is gone")

    async def close(self) -> None:
        await self._admin.aclose()


@asynccontextmanager
async def intake_served(folder: Path, **limits: int) -> AsyncIterator[Intake]:
    port, store = free_port(), f"sqlite:{folder / 'store'}"
    config = {
        "store": store,
        "port": port,
        "issuers": {"bench": {"issuer": "bench", "audience": "intake", "secret": SECRET.decode(), "roles": "Role"}},
        "plans": {"intake": {}},
        "limits": limits,
    }
    async with served(_INTAKE, str(port), json.dumps(config)) as pid:
        intake = Intake(port, pid, store)
        try:
            yield intake
        finally:
            await intake.close()


def submissions(n: int) -> Iterator[bytes]:
    """Requests of 64 users in turn."""
    issuer = Issuer(issuer="bench", audience="intake", secret=SECRET.decode())
    requests = []
    for user in range(64):
        claims = {"sub": f"user-{user}", "Role": ["data.write", "data.read"]}
        token = mint(claims, SECRET, issuer, now_s=time.time(), valid_s=3600)
        requests.append(post("/intake/data", BODY, f"Authorization: Bearer {token}"))
    return itertools.islice(itertools.cycle(requests), n)


async def intake(n: int = 30_000) -> Report:
    with scratch() as folder:
        floors: dict[str, list[float]] = {name: [] for name in _BARE}
        rounds: list[tuple[Load, float]] = []
        ports = {name: free_port() for name in _BARE}
        async with (
            served(_BARE["fastapi"], str(ports["fastapi"])),
            served(_BARE["starlette"], str(ports["starlette"])),
            served(_BARE["asgi"], str(ports["asgi"])),
            intake_served(folder) as server,
        ):
            await run_load(server.port, submissions(2000), CONNECTIONS)
            await server.settled()
            for _ in range(ROUNDS):
                for name, port in ports.items():
                    bare = itertools.repeat(post("/echo", BODY), n)
                    floors[name].append((await run_load(port, bare, CONNECTIONS)).rate_s)
                rounds.append(await _round(server, n))
            stored, dead = await server.rows(), await server.settled()
            if (stored, dead) != (2000 + n * ROUNDS, 0):
                raise RuntimeError(f"{stored} readings are stored and {dead} dead, of {2000 + n * ROUNDS}")
            rss_mb = server.resident_mb()
        accepted = statistics.median(load.rate_s for load, _ in rounds)
        floor = statistics.median(floors["fastapi"])
        return Report(
            bench="intake",
            n=n * ROUNDS,
            rate_s=round(statistics.median(persisted for _, persisted in rounds)),
            floor_s=round(floor),
            ratio=round(statistics.median(persisted for _, persisted in rounds) / floor, 3),
            p50_ms=statistics.median(load.latency_ms(0.5) for load, _ in rounds),
            p99_ms=statistics.median(load.latency_ms(0.99) for load, _ in rounds),
            rss_mb=rss_mb,
            fdatasync_ms=fdatasync_ms(folder),
            details={
                "accepted_s": round(accepted),
                "rounds": [(round(load.rate_s), round(persisted)) for load, persisted in rounds],
                **{f"bare_{name}_s": round(statistics.median(rates)) for name, rates in floors.items()},
            },
            versions=versions(),
        )


async def _round(server: Intake, n: int) -> tuple[Load, float]:
    """The load, and readings persisted a second over the time until all were."""
    begun = time.perf_counter()
    load = await run_load(server.port, submissions(n), CONNECTIONS)
    if load.accepted != n:
        raise RuntimeError(f"not all were accepted: {dict(load.statuses)}")
    if await server.settled():
        raise RuntimeError("there are dead letters")
    return load, n / (time.perf_counter() - begun)


async def overload(n: int = 30_000) -> Report:
    flood_s = min(MAX_FLOOD_S, max(1.0, n / 3000))
    with scratch() as folder:
        async with intake_served(folder, requests=REQUESTS_AT_ONCE) as server:
            await run_load(server.port, submissions(2000), CONNECTIONS)
            peaks: list[float] = []
            goodputs: list[float] = []
            accepted, shed, rss_mb = 2000, 0, []
            for _ in range(ROUNDS):
                load, peak = await _round(server, n)
                peaks.append(peak)
                flood = Load()
                flooding = asyncio.create_task(
                    run_load(server.port, _for(flood_s, submissions(10**9)), OVERLOAD * REQUESTS_AT_ONCE, flood)
                )
                await asyncio.sleep(flood_s)
                waiting, _ = await server.waiting()
                goodputs.append((flood.accepted - waiting) / flood_s)
                rss_mb.append(server.resident_mb())
                await flooding
                await server.settled()
                accepted += load.accepted + flood.accepted
                shed += flood.statuses[503]
            stored = await server.rows()
            if stored != accepted:
                raise RuntimeError(f"{accepted} were accepted, {stored} are stored")
        peak, goodput = statistics.median(peaks), statistics.median(goodputs)
        return Report(
            bench="overload",
            n=accepted,
            rate_s=round(goodput),
            floor_s=round(peak),
            ratio=round(statistics.median(g / p for g, p in zip(goodputs, peaks, strict=True)), 3),
            rss_mb=max(rss_mb),
            details={"shed": shed, "goodputs_s": [round(g) for g in goodputs], "peaks_s": [round(p) for p in peaks]},
            versions=versions(),
        )


def _for(seconds: float, requests: Iterator[bytes]) -> Iterator[bytes]:
    """The requests until the time has passed."""
    end = time.perf_counter() + seconds
    return itertools.takewhile(lambda _: time.perf_counter() < end, requests)
