"""The reports follow the catalog: deletes, moves between categories, failures, late subscribers, bad deliveries."""

import asyncio
import random

import httpx
import pytest

from apps.catalog.app import ProductChanged as Announcement
from apps.catalog.app import app as catalog
from apps.catalog.app import product_events, products
from apps.reporting.app import ProductChanged, Report, app, audit, audit_reports, report, reports
from apps.reporting.tests.slow_catalog import SlowCatalog
from headwater.testing import Harness


async def put(client: httpx.AsyncClient, id: str, category: str, cents: int) -> None:
    body = {"name": id, "category": category, "price_cents": cents}
    (await client.put(f"/products/{id}", json=body)).raise_for_status()


async def truth() -> dict[str, tuple[int, int]]:
    """What the totals must be: (cents, count) of each category, counted anew from the catalog's own table."""
    totals: dict[str, tuple[int, int]] = {}
    for product in (await products.query(limit=1000)).items:
        cents, count = totals.get(product.category, (0, 0))
        totals[product.category] = (cents + product.price_cents, count + 1)
    return totals


async def totals(of: Report = report) -> dict[str, tuple[int, int]]:
    return {total.category: (total.cents, total.count) for total in await of.by_category()}


async def test_report_follows_after_the_delay() -> None:
    async with Harness(catalog, app) as harness:
        shop, reader = harness.client(catalog), harness.client(app)
        await put(shop, "p1", "tools", 1000)
        await put(shop, "p2", "tools", 500)
        await harness.advance(seconds=4)
        assert (await reader.get("/totals")).json() == {"items": []}
        assert (await reader.get("/totals/tools")).status_code == 404
        await harness.advance(seconds=2)
        assert (await reader.get("/totals/tools")).json() == {"category": "tools", "cents": 1500, "count": 2}
        assert await harness.dead_letters() == []


async def test_changes_of_price_and_category_and_deletes_move_the_totals() -> None:
    async with Harness(catalog, app) as harness:
        shop = harness.client(catalog)
        await put(shop, "p1", "tools", 1000)
        await put(shop, "p2", "tools", 500)
        await put(shop, "p3", "A/B & C", 7)
        await harness.advance(seconds=6)
        assert await totals() == {"tools": (1500, 2), "A/B & C": (7, 1)}
        answer = await harness.client(app).get("/totals/A/B%20&%20C")
        assert answer.json()["cents"] == 7
        await put(shop, "p1", "garden", 1100)
        await put(shop, "p2", "tools", 600)
        await shop.delete("/products/p3")
        await harness.advance(seconds=6)
        assert await totals() == {"garden": (1100, 1), "tools": (600, 1)} == await truth()


async def test_created_and_deleted_within_the_delay_leaves_nothing() -> None:
    async with Harness(catalog, app) as harness:
        shop = harness.client(catalog)
        await put(shop, "p1", "tools", 1000)
        await shop.delete("/products/p1")
        await harness.advance(seconds=6)
        assert await totals() == {}
        assert await harness.dead_letters() == []


async def test_catalog_down_for_three_receives_is_dead_lettered_and_a_later_message_heals() -> None:
    line = SlowCatalog(catalog.http, random.Random(1))
    async with Harness(catalog, app, services={"catalog": line}) as harness:
        shop = harness.client(catalog)
        await put(shop, "p1", "tools", 1000)
        await harness.advance(seconds=6)
        line.up, line.requests = False, 0
        await put(shop, "p1", "tools", 2000)
        await harness.advance(minutes=30)
        (letter,) = await harness.dead_letters(reports)
        assert (letter.receives, line.requests) == (3, 3)
        assert "503" in letter.reason
        assert await totals() == {"tools": (1000, 1)}
        line.up = True
        await product_events.publish(Announcement(id="p1"))
        await harness.advance(minutes=1)
        assert await totals() == {"tools": (2000, 1)} == await truth()


async def test_catalog_down_shortly_needs_no_redrive() -> None:
    line = SlowCatalog(catalog.http, random.Random(1))
    async with Harness(catalog, app, services={"catalog": line}) as harness:
        line.up = False
        await put(harness.client(catalog), "p1", "tools", 1000)
        await harness.advance(seconds=5)
        assert line.requests == 1
        line.up = True
        await harness.advance(minutes=30)
        assert await totals() == {"tools": (1000, 1)}
        assert await harness.dead_letters() == []


