"""`groups`: a FIFO queue with ten thousand groups, and with one group that is stuck.

The rate is that of receive + ack with as many groups, over that of a queue without groups (the floor). Beside it, in
microseconds, what it takes to claim a message of one group among many, alone and with 100,000 messages stuck behind
the head of another that is in back-off; `after_start` is the first claim when the store was opened anew.
"""

from __future__ import annotations

import asyncio
import time

from bench.pipeline import TEXT, Note
from bench.report import Report, Stopwatch, percentile, resident_mb
from bench.stores import Setting, sqlite
from headwater import App
from headwater.clock import SystemClock
from headwater.codec import encode_json
from headwater.engine import Engine
from headwater.engines import make_engine
from headwater.events import MESSAGE, Delivery, Envelope
from headwater.graph import build_graph
from headwater.runtime.server import tune_interpreter
from headwater.unit import Commit, Emit, Settle, new_commit

GROUPS = 10_000
CLAIMS = 2_000
ROUNDS = 3
_A_COMMIT = 500
_AT_ONCE = 64
_FAR_MS = 1 << 50


async def fill(engine: Engine, queue: str, n: int, groups: int = 0, name: str = "g") -> None:
    """Send `n` messages, to so many groups in turn; 0: without groups."""
    body = encode_json({"n": 1, "text": TEXT})
    for start in range(0, n, _A_COMMIT):
        commit = new_commit()
        for k in range(start, min(start + _A_COMMIT, n)):
            event = Envelope(id=f"{commit.id}-{k}", source=queue, type=MESSAGE, data=body, trace=commit.trace)
            commit.emits.append(Emit(event, queue, f"{name}{k % groups}" if groups else None))
        await engine.commit(commit)


def _settled(delivery: Delivery, **how: object) -> Settle:
    return Settle(delivery.queue, delivery.position, delivery.fence, **how)  # type: ignore[arg-type]


async def _drain(engine: Engine, queue: str, n: int) -> float:
    """Messages a second, received 64 at a time and acknowledged without waiting for the flush."""
    done, acks = 0, []
    with Stopwatch() as watch:
        while done < n:
            deliveries = await engine.receive(queue, _AT_ONCE)
            acks.append(engine.commit(Commit(id="", settles=[_settled(x) for x in deliveries], tolerant=True)))
            done += len(deliveries)
        await asyncio.gather(*acks)
    return n / watch.seconds


async def _claims(engine: Engine, queue: str, count: int) -> tuple[float, float]:
    """(median, first) microseconds of a claim, of messages that wait in many groups."""
    await fill(engine, queue, count, count // 2, "claimed")
    samples = []
    for _ in range(count):
        begun = time.perf_counter()
        (delivery,) = await engine.receive(queue, 1)
        samples.append((time.perf_counter() - begun) * 1e6)
        await engine.commit(Commit(id="", settles=[_settled(delivery)], tolerant=True))
    return round(percentile(samples, 0.5), 1), round(samples[0], 1)


async def _stick(engine: Engine, queue: str, n: int) -> None:
    """`n` messages of one group, whose head has failed and is far from its next receive."""
    await fill(engine, queue, n, 1, "stuck")
    (head,) = await engine.receive(queue, 1)
    await engine.commit(new_commit_of(_settled(head, outcome="retry", ready_ms=_FAR_MS)))


def new_commit_of(settle: Settle) -> Commit:
    commit = new_commit()
    commit.settles.append(settle)
    return commit


async def groups(n: int = 100_000, setting: Setting = sqlite) -> Report:
    claims = min(CLAIMS, n // 10)
    app = App("bench")
    plain = app.queue("plain", Note, retention="30d").name
    fifo = app.queue("fifo", Note, retention="30d", fifo=True).name
    stuck = app.queue("stuck", Note, retention="30d", fifo=True).name
    with setting() as stores:
        engine = make_engine(stores.url(), clock=SystemClock())
        await engine.open()
        await engine.install(build_graph([app]).catalog)
        tune_interpreter()
        rates: dict[str, list[float]] = {plain: [], fifo: []}
        for _ in range(ROUNDS):
            for queue, found in rates.items():
                await fill(engine, queue, n, GROUPS if queue == fifo else 0)
                found.append(await _drain(engine, queue, n))
        await _stick(engine, stuck, n)
        alone, behind = [], []
        for _ in range(ROUNDS):
            alone.append((await _claims(engine, fifo, claims))[0])
            behind.append((await _claims(engine, stuck, claims))[0])
        await engine.close()
        await engine.open()
        _, after_start = await _claims(engine, stuck, claims)
        memory = resident_mb()
        await engine.close()
        described = stores.described()
    floor, rate = max(rates[plain]), max(rates[fifo])
    return Report(
        bench="groups",
        n=n,
        rate_s=round(rate),
        floor_s=round(floor),
        ratio=round(rate / floor, 3),
        rss_mb=memory,
        details={
            "claim_us": min(alone),
            "claim_beside_stuck_us": min(behind),
            "growth": round(min(behind) / min(alone) - 1, 3),
            "after_start_us": after_start,
        },
        **described,
    )
