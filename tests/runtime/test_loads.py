"""`table.load` in a running server: one commit with its handler, events once, summaries, alarms, recognised sources."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import HTTPException

from headwater import App, Change, Conflict, Event, InvalidValue
from headwater.datasets import csv
from headwater.errors import DeclarationError, LoadRefused, TooManyRejected
from headwater.loads import LoadSummary
from headwater.pytest_plugin import StartHarness
from headwater.testing import Harness
from tests.runtime.samples import Item, Job, Part, refusal, waiting

LOADS = "headwater/loads"


def items(*ids: str, n: int = 1) -> list[Item]:
    return [Item(id=id, n=n) for id in ids]


async def ids(table: Any) -> list[str]:
    return [row.id for row in (await table.query(limit=1000)).items]


async def test_a_load_is_one_commit_with_its_handler(harness: StartHarness) -> None:
    app = App("shop")
    rows, jobs, done = app.table("rows", Item, key="id"), app.queue("jobs", Job), app.table("done", Job, key="id")
    seen: list[tuple[str, str, str | None]] = []

    @app.on(jobs)
    async def load(event: Event[Job]) -> None:
        await rows.load(items("a", "b", "c", n=event.data.n), missing="delete")
        assert await rows.get("a") is None, "the unit does not see what it loads"
        await done.put(event.data)
        if event.data.n < 0:
            raise RuntimeError

    @app.on(rows)
    async def changed(change: Change[Item]) -> None:
        seen.append((change.subject, change.type, change.cause))

    h = await harness(app)
    await jobs.send(Job(id="j", n=-1))
    await h.run_until_idle()
    assert (await ids(rows), await ids(done), seen, await rows.loads()) == ([], [], [], [])
    sent = await jobs.send(Job(id="j", n=5))
    await h.run_until_idle()
    assert await ids(rows) == ["a", "b", "c"]
    assert await ids(done) == ["j"]
    assert sorted(seen) == [(id, "inserted", f"{sent}/shop/jobs") for id in "abc"]
    (summary,) = await rows.loads()
    assert (summary.state, summary.inserted, summary.table) == ("loaded", 3, "shop/rows")


async def test_a_failed_load_leaves_nothing_staged(harness: StartHarness) -> None:
    app = App("shop")
    rows, jobs = app.table("rows", Item, key="id"), app.queue("jobs", Job, max_receives=1)

    @app.on(jobs)
    async def load(event: Event[Job]) -> None:
        await rows.load(items(*(f"k{n}" for n in range(400))))
        raise RuntimeError

    h = await harness(app)
    await jobs.send(Job())
    await h.run_until_idle()
    engine = h.supervisor.engine
    assert await engine.sweep_loads(1_000) == 400
    assert await engine.sweep_loads(1_000) == 0


async def test_what_an_attempt_undoes_is_not_flipped(harness: StartHarness) -> None:
    from headwater import attempt

    app = App("shop")
    rows, jobs = app.table("rows", Item, key="id"), app.queue("jobs", Job, max_receives=1)

    @app.on(jobs, batch=10)
    async def load(events: list[Event[Job]]) -> None:
        for event in events:
            async with attempt(event):
                await rows.load(items(event.data.id), scope=event.data.id)
                if event.data.n < 0:
                    raise RuntimeError

    h = await harness(app)
    await jobs.send(Job(id="bad", n=-1))
    await h.run_until_idle()
    await jobs.send(Job(id="good"))
    await h.run_until_idle()
    assert await ids(rows) == ["good"]
    assert await h.supervisor.engine.sweep_loads(100) == 1


async def test_requests_and_transactions_load_too(harness: StartHarness) -> None:
    app = App("shop")
    rows = app.table("rows", Item, key="id")

    @app.http.post("/load")
    async def load(fail: bool = False) -> dict[str, int]:
        summary = await rows.load(items("a", "b"))
        if fail:
            raise HTTPException(400)
        return {"inserted": summary.inserted}

    h = await harness(app)
    client = h.client(app)
    assert (await client.post("/load?fail=true")).status_code == 400
    await h.run_until_idle()
    assert await ids(rows) == []
    answer = await client.post("/load", headers={"Idempotency-Key": "1"})
    assert answer.json() == {"inserted": 2}
    assert await ids(rows) == ["a", "b"]
    async with app.transaction():
        await rows.load(items("c"), missing="delete")
        with pytest.raises(DeclarationError, match="loads the table already"):
            await rows.load(items("d"))
    assert await ids(rows) == ["c"]
    await rows.load(items("d"), missing="delete")
    assert await ids(rows) == ["d"]


async def test_rows_come_from_iterables(harness: StartHarness) -> None:
    app = App("shop")
    rows = app.table("rows", Item, key="id")
    pairs = app.table("pairs", dict, key=("p", "s"))

    async def values() -> AsyncIterator[Item]:
        for id in "ab":
            await asyncio.sleep(0)
            yield Item(id=id)

    await harness(app)
    assert (await rows.load(values())).inserted == 2
    assert (await rows.load(item for item in items("a", "b", "c"))).inserted == 1
    assert (await pairs.load([{"p": "x", "s": n} for n in range(3)])).inserted == 3
    assert [row["s"] for row in (await pairs.query("x")).items] == [0, 1, 2]
    await refusal(rows.load(["no item"]), InvalidValue)  # type: ignore[list-item]
    await refusal(rows.load(17), InvalidValue)  # type: ignore[arg-type]
    await refusal(rows.load(items("a", "a")), InvalidValue)
    await refusal(rows.load([Item(id="")]), InvalidValue)


async def chunks(text: str) -> AsyncIterator[bytes]:
    yield text.encode()


async def test_rows_come_from_a_file(harness: StartHarness) -> None:
    app = App("shop")
    rows, parts = app.table("rows", Item, key="id"), app.table("parts", Part, key=("box", "place"))
    await harness(app)
    summary = await rows.load(csv.read(chunks("id,n\na,1\nb,2\nc,x\n"), Item, max_rejected=0.5))
    assert (summary.inserted, summary.rejected) == (2, 1)
    values = [Item(id="a", n=1), Item(id="b", n=2)]
    assert (await rows.load(values)).state == "unchanged", "bytes and digests are the same"
    await parts.load(csv.read(chunks("box,place,kind\nx,1,k\nx,b,\n"), Part))
    assert [part.place for part in (await parts.query("x")).items] == [1, "b"]
    await refusal(rows.load(csv.read(chunks("id,n\na,x\n"), Item)), InvalidValue)
    wrong = await refusal(rows.load(csv.read(chunks("box,place\nx,1\n"), Part)), InvalidValue)  # type: ignore[arg-type]
    assert "rows of Part" in str(wrong)


@pytest.mark.parametrize(
    "options",
    [
        {"missing": "expire"},
        {"missing": "delete", "grace": "7d"},
        {"missing": "drop"},
        {"max_removed": 1.1},
        {"max_removed": -0.1},
        {"scope": "x" * 257},
    ],
)
async def test_wrong_options_are_refused_before_anything_is_read(harness: StartHarness, options: Any) -> None:
    app = App("shop")
    rows = app.table("rows", Item, key="id")
    await harness(app)
    read = iter(items("a"))
    await refusal(rows.load(read, **options), InvalidValue)
    assert len(list(read)) == 1


async def test_a_refused_load_is_told_and_alarms_once(harness: StartHarness) -> None:
    app = App("shop")
    rows = app.table("rows", Item, key="id")
    alarms = app.queue("alarms", dict)
    app.foreign("headwater/alarms", dict).to(alarms)
    h = await harness(app)
    await rows.load(items(*"abcdefghij"), scope="x")
    for _ in range(2):
        error = await refusal(rows.load(items("a"), scope="x", missing="delete", max_removed=0.2), LoadRefused)
    assert "10 rows" in str(error)
    assert await ids(rows) == list("abcdefghij")
    last, _, first = await rows.loads("x")
    assert (last.state, first.state) == ("refused", "loaded")
    assert "10 rows" in last.detail
    await h.run_until_idle()
    (alarm,) = await waiting(h, alarms)
    assert (alarm["name"], alarm["resource"]) == ("load-refused", "shop/rows#x")
    assert await h.supervisor.engine.sweep_loads(100) == 0, "what was staged is gone, or nothing was"


async def test_a_file_with_too_many_rejects_is_a_refused_load(harness: StartHarness) -> None:
    app = App("shop")
    rows = app.table("rows", Item, key="id")
    alarms = app.queue("alarms", dict)
    app.foreign("headwater/alarms", dict).to(alarms)
    h = await harness(app)

    async def body() -> AsyncIterator[bytes]:
        yield b"id,n\na,1\nb,many\n"

    await refusal(rows.load(csv.read(body(), Item)), TooManyRejected)
    assert await ids(rows) == []
    (summary,) = await rows.loads()
    assert (summary.state, summary.rejected) == ("refused", 1)
    assert "line 3, n" in summary.detail
    await h.run_until_idle()
    (alarm,) = await waiting(h, alarms)
    assert (alarm["name"], alarm["resource"]) == ("load-refused", "shop/rows#")


async def test_a_source_is_recognised_while_its_rows_stand(harness: StartHarness) -> None:
    app = App("shop")
    rows = app.table("rows", Item, key="id")
    read: list[str] = []

    def source(*names: str) -> Any:
        for name in names:
            read.append(name)
            yield Item(id=name)

    async def load(*names: str, sha256: str = "1", missing: Any = "delete") -> LoadSummary:
        read.clear()
        return await rows.load(source(*names), missing=missing, source="file.csv", source_sha256=sha256)

    await harness(app)
    assert (await load("a", "b")).inserted == 2
    summary = await load("a", "b")
    assert (summary.state, summary.unchanged, read) == ("unchanged", 2, [])
    assert (await load("a", "b", missing="keep")).state == "unchanged"
    assert read == ["a", "b"]
    await load("a", "b")
    await rows.put(Item(id="b", n=7))
    assert (await load("a", "b")).modified == 1
    assert (await load("a", "b", "c", sha256="2")).inserted == 1
    assert [found.sha256 for found in await rows.loads("", limit=2)] == ["2", "1"]
    assert (await rows.loads(limit=1))[0].source == "file.csv"


async def test_loads_of_one_scope_at_the_same_time_conflict_and_run_again(harness: StartHarness) -> None:
    app = App("shop")
    rows, jobs = app.table("rows", Item, key="id"), app.queue("jobs", Job)
    runs: list[int] = []
    seen: list[str] = []

    @app.on(jobs, concurrency=4)
    async def load(event: Event[Job]) -> None:
        runs.append(event.data.n)
        await rows.load(items(*(f"k{n}" for n in range(300)), n=event.data.n), missing="delete")

    @app.on(rows)
    async def changed(change: Change[Item]) -> None:
        seen.append(change.type)

    h = await harness(app)
    for n in range(4):
        await jobs.send(Job(n=n))
    await h.run_until_idle()
    assert len({row.n for row in (await rows.query(limit=1000)).items}) == 1
    assert len(runs) > 4
    assert seen.count("inserted") == 300
    assert seen.count("modified") == 900
    assert sorted(summary.state for summary in await rows.loads("")) == ["loaded"] * 4
    assert await h.supervisor.engine.sweep_loads(10_000) >= 300, "what the refused ones staged is given up at once"


async def test_a_crash_between_flip_and_expansion_loses_and_repeats_no_change(tmp_path: Any) -> None:
    app = App("shop")
    rows, log = app.table("rows", Item, key="id"), app.table("log", dict, key="id")

    @app.on(rows)
    async def changed(change: Change[Item]) -> None:
        await log.update(change.subject, add={"n": 1})

    async with Harness(app, store=tmp_path / "store") as h:
        await rows.load(items(*(f"k{n:03}" for n in range(600))))
        await h.crash()
        assert len(await ids(rows)) == 600
        await h.run_until_idle()
        found = (await log.query(limit=1000)).items
        assert [row["n"] for row in found] == [1] * 600


async def test_other_units_conflict_with_a_load_that_changed_what_they_read(harness: StartHarness) -> None:
    app = App("shop")
    rows = app.table("rows", Item, key="id")
    await harness(app)
    await rows.load(items("a", "b"))

    async def read_and_write() -> None:
        async with app.transaction():
            await rows.get("a")
            theirs = rows.load(items("a", n=2))
            await asyncio.create_task(theirs, context=contextvars.Context())  # as another handler would
            await rows.put(Item(id="z"))

    await refusal(read_and_write(), Conflict)
    assert await ids(rows) == ["a", "b"]
