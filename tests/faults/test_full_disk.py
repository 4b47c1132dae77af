"""A full disk refuses commits and nothing else; a failing one stops the store until it is opened anew."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import apsw
import pytest

from headwater.clock import SystemClock
from headwater.codec import encode_json
from headwater.engines.sqlite.board import Board
from headwater.engines.sqlite.engine import SqliteEngine
from headwater.errors import CommitUnknown, StoreFull
from headwater.unit import Commit
from tests.faults.failing_disk import FailingVFS, Fault
from tests.faults.workload import CATALOG, Load, audit, checkpoint, counted, drain, published, restocked

MEGABYTES = 8


@contextmanager
def failing(root: Path) -> Iterator[FailingVFS]:
    vfs = FailingVFS(f"failing-{root.name}", root)
    try:
        yield vfs
    finally:
        vfs.unregister()


async def opened(folder: Path, vfs: FailingVFS | None = None) -> SqliteEngine:
    engine = SqliteEngine(folder, clock=SystemClock(), vfs=vfs.name if vfs else None)
    await engine.open()
    await engine.install(CATALOG)
    return engine


def large(n: int) -> Commit:
    commit = restocked(n, None, n)
    body = {"id": f"s{n}", "n": n, "by": commit.id, "text": f"{n:05}" * 8_000}
    commit.writes[0].body = encode_json(body)
    return commit


class Disk:
    """A disk that can be filled and cleared: a small file system, or a VFS that plays one."""

    def __init__(self, fill: Callable[[], None], clear: Callable[[], None], vfs: FailingVFS | None = None) -> None:
        self.fill = fill
        self.clear = clear
        self.vfs = vfs


async def survive_full_disk(folder: Path, disk: Disk) -> None:
    engine = await opened(folder, disk.vfs)
    acknowledged: list[str] = []
    load = Load(engine, acknowledged.append, seed=5)
    await load.run(producers=4, actions=10)
    disk.fill()
    await load.run(producers=8, actions=200)
    assert load.full > 50, "the disk never was full"
    with pytest.raises(StoreFull) as refused:
        await engine.commit(large(99))
    assert refused.value.retryable
    await _read_everything(engine)
    with pytest.raises(StoreFull):
        await engine.writer.run(checkpoint, durable=False)
    assert audit(engine.reader, acknowledged) == [], "nothing of the refused commits is there"
    disk.clear()
    before = len(acknowledged)
    await load.run(producers=4, actions=10)
    await drain(load)
    assert len(acknowledged) > before + 40
    assert audit(engine.reader, acknowledged) == []
    await engine.close()
    await _reopen(folder, acknowledged)


async def _read_everything(engine: SqliteEngine) -> None:
    assert await engine.check() == []
    assert await engine.read("shop/counter", ("c0", ""))
    assert await engine.events(0, 10)
    assert await engine.stats()


async def _reopen(folder: Path, acknowledged: list[str]) -> None:
    engine = await opened(folder)
    try:
        assert audit(engine.reader, acknowledged) == []
        assert await engine.check() == []
        await engine.commit(counted(1))
    finally:
        await engine.close()


def test_a_full_disk_played_by_the_vfs_refuses_commits_only(tmp_path: Path) -> None:
    with failing(tmp_path) as vfs:

        def fault(kind: Fault) -> Callable[[], None]:
            return lambda: setattr(vfs, "fault", kind)

        asyncio.run(survive_full_disk(tmp_path / "store", Disk(fault("full"), fault(""), vfs)))


def test_a_full_file_system_refuses_commits_only(tmp_path: Path) -> None:
    """On a real file system of a few megabytes where this process may mount one, else on the VFS above alone."""
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs", str(tmp_path)], check=False, capture_output=True
    ).returncode:
        with failing(tmp_path) as vfs:
            asyncio.run(_refuse_and_recover(tmp_path / "store", vfs))
        return
    try:
        filler = tmp_path / "filler"
        disk = Disk(lambda: fill(filler), filler.unlink)
        asyncio.run(survive_full_disk(tmp_path / "store", disk))
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


async def _refuse_and_recover(folder: Path, vfs: FailingVFS) -> None:
    engine = await opened(folder, vfs)
    vfs.fault = "full"
    with pytest.raises(StoreFull):
        await engine.commit(large(1))
    vfs.fault = ""
    await engine.commit(large(1))
    await engine.close()


def write_some(file: IO[bytes], content: bytes) -> bool:
    try:
        return file.write(content) == len(content)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False


def fill(path: Path) -> None:
    """Take all the room there is."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12):
            while write_some(file, bytes(size)):
                pass
        os.fsync(file.fileno())


def test_a_checkpoint_that_finds_no_room_is_deferred(tmp_path: Path) -> None:
    async def scenario(vfs: FailingVFS) -> None:
        engine = await opened(tmp_path / "store", vfs)
        writer = engine.writer
        commits = [large(n) for n in range(130)]
        for commit in commits:
            await engine.commit(commit)
        vfs.fault = "full"
        await writer.run(lambda _: writer._checkpoint(1_000), durable=False)
        assert vfs.failed, "the checkpoint met the full disk"
        assert writer.failure is None
        vfs.fault = ""
        await engine.commit(counted(1))
        assert audit(engine.reader, [commit.id for commit in commits]) == []
        await engine.close()

    with failing(tmp_path) as vfs:
        asyncio.run(scenario(vfs))


@pytest.mark.parametrize("fault", ["write", "flush"])
def test_an_io_error_leaves_the_outcome_unknown_and_stops_the_store(tmp_path: Path, fault: Fault) -> None:
    async def scenario(vfs: FailingVFS) -> None:
        engine = await opened(tmp_path / "store", vfs)
        acknowledged: list[str] = []
        await Load(engine, acknowledged.append, seed=6).run(producers=4, actions=10)
        unknown = [published(n) for n in range(8)]
        futures = [engine.commit(commit) for commit in unknown]
        vfs.fault = fault
        outcomes = await asyncio.gather(*futures, engine.commit(published(9)), return_exceptions=True)
        assert any(isinstance(outcome, CommitUnknown) for outcome in outcomes)
        acknowledged += [c.id for c, o in zip(unknown, outcomes, strict=False) if not isinstance(o, Exception)]
        vfs.fault = ""
        for refused in (engine.commit(counted(1)), engine.pause("shop/work", True)):
            with pytest.raises(CommitUnknown) as stopped:
                await refused
            assert stopped.value.retryable
            assert isinstance(stopped.value.__cause__, apsw.IOError)
        await _read_everything(engine)
        await engine.close()
        await _reopen(tmp_path / "store", acknowledged)

    with failing(tmp_path) as vfs:
        asyncio.run(scenario(vfs))


def test_a_board_that_finds_no_room_is_refused_before_it_is_stored_to(tmp_path: Path) -> None:
    """A page of the board without room on the disk would kill the process when it is stored to."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    mounted = subprocess.run(mount, check=False, capture_output=True).returncode == 0
    try:
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            Board(tmp_path / "board" if mounted else Path("/dev/full"))
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_a_file_system_without_room_for_a_store_is_named_at_open(tmp_path: Path) -> None:
    async def scenario(vfs: FailingVFS) -> None:
        vfs.fault = "full"
        with pytest.raises(StoreFull) as refused:
            await opened(tmp_path / "store", vfs)
        assert refused.value.hint
        vfs.fault = ""
        await (await opened(tmp_path / "store", vfs)).close()

    with failing(tmp_path) as vfs:
        asyncio.run(scenario(vfs))
