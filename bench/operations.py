"""`operations`: pending operations polled in one sweep against a vendor in a process of its own.

Ten times as many completed operations lie beside them. The floor is the same client (httpx) asking the same vendor as
often, with as many calls at once, and nothing else.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal

import httpx
import msgspec
from pydantic import BaseModel

from bench.load import free_port, served
from bench.report import Report, Stopwatch, fdatasync_ms, peak_mb, resident_mb, scratch, versions
from bench.served import running
from bench.stores import Stores
from headwater import App, Operation, Tracked
from headwater.engine import Engine, Query
from headwater.operations.tracked import Progress
from headwater.operations.tracked import Tracked as Record
from headwater.work import UnitOfWork

CALLS = 64
PILED = 10
_SLICE = 200
_VENDOR = """
import asyncio, sys
import uvloop

ANSWER = b'{"status": "pending"}'
RESPONSE = (
    b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(ANSWER)
) + ANSWER

class Vendor(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.head = transport, b""

    def data_received(self, data):
        self.head += data
        while (end := self.head.find(b"\\r\\n\\r\\n")) >= 0:
            self.head = self.head[end + 4:]
            self.transport.write(RESPONSE)

async def main():
    server = await asyncio.get_running_loop().create_server(Vendor, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()

uvloop.run(main())
"""


class Deletion(BaseModel):
    customer: str


class Answer(BaseModel):
    status: Literal["pending", "done"]


def make_app(port: int) -> tuple[App[None], Operation[Deletion, Answer]]:
    app = App("bench")
    vendor = app.service("vendor", base_url=f"http://127.0.0.1:{port}")
    deletions = app.operation(
        "deletions", Deletion, Answer, service=vendor, every="1h", overdue="3d", concurrency=CALLS
    )

    @deletions.on_start
    async def start(op: Tracked[Deletion]) -> httpx.Response:
        return await vendor.client.post("/deletions", json={"customer": op.request.customer})

    @deletions.on_poll
    async def poll(op: Tracked[Deletion]) -> httpx.Response:
        return await vendor.client.get(f"/deletions/{op.external_id}")

    @deletions.on_answer
    def judge(answer: Answer) -> Literal["pending", "completed"]:
        return "completed" if answer.status == "done" else "pending"

    return app, deletions


async def operations(n: int = 100_000) -> Report:
    port = free_port()
    with scratch() as folder:
        async with served(_VENDOR, str(port)):
            app, deletions = make_app(port)
            async with running(Stores(folder), app) as supervisor:
                engine = supervisor.engine
                floor = n / await _ask_plainly(app.services["vendor"].client, n)
                await engine.pause(deletions.ledger.calls, True)
                await _open(engine, deletions, n)
                before_ms = await _due_query_ms(engine, deletions)
                await deletions.table.load(_completed(n * PILED))
                after_ms = await _due_query_ms(engine, deletions)
                held = resident_mb()
                await engine.pause(deletions.ledger.calls, False)
                with Stopwatch() as sweep:
                    await _until_polled(engine, deletions)
        flush_ms = fdatasync_ms(folder)
        rate = n / sweep.seconds
        return Report(
            bench="operations",
            n=n,
            rate_s=round(rate),
            floor_s=round(floor),
            ratio=round(rate / floor, 3),
            cpu_us_per_op=round(sweep.cpu_s / n * 1e6, 1),
            rss_mb=resident_mb(),
            fdatasync_ms=flush_ms,
            details={
                "completed": n * PILED,
                "due_query_ms": before_ms,
                "due_query_ms_completed_piled": after_ms,
                "rss_before_sweep_mb": held,
                "peak_mb": peak_mb(),
            },
            versions=versions(),
        )


async def _ask_plainly(client: httpx.AsyncClient, n: int) -> float:
    """Seconds that `n` polls take without anything of ours."""
    numbers = iter(range(n))

    async def ask() -> None:
        for number in numbers:
            (await client.get(f"/deletions/d{number}")).raise_for_status()

    begun = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(CALLS)))
    return time.perf_counter() - begun


def _record(number: int, state: str, **more: Any) -> Record[Any]:
    subject = f"{state[0]}{number:08d}"
    return Record(
        subject=subject,
        id=f"{number:032x}",
        request=Deletion(customer=subject),
        state=state,  # type: ignore[arg-type]
        external_id=f"d{number}",
        requested_ms=1_700_000_000_000 + number,
        deadline_ms=1_900_000_000_000,
        **more,
    )


async def _open(engine: Engine, deletions: Operation[Deletion, Answer], n: int) -> None:
    """Pending operations whose next poll is due now."""
    ledger, encode = deletions.ledger, deletions.table.codec.encode
    now_ms = await engine.now_ms()
    for chunk in _chunks(n):
        unit = UnitOfWork(engine)
        for number in chunk:
            record = msgspec.json.decode(encode(_record(number, "pending")), type=Record[msgspec.Raw])
            progress = Progress(subject=record.subject, id=record.id)
            ledger.wake(unit, progress, now_ms, 1)
            ledger.save(unit, record, progress)
        await unit.commit()


def _chunks(n: int) -> Iterator[range]:
    return (range(at, min(at + _SLICE, n)) for at in range(0, n, _SLICE))


async def _completed(n: int) -> AsyncIterator[Record[Any]]:
    for number in range(n):
        yield _record(number, "completed", standing="", ended_ms=1_700_000_000_000)


async def _due_query_ms(engine: Engine, deletions: Operation[Deletion, Answer]) -> float:
    query = Query(table=deletions.ledger.opened, index="due", partition="open", limit=100)
    samples = []
    for _ in range(50):
        begun = time.perf_counter()
        await engine.query(query)
        samples.append((time.perf_counter() - begun) * 1000)
    return round(statistics.median(samples), 3)


async def _until_polled(engine: Engine, deletions: Operation[Deletion, Answer]) -> None:
    """Until each operation waits for its next poll, an hour from now."""
    soon_ms = await engine.now_ms() + 1_800_000
    first = Query(table=deletions.ledger.opened, index="due", partition="open", high=soon_ms, limit=1)
    while (await engine.query(first)).records:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
