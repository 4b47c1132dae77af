"""The sample app of the tests that move objects in and out, copied into a folder of its own as `depot`."""

from headwater import App, Event, ObjectInfo, anyone

app = App("depot")
files = app.bucket("files", max_size=256 * 1024 * 1024)
small = app.bucket("small", max_size=1000)
hidden = app.bucket("hidden")
kept = app.bucket("kept", versions=True)
seen = app.table("seen", dict, key="key")
app.expose(files, "/files", read=anyone(), write=anyone())
app.expose(small, "/small")
files.watch("drop", prefix="dropped/", settle="0.1s")


@app.on(files.created)
async def note(event: Event[ObjectInfo]) -> None:
    await seen.put({"key": event.data.key, "size": event.data.size})
