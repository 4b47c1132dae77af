"""From a dropped file to its rows and their events: cut off at each point, by a kill and by a power cut."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from headwater.clock import SystemClock
from headwater.datasets import grouping
from headwater.engines.sqlite import staging
from headwater.engines.sqlite.engine import SqliteEngine
from headwater.errors import StoreFull
from headwater.objects.local import LocalBlobs
from headwater.runtime import consumer
from headwater.testing import Harness
from tests.faults import dropped_files
from tests.faults.disk_power_loss import STATES, RecordingDisk, image_after
from tests.faults.dropped_files import DIED_IN, KEY, POINTS, House, Told, audit, departments_of, file_of
from tests.faults.failing_disk import FailingVFS, small_disk
from tests.faults.power_loss import Journal, RecordingVFS, images
from tests.faults.processes import Victim
from tests.patience import PATIENCE_S

IMAGES = 16


def run_until_killed(folder: Path, point: str) -> list[str]:
    said: list[str] = []
    deadline = time.monotonic() + PATIENCE_S
    with Victim("dropped_files", str(folder), point, "1") as victim:
        try:
            for line in victim.stdout:
                said.append(line.strip())
                assert time.monotonic() < deadline, "the victim lives on"
        finally:
            victim.kill()
    assert victim.returncode == -9, said[-3:]
    return said


def acknowledged(said: list[str], what: str) -> int:
    return max((int(line.split()[1]) for line in said if line.startswith(what)), default=0)


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_on_the_way_leaves_one_file_and_tells_each_change_once(tmp_path: Path, point: str) -> None:
    said = run_until_killed(tmp_path, point)
    assert said[-1] == f"dies {point}"
    put, loaded = acknowledged(said, "put"), acknowledged(said, "loaded")
    assert DIED_IN - 1 <= loaded <= put <= DIED_IN
    assert asyncio.run(audit(tmp_path, put, loaded)) == []


class TimedDisk(RecordingDisk):
    """Notes beside each step how far the store's journal was: the two are cut at the same moment."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal
        self.at: list[int] = []

    def _note(self) -> None:
        self.at += [len(self._journal.records)] * (len(self.steps) - len(self.at))

    def create(self, path: Path) -> BinaryIO:
        file = super().create(path)
        self._note()
        return file

    def write(self, file: BinaryIO, data: bytes) -> None:
        super().write(file, data)
        self._note()

    def flush(self, file: BinaryIO) -> None:
        super().flush(file)
        self._note()

    def rename(self, old: Path, new: Path) -> None:
        super().rename(old, new)
        self._note()

    def make_folder(self, path: Path) -> None:
        super().make_folder(path)
        self._note()

    def flush_folder(self, path: Path) -> None:
        super().flush_folder(path)
        self._note()

    def remove(self, path: Path) -> None:
        super().remove(path)
        self._note()


async def drop_some(folder: Path, vfs: RecordingVFS, disk: RecordingDisk) -> None:
    house = House()
    engine = SqliteEngine(folder, clock=SystemClock(), vfs=vfs.name)
    supervisor = await dropped_files.serve(house, engine, LocalBlobs(folder / "objects", disk))
    for number in range(1, 4):
        await dropped_files.drop(house, number, vfs.journal.mark)
        await dropped_files.settled(house, number)
    await supervisor.stop(5)


