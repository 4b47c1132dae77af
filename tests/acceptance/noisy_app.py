"""An app that logs: by structlog and by the standard library, in requests and in handlers."""

from __future__ import annotations

import asyncio
import logging

import structlog
from pydantic import BaseModel

from headwater import App, Event, attempt, step

app = App("noisy")
log, plain = structlog.get_logger(), logging.getLogger("noisy.plain")


class Job(BaseModel):
    id: str


jobs = app.queue("jobs", Job, max_receives=2, backoff="50ms")
threads = app.queue("threads", Job)
batches = app.queue("batches", Job)


@app.http.post("/jobs/{id}", status_code=202)
async def send(id: str) -> None:
    log.info("in a request", own=1)
    plain.warning("in a request, plainly")
    await jobs.send(Job(id=id))
    await threads.send(Job(id=id))
    await batches.send(Job(id=id))


@app.http.get("/broken/{id}")
async def broken(id: str) -> None:
    raise RuntimeError("it broke")


@app.on(jobs)
async def work(event: Event[Job]) -> None:
    log.info("in a handler")

    async def inside() -> None:
        log.info("in a step")

    await step("inside", inside)
    await asyncio.create_task(note())
    if event.data.id == "bad":
        raise ValueError("it is bad\nand more")


async def note() -> None:
    plain.warning("in a handler's task, plainly")


@app.on(threads)
def work_in_thread(event: Event[Job]) -> None:
    log.info("in a thread")


@app.on(batches, batch=10)
async def work_in_batch(events: list[Event[Job]]) -> None:
    for event in events:
        async with attempt(event):
            log.info("in an attempt")
