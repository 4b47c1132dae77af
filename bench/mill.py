"""The app of the benchmark `scale`: jobs that only compute, in worker processes."""

from __future__ import annotations

import hashlib
import os
import time

import msgspec

from headwater import App, Event, Scale, anyone, wait

ROUNDS = 60_000
COOLDOWN_S = 2.0


class Job(msgspec.Struct):
    n: int


class Done(msgspec.Struct):
    n: int
    id: str
    process: int
    begun: float
    ended: float


app = App[None]("mill")
jobs = app.queue("jobs", Job)
done = app.table("done", Done, key="id", images="none")
app.ingest(jobs, "/jobs", auth=anyone())
SCALE = Scale(max=int(os.environ.get("MILL_WORKERS", "2")), backlog_per_worker=10, cooldown=COOLDOWN_S)


@app.on(jobs, run_in="process", scale=SCALE)
def compute(event: Event[Job]) -> None:
    begun = time.time()
    hashlib.pbkdf2_hmac("sha256", b"grain", event.id.encode(), ROUNDS)
    wait(done.put(Done(event.data.n, event.id, os.getpid(), begun, time.time())))
