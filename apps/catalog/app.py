"""The catalog's model, table, topic, and the handler that announces each change."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from headwater import App, Change


class Draft(BaseModel):
    """A product as a client describes it: without the id, which the service makes."""

    model_config = ConfigDict(extra="forbid", strict=True, str_strip_whitespace=True)

    name: Annotated[str, Field(min_length=1, max_length=200)]
    category: Annotated[str, Field(min_length=1, max_length=100)]
    price_cents: Annotated[int, Field(ge=0, le=100_000_000_000)]


class Product(Draft):
    id: str


class ProductChanged(BaseModel):
    """All that the outside is told: which product to look at again."""

    id: str


app = App("catalog", http="apps.catalog.api")
products = app.table("products", Product, key="id", indexes={"by-category": ("category", "name")})
product_events = app.topic("product-events", ProductChanged)


@app.on(products)
async def announce(change: Change[Product]) -> None:
    await product_events.publish(ProductChanged(id=change.data.id))
