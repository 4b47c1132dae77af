"""The power is cut at any moment of a workload: what was acknowledged is there, whole, and takes effect once."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from headwater.clock import SystemClock
from headwater.engines.sqlite.engine import SqliteEngine
from headwater.errors import StoreDamaged
from tests.faults.power_loss import Image, Journal, Mark, RecordingVFS, images
from tests.faults.workload import CATALOG, Load, audit, checkpoint, drain

IMAGES = 100


async def work(folder: Path, vfs: RecordingVFS, synchronous: str) -> bytes:
    """Run the workload, with checkpoints between, and return the board as it stood at the end."""
    engine = SqliteEngine(folder, clock=SystemClock(), vfs=vfs.name, synchronous=synchronous)
    await engine.open()
    await engine.install(CATALOG)
    for part in range(3):
        await Load(engine, vfs.journal.mark, seed=part).run(producers=4, actions=12)
        await engine.writer.run(checkpoint, durable=False)
    await Load(engine, vfs.journal.mark, seed=3).run(producers=4, actions=12)
    board = (folder / "board").read_bytes()
    await engine.close()
    return board


@dataclass
class Recording:
    journal: Journal
    board: bytes
    folder: Path

    def images(self, limit: int, seed: int) -> Iterator[tuple[Image, Path]]:
        """Each image with the folder that it was written to."""
        for image in images(self.journal, limit=limit, seed=seed):
            folder = self.folder / "image"
            shutil.rmtree(folder, ignore_errors=True)
            image.write_to(folder)
            yield image, folder


def record(tmp_path: Path, synchronous: str) -> Recording:
    vfs = RecordingVFS(f"cut-{tmp_path.name}", root=tmp_path / "store")
    try:
        board = asyncio.run(work(tmp_path / "store", vfs, synchronous))
    finally:
        vfs.unregister()
    return Recording(vfs.journal, board, tmp_path)


async def inspect(folder: Path, image: Image) -> list[str]:
    """Open the image, and name all that is wrong with it."""
    engine = SqliteEngine(folder, clock=SystemClock())
    await engine.open()
    try:
        found = [*audit(engine.reader, map(str, image.acknowledged)), *await engine.check()]
    finally:
        await engine.close()
    return [f"{image}: {problem}" for problem in found]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return record(tmp_path_factory.mktemp("full"), "FULL")


def test_no_power_cut_loses_or_tears_an_acknowledged_commit(recording: Recording) -> None:
    async def scenario() -> int:
        promised = 0
        for image, folder in recording.images(IMAGES, seed=1):
            assert await inspect(folder, image) == []
            promised = max(promised, len(image.acknowledged))
        return promised

    assert asyncio.run(scenario()) > 300, "the workload acknowledged too little to prove anything"


def test_work_goes_on_in_an_image_and_each_effect_happens_once(recording: Recording) -> None:
    async def scenario() -> None:
        for image, folder in recording.images(8, seed=2):
            engine = SqliteEngine(folder, clock=SystemClock())
            await engine.open()
            await engine.install(CATALOG)
            acknowledged = [str(mark) for mark in image.acknowledged]
            load = Load(engine, acknowledged.append, seed=image.point)
            await load.run(producers=4, actions=3)
            await drain(load)
            assert audit(engine.reader, acknowledged) == []
            assert [stats.depth for stats in await engine.stats()] == [0, 0, 0, 0]
            await engine.close()

    asyncio.run(scenario())


def test_an_image_older_than_the_board_is_refused_and_any_other_opened(recording: Recording) -> None:
    """A board that outlived the power cut names the last commit: an image that lacks it was not made by us."""

    promised = [str(record.payload) for record in recording.journal.records if isinstance(record, Mark)]

    async def scenario() -> list[bool]:
        refused: list[bool] = []
        for image, folder in recording.images(60, seed=3):
            (folder / "board").write_bytes(recording.board)
            engine = SqliteEngine(folder, clock=SystemClock())
            error = (await asyncio.gather(engine.open(), return_exceptions=True))[0]
            refused.append(error is not None)
            if error:
                assert isinstance(error, StoreDamaged)
                assert "--accept" in error.hint
                assert len(image.acknowledged) < len(promised), f"{image}: {error}"
            else:
                assert audit(engine.reader, promised) == [], str(image)
                await engine.close()
        return refused

    refused = asyncio.run(scenario())
    assert refused.count(True) > 30


@pytest.mark.parametrize("synchronous", ["OFF", "NORMAL"])
def test_a_weaker_flush_is_found_to_lose_commits(tmp_path: Path, synchronous: str) -> None:
    recording = record(tmp_path, synchronous)

    async def scenario() -> str:
        for image, folder in recording.images(IMAGES, seed=4):
            try:
                found = await inspect(folder, image)
            except StoreDamaged:
                continue
            if lost := next((problem for problem in found if problem.endswith("is lost")), ""):
                return lost
        return ""

    assert asyncio.run(scenario()), f"no image of a store with synchronous={synchronous} has lost a commit"
