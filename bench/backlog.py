"""`backlog`: the rate of receive + ack with ten thousand and with three million waiting messages.

Each size runs in a process of its own, whose memory is the second figure. The floor is the smaller backlog's rate.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys

from bench.pipeline import TEXT, Note
from bench.report import Report, Stopwatch, resident_mb
from bench.stores import Setting, sqlite
from headwater import App
from headwater.clock import SystemClock
from headwater.codec import encode_json
from headwater.engine import Engine
from headwater.engines import make_engine
from headwater.events import MESSAGE, Envelope
from headwater.graph import build_graph
from headwater.unit import Commit, Emit, Settle, new_commit

SMALL, LARGE = 10_000, 3_000_000
MEASURED = 8_000
ROUNDS = 8
_A_COMMIT = 500
_AT_ONCE = 64


async def _fill(engine: Engine, queue: str, n: int) -> None:
    """Send `n` messages, many to a commit, a few commits at a time."""
    body = encode_json({"n": 1, "text": TEXT})
    pending = []
    for _ in range(0, n, _A_COMMIT):
        commit = new_commit()
        commit.emits = [
            Emit(
                Envelope(id=f"{commit.id}-{k}", source=queue, type=MESSAGE, data=body, trace=commit.trace), queue=queue
            )
            for k in range(_A_COMMIT)
        ]
        pending.append(engine.commit(commit))
        if len(pending) == 8:
            await asyncio.gather(*pending)
            pending.clear()
    await asyncio.gather(*pending)


async def one_size(n: int, url: str) -> dict[str, float]:
    """The median rate of rounds that each take `MEASURED` messages; what they take is sent again after each."""
    app = App("bench")
    queue = app.queue("backlog", Note, retention="30d").name
    engine = make_engine(url, clock=SystemClock())
    await engine.open()
    await engine.install(build_graph([app]).catalog)
    await _fill(engine, queue, n)
    await engine.close()
    await engine.open()
    rates, measured = [], min(MEASURED, n)
    for _ in range(ROUNDS):
        rates.append(await _drain_some(engine, queue, measured))
        await _fill(engine, queue, measured)
    memory = resident_mb()
    await engine.close()
    return {"rate": statistics.median(rates[1:]), "rss_mb": memory}


async def _drain_some(engine: Engine, queue: str, count: int) -> float:
    done, acks = 0, []
    with Stopwatch() as watch:
        while done < count:
            deliveries = await engine.receive(queue, _AT_ONCE)
            settles = [Settle(queue, d.position, d.fence) for d in deliveries]
            acks.append(engine.commit(Commit(id="", settles=settles)))
            done += len(deliveries)
        await asyncio.gather(*acks)
    return done / watch.seconds


async def _in_process(n: int, url: str) -> dict[str, float]:
    code = "import asyncio, json, sys; from bench.backlog import one_size"
    code += "; print(json.dumps(asyncio.run(one_size(int(sys.argv[1]), sys.argv[2]))))"
    command = (sys.executable, "-c", code, str(n), url)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the run with {n} messages failed")
    found: dict[str, float] = json.loads(output)
    return found


async def backlog(n: int = LARGE, setting: Setting = sqlite) -> Report:
    few = min(SMALL, n // 2)
    with setting() as stores:
        small = await _in_process(few, stores.url("small"))
        large = await _in_process(n, stores.url("large"))
        described = stores.described()
    return Report(
        bench="backlog",
        n=n,
        rate_s=round(large["rate"]),
        floor_s=round(small["rate"]),
        ratio=round(large["rate"] / small["rate"], 3),
        rss_mb=large["rss_mb"],
        details={"small_n": few, "small_rss_mb": small["rss_mb"]},
        **described,
    )
