"""A vendor that is down for three receives: the message is dead-lettered, and its redrive heals the report."""

from __future__ import annotations

import random

from apps.catalog.app import app as catalog
from apps.reporting.app import app as reporting
from apps.reporting.app import report, reports
from apps.reporting.tests.slow_catalog import SlowCatalog
from headwater.runtime.admin import Admin
from headwater.testing import Harness


async def test_a_redrive_heals_the_report() -> None:
    line = SlowCatalog(catalog.http, random.Random(1))
    async with Harness(catalog, reporting, services={"catalog": line}) as harness:
        shop = harness.client(catalog)
        product = {"name": "Skillet", "category": "kitchen", "price_cents": 3990}
        await shop.put("/products/p1", json=product)
        await harness.advance(seconds=6)
        line.up = False
        await shop.put("/products/p1", json={**product, "category": "camping"})
        await harness.advance(minutes=30)
        (letter,) = await harness.dead_letters(reports)
        assert letter.receives == 3
        assert [failure["error"][:15] for failure in letter.failures] == ["HTTPStatusError"] * 3
        line.up = True
        admin = Admin(harness.supervisor.engine, harness.supervisor, clock=harness.clock)
        await admin.call("redrive", {"ids": [letter.id]})
        await harness.advance(minutes=1)
        assert [total.category for total in await report.by_category()] == ["camping"]
        assert await harness.dead_letters() == []
