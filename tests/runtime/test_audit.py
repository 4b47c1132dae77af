"""The audit: who did what through the admin operations, and nothing that is secret or forgotten."""

from __future__ import annotations

from typing import Any

import pytest

from headwater import App
from headwater.errors import HeadwaterError
from headwater.runtime.admin import Admin
from headwater.testing import Harness

app = App("shop")
orders = app.table("orders", dict, key="id")
news = app.topic("news")
jobs = app.queue("jobs")


def admin_of(h: Harness) -> Admin:
    return Admin(h.supervisor.engine, h.supervisor, clock=h.clock)


async def actions(admin: Admin, **filters: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await admin.call("audit", filters))["actions"]
    return found


async def test_what_writes_is_recorded_with_its_outcome_and_what_reads_is_not() -> None:
    async with Harness(app) as h:
        admin = admin_of(h)
        await admin.call("table-put", {"table": "shop/orders", "value": {"id": "1", "note": "private"}}, "console: ann")
        await admin.call("queues", {}, "console: ann")
        with pytest.raises(HeadwaterError):
            await admin.call("pause", {"queue": "shop/nothing"}, "command line: bob")
        with pytest.raises(HeadwaterError):
            await admin.call("pause", {"unknown": 1}, "command line: bob")
        failed, put = await actions(admin)
        assert (put["by"], put["operation"], put["outcome"]) == ("console: ann", "table-put", "done")
        assert put["result"]["key"] == ["1"]
        assert "private" not in str(put)
        assert put["parameters"]["value"].endswith(" bytes")
        assert (failed["by"], failed["outcome"]) == ("command line: bob", "failed")
        assert failed["error"].startswith("UnknownResource: ")


async def test_secrets_are_in_no_row() -> None:
    async with Harness(app) as h:
        admin = admin_of(h)
        made = await admin.call("key-create", {"name": "acme"}, "x")
        await admin.call(
            "subscribe",
            {"topic": "shop/news", "url": "https://example.org/hooks/s3cret", "secret": "whsec_" + "A" * 32},
        )
        told = str(await actions(admin))
        assert made["key"] not in told
        assert made["digest"] not in told
        assert "s3cret" not in told
        assert "AAAA" not in told
        assert "https://example.org/…" in told


async def test_an_operation_that_is_cut_off_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Harness(app) as h:
        admin = admin_of(h)
        seen = []

        async def looking(queue: str) -> int:
            seen.extend(await actions(admin))
            return 0

        monkeypatch.setattr(h.supervisor.engine, "purge", looking)
        await admin.call("purge", {"queue": "shop/jobs"}, "ann")
        assert [action["outcome"] for action in seen] == ["begun"]
        assert [action["outcome"] for action in await actions(admin)] == ["done"]


async def test_filters_pages_and_expiry() -> None:
    async with Harness(app) as h:
        admin = admin_of(h)
        for n in range(5):
            await admin.call("send", {"queue": "shop/jobs", "data": {"n": n}}, f"user {n % 2}")
            await admin.call("pause", {"queue": "shop/jobs"}, "boss")
            await h.advance(days=1)
        assert len(await actions(admin, by="USER 1")) == 2
        assert len(await actions(admin, of="pause")) == 5
        assert len(await actions(admin, search="shop/jobs", outcome="done")) == 10
        before, found = "", []
        for _ in range(10):
            page = await admin.call("audit", {"limit": 3, "before": before})
            found += page["actions"]
            if page["next"] is None:
                break
            before = page["next"]
        assert len({action["id"] for action in found}) == len(found) == 10
        assert [action["at_ms"] for action in found] == sorted((a["at_ms"] for a in found), reverse=True)
        await h.advance(days=28)
        assert 0 < len(await actions(admin)) < 10
        await h.advance(days=5)
        assert await actions(admin) == []


async def test_a_forgotten_key_is_redacted() -> None:
    async with Harness(app) as h:
        admin = admin_of(h)
        for name in ("ada", "adam"):
            await admin.call("table-put", {"table": "shop/orders", "value": {"id": name}}, "ann")
        await h.advance(seconds=1)
        await admin.call("forget", {"table": "shop/orders", "key": ["ada"]}, "ann")
        await h.run_until_idle()
        await h.advance(minutes=30)
        by_operation = {(a["operation"], str(a["result"].get("key"))): a for a in await actions(admin)}
        assert ("table-put", "['adam']") in by_operation
        rows = await h.supervisor.system.rows(h.supervisor.system.audit)
        assert not [row for row in rows if "'ada'" in str(row)]
        erasures = (await admin.call("erasures", {}))["erasures"]
        assert erasures[0]["audited"] == 2
