"""The dual write as it is usually made, for control: the row is one commit, its event another."""

from __future__ import annotations

import asyncio
from contextvars import Context

from apps.catalog.app import Draft, Product
from headwater import App

app = App("naive")
rows = app.table("rows", Product, key="id")
events = app.topic("events", Product)
log = app.queue("log", Product)
events.to(log)


async def save(product: Product) -> None:
    await rows.put(product)
    await events.publish(product)


@app.http.put("/products/{id}")
async def put_product(id: str, draft: Draft) -> Product:
    product = Product(id=id, **draft.model_dump())
    await asyncio.create_task(save(product), context=Context())
    return product
