"""A small app with one of each thing that AWS has something for."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from pydantic import BaseModel

from headwater import App, Change, Event, ObjectInfo, Scale, email, require


class Parcel(BaseModel):
    owner: str
    id: str
    state: str = "new"
    weight: int = 0


app = App("depot")
parcels = app.table("parcels", Parcel, key=("owner", "id"), indexes={"by-state": ("state", "weight")}, ttl="30d")
counts = app.table("counts", dict, key="id", images="none")
labels = app.bucket("labels", versions=True, expire="10d")
moves = app.topic("moves", Parcel)
heavy = app.queue("heavy", Parcel, max_depth=1000)
orders = app.queue("orders", Parcel, delay="20m", max_receives=3)

moves.to(heavy, match={"weight": [{"numeric": [">", 100]}], "state": ["new", "moved"]})
app.expose(parcels, "/parcels", read=require("parcels.read"), write=require("parcels.write"), owner="owner")
app.expose(labels, "/labels", read=require("parcels.read"), write=require("parcels.write"), own_prefix=True)
app.ingest(orders, "/orders", auth=require("parcels.write"))


@app.on(parcels)
async def announce(change: Change[Parcel]) -> None:
    await moves.publish(change.data)


@app.on(heavy, batch=100, timeout="30s")
async def weigh(events: list[Event[Parcel]]) -> None:
    for event in events:
        await counts.update(event.data.owner, add={"heavy": 1})


@app.on(orders, concurrency=1)
async def order(event: Event[Parcel]) -> None:
    await parcels.put(event.data)
    await heavy.send(event.data)


@app.on(moves, match={"state": [{"anything-but": ["lost"]}]}, timeout="20s")
async def follow(event: Event[Parcel]) -> None:
    await counts.get(event.data.owner)


@app.on(labels.created, run_in="process", scale=Scale(min=1, max=30, backlog_per_worker=5, cooldown="5m"))
def read_label(event: Event[ObjectInfo]) -> None:
    """Takes long."""


hourly = app.schedule(timedelta(hours=1), name="hourly")
weekdays = app.schedule("30 9 * * 1-5", name="weekdays", tz="Europe/Berlin")
monthly = app.schedule("cron(0 8 1 * ? *)", name="monthly")
once = app.schedule("at(2030-12-24T18:00:00)", name="once", tz="Europe/Berlin")
ticks = app.topic("ticks")
for schedule in (hourly, weekdays, monthly, once):
    schedule.to(ticks)


@app.on(ticks)
async def tidy(event: Event[dict[str, Any]]) -> None:
    await parcels.query("nobody")


mailed = email("ops@depot.example", digest="15m", name="mail-ops")
app.alarm("many-heavy", heavy.depth, above=100, for_="5m", notify=mailed)
app.alarm("slow", app.metric("duration_p95", weigh), above=2.5, datapoints=(3, 5), missing="ignore")
app.alarm("failing", app.metric("error_rate", announce), above=0.1)
app.alarm("idle", app.metric("requests"), below=1, for_="60m", missing="bad")
app.alarm("broken", app.metric("error_rate"), above=0.05)
