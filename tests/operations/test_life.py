"""The life of operations, under virtual time: started, polled, ended, overdue, cancelled, asked for by hand."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import httpx
import pytest
from pydantic_settings import BaseSettings

from headwater import App, DeclarationError, Event, Operation, Tracked
from headwater.metrics import series
from headwater.runtime.admin import Admin
from headwater.testing import Harness
from tests.operations.vendor import (
    Answer,
    Deletion,
    Vendor,
    alarms,
    declare_cancel,
    make_app,
    make_operation,
    record_events,
)


async def test_started_polled_every_hour_and_completed() -> None:
    app, deletions = make_app()
    vendor = Vendor()
    seen: list[Tracked[Deletion]] = []

    @app.on(deletions.completed)
    async def completed(event: Event[Tracked[Deletion]]) -> None:
        seen.append(event.data)

    async with Harness(app, services={"vendor": vendor}) as h:
        id = await deletions.request("ann", Deletion(customer_id="ann"))
        await h.run_until_idle()
        started = await deletions.get("ann")
        assert started is not None
        assert (started.id, started.state, started.external_id) == (id, "started", "d1")
        assert vendor.calls == {"POST": 1}
        await h.advance(hours=5, minutes=30)
        pending = await deletions.get("ann")
        assert pending is not None
        assert (pending.state, pending.polls, pending.last_status) == ("pending", 5, 200)
        vendor.finish()
        await h.advance(hours=1)
        ended = await deletions.get("ann")
        assert ended is not None
        assert (ended.state, ended.standing, ended.polls) == ("completed", "", 6)
        assert [one.subject for one in seen] == ["ann"]
        assert seen[0].request == Deletion(customer_id="ann")
        await h.advance(days=4)
        assert vendor.calls == {"POST": 1, "GET": 6}
        assert not (await deletions.query("overdue")).items
        counted = h.supervisor.recorder.counters
        calls = {
            (call, outcome): counted[
                series("operation_calls_total", operation="erasure/deletions", call=call, outcome=outcome)
            ]
            for call, outcome in (("start", "started"), ("poll", "pending"), ("poll", "completed"))
        }
        assert calls == {("start", "started"): 1, ("poll", "pending"): 5, ("poll", "completed"): 1}


async def test_one_open_operation_for_a_subject() -> None:
    app, deletions = make_app()
    vendor = Vendor()
    async with Harness(app, services={"vendor": vendor}) as h:
        ask = Deletion(customer_id="ann")
        first = await deletions.request("ann", ask)
        assert await deletions.request("ann", ask) == first
        both = await asyncio.gather(*(deletions.request("bob", ask) for _ in range(8)))
        assert len(set(both)) == 1
        await h.run_until_idle()
        assert vendor.calls["POST"] == 2
        vendor.finish()
        await h.advance(hours=1)
        again = await deletions.request("ann", ask)
        assert again != first
        page = await deletions.table.query("ann")
        assert [(one.id, one.state) for one in page.items] == [(first, "completed"), (again, "requested")]


async def request_and_fail(app: App[None], deletions: Operation[Deletion, Answer]) -> None:
    async with app.transaction():
        await deletions.request("ann", Deletion(customer_id="ann"))
        raise ZeroDivisionError


async def test_a_request_is_part_of_its_unit_of_work() -> None:
    app, deletions = make_app()
    vendor = Vendor()
    async with Harness(app, services={"vendor": vendor}) as h:
        with pytest.raises(ZeroDivisionError):
            await request_and_fail(app, deletions)
        await h.run_until_idle()
        assert (await deletions.get("ann"), vendor.calls["POST"]) == (None, 0)
        async with app.transaction():
            id = await deletions.request("ann", Deletion(customer_id="ann"))
            assert await deletions.request("ann", Deletion(customer_id="ann")) == id
            assert await deletions.cancel("ann")
            assert await deletions.request("ann", Deletion(customer_id="ann")) != id
        await h.run_until_idle()
        assert vendor.calls["POST"] == 1


async def test_overdue_is_told_once_and_polled_on() -> None:
    app, deletions = make_app(overdue="3d")
    vendor, told = Vendor(), record_events(app, overdue=deletions.overdue, done=deletions.completed)
    async with Harness(app, services={"vendor": vendor}) as h:
        await deletions.request("ann", Deletion(customer_id="ann"))
        await h.advance(days=2, hours=23, minutes=59)
        assert told == []
        await h.advance(days=2)
        assert told == [("overdue", "ann")]
        late = (await deletions.query("overdue")).items
        assert [(one.subject, one.state, one.overdue) for one in late] == [("ann", "pending", True)]
        assert (await deletions.query("open")).items == []
        polls = vendor.calls["GET"]
        await h.advance(hours=2)
        assert vendor.calls["GET"] == polls + 2
        vendor.finish()
        await h.advance(hours=1)
        assert told == [("overdue", "ann"), ("done", "ann")]
        assert (await deletions.query("overdue")).items == []
        assert await alarms(h) == [("operation-overdue", "alarm"), ("operation-overdue", "ok")]


async def test_done_in_time_is_not_overdue() -> None:
    app, deletions = make_app(overdue="3d")
    vendor, told = Vendor(), record_events(app, overdue=deletions.overdue)
    async with Harness(app, services={"vendor": vendor}) as h:
        await deletions.request("ann", Deletion(customer_id="ann"))
        await h.advance(hours=1)
        vendor.finish()
        await h.advance(hours=1)
        await deletions.request("ann", Deletion(customer_id="ann"))
        await h.advance(days=2, hours=23)
        assert told == []


async def test_polled_by_hand() -> None:
    app, deletions = make_app()
    vendor = Vendor()
    async with Harness(app, services={"vendor": vendor}) as h:
        for n in range(250):
            await deletions.request(f"c{n}", Deletion(customer_id=f"c{n}"))
        await h.run_until_idle()
        assert await deletions.poll_due() == 250
        assert await deletions.poll_due() == 0
        await h.run_until_idle()
        assert vendor.calls["GET"] == 250
        assert await deletions.poll("c7")
        await h.run_until_idle()
        assert vendor.calls["GET"] == 251
        await h.advance(hours=1)
        assert vendor.calls["GET"] == 501, "what was polled by hand has one next poll, not two"
        vendor.finish()
        assert await deletions.poll_due() == 250
        await h.run_until_idle()
        assert len((await deletions.query("completed", limit=300)).items) == 250
        assert await deletions.poll_due() == 0
        assert not await deletions.poll("c7")


# Cancelling


async def test_cancelled_before_it_was_started() -> None:
    app, deletions = make_app()
    vendor, told = Vendor(), record_events(app, cancelled=deletions.cancelled)
    async with Harness(app, services={"vendor": vendor}) as h:
        async with app.transaction():
            await deletions.request("ann", Deletion(customer_id="ann"))
            await deletions.cancel("ann")
        await h.run_until_idle()
        assert vendor.calls == {}
        vendor.bend = lambda vendor, method, path: httpx.ConnectError("refused")
        await deletions.request("bob", Deletion(customer_id="bob"))
        await h.advance(minutes=10)
        assert await deletions.cancel("bob")
        await h.advance(minutes=10)
        assert [one.state for one in (await deletions.query("cancelled")).items] == ["cancelled", "cancelled"]
        assert told == [("cancelled", "bob")], "what was requested and cancelled in one commit is one insert"
        assert not await deletions.cancel("bob")


async def test_what_cannot_be_stopped_is_polled_until_it_ends() -> None:
    app, deletions = make_app()
    vendor, told = Vendor(), record_events(app, cancelled=deletions.cancelled, done=deletions.completed)
    async with Harness(app, services={"vendor": vendor}) as h:
        id = await deletions.request("ann", Deletion(customer_id="ann"))
        await h.advance(hours=2)
        assert await deletions.cancel("ann")
        await h.advance(hours=2)
        waiting = await deletions.get("ann")
        assert waiting is not None
        assert (waiting.state, waiting.cancel_requested_ms > 0) == ("pending", True)
        assert await deletions.request("ann", Deletion(customer_id="ann")) == id
        wanted = await deletions.get("ann")
        assert wanted is not None
        assert wanted.cancel_requested_ms == 0
        await deletions.cancel("ann")
        vendor.finish()
        await h.advance(hours=1)
        ended = await deletions.get("ann")
        assert ended is not None
        assert (ended.state, ended.cancel_requested_ms > 0) == ("completed", True)
        assert told == [("done", "ann")]


async def test_the_third_party_is_asked_to_stop() -> None:
    app, deletions = make_app()
    declare_cancel(app, deletions)
    vendor = Vendor()
    async with Harness(app, services={"vendor": vendor}) as h:
        await deletions.request("ann", Deletion(customer_id="ann"))
        await h.advance(minutes=5)
        vendor.bend = lambda vendor, method, path: (503, {}, {}) if method == "DELETE" else None
        await deletions.cancel("ann")
        await h.run_until_idle()
        assert vendor.calls["DELETE"] == 1
        vendor.bend = lambda vendor, method, path: None
        await h.advance(hours=1)
        ended = await deletions.get("ann")
        assert ended is not None
        assert (ended.state, vendor.deletions) == ("cancelled", {"d1": "cancelled"})


async def test_the_third_party_will_stop() -> None:
    app, deletions = make_app()
    declare_cancel(app, deletions)
    vendor = Vendor()
    vendor.bend = lambda vendor, method, path: (202, {}, {"status": "pending"}) if method == "DELETE" else None
    async with Harness(app, services={"vendor": vendor}) as h:
        await deletions.request("ann", Deletion(customer_id="ann"))
        await h.advance(minutes=5)
        await deletions.cancel("ann")
        await h.advance(hours=2)
        assert vendor.calls["DELETE"] == 1
        vendor.finish("cancelled")
        await h.advance(hours=1)
        ended = await deletions.get("ann")
        assert ended is not None
        assert ended.state == "cancelled"


@pytest.mark.parametrize("answer", [(200, {}, "<html>"), (200, {}, {"status": "new"})])
async def test_what_is_no_answer_stops_nothing(answer: Any) -> None:
    app, deletions = make_app()
    declare_cancel(app, deletions)
    vendor = Vendor()
    vendor.bend = lambda vendor, method, path: answer if method == "DELETE" else None
    async with Harness(app, services={"vendor": vendor}) as h:
        await deletions.request("ann", Deletion(customer_id="ann"))
        await h.advance(minutes=5)
        await deletions.cancel("ann")
        await h.advance(hours=2)
        waiting = await deletions.get("ann")
        assert waiting is not None
        assert waiting.open
        assert len((await deletions.contracts.query()).items) == 1


async def test_wanted_again_while_it_is_being_stopped() -> None:
    """The answer to the cancellation is lost, and the subject asks again: it is stopped, so a new one is started."""
    app, deletions = make_app()
    declare_cancel(app, deletions)
    vendor = Vendor()
    vendor.after = lambda vendor, method, path: httpx.ReadTimeout("slow") if method == "DELETE" else None
    async with Harness(app, services={"vendor": vendor}) as h:
        first = await deletions.request("ann", Deletion(customer_id="ann"))
        await h.advance(minutes=5)
        await deletions.cancel("ann")
        await h.run_until_idle()
        assert await deletions.request("ann", Deletion(customer_id="ann")) == first
        await h.advance(hours=2)
        assert vendor.deletions == {"d1": "cancelled", "d2": "pending"}
        states = [one.state for one in (await deletions.table.query("ann")).items]
        assert states == ["cancelled", "pending"]


async def test_the_third_party_refuses_to_stop() -> None:
    app, deletions = make_app()
    declare_cancel(app, deletions)
    vendor = Vendor()
    vendor.bend = lambda vendor, method, path: (409, {}, {}) if method == "DELETE" else None
    async with Harness(app, services={"vendor": vendor}) as h:
        await deletions.request("ann", Deletion(customer_id="ann"))
        await h.advance(minutes=5)
        await deletions.cancel("ann")
        await h.advance(hours=2)
        assert vendor.calls["DELETE"] == 1
        vendor.finish()
        await h.advance(hours=1)
        ended = await deletions.get("ann")
        assert ended is not None
        assert (ended.state, ended.cancel_refused) == ("completed", True)


async def test_cancelled_while_it_is_being_started() -> None:
    """The start is under way when the operation is cancelled: its id is kept, and the wish is acted on."""
    app, deletions = make_app()
    declare_cancel(app, deletions)
    vendor = Vendor()
    reached, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Vendor):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["method"] == "POST":
                reached.set()
                await go_on.wait()
            await super().__call__(scope, receive, send)

    vendor = Slow()
    async with Harness(app, services={"vendor": vendor}) as h:
        await deletions.request("ann", Deletion(customer_id="ann"))
        await reached.wait()
        await deletions.cancel("ann")
        go_on.set()
        await h.run_until_idle()
        ended = await deletions.get("ann")
        assert ended is not None
        assert (ended.state, ended.external_id) == ("cancelled", "d1")
        assert vendor.calls == {"POST": 1, "DELETE": 1}


async def test_ended_by_a_person_while_it_is_being_started() -> None:
    app, deletions = make_app()
    reached, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Vendor):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            reached.set()
            await go_on.wait()
            await super().__call__(scope, receive, send)

    async with Harness(app, services={"vendor": Slow()}) as h:
        await deletions.request("ann", Deletion(customer_id="ann"))
        await reached.wait()
        admin = Admin(h.supervisor.engine, h.supervisor)
        await admin.call("op-cancel", {"kind": "erasure/deletions", "subject": "ann", "force": True})
        go_on.set()
        await h.run_until_idle()
        ended = await deletions.get("ann")
        assert ended is not None
        assert (ended.state, ended.external_id) == ("cancelled", "d1")
        assert "started it all the same" in ended.detail


# Declarations


def test_declarations_are_checked() -> None:
    app = App("erasure")
    vendor = app.service("vendor")
    with pytest.raises(DeclarationError, match="every"):
        app.operation("a", Deletion, Answer, service=vendor, every="often", overdue="3d")
    with pytest.raises(DeclarationError, match="concurrency"):
        app.operation("b", Deletion, Answer, service=vendor, every="1h", overdue="3d", concurrency=0)
    deletions = app.operation("c", Deletion, Answer, service=vendor, every="1h", overdue="3d")
    with pytest.raises(DeclarationError, match="taken"):
        app.operation("c", Deletion, Answer, service=vendor, every="1h", overdue="3d")
    with pytest.raises(DeclarationError, match="async def"):
        deletions.on_poll(lambda op: None)  # type: ignore[arg-type, return-value]


async def test_an_incomplete_operation_is_refused_at_start() -> None:
    app = App("erasure")
    app.operation("c", Deletion, Answer, service=app.service("vendor"), every="1h", overdue="3d")
    with pytest.raises(DeclarationError, match="on_start is missing"):
        async with Harness(app, services={"vendor": Vendor()}):
            pass


async def test_late_intervals() -> None:
    class Settings(BaseSettings):
        every: timedelta = timedelta(minutes=10)

    app = App("erasure", settings=Settings)
    deletions = make_operation(app, every=app.late(lambda settings: settings.every))
    vendor = Vendor()
    async with Harness(app, services={"vendor": vendor}) as h:
        await deletions.request("ann", Deletion(customer_id="ann"))
        await h.advance(hours=1)
        assert vendor.calls["GET"] == 6
