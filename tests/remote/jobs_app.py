"""The app of the tests of worker processes. What a job does, its message says."""

import ctypes
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

from headwater import App, Event, wait

CODE = "old"
if "worker" in sys.argv and Path("broken").exists():
    if Path("broken").read_text("utf-8") == "abort":
        os.abort()
    raise RuntimeError("this code cannot be imported")

app = App("jobs")
done = app.table("done", dict, key="id")
work = app.queue("work", dict, visibility="2s", max_receives=3, backoff="50ms")
quick = app.queue("quick", dict)


@app.on(work, run_in="process")
def job(event: Event[dict[str, Any]]) -> None:
    """Do what the message says at this attempt, and record it."""
    todo = event.data.get(str(event.attempt), event.data.get("always", ""))
    with Path("begun").open("a") as begun:
        begun.write(f"{event.data['id']} {event.attempt} {os.getpid()} {CODE}\n")
    if todo == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif todo == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif todo == "allocate":
        resource.setrlimit(resource.RLIMIT_AS, (2**31, resource.RLIM_INFINITY))
        bytearray(2**31)
    elif todo == "hoard":
        use_up_memory()
    elif todo == "hold":
        ctypes.PyDLL(None).sleep(5)
    elif todo == "reach":
        wait(eval("done.get('nobody')"))
    elif todo == "crash":
        ctypes.string_at(0)
    elif todo.startswith("sleep"):
        time.sleep(float(todo.removeprefix("sleep")))
    row = {"id": event.data["id"], "attempt": event.attempt, "pid": os.getpid(), "code": CODE}
    wait(done.put({**row, "http": "fastapi" in sys.modules}))


def use_up_memory() -> None:
    """Until nobody in this process gets any more, for a while."""
    resource.setrlimit(resource.RLIMIT_AS, (2**31, resource.RLIM_INFINITY))
    hoard: list[bytearray] = []
    for size in (2**24, 2**16, 2**10, 2**6):
        try:
            while True:
                hoard.append(bytearray(size))
        except MemoryError:
            continue
    time.sleep(1.5)
    raise MemoryError(f"{len(hoard)} pieces")


bounded = app.queue("bounded", dict, backoff="50ms")


@app.on(bounded, run_in="process", timeout="1s")
def bounded_job(event: Event[dict[str, Any]]) -> None:
    """Hang at the first attempt."""
    time.sleep(3600 if event.attempt == 1 else 0)
    wait(done.put({"id": event.data["id"], "attempt": event.attempt}))


@app.on(quick)
async def at_home(event: Event[dict[str, Any]]) -> None:
    await done.put({"id": event.data["id"], "pid": os.getpid()})
