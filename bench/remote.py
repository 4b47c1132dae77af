"""`remote`: commits of a worker process through the socket, 64 in flight. Floor: the same in the owner itself."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

import uvloop

from bench.report import Report, Stopwatch, fdatasync_ms, resident_mb, scratch, versions
from headwater import new_id
from headwater.catalog import Catalog, TableSpec
from headwater.clock import SystemClock
from headwater.engine import Engine
from headwater.engines import make_engine, remote_engine, share_engine
from headwater.unit import Write, new_commit

IN_FLIGHT = 64
TABLE = "bench/rows"
BODY = b'{"id":"abcdefghijklmnop","n":1,"text":"abcdefghijklmnop"}'


async def _commit(engine: Engine, n: int) -> float:
    """`n` commits of one row; how many a second."""
    numbers = iter(range(n))

    async def writer() -> None:
        for _ in numbers:
            commit = new_commit()
            commit.writes.append(Write(TABLE, (new_id(), ""), f"{commit.id}-0", BODY))
            await engine.commit(commit)

    with Stopwatch() as watch:
        await asyncio.gather(*(writer() for _ in range(IN_FLIGHT)))
    return n / watch.seconds


async def _work(path: str, n: int) -> float:
    """The worker's part, in a process of its own."""
    engine = remote_engine(Path(path), clock=SystemClock(), check=lambda _: None)
    await engine.open()
    try:
        await _commit(engine, n // 10)
        return await _commit(engine, n)
    finally:
        await engine.close()


async def remote(n: int = 60_000) -> Report:
    with scratch() as folder:
        engine = make_engine(f"sqlite:{folder}/store")
        await engine.open()
        await engine.install(Catalog(apps=("bench",), tables={TABLE: TableSpec(name=TABLE, partition="id")}))
        owner = share_engine(engine, report=lambda _: None)
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(f"{folder}/s")
            await owner.start(bound)
            with Stopwatch() as watch:
                worker = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "bench.remote", f"{folder}/s", str(n), stdout=asyncio.subprocess.PIPE
                )
                said, _ = await worker.communicate()
            await owner.close()
        rate = float(said)
        floor = await _commit(engine, n)
        await engine.close()
        return Report(
            bench="remote",
            n=n,
            rate_s=round(rate),
            floor_s=round(floor),
            ratio=round(rate / floor, 3),
            cpu_us_per_op=round(watch.cpu_s / n * 1e6, 1),
            rss_mb=resident_mb(),
            fdatasync_ms=fdatasync_ms(folder),
            details={"in_flight": IN_FLIGHT},
            versions=versions(),
        )


if __name__ == "__main__":
    print(uvloop.run(_work(sys.argv[1], int(sys.argv[2]))))
