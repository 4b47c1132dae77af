"""Dead letters: in groups, by filter, and tried out without an effect."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from headwater import App, Discard, Event, step
from headwater.console.guard import Visitor
from headwater.console.hiding import Hiding
from headwater.console.screens import View
from headwater.console.screens import letters as screen
from headwater.console.serving import ServedHouse
from headwater.errors import HeadwaterError, InvalidValue, TimedOut
from headwater.inspecting import answering
from headwater.runtime.admin import Admin
from headwater.testing import Harness

app = App("shop")
bills = app.table("bills", dict, key="id")
paid = app.topic("paid")
vendor = app.service("vendor")
jobs = app.queue("jobs", max_receives=1)
steps: list[str] = []


async def fetched() -> int:
    steps.append("run")
    await bills.put({"id": "of the step"})
    return 1


@app.on(jobs)
async def work(event: Event[dict[str, Any]]) -> None:
    job = event.data
    match job["do"]:
        case "fail":
            raise ValueError(f"cannot do {job['id']}")
        case "lack":
            raise KeyError(job["id"])
        case "discard":
            raise Discard("not wanted")
        case "read":
            answer = await vendor.client.get("/prices")
            await bills.put({"id": job["id"], "price": answer.json()["price"]})
        case "call":
            await bills.put({"id": "before the call"})
            await vendor.client.post("/orders", json={})
        case "write":
            await step("fetch", fetched)
            await bills.put({"id": job["id"], "n": 2})
            await paid.publish({"id": job["id"]})


class Vendor:
    def __init__(self) -> None:
        self.asked: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.append(scope["method"])
        await httpx.ASGITransport(self.answer).app(scope, receive, send)

    async def answer(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b'{"price": 7}'})


async def dead(h: Harness, *ids: str, do: str = "fail", **more: Any) -> Admin:
    for id in ids:
        await jobs.send({"id": id, "do": do, **more})
    await h.run_until_idle()
    return Admin(h.supervisor.engine, h.supervisor, clock=h.clock)


async def letters(admin: Admin, **filters: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await admin.call("dead-letters", filters))["dead_letters"]
    return found


async def test_a_dry_run_tells_what_would_be_written_and_writes_nothing() -> None:
    async with Harness(app, services={"vendor": Vendor()}) as h:
        admin = await dead(h, "a")
        await bills.put({"id": "a", "n": 1})
        steps.clear()
        answer = await admin.call("dry-run", {"id": 1, "data": {"id": "a", "do": "write"}})
        assert answer["outcome"] == "ok"
        assert {(w["table"], w["key"][0]): (w["old"], w["data"]) for w in answer["writes"]} == {
            ("shop/bills", "of the step"): (None, {"id": "of the step"}),
            ("shop/bills", "a"): ({"id": "a", "n": 1}, {"id": "a", "n": 2}),
        }
        assert answer["sends"] == [{"to": "shop/paid", "data": {"id": "a"}}]
        await h.run_until_idle()
        assert await bills.get("a") == {"id": "a", "n": 1}
        assert await bills.get("of the step") is None
        assert len(await letters(admin)) == 1
        assert await h.sql("SELECT count(*) FROM events WHERE source = 'shop/paid'") == [(0,)]
        await admin.call("redrive", {"ids": [1], "data": {"id": "a", "do": "write"}})
        await h.run_until_idle()
        assert steps == ["run", "run"]  # the step of the dry run is not remembered
        assert await bills.get("a") == {"id": "a", "n": 2}


async def test_services_are_only_asked() -> None:
    asked = Vendor()
    async with Harness(app, services={"vendor": asked}) as h:
        admin = await dead(h, "a")
        read = await admin.call("dry-run", {"id": 1, "data": {"id": "a", "do": "read"}})
        assert read["writes"][0]["data"] == {"id": "a", "price": 7}
        call = await admin.call("dry-run", {"id": 1, "data": {"id": "a", "do": "call"}})
        assert call["outcome"] == "failed"
        assert "POST /orders would change something there" in call["error"]
        assert asked.asked == ["GET"]


async def test_failures_and_discards_are_told() -> None:
    async with Harness(app, services={"vendor": Vendor()}) as h:
        admin = await dead(h, "a")
        failed = await admin.call("dry-run", {"id": 1})
        assert (failed["outcome"], failed["error"]) == ("failed", "ValueError: cannot do a")
        assert "test_rehearsal.py" in failed["traceback"]
        discarded = await admin.call("dry-run", {"id": 1, "data": {"id": "a", "do": "discard"}})
        assert (discarded["outcome"], discarded["error"]) == ("discarded", "not wanted")
        assert len((await letters(admin))[0]["failures"]) == 1


async def test_without_the_handler_it_is_refused() -> None:
    async with Harness(app, services={"vendor": Vendor()}) as h:
        await dead(h, "a")
        with pytest.raises(InvalidValue, match="doesn't run in this process"):
            await Admin(h.supervisor.engine).dry_run(id=1)


async def test_groups_filters_and_slices() -> None:
    async with Harness(app, services={"vendor": Vendor()}) as h:
        await dead(h, *(f"f{n}" for n in range(7)))
        admin = await dead(h, "x1", "x2", do="lack")
        groups = (await admin.call("dead-letter-groups", {}))["groups"]
        assert [(g["queue"], g["exception"], g["count"]) for g in groups] == [
            ("shop/jobs", "ValueError", 7),
            ("shop/jobs", "KeyError", 2),
        ]
        found = await admin.call("dead-letter-groups", {"search": "F3"})
        assert [(g["exception"], g["count"]) for g in found["groups"]] == [("ValueError", 1)]
        assert len(await letters(admin, exception="KeyError")) == 2
        assert [one["event"]["data"]["id"] for one in await letters(admin, search="F3")] == ["f3"]
        settled: list[int] = []
        place: dict[str, Any] = {}
        for _ in range(10):
            answer = await admin.call("discard", {"exception": "ValueError", "limit": 2, **place})
            settled += answer["ids"]
            place = {"after": answer["next"], "until": answer["until"]}
            if answer["next"] is None:
                break
        assert len(settled) == 7
        assert {one["reason"] for one in await letters(admin)} == {"KeyError: 'x1'", "KeyError: 'x2'"}
        with pytest.raises(HeadwaterError, match="either ids, or a queue or another filter"):
            await admin.call("discard", {})


async def test_a_page_counts_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "_OPCODES", 1)
    async with Harness(app, services={"vendor": Vendor()}) as h:
        admin = await dead(h, "f1", "f2")
        with pytest.raises(TimedOut):
            await admin.call("dead-letter-groups", {"seconds": 0.000_001})
        monkeypatch.setattr(screen, "_COUNTING_S", 0.000_001)
        asked = View(ServedHouse(admin), Visitor("local", "operator", ""), {}, {"queue": "shop/jobs"})
        page = await screen.load_letters(asked)
        assert page["groups"] is None
        assert [(queue["name"], queue["dead"]) for queue in page["queues"]] == [("shop/jobs", 2)]
        assert len(page["letters"]) == 2
        counted = await screen.load_letters(asked._replace(query={"queue": "shop/jobs", "count": "1"}))
        assert (counted["groups"][0]["count"], counted["matching"]) == (2, 2)


async def test_searches_of_the_console_look_past_hidden_fields() -> None:
    """What is found must not tell what nobody is to see; all else is found as before."""
    async with Harness(app, services={"vendor": Vendor()}) as h:
        admin = await dead(h, "f1", iban="untold", more=[{"iban": "untold"}], plain="seen")
        house = Hiding(ServedHouse(admin), ("iban",))
        for operation, member in (
            ("dead-letters", "dead_letters"),
            ("dead-letter-groups", "groups"),
            ("traces", "traces"),
        ):
            assert (await house.call(operation, {"search": "untold"}))[member] == [], operation
            assert len((await house.call(operation, {"search": "seen"}))[member]) == 1, operation
            assert len((await admin.call(operation, {"search": "untold"}))[member]) == 1, operation
        assert (await house.call("discard", {"search": "untold"}))["ids"] == []
        with_sql = (await admin.call("dead-letter-groups", {"search": "seen"}))["groups"]
        assert (await house.call("dead-letter-groups", {"search": "seen"}))["groups"] == with_sql
        assert (await house.call("discard", {"search": "seen"}))["ids"] == [1]
