"""Spans: what is timed, how the parts hang together, which traces are kept, and what the store gets."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from pydantic import BaseModel

from headwater import App, Discard, Event, attempt, new_id, step
from headwater.http.unit_layer import no_rerun
from headwater.runtime.admin import Admin
from headwater.runtime.spans import ASKED, WAITING, Spans
from headwater.testing import Harness
from headwater.tracing import Span

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
NOT_SAMPLED = {"traceparent": f"00-{TRACE}-{CALLER}-00"}


class Row(BaseModel):
    id: str
    n: int = 0


async def vendor(scope: Any, receive: Any, send: Any) -> None:
    headers = [name for name, _ in scope["headers"] if name == b"traceparent"]
    await send({"type": "http.response.start", "status": 200 if headers else 400, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def make_shop() -> App[None]:
    app = App("shop")
    rows = app.table("rows", Row, key="id")
    jobs = app.queue("jobs", Row, max_receives=3)
    bank = app.service("vendor")

    @app.on(rows)
    async def on_row(change: Any) -> None:
        await jobs.send(change.new)

    @app.on(jobs)
    async def work(event: Event[Row]) -> None:
        if event.data.n < 0:
            raise ValueError("negative")
        if event.data.n == 99:
            raise Discard("not wanted")

        async def ask() -> int:
            return (await bank.client.get("/ask")).status_code

        await step("ask", ask)

    @app.http.post("/rows/{id}")
    async def put(id: str, n: int = 0) -> dict[str, str]:
        await rows.put(Row(id=id, n=n))
        return {}

    @app.http.get("/broken")
    async def broken() -> None:
        raise RuntimeError("it broke")

    return app


async def spans_of(h: Harness, trace: str = TRACE) -> list[Span]:
    return await h.supervisor.tracer.of(trace, 1000)


def named(spans: list[Span], kind: str, name: str = "") -> Span:
    (found,) = [span for span in spans if span.kind == kind and name in ("", span.name)]
    return found


async def test_a_sampled_trace_is_kept_whole_and_each_part_hangs_below_what_began_it() -> None:
    app = make_shop()
    async with Harness(app, services={"vendor": vendor}) as h:
        await h.client(app).post("/rows/a", headers=SAMPLED)
        await h.run_until_idle()
        spans = await spans_of(h)
    request, on_row = named(spans, "request"), named(spans, "attempt", "on-row")
    work, ask, call = named(spans, "attempt", "work"), named(spans, "step"), named(spans, "call")
    assert len(spans) == 5
    parents = [span.parent for span in (request, on_row, work, ask, call)]
    assert parents == [CALLER, request.id, on_row.id, work.id, ask.id]
    assert (request.name, request.of, request.status) == ("POST /rows/{id}", "POST /rows/a", 200)
    assert on_row.of.endswith("/shop/on-row")
    assert (ask.name, call.name, call.of, call.status) == ("ask", "GET vendor", "http://vendor", 200)
    assert {(span.app, span.outcome, span.trace) for span in spans} == {("shop", "ok", TRACE)}


async def test_of_other_traces_failures_are_kept_and_nothing_else() -> None:
    app = make_shop()
    async with Harness(app, services={"vendor": vendor}) as h:
        client = h.client(app)
        await client.post("/rows/a", headers=NOT_SAMPLED)
        await h.run_until_idle()
        assert await spans_of(h) == []
        await client.post("/rows/b", params={"n": -1}, headers=NOT_SAMPLED)
        await h.advance(minutes=5)
        failed = await spans_of(h)
        assert [(span.kind, span.attempt, span.error) for span in failed] == [
            ("attempt", n, "ValueError: negative") for n in (1, 2, 3)
        ]
        assert len({span.id for span in failed}) == 3
        (parent,) = {span.parent for span in failed}
        assert parent
        with pytest.raises(RuntimeError):
            await client.get("/broken", headers=NOT_SAMPLED)
        request = named(await spans_of(h), "request")
        assert (request.status, request.outcome, request.error) == (500, "failed", "RuntimeError: it broke")


async def test_how_attempts_end() -> None:
    app = make_shop()
    async with Harness(app, services={"vendor": vendor}) as h:
        await h.client(app).post("/rows/a", params={"n": 99}, headers=SAMPLED)
        await h.run_until_idle()
        work = named(await spans_of(h), "attempt", "work")
        assert (work.outcome, work.error) == ("discarded", "Discard: not wanted")


async def test_a_run_that_meets_a_conflict_is_a_span_of_its_own() -> None:
    app = App("shop")
    rows = app.table("rows", Row, key="id")
    runs = list[int]()

    async def count_up() -> None:
        row = await rows.get("a") or Row(id="a")
        runs.append(row.n)
        if len(runs) == 1:
            await h.supervisor.engine.commit(_intruder(h, rows))
        await rows.put(Row(id="a", n=row.n + 1))

    @app.http.post("/up")
    async def up() -> None:
        await count_up()

    @app.http.post("/up-once")
    @no_rerun
    async def up_once() -> None:
        await count_up()

    ups = app.queue("ups", Row)

    @app.on(ups)
    async def handle(event: Event[Row]) -> None:
        await count_up()

    @app.http.post("/send")
    async def send() -> None:
        await ups.send(Row(id="x"))

    async with Harness(app) as h:
        client = h.client(app)
        assert (await client.post("/up", headers=SAMPLED)).status_code == 200
        first, second = await spans_of(h)
        assert [first.outcome, second.outcome] == ["conflict", "ok"]
        assert [first.status, second.status] == [0, 200]
        assert first.id != second.id
        assert first.parent == second.parent == CALLER
        runs.clear()
        other = new_id()
        await client.post("/send", headers={"traceparent": f"00-{other}-{CALLER}-01"})
        await h.advance(seconds=1)
        attempts = [span for span in await spans_of(h, other) if span.kind == "attempt"]
        assert [(span.outcome, span.attempt) for span in attempts] == [("conflict", 1), ("ok", 1)]


def _intruder(h: Harness, rows: Any) -> Any:
    from headwater.unit import Write, new_commit

    commit = new_commit()
    commit.writes = [Write(rows.name, rows.key("a"), f"{commit.id}-0", rows.encode(Row(id="a", n=10)))]
    return commit


async def test_a_batch_is_a_span_in_each_sampled_trace() -> None:
    app = App("shop")
    jobs = app.queue("jobs", Row)
    more = app.queue("more", Row)

    @app.on(jobs, batch=10)
    async def work(events: list[Event[Row]]) -> None:
        for event in events:
            async with attempt(event):
                if event.data.n < 0:
                    raise ValueError("negative")
                await more.send(event.data)

    @app.on(more)
    async def later(event: Event[Row]) -> None: ...

    @app.http.post("/{n}")
    async def send(n: int) -> None:
        await jobs.send(Row(id=str(n), n=n))

    first, second, unkept = new_id(), new_id(), new_id()
    async with Harness(app) as h:
        client = h.client(app)
        await h.supervisor.engine.pause("shop/jobs", True)
        for trace, n, flag in ((first, 1, "01"), (first, 2, "01"), (second, -1, "01"), (unkept, 3, "00")):
            await client.post(f"/{n}", headers={"traceparent": f"00-{trace}-{CALLER}-{flag}"})
        await h.supervisor.engine.pause("shop/jobs", False)
        await h.run_until_idle()
        ours = await spans_of(h, first)
        (batch,) = [span for span in ours if span.name == "work"]
        assert (batch.events, batch.outcome) == (2, "ok")
        assert {span.parent for span in ours if span.name == "later"} == {batch.id}
        theirs = [span for span in await spans_of(h, second) if span.name == "work"]
        assert sorted(span.outcome for span in theirs) == ["failed", "ok"]
        assert await spans_of(h, unkept) == []


# Which traces, and how many


def tracer_of(h: Harness, **more: Any) -> Spans:
    return Spans(h.supervisor.engine, h.clock, h.supervisor.system, **{"share": 0.0, "kept_ms": 7 * 86_400_000, **more})


async def test_the_share_is_decided_by_the_trace_alone() -> None:
    ours = [new_id() for _ in range(20_000)]
    async with Harness(App("shop")) as h:
        one, other, more = tracer_of(h, share=0.1), tracer_of(h, share=0.1), tracer_of(h, share=0.5)
        kept = [trace for trace in ours if one.samples(trace)]
        assert 0.08 < len(kept) / len(ours) < 0.12
        assert kept == [trace for trace in ours if other.samples(trace)]
        assert all(more.samples(trace) for trace in kept)
        assert all(tracer_of(h, share=1.0).samples(trace) for trace in ours)
        assert not any(tracer_of(h).samples(trace) for trace in ours)


async def test_callers_are_followed_within_a_bound() -> None:
    async with Harness(App("shop")) as h:
        tracer = tracer_of(h)
        asked = [new_id() for _ in range(ASKED.capacity + 50)]
        for trace in asked:
            tracer.ask(trace)
        assert [tracer.samples(trace) for trace in asked] == [True] * ASKED.capacity + [False] * 50
        await h.advance(seconds=5)
        tracer.ask(asked[-1])
        assert tracer.samples(asked[-1])


def span(trace: str = TRACE) -> Span:
    return Span(trace=trace, id=new_id()[16:], kind="request", name="GET /", app="shop")


async def test_spans_are_written_once_a_second_in_one_commit_that_no_request_waits_for() -> None:
    app = make_shop()
    async with Harness(app, services={"vendor": vendor}) as h:
        commits = list[list[str]]()
        engine, commit = h.supervisor.engine, h.supervisor.engine.commit

        def watched(unit: Any) -> Any:
            commits.append([write.table for write in unit.writes])
            return commit(unit)

        engine.commit = watched  # type: ignore[method-assign, assignment]
        table = h.supervisor.system.spans
        await h.client(app).post("/rows/a", headers=SAMPLED)
        await h.run_until_idle()
        assert not any({table.name} < set(tables) for tables in commits)
        for n in range(5):
            await h.client(app).post(f"/rows/{n}", headers=SAMPLED)
        await h.run_until_idle()
        assert len([tables for tables in commits if table.name in tables]) == 1
        await h.advance(seconds=3)
        written = [tables for tables in commits if table.name in tables]
        assert len(written) == 2
        assert sum(map(len, written)) == 30
        assert [item async for item in _rows(table)] == await spans_of(h)


async def test_a_span_waits_for_the_second_to_pass_since_the_last_write() -> None:
    async with Harness(App("shop")) as h:
        tracer, table = h.supervisor.tracer, h.supervisor.system.spans
        seen = list[int]()
        for _ in range(3):
            tracer.record(span(), tracer.now())
            await h.run_until_idle()
            seen.append(len((await table.query(TRACE)).items))
        assert seen == [1, 1, 1]
        await h.advance(seconds=1)
        assert len((await table.query(TRACE)).items) == 3


async def _rows(table: Any) -> Any:
    page = await table.query(TRACE, limit=1000)
    for row in sorted(page.items, key=lambda one: (one.start_ms, one.id)):
        yield row


async def test_what_waits_is_written_at_a_stop_and_expires_with_the_history() -> None:
    app = make_shop()
    async with Harness(app, services={"vendor": vendor}) as h:
        await h.client(app).post("/rows/a", headers=SAMPLED)
        await h.run_until_idle()
        await h.restart()
        assert len(await spans_of(h)) == 5
        await h.advance(days=8)
        assert await spans_of(h) == []


async def test_more_than_can_wait_is_dropped_and_counted() -> None:
    async with Harness(App("shop")) as h:
        tracer = tracer_of(h)
        for _ in range(WAITING + 7):
            tracer.record(span(), tracer.now())
        assert tracer.dropped == 7
        await tracer.flush()
        assert len(await tracer.of(TRACE, 1000)) == WAITING


async def test_the_store_gets_no_more_than_its_share_and_the_sampled_share_falls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("headwater.runtime.spans.BURST", 4000)
    monkeypatch.setattr("headwater.runtime.spans.MOST", 40_000)
    async with Harness(App("shop")) as h:
        tracer = tracer_of(h, share=1.0, kept_ms=3_600_000)
        traces = [new_id() for _ in range(1000)]

        async def record(n: int) -> None:
            for _ in range(n):
                tracer.record(span(), tracer.now())
            await tracer.flush()

        for _ in range(4):
            await record(600)
        kept = [trace for trace in traces if tracer.samples(trace)]
        assert 0 < len(kept) < len(traces) * 0.75
        unasked = next(trace for trace in traces if trace not in kept)
        tracer.ask(unasked)
        assert not tracer.samples(unasked)
        assert tracer.dropped == 0
        await record(1000)
        await record(1000)
        assert tracer.dropped == 4 * 600 + 2000 - 4000
        for _ in range(40):
            h.clock.move_to(h.clock.monotonic() + 600)
            await record(1)
        assert all(tracer.samples(trace) for trace in traces)


async def test_spans_that_could_not_be_written_are_not_lost() -> None:
    from headwater.errors import StoreFull

    app = make_shop()
    async with Harness(app, services={"vendor": vendor}) as h:
        tracer, engine = h.supervisor.tracer, h.supervisor.engine
        commit = engine.commit

        def full(unit: Any) -> Any:
            raise StoreFull("the disk is full", operation="commit")

        tracer.record(span(), tracer.now())
        engine.commit = full  # type: ignore[method-assign, assignment]
        await h.advance(seconds=2)
        engine.commit = commit  # type: ignore[method-assign]
        assert len(await spans_of(h)) == 1
        await h.advance(seconds=10)
        assert len((await h.supervisor.system.spans.query(TRACE)).items) == 1


# The admin API


async def test_the_trace_operation_tells_spans_with_or_without_events() -> None:
    app = make_shop()
    async with Harness(app, services={"vendor": vendor}) as h:
        admin = Admin(h.supervisor.engine, h.supervisor, clock=h.clock)
        await h.client(app).post("/rows/a", headers=SAMPLED)
        await h.run_until_idle()
        answer = await admin.trace(id=TRACE)
        (root,) = answer["roots"]
        (request,) = [one for one in answer["spans"] if one["kind"] == "request"]
        assert request["of"] == root["cause"]
        assert set(request) == {*Span.__struct_fields__, "start", "duration_ms"} - {"start_ms", "duration_us"}
        other = new_id()
        await h.client(app).get("/nowhere", headers={"traceparent": f"00-{other}-{CALLER}-01"})
        alone = await admin.trace(id=other)
        assert (alone["events"], [one["status"] for one in alone["spans"]]) == (0, [404])
        assert msgspec.json.encode(alone)
