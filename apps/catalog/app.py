"""The catalog's model, table, topic, the handler that announces each change, and who is told of dead letters."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import BaseSettings

from headwater import App, Change, email


class Settings(BaseSettings):
    """`team` is the mail address of those who look after the catalog; without one nobody is mailed."""

    team: str = ""


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


app = App("catalog", settings=Settings, http="apps.catalog.api")
products = app.table("products", Product, key="id", indexes={"by-category": ("category", "name")})
product_events = app.topic("product-events", ProductChanged)


@app.on(products)
async def announce(change: Change[Product]) -> None:
    await product_events.publish(ProductChanged(id=change.data.id))


alarms = app.foreign("headwater/alarms", dict)
alarms.to(
    email(app.late(lambda settings: settings.team), digest="15m"),
    match={"name": ["dead-letters"], "resource": [{"prefix": "catalog/"}]},
    group="resource",
)
