"""Reports that follow the catalog. Known of it: the topic's name, the shape of its messages, and its HTTP API.

A message says only which product to look at again. `Report.refresh` reads its cached row *before* it fetches the
product: the read is checked when the handler commits, so an answer that was slow and is older than the row cannot
replace it. Messages of one product are handled in order, so the last one always sees the last state.
"""

from urllib.parse import quote

from pydantic import BaseModel

from headwater import App, Event, Table


class ProductChanged(BaseModel):
    """A copy of the message's shape. A replayed product fits too: what else it carries is ignored."""

    id: str


class Cached(BaseModel):
    id: str
    category: str
    price_cents: int


class Total(BaseModel):
    category: str
    cents: int = 0
    count: int = 0


app = App("reporting", http="apps.reporting.api")
catalog = app.service("catalog")
product_events = app.foreign("catalog/product-events", ProductChanged)


class Report:
    """A cache of products, and the totals per category that belong to it."""

    def __init__(self, cache: Table[Cached], totals: Table[Total]) -> None:
        self.cache = cache
        self.totals = totals

    async def refresh(self, id: str) -> None:
        """Bring one product's row, and the totals by the difference, to what the catalog says now."""
        before = await self.cache.get(id)
        after = await fetch(id)
        if before is not None:
            await self.totals.update(before.category, add={"cents": -before.price_cents, "count": -1})
        if after is not None:
            await self.totals.update(after.category, add={"cents": after.price_cents, "count": 1})
            await self.cache.put(after)
        elif before is not None:
            await self.cache.delete(id)

    async def by_category(self) -> list[Total]:
        """The totals of all categories that have products, in order of their names."""
        found: list[Total] = []
        cursor: str | None = None
        while True:
            page = await self.totals.query(limit=1000, cursor=cursor)
            found += [total for total in page.items if total.count]
            if page.cursor is None:
                return found
            cursor = page.cursor

    async def of(self, category: str) -> Total | None:
        total = await self.totals.get(category)
        return total if total is not None and total.count else None


async def fetch(id: str) -> Cached | None:
    """The product as the catalog has it now; None when it is deleted. Raises when the catalog cannot tell."""
    answer = await catalog.client.get(f"/products/{quote(id, safe='')}")
    if answer.status_code == 404:
        return None
    return Cached.model_validate(answer.raise_for_status().json())


report = Report(app.table("cache", Cached, key="id"), app.table("totals", Total, key="category"))
reports = app.queue("reports", ProductChanged, delay="5s", max_receives=3)
product_events.to(reports, group="id")


@app.on(reports)
async def refresh_report(event: Event[ProductChanged]) -> None:
    await report.refresh(event.data.id)


audit = Report(app.table("audit-cache", Cached, key="id"), app.table("audit-totals", Total, key="category"))
audit_reports = app.queue("audit-reports", ProductChanged, fifo=True, max_receives=3)
"""Not routed: it joins at run time by a subscription, and builds its cache from a replay."""


@app.on(audit_reports)
async def refresh_audit(event: Event[ProductChanged]) -> None:
    await audit.refresh(event.data.id)
