"""Opening, closing and failing at awkward moments: every caller gets an answer, and the store stays sound."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import apsw
import msgspec
import pytest

from headwater.catalog import Catalog, QueueSpec, RouteSpec
from headwater.clock import SystemClock
from headwater.engines.sqlite import writer as writer_module
from headwater.engines.sqlite.engine import SqliteEngine
from headwater.errors import CommitUnknown, DeclarationError, StoreError, StoreFull, StoreLocked
from headwater.events import Envelope
from headwater.unit import Emit, new_commit
from tests.faults.failing_disk import FailingVFS
from tests.faults.workload import CATALOG, audit, counted, published
from tests.patience import PATIENCE_S

Scenario = Callable[[SqliteEngine], Awaitable[None]]


def run(folder: Path, scenario: Scenario, vfs: str | None = None) -> None:
    async def main() -> None:
        engine = SqliteEngine(folder, clock=SystemClock(), vfs=vfs)
        await engine.open()
        await engine.install(CATALOG)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await scenario(engine)
        finally:
            await engine.close()

    asyncio.run(main())


def test_commits_under_way_at_close_are_all_answered(tmp_path: Path) -> None:
    async def scenario(engine: SqliteEngine) -> None:
        commits = [counted(1) for _ in range(2_000)]
        futures = [engine.commit(commit) for commit in commits]
        paused = engine.writer.run(lambda _: 1, durable=False)
        await engine.close()
        assert all(future.done() for future in (*futures, paused))
        await asyncio.gather(*futures, paused)
        await engine.open()
        assert audit(engine.reader, [commit.id for commit in commits]) == []

    run(tmp_path, scenario)


def test_a_commit_made_while_the_store_closes_is_refused_at_once(tmp_path: Path) -> None:
    async def scenario(engine: SqliteEngine) -> None:
        early = engine.commit(counted(1))
        closing = asyncio.create_task(engine.close())
        await asyncio.sleep(0)
        for _ in range(3):
            with pytest.raises(StoreError):
                await engine.commit(counted(1))
            with pytest.raises(StoreError):
                await engine.pause("shop/work", True)
            await asyncio.sleep(0)
        await closing
        await early
        with pytest.raises(StoreError):
            await engine.commit(counted(1))

    run(tmp_path, scenario)


def test_those_who_wait_for_messages_hear_that_the_store_is_closed(tmp_path: Path) -> None:
    async def scenario(engine: SqliteEngine) -> None:
        waiting = [asyncio.create_task(engine.receive(queue, 1)) for queue in ("shop/work", "shop/work", "shop/ledger")]
        await asyncio.sleep(0)
        await engine.close()
        assert all(isinstance(error, StoreError) for error in await asyncio.gather(*waiting, return_exceptions=True))

    run(tmp_path, scenario)


def test_a_second_close_waits_for_the_first_even_when_that_was_cancelled(tmp_path: Path) -> None:
    async def scenario(engine: SqliteEngine) -> None:
        futures = [engine.commit(published(1)) for _ in range(2_000)]
        first = asyncio.create_task(engine.close())
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(engine.close(), engine.close(), first, return_exceptions=True)
        assert all(future.done() and not future.exception() for future in futures)
        await engine.open()
        assert await engine.check() == []

    run(tmp_path, scenario)


def test_an_open_store_refuses_to_open_and_works_on(tmp_path: Path) -> None:
    async def scenario(engine: SqliteEngine) -> None:
        with pytest.raises(StoreError, match="is open"):
            await engine.open()
        with pytest.raises(StoreLocked):
            await engine.accept()
        with pytest.raises(StoreLocked):
            await SqliteEngine(tmp_path, clock=SystemClock()).open()
        await engine.commit(counted(1))

    run(tmp_path, scenario)


def test_an_engine_that_failed_to_open_lets_go_and_can_try_again(tmp_path: Path) -> None:
    async def scenario(engine: SqliteEngine) -> None:
        late = SqliteEngine(tmp_path, clock=SystemClock())
        with pytest.raises(StoreLocked):
            await late.open()
        await late.close()
        await engine.close()
        await late.open()
        await late.commit(counted(1))
        await late.close()

    run(tmp_path, scenario)


@pytest.mark.parametrize("call", ["commit", "task"])
def test_an_error_after_the_commit_stops_the_store_and_answers_everyone(tmp_path: Path, call: str) -> None:
    def fail(_: int) -> None:
        raise RuntimeError("no board")

    async def scenario(engine: SqliteEngine) -> None:
        present = await engine.now_ms()
        setattr(engine.board, "flushed", fail)  # noqa: B010
        first = engine.commit(counted(1)) if call == "commit" else engine.writer.run(lambda _: None)
        later = [engine.commit(counted(1)) for _ in range(20)]
        outcomes = await asyncio.gather(first, *later, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {CommitUnknown}
        assert isinstance(await engine.broken(), CommitUnknown)
        await engine.close()
        await engine.open()
        assert audit(engine.reader, []) == []
        await engine.commit(counted(1))
        assert await engine.now_ms() >= present

    run(tmp_path, scenario)


@pytest.mark.parametrize("durable", [True, False])
def test_a_task_that_fails_leaves_no_transaction_behind(tmp_path: Path, durable: bool) -> None:
    def work(connection: apsw.Connection) -> None:
        if not durable:
            connection.execute("BEGIN IMMEDIATE")
        connection.execute("DELETE FROM head")
        raise ValueError("half way")

    async def scenario(engine: SqliteEngine) -> None:
        with pytest.raises(StoreError, match="half way"):
            await engine.writer.run(work, durable=durable)
        await engine.commit(counted(1))
        await engine.close()
        await engine.open()
        assert await engine.check() == []

    run(tmp_path, scenario)


def test_a_foreign_write_lock_refuses_a_batch_once_and_not_commit_by_commit(tmp_path: Path) -> None:
    async def scenario(engine: SqliteEngine) -> None:
        began: list[str] = []

        def trace(_: apsw.Cursor, statement: str, __: object) -> bool:
            began.append(statement)
            return True

        engine._connection.set_busy_timeout(20)
        engine._connection.exec_trace = trace
        foreign = apsw.Connection(str(tmp_path / "store.db"))
        foreign.execute("BEGIN IMMEDIATE")
        outcomes = await asyncio.gather(*(engine.commit(counted(1)) for _ in range(100)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {StoreLocked}
        assert began.count("BEGIN IMMEDIATE") < 5
        foreign.execute("ROLLBACK")
        foreign.close()
        await engine.commit(counted(1))

    run(tmp_path, scenario)


def test_the_wal_stays_short_under_constant_load_beside_readers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "_FULL_PAGES", 400)
    monkeypatch.setattr(writer_module, "_IDLE_PAGES", 100)
    longest = 0

    async def scenario(engine: SqliteEngine) -> None:
        nonlocal longest
        async with asyncio.TaskGroup() as group:
            for _ in range(16):
                group.create_task(commits(engine, 150))
        assert longest < 1_500
        reader = apsw.Connection(str(tmp_path / "store.db"))
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM head").fetchall()
        await commits(engine, 400)
        held = engine.writer._wal_pages
        assert held > 1_500, "a reader holds the WAL back"
        reader.execute("COMMIT")
        reader.close()
        await commits(engine, 100)
        assert engine.writer._wal_pages < held, "it is begun anew when the reader has gone"

    async def commits(engine: SqliteEngine, number: int) -> None:
        nonlocal longest
        for _ in range(number):
            await engine.commit(published(1))
            await engine.read("shop/counter", ("c1", ""))
            longest = max(longest, engine.writer._wal_pages)

    run(tmp_path, scenario)


def test_a_catalog_that_was_not_installed_leaves_no_names_in_memory(tmp_path: Path) -> None:
    vfs = FailingVFS("no-room", tmp_path)
    more = Catalog(apps=("more",), topics={f"more/t{n}": 1 for n in range(500)})

    async def scenario(engine: SqliteEngine) -> None:
        revision = await engine.install(CATALOG)
        vfs.fault = "full"
        with pytest.raises(StoreFull):
            await engine.install(more)
        vfs.fault = ""
        assert "more/t1" not in engine.state.ids
        assert await engine.install(CATALOG) == revision
        assert await engine.install(more) == revision + 1
        await engine.close()
        await engine.open()
        assert "more/t499" in engine.state.ids

    try:
        run(tmp_path, scenario, vfs=vfs.name)
    finally:
        vfs.unregister()


def test_a_kept_queue_does_not_move_the_revision_again(tmp_path: Path) -> None:
    async def scenario(engine: SqliteEngine) -> None:
        await engine.commit(published(1))
        fewer = msgspec.structs.replace(CATALOG, queues={"shop/direct": CATALOG.queues["shop/direct"]}, routes=())
        revision = await engine.install(fewer)
        assert await engine.install(fewer) == revision
        assert sorted((await engine.catalog()).queues) == ["shop/direct", "shop/ledger", "shop/work"]

    run(tmp_path, scenario)


def test_apps_installed_at_once_cannot_form_a_cycle_together(tmp_path: Path) -> None:
    def app(name: str, other: str = "") -> Catalog:
        routes = (RouteSpec(source=f"{name}/t", target=f"{other}/t", origin=name),) if other else ()
        queues = {f"{name}/q": QueueSpec(name=f"{name}/q")}
        return Catalog(apps=(name,), topics={f"{name}/t": 1}, queues=queues, routes=routes)

    async def scenario(engine: SqliteEngine) -> None:
        await engine.install(app("a"))
        await engine.install(app("b"))
        outcomes = await asyncio.gather(
            engine.install(app("a", "b")), engine.install(app("b", "a")), return_exceptions=True
        )
        assert sorted(isinstance(outcome, DeclarationError) for outcome in outcomes) == [False, True]
        await engine.close()
        await engine.open()
        commit = new_commit()
        commit.emits.append(Emit(Envelope(id="e", source="shop/orders", type="message", data=b"{}")))
        await engine.commit(commit)

    run(tmp_path, scenario)
