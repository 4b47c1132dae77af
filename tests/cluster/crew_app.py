"""The app of the tests with real processes."""

import os
from typing import Any

from headwater import App, Event, wait

app = App("crew")
jobs = app.queue("jobs", dict, visibility="10s")
done = app.table("done", dict, key="id")


@app.on(jobs, run_in="process")
def work(event: Event[dict[str, Any]]) -> None:
    wait(done.put({"id": event.data["id"], "pid": os.getpid()}))