async def test_late_subscriber_builds_its_cache_by_replay_and_then_follows() -> None:
    async with Harness(catalog, app) as harness:
        shop, reader = harness.client(catalog), harness.client(app)
        for n in range(30):
            await put(shop, f"p{n}", f"c{n % 4}", n)
        await harness.advance(seconds=6)
        assert (await reader.get("/audit")).json()["differences"] == ["c0", "c1", "c2", "c3"]
        id = await product_events.subscribe(audit_reports.name, group="id")
        assert await products.replay(audit_reports) == 30
        await harness.run_until_idle()
        assert await totals(audit) == await truth()
        await put(shop, "p1", "c3", 99)
        await harness.advance(seconds=6)
        assert (await reader.get("/audit")).json()["differences"] == []
        assert await totals(audit) == await totals() == await truth()
        assert await product_events.unsubscribe(id)
        await shop.delete("/products/p2")
        await harness.advance(seconds=6)
        assert (await reader.get("/audit")).json()["differences"] == ["c2"]


async def test_restart_in_between_loses_and_doubles_nothing() -> None:
    async with Harness(catalog, app) as harness:
        await put(harness.client(catalog), "p1", "tools", 1000)
        await harness.advance(seconds=6)
        await put(harness.client(catalog), "p1", "tools", 1500)
        await put(harness.client(catalog), "p2", "tools", 500)
        await product_events.subscribe(audit_reports.name, group="id")
        await products.replay(audit_reports)
        await harness.restart()
        await put(harness.client(catalog), "p3", "garden", 1)
        await harness.advance(seconds=6)
        assert await totals() == await totals(audit) == {"tools": (2000, 2), "garden": (1, 1)}


async def test_an_answer_that_was_overtaken_does_not_overwrite_the_newer_one() -> None:
    line = SlowCatalog(catalog.http, random.Random(1))
    async with Harness(catalog, app, services={"catalog": line}) as harness:
        shop = harness.client(catalog)
        await put(shop, "p1", "tools", 1000)
        await harness.advance(seconds=6)
        await put(shop, "p1", "tools", 2000)
        line.hold_next()
        await reports.send(ProductChanged(id="p1"), group="the slow one", delay=0)
        await asyncio.wait_for(line.held.wait(), 10)
        await put(shop, "p1", "garden", 3000)
        await reports.send(ProductChanged(id="p1"), group="the quick one", delay=0)
        async with asyncio.timeout(10):
            while await totals() != {"garden": (3000, 1)}:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        line.release()
        await harness.run_until_idle()
        assert await totals() == {"garden": (3000, 1)}
        await harness.advance(seconds=6)
        assert await totals() == {"garden": (3000, 1)}


async def shake(harness: Harness, roll: random.Random) -> None:
    """Writes, deletes, messages doubled and far out of order, and time that passes: all at once."""
    shop = harness.client(catalog)
    ids = [f"p{n}" for n in range(3)]

    async def change(id: str) -> None:
        if roll.random() < 0.25:
            await shop.delete(f"/products/{id}")
        else:
            await put(shop, id, roll.choice(["tools", "garden", "books"]), roll.randrange(1000))

    async def double(id: str) -> None:
        for target in (reports, audit_reports):
            await target.send(ProductChanged(id=id), group=id, delay=roll.choice([0, 1, 5, 20]))
        await product_events.publish(Announcement(id=id))

    passing = asyncio.create_task(harness.advance(seconds=30))
    for _ in range(40):
        await (change if roll.random() < 0.7 else double)(roll.choice(ids))
        if roll.random() < 0.3:
            await asyncio.sleep(roll.uniform(0, 0.01))
    await passing


@pytest.mark.parametrize("seed", range(6))
async def test_out_of_order_double_and_slow_deliveries_leave_the_report_right(seed: int) -> None:
    roll = random.Random(seed)
    line = SlowCatalog(catalog.http, roll, slowest_s=0.05)
    async with Harness(catalog, app, services={"catalog": line}) as harness:
        await product_events.subscribe(audit_reports.name, group="id")
        for _ in range(3):
            await shake(harness, roll)
        await harness.advance(minutes=5)
        assert line.late > 20
        assert await harness.dead_letters() == []
        assert await totals() == await totals(audit) == await truth()
        cached = (await report.cache.query()).items
        assert {row.id for row in cached} == {product.id for product in (await products.query()).items}
