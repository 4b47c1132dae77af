"""Apps that change: upgraded models, renamed queues, orphans, and values of the wrong kind."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel, Field

from headwater import App, Change, Event, InvalidValue
from headwater.pytest_plugin import StartHarness
from headwater.testing import Harness
from tests.runtime.samples import Job, refusal, waiting


class Person(BaseModel):
    id: str
    first: str
    last: str = ""
    age: int = 0


def split(document: dict[str, Any]) -> dict[str, Any]:
    first, _, last = document.pop("name").partition(" ")
    return {**document, "first": first, "last": last}


async def test_records_images_and_updates_are_upgraded(tmp_path: Path) -> None:
    old = App("crm")
    raw = old.table("people", dict, key="id", indexes={"names": "name"})
    lines = old.queue("changes")
    raw.to(lines)
    async with Harness(old, store=tmp_path / "s"):
        for n in range(4):
            await raw.put({"id": str(n), "name": f"Ann {n}"})

    new = App("crm")
    people = new.table("people", Person, key="id", upgrade={1: split})
    seen: list[tuple[str, Any, Any]] = []
    changes = new.queue("changes")
    people.to(changes)

    @new.on(people)
    async def watch(change: Change[Person]) -> None:
        seen.append((change.type, change.old and change.old.first, change.new and change.new.last))

    async with Harness(new, store=tmp_path / "s") as h:
        assert await people.get("0") == Person(id="0", first="Ann", last="0")
        page = await people.query()
        assert [person.last for person in page.items] == ["0", "1", "2", "3"]
        await people.update("0", set={"age": 5})
        await people.update("1", add={"age": 1})
        await people.put(Person(id="2", first="Bob", last="2"))
        await people.delete("3")
        async with new.transaction():
            assert await people.get("1") == Person(id="1", first="Ann", last="1", age=1)
            await people.update("1", set={"last": "one"})
            assert await people.get("1") == Person(id="1", first="Ann", last="one", age=1)
        assert await people.get("0") == Person(id="0", first="Ann", last="0", age=5)
        await h.run_until_idle()
        assert sorted(seen, key=str) == [
            ("modified", "Ann", "0"),
            ("modified", "Ann", "1"),
            ("modified", "Ann", "2"),
            ("modified", "Ann", "one"),
            ("removed", "Ann", None),
        ]
        history = await people.history("0")
        assert [change.new and change.new.age for change in history] == [5, 0]


async def test_a_renamed_queue_keeps_its_messages(tmp_path: Path) -> None:
    old = App("shop")
    topic = old.topic("news", Job)

    @old.on(topic, delay=60)
    async def first_name(event: Event[Job]) -> None:
        raise AssertionError

    async with Harness(old, store=tmp_path / "s"):
        await topic.publish(Job(n=5))

    new, seen = App("shop"), []
    news = new.topic("news", Job)

    @new.on(news, was="first-name", delay=60)
    async def second_name(event: Event[Job]) -> None:
        seen.append(event.data.n)

    async with Harness(new, store=tmp_path / "s") as h:
        assert len(await waiting(h, "shop/second-name")) == 1
        await h.advance(minutes=2)
        assert seen == [5]


async def test_an_orphaned_queue_is_kept_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = App("shop")
    jobs = old.queue("jobs", Job)
    async with Harness(old, store=tmp_path / "s"):
        await jobs.send(Job(n=5))
    new = App("shop")
    new.queue("other", Job)
    async with Harness(new, store=tmp_path / "s") as h:
        assert await h.supervisor.orphans() == ["shop/jobs"]
        assert len(await waiting(h, "shop/jobs")) == 1
    assert "shop/jobs" in capsys.readouterr().out


class Struct(msgspec.Struct):
    id: str
    n: int = 0


@pytest.mark.parametrize("model", [Person, Struct, dict])
async def test_values_that_do_not_fit_are_refused_at_the_call(harness: StartHarness, model: Any) -> None:
    app = App("shop")
    rows = app.table("rows", model, key="id")
    await harness(app)
    await refusal(rows.put({"id": "a"} if model is not dict else [1]), InvalidValue)
    await refusal(rows.update("a", set={"id": "b"}), InvalidValue)
    await refusal(rows.update("a", set={"first": float("nan")}), InvalidValue)
    await refusal(rows.update("a", add={"n": 2**63}), InvalidValue)
    await refusal(rows.get("a", "b"), InvalidValue)
    await refusal(rows.get("x" * 1025), InvalidValue)
    await refusal(rows.get(7), InvalidValue)
    await refusal(rows.query(limit=0), InvalidValue)
    await refusal(rows.query(cursor="!"), InvalidValue)
    await refusal(rows.query(index="none"), InvalidValue)
    if model is not dict:
        await refusal(rows.update("a", set={"nope": 1}), InvalidValue)
        numeric = "age" if model is Person else "n"
        error = await refusal(rows.update("a", set={numeric: "many"}), InvalidValue)
        assert numeric in str(error)
    assert (await rows.query()).items == []


class Aliased(BaseModel):
    own_id: str = Field(alias="id")
    when: datetime | None = None


async def test_aliased_keys_and_typed_fields_of_updates(harness: StartHarness) -> None:
    app = App("shop")
    rows = app.table("rows", Aliased, key="id")
    await harness(app)
    await rows.put(Aliased(id="a"))
    await rows.update("a", set={"when": datetime(2026, 1, 2, tzinfo=UTC)})
    found = await rows.get("a")
    assert found is not None
    assert (found.own_id, found.when) == ("a", datetime(2026, 1, 2, tzinfo=UTC))
