"""The app of the tests of what a job in a worker process can reach: loads, presigned URLs, webhooks, objects."""

from typing import Any

from headwater import App, Event, wait

app = App("reach")
jobs = app.queue("jobs", dict, max_receives=1)
found = app.table("found", dict, key="id")
rows = app.table("rows", dict, key="id")
files = app.bucket("files")
news = app.topic("news", dict)
app.expose(files, "/files")


@app.on(rows)
async def count(change: Any) -> None:
    """A row for each change of a loaded one."""
    await found.put({"id": f"{change.type} {change.key[0]}"})


@app.on(jobs, run_in="process")
def job(event: Event[dict[str, Any]]) -> None:
    """Do what the message says, and record what came of it."""
    answer = wait(JOBS[event.data["do"]](event.data))
    wait(found.put({"id": event.data["id"], "answer": answer}))


async def load(todo: dict[str, Any]) -> Any:
    text = "x" * todo["bytes"]
    summary = await rows.load(
        ({"id": f"{n:05}", "text": text} for n in range(todo["first"], todo["last"])), missing="delete", max_removed=1.0
    )
    return {"inserted": summary.inserted, "unchanged": summary.unchanged, "vanished": summary.vanished}


async def presign(todo: dict[str, Any]) -> Any:
    return [files.presign(method, "a/b.txt") for method in ("PUT", "GET")]


async def subscribe(todo: dict[str, Any]) -> Any:
    made = await news.subscribe(todo["url"])
    return {"id": str(made), "secret": made.secret}


async def unsubscribe(todo: dict[str, Any]) -> Any:
    return await news.unsubscribe(todo["subscription"])


JOBS = {"load": load, "presign": presign, "subscribe": subscribe, "unsubscribe": unsubscribe}
