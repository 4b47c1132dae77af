"""Forgetting the subject of an operation: what waits of an operation that has ended keeps nobody from it."""

from __future__ import annotations

from pydantic import BaseModel

from headwater import App, Event, Operation, Table, Tracked
from headwater.testing import Harness
from tests.operations.vendor import Answer, Deletion, Vendor, make_operation


class Person(BaseModel):
    id: str


def make_app() -> tuple[App[None], Table[Person], Operation[Deletion, Answer]]:
    app = App("erasure")
    people = app.table("people", Person, key="id")
    deletions = make_operation(app)

    @app.on(people.inserted)
    async def begin(event: Event[Person]) -> None:
        await deletions.request(event.subject, Deletion(customer_id=event.subject))

    @app.on(deletions.completed)
    async def forget(event: Event[Tracked[Deletion]]) -> None:
        await people.forget(event.data.subject)

    return app, people, deletions


async def test_the_deadline_of_an_ended_operation_is_not_waited_for() -> None:
    app, people, deletions = make_app()
    vendor = Vendor()
    async with Harness(app, services={"vendor": vendor}) as h:
        await people.put(Person(id="ann"))
        await h.run_until_idle()
        assert len(await h.messages("erasure/deletions-deadlines")) == 1
        vendor.finish()
        await h.advance(hours=1, minutes=2)
        (erasure,) = await people.erasures()
        assert (erasure.state, erasure.messages) == ("done", 1)
        assert await h.messages("erasure/deletions-deadlines") == []
        assert await deletions.get("ann") is not None


async def test_an_open_operation_goes_on_and_is_waited_for() -> None:
    app, people, deletions = make_app()
    vendor = Vendor()
    async with Harness(app, services={"vendor": vendor}) as h:
        await people.put(Person(id="ann"))
        await h.run_until_idle()
        await people.forget("ann")
        await h.advance(hours=30)
        (erasure,) = await people.erasures()
        assert (erasure.state, erasure.messages) == ("redacting", 0)
        found = await deletions.get("ann")
        assert found is not None
        assert (found.state, found.polls) == ("pending", 30)
        await h.advance(days=2)
        found = await deletions.get("ann")
        assert found is not None
        assert found.overdue
        vendor.finish()
        await h.advance(hours=1, minutes=10)
        assert {erasure.state for erasure in await people.erasures()} == {"done"}
