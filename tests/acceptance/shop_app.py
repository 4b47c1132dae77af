"""The sample app of the CLI's and the server's acceptance tests, copied into a folder of its own as `shop`."""

import asyncio
import time
from pathlib import Path

from pydantic import BaseModel

from headwater import App, Event


class Order(BaseModel):
    id: str
    cents: int
    customer: str = ""


class Line(BaseModel):
    order: str
    number: int
    text: str = ""


app = App("shop")
orders = app.table("orders", Order, key="id", indexes={"by-customer": ("customer", "cents")})
lines = app.table("lines", Line, key=("order", "number"))
placed = app.topic("placed", Order)
bills = app.queue("bills", Order, max_receives=1)
parked = app.queue("parked", Order)
letters = app.queue("letters", Order, fifo=True)
naps = app.queue("naps", Order)
blocks = app.queue("blocks", Order)
placed.to(bills)


async def rest(seconds: float) -> None:
    """Less when somebody makes the file `wake`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not Path("wake").exists():  # noqa: ASYNC110
        await asyncio.sleep(0.02)


@app.on(bills)
async def bill(event: Event[Order]) -> None:
    if event.data.cents < 0:
        raise ValueError("the amount is negative")
    await orders.put(event.data)


@app.on(naps, concurrency=2)
async def nap(event: Event[Order]) -> None:
    Path(f"napping-{event.data.id}").touch()
    await rest(event.data.cents / 100)
    await orders.put(event.data)


@app.on(blocks)
def block(event: Event[Order]) -> None:
    Path(f"blocking-{event.data.id}").touch()
    time.sleep(event.data.cents / 100)


@app.http.get("/orders/{id}")
async def get_order(id: str) -> Order | None:
    return await orders.get(id)


@app.http.post("/orders", status_code=202)
async def place_order(order: Order, nap: float = 0) -> Order:
    if nap:
        Path(f"requesting-{order.id}").touch()
        await rest(nap)
    await placed.publish(order)
    return order


@app.http.get("/trailing/")
async def trailing() -> str:
    return "here"
