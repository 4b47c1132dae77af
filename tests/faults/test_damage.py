"""Damage is named: a store that lost acknowledged commits is refused, damaged bytes are never handed out as data."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from headwater.clock import SystemClock
from headwater.engine import Query
from headwater.engines.sqlite.database import fetch
from headwater.engines.sqlite.engine import SqliteEngine
from headwater.errors import StoreDamaged, StoreError, StoreLocked, StoreTooNew
from headwater.events import Envelope
from headwater.unit import Emit, Settle, new_commit
from tests.faults.processes import Victim
from tests.faults.workload import CATALOG, Load, audit, counted, restocked
from tests.patience import PATIENCE_S

WAL_HEADER, FRAME, FRAME_HEADER = 32, 24 + 4096, 24
NEEDLE = b"a needle in a haystack"
QUEUE = "shop/direct"


def engine_at(folder: Path, *, read_only: bool = False) -> SqliteEngine:
    return SqliteEngine(folder, clock=SystemClock(), read_only=read_only)


def files(folder: Path) -> dict[str, bytes]:
    """All that matters in a store's folder; an empty file tells as much as none."""
    present = {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in ("lock", "store.db-shm")}
    return {name: content for name, content in present.items() if content}


@pytest.fixture
def crashed(tmp_path: Path) -> Path:
    """A store as a killed process leaves it: half in the database, half in the WAL, with its board."""

    async def scenario() -> None:
        engine = engine_at(tmp_path / "alive")
        await engine.open()
        await engine.install(CATALOG)
        for seed in range(2):
            await Load(engine, lambda _: None, seed).run(producers=2, actions=10)
            if not seed:
                await engine.writer.run(lambda c: c.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE), durable=False)
        shutil.copytree(tmp_path / "alive", tmp_path / "crashed")
        await engine.close()

    asyncio.run(scenario())
    return tmp_path / "crashed"


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    path.write_bytes(content)


def flip_first_frame(folder: Path) -> None:
    flip(folder / "store.db-wal", WAL_HEADER + FRAME_HEADER + 2000)


def flip_last_frame(folder: Path) -> None:
    wal = folder / "store.db-wal"
    flip(wal, wal.stat().st_size - 2000)


def flip_header(folder: Path) -> None:
    flip(folder / "store.db-wal", 17)