def test_a_power_cut_on_the_way_leaves_one_file_and_tells_each_change_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "SLICE_ROWS", 64)
    store = tmp_path / "store"
    store.mkdir()
    vfs = RecordingVFS(f"drop-{tmp_path.name}", root=store)
    disk = TimedDisk(vfs.journal)
    try:
        asyncio.run(drop_some(store, vfs, disk))
    finally:
        vfs.unregister()
    for number, image in enumerate(images(vfs.journal, limit=IMAGES, seed=3)):
        folder = tmp_path / f"image-{number}"
        image.write_to(folder)
        done = sum(at <= image.point for at in disk.at)
        names, content = STATES[number % 2], STATES[number // 2 % 2]
        image_after(disk.steps[:done], store, folder, names, content)
        said = [str(mark) for mark in image.acknowledged]
        assert asyncio.run(audit(folder, acknowledged(said, "put"), acknowledged(said, "loaded"))) == [], image
        shutil.rmtree(folder)


async def _cut_object(house: House, folder: Path) -> None:
    for blob in (folder / "objects").glob("[0-9a-f][0-9a-f]/*"):
        blob.write_bytes(blob.read_bytes()[:-9].ljust(len(file_of(1))))


async def _mix_files(house: House, folder: Path) -> None:
    name = departments_of(1)[0]
    row = await house.departments.get(name)
    assert row is not None
    row.file = 7
    await house.departments.put(row)


async def _tell_twice(house: House, folder: Path) -> None:
    await house.told.put(Told(f"{departments_of(1)[0]} to 1", 2))


async def _lose_effect(house: House, folder: Path) -> None:
    await house.told.delete(f"{departments_of(1)[0]} to 1")


async def _leave_blob(house: House, folder: Path) -> None:
    await house.drops.put("other", b"x")


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (_cut_object, "the object is not file"),
        (_mix_files, "readers see rows of the files"),
        (_tell_twice, "took effect 2 times"),
        (_lose_effect, "lost:"),
        (_leave_blob, "bytes are left"),
    ],
)
async def test_the_audit_names_what_is_broken(
    tmp_path: Path, harm: Callable[[House, Path], Awaitable[None]], named: str
) -> None:
    """The positive control."""
    house = House()
    async with Harness(house.app, store=tmp_path) as h:
        await house.put(1)
        await h.run_until_idle()
        if harm is not _leave_blob:
            assert await house.drops.head(KEY)
        await harm(house, tmp_path)
    assert any(problem.startswith(named) for problem in await audit(tmp_path, 1, 1))


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_a_load_that_finds_the_disk_full_waits_for_room_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "FULL_DISK_PAUSE_S", 0.05)
    vfs = FailingVFS(f"full-{tmp_path.name}", tmp_path)
    fills: list[str] = []

    def passed(point: str) -> None:
        """The disk is full from when the file is read."""
        if fills:
            vfs.fault = "full"

    house = House(passed)
    engine = SqliteEngine(tmp_path, clock=SystemClock(), vfs=vfs.name)
    try:
        supervisor = await dropped_files.serve(house, engine, LocalBlobs(tmp_path / "objects"))
        await dropped_files.drop(house, 1, lambda _: None)
        await dropped_files.settled(house, 1)
        fills.append("the second file")
        await house.put(2)
        await _until(lambda: vfs.failed > 12)
        assert await dropped_files.content(house, 1) == [], "readers see the rows before"
        blobs = sorted((tmp_path / "objects").glob("??/*"))
        with pytest.raises(StoreFull):
            await house.drops.put("other", b"bytes that find room, and a record that does not")
        assert sorted((tmp_path / "objects").glob("??/*")) == blobs
        fills.clear()
        vfs.fault = ""
        await dropped_files.settled(house, 2)
        assert await engine.dead_letters("", 10) == [], "no receive was counted"
        await supervisor.stop(5)
    finally:
        vfs.unregister()
    assert await audit(tmp_path, 2, 2) == []


async def test_a_file_whose_rows_find_no_room_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are too many for memory go to a temporary folder, whose disk may be another one than the store's."""
    monkeypatch.setattr(consumer, "FULL_DISK_PAUSE_S", 0.01)
    monkeypatch.setattr(grouping, "IN_MEMORY", 1000)
    (tmp_path / "small").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "small"))
    reads: list[str] = []
    house = House(reads.append)
    engine = SqliteEngine(tmp_path / "store", clock=SystemClock())
    with small_disk(tmp_path / "small", 1):
        (tmp_path / "small" / "filler").write_bytes(bytes(1020 * 1024))
        supervisor = await dropped_files.serve(house, engine, LocalBlobs(tmp_path / "store" / "objects"))
        await house.put(1)
        await _until(lambda: len(reads) > 8)
        assert len(os.listdir(tmp_path / "small")) <= 2, "what was begun is removed"
        assert await engine.dead_letters("", 10) == [], "no receive was counted"
        (tmp_path / "small" / "filler").unlink()
        await dropped_files.settled(house, 1)
        await supervisor.stop(5)
    assert await audit(tmp_path / "store", 1, 1) == []
