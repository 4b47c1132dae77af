"""The app of the tests with many jobs: each is entered once into its group's ledger, in order."""

import os
import time
from pathlib import Path

from pydantic import BaseModel

from headwater import App, Event, anyone, wait

CODE = "old"


class Job(BaseModel):
    group: str
    number: int


app = App("ledgers")
ledgers = app.table("ledgers", dict, key="id")
jobs = app.queue("jobs", Job, fifo=True, visibility="1s", max_receives=20)
app.ingest(jobs, "/jobs", auth=anyone(), group="group")


@app.on(jobs, run_in="process")
def enter(event: Event[Job]) -> None:
    with Path("begun").open("a") as begun:
        begun.write(f"{event.data.group}/{event.data.number} {event.attempt} {os.getpid()} {CODE}\n")
    time.sleep(0.1)
    with Path("ended").open("a") as ended:
        ended.write(f"{event.data.group}/{event.data.number} {event.attempt}\n")
    wait(ledgers.update(event.data.group, append={"numbers": [event.data.number], "codes": [CODE]}))