def truncate(folder: Path) -> None:
    wal = folder / "store.db-wal"
    os.truncate(wal, wal.stat().st_size // 2)


def delete(folder: Path) -> None:
    (folder / "store.db-wal").unlink()


@pytest.mark.parametrize("harm", [flip_first_frame, flip_last_frame, flip_header, truncate, delete])
def test_a_lost_tail_of_acknowledged_commits_is_refused_until_accepted(
    crashed: Path, harm: Callable[[Path], None]
) -> None:
    assert (crashed / "store.db-wal").stat().st_size > 10 * FRAME
    harm(crashed)
    found = files(crashed)

    async def scenario() -> None:
        for read_only in (False, True, False):
            with pytest.raises(StoreDamaged, match="acknowledged commits are missing") as refused:
                await engine_at(crashed, read_only=read_only).open()
            assert "doctor --accept" in refused.value.hint
            assert files(crashed) == found, "what was found stays as it is"
        engine = engine_at(crashed)
        await engine.accept()
        await engine.open()
        assert audit(engine.reader, []) == [], "what is left is whole"
        assert await engine.check() == []
        acknowledged: list[str] = []
        await Load(engine, acknowledged.append, 9).run(producers=2, actions=5)
        assert audit(engine.reader, acknowledged) == []
        await engine.close()

    asyncio.run(scenario())


def test_an_unharmed_crash_and_a_cleanly_closed_store_without_wal_are_opened(crashed: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        assert not (tmp_path / "alive" / "store.db-wal").exists()
        for folder in (crashed, tmp_path / "alive"):
            engine = engine_at(folder)
            await engine.open()
            assert audit(engine.reader, []) == []
            await engine.close()

    asyncio.run(scenario())


def empty_database(folder: Path) -> None:
    (folder / "store.db").write_bytes(b"")


def no_database(folder: Path) -> None:
    (folder / "store.db").unlink()


def garbage(folder: Path) -> None:
    (folder / "store.db").write_bytes(bytes(range(256)) * 64)


def half_a_database(folder: Path) -> None:
    os.truncate(folder / "store.db", (folder / "store.db").stat().st_size // 8192 * 4096)


@pytest.mark.parametrize("harm", [empty_database, no_database, garbage, half_a_database])
def test_a_store_without_its_database_is_refused_and_not_begun_anew(
    crashed: Path, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    folder = tmp_path / "alive"
    harm(folder)
    found = files(folder)
    with pytest.raises(StoreDamaged) as refused:
        asyncio.run(engine_at(folder).open())
    assert refused.value.hint
    assert files(folder) == found


def test_the_board_of_another_store_is_refused(crashed: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        other = engine_at(tmp_path / "other")
        await other.open()
        await other.close()
        shutil.copy(tmp_path / "other" / "board", crashed / "board")
        with pytest.raises(StoreDamaged, match="belongs to another store"):
            await engine_at(crashed).open()

    asyncio.run(scenario())


@pytest.mark.parametrize("read_only", [False, True])
def test_a_store_of_a_newer_version_is_refused(crashed: Path, read_only: bool) -> None:
    with_newer = apsw.Connection(str(crashed / "store.db"))
    with_newer.execute("UPDATE head SET format = format + 1")
    with_newer.close()
    with pytest.raises(StoreTooNew, match="format 3") as refused:
        asyncio.run(engine_at(crashed, read_only=read_only).open())
    assert "upgrade" in refused.value.hint


@pytest.mark.parametrize("read_only", [False, True])
def test_a_store_of_an_older_format_is_refused(crashed: Path, read_only: bool) -> None:
    with_older = apsw.Connection(str(crashed / "store.db"))
    with_older.execute("UPDATE head SET format = format - 1")
    with_older.close()
    with pytest.raises(StoreError, match="format 1, of a version before") as refused:
        asyncio.run(engine_at(crashed, read_only=read_only).open())
    assert "new store" in refused.value.hint


async def make_haystack(folder: Path) -> None:
    """A record, a waiting event and a dead letter, with enough around them, in a cleanly closed store."""
    engine = engine_at(folder)
    await engine.open()
    await engine.install(CATALOG)
    commit = restocked(1, None, 1)
    commit.writes[0].body = b'{"id":"s1","text":"%s"}' % NEEDLE
    await engine.commit(commit)
    for n in range(2):
        commit = new_commit()
        event = Envelope(id=f"{commit.id}-0", source="shop/orders", type="message", data=b'{"n":%d}' % n)
        commit.emits.append(Emit(event, queue=QUEUE))
        await engine.commit(commit)
    (delivery,) = await engine.receive(QUEUE, 1)
    commit = new_commit()
    commit.settles.append(Settle(QUEUE, delivery.position, delivery.fence, "bury", reason="no good"))
    await engine.commit(commit)
    await engine.close()


def value(folder: Path, statement: str) -> Any:
    """The one value that a statement answers, read from a closed store."""
    with closing(apsw.Connection(str(folder / "store.db"))) as reader:
        return fetch(reader, statement)[0][0]


def harm_row(folder: Path, table: str, column: str) -> None:
    """Flip a bit in the file, inside the first row's bytes of a column, in a copy of them too if there is one."""
    content = value(folder, f"SELECT {column} FROM {table} LIMIT 1")
    stored = bytearray((folder / "store.db").read_bytes())
    at = stored.find(content)
    assert at > 0
    while at > 0:
        stored[at + len(content) // 2] ^= 0x01
        at = stored.find(content, at + 1)
    (folder / "store.db").write_bytes(stored)


def test_a_flipped_bit_in_a_record_is_found_and_never_read(tmp_path: Path) -> None:
    async def scenario() -> None:
        await make_haystack(tmp_path)
        harm_row(tmp_path, "record WHERE CAST(body AS TEXT) LIKE '%needle%'", "body")
        engine = engine_at(tmp_path)
        await engine.open()
        with pytest.raises(StoreDamaged, match="checksum") as found:
            await engine.read("shop/stock", ("s1", ""))
        assert "shop/stock" in found.value.resource
        with pytest.raises(StoreDamaged):
            await engine.query(Query(table="shop/stock"))
        with pytest.raises(StoreDamaged):
            await engine.history("shop/stock", ("s1", ""), 10)
        assert any(line.startswith("record s1") for line in await engine.check())
        with pytest.raises(StoreDamaged):
            await engine.commit(restocked(1, "any", 2))
        with pytest.raises(StoreDamaged):
            await engine.commit(counted(1))
        await engine.close()

    asyncio.run(scenario())


def test_a_flipped_bit_in_an_event_is_found_and_never_delivered(tmp_path: Path) -> None:
    async def scenario() -> None:
        await make_haystack(tmp_path)
        waiting = "event WHERE seq = (SELECT max(event) FROM message)"
        id = value(tmp_path, f"SELECT id FROM {waiting}")
        harm_row(tmp_path, waiting, "envelope")
        engine = engine_at(tmp_path)
        await engine.open()
        for attempt in (engine.event(id), engine.receive(QUEUE, 1), engine.peek(QUEUE, 10), engine.events(-1)):
            with pytest.raises(StoreDamaged, match="checksum"):
                await attempt
        assert any(line.startswith(f"event {id}") for line in await engine.check())
        await engine.close()

    asyncio.run(scenario())


def test_a_flipped_bit_in_a_dead_letter_is_found_and_never_redriven(tmp_path: Path) -> None:
    async def scenario() -> None:
        await make_haystack(tmp_path)
        harm_row(tmp_path, "dead", "envelope")
        engine = engine_at(tmp_path)
        await engine.open()
        with pytest.raises(StoreDamaged, match="checksum"):
            await engine.dead_letters(QUEUE)
        assert any(line.startswith("dead ") for line in await engine.check())
        await engine.close()

    asyncio.run(scenario())


def test_a_broken_page_is_named_by_check_and_an_error_to_readers(tmp_path: Path) -> None:
    async def scenario() -> None:
        await make_haystack(tmp_path)
        page = value(tmp_path, "SELECT rootpage FROM sqlite_schema WHERE name = 'record'")
        with open(tmp_path / "store.db", "r+b") as stored:
            stored.seek((page - 1) * 4096)
            stored.write(b"\xff" * 4096)
        engine = engine_at(tmp_path)
        await engine.open()
        assert await engine.check()
        with pytest.raises(StoreDamaged):
            await engine.read("shop/stock", ("s1", ""))
        await engine.close()

    asyncio.run(scenario())


def test_a_second_process_is_refused_and_told_who_owns_the_store(tmp_path: Path) -> None:
    async def scenario(owner: int) -> None:
        for attempt in (engine_at(tmp_path).open, engine_at(tmp_path).accept):
            with pytest.raises(StoreLocked, match=f"process {owner} owns"):
                await attempt()
        reader = engine_at(tmp_path, read_only=True)
        await reader.open()
        assert await reader.check() == []
        await reader.close()

    with Victim("victim", "hold", str(tmp_path)) as holder:
        try:
            assert holder.stdout.readline() == "owns\n"
            asyncio.run(scenario(holder.pid))
        finally:
            holder.kill()
    asyncio.run(open_and_close(tmp_path))


def test_a_forked_child_does_not_keep_the_lock_of_its_dead_parent(tmp_path: Path) -> None:
    with Victim("victim", "fork", str(tmp_path)) as parent:
        assert parent.stdout.readline() == "refused\n", "the child must not use its parent's store"
        parent.wait(timeout=PATIENCE_S)
        assert parent.returncode == -9
        asyncio.run(open_and_close(tmp_path))
        parent.stdin.close()
        assert parent.stdout.readline() == "child ends\n", "the child outlived its parent until now"


async def open_and_close(folder: Path) -> None:
    engine = engine_at(folder)
    await engine.open()
    await engine.close()


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / "lock").mkdir(parents=True)
    for folder in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "taken"):
        with pytest.raises(StoreError, match=str(tmp_path)) as refused:
            asyncio.run(engine_at(folder).open())
        assert refused.value.hint
    with pytest.raises(StoreError, match="no store here"):
        asyncio.run(engine_at(tmp_path, read_only=True).open())
