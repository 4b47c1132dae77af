"""A load is cut off at each point, by a kill and by a power cut: readers see one dataset, each change is told once."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

import pytest

from headwater.clock import SystemClock
from headwater.engines.sqlite import staging
from headwater.engines.sqlite.engine import SqliteEngine
from tests.faults import datasets
from tests.faults.power_loss import RecordingVFS, images
from tests.faults.processes import Victim
from tests.patience import PATIENCE_S

IMAGES = 40
POINTS = [
    *((phase, point, passes) for phase in ("staging", "expanding") for point in ("before-commit", "before-flush",
      "after-flush") for passes in (1, 3)),
    *(("flipping", point, 1) for point in ("before-begin", "after-apply", "before-commit", "before-flush",
      "after-flush", "after-commit", "before-results")),
]  # fmt: skip


def run_until_killed(folder: Path, phase: str, point: str, passes: int) -> list[str]:
    said: list[str] = []
    deadline = time.monotonic() + PATIENCE_S
    with Victim("victim", "datasets", str(folder), phase, point, str(passes)) as victim:
        try:
            for line in victim.stdout:
                said.append(line.strip())
                assert said[-1] != "unharmed", "the point was never passed"
                assert time.monotonic() < deadline, "the victim lives on"
        finally:
            victim.kill()
    assert victim.returncode == -9, said[-3:]
    return said


async def inspect(folder: Path, acknowledged: int) -> tuple[list[str], int]:
    """What is wrong, then and after one more load; and the dataset that was there."""
    engine = SqliteEngine(folder, clock=SystemClock())
    await engine.open()
    try:
        if not engine.state.tables:
            return ([] if not acknowledged else ["the store is empty"]), 0
        found = await datasets.audit(engine, acknowledged)
        generation = await datasets.present(engine)
        await datasets.load(engine, generation + 1, lambda _, __: None, lambda _: None)
        return found + await datasets.audit(engine, generation + 1), generation
    finally:
        await engine.close()


@pytest.mark.parametrize(("phase", "point", "passes"), POINTS)
def test_a_kill_leaves_the_old_dataset_or_the_new_one(tmp_path: Path, phase: str, point: str, passes: int) -> None:
    said = run_until_killed(tmp_path, phase, point, passes)
    assert said[-1] == f"dies {point}"
    acknowledged = [int(line.partition(" ")[2]) for line in said if line.startswith("flipped")][-1]
    found, generation = asyncio.run(inspect(tmp_path, acknowledged))
    assert found == []
    assert acknowledged == (3 if phase == "expanding" else 2)
    if phase == "staging":
        assert generation == 2


def test_no_power_cut_mixes_datasets_or_loses_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "SLICE_ROWS", 64)
    vfs = RecordingVFS(f"load-{tmp_path.name}", root=tmp_path / "store")

    async def work() -> None:
        engine = SqliteEngine(tmp_path / "store", clock=SystemClock(), vfs=vfs.name)
        await engine.open()
        await engine.install(datasets.CATALOG)
        for generation in range(1, 5):
            await datasets.load(engine, generation, lambda _, __: None, vfs.journal.mark)
        await engine.close()

    try:
        asyncio.run(work())
    finally:
        vfs.unregister()
    met: set[int] = set()
    for image in images(vfs.journal, limit=IMAGES, seed=5):
        folder = tmp_path / "image"
        shutil.rmtree(folder, ignore_errors=True)
        image.write_to(folder)
        acknowledged = max((int(str(mark)) for mark in image.acknowledged), default=0)
        found, generation = asyncio.run(inspect(folder, acknowledged))
        assert found == [], image
        met.add(generation)
    assert met >= {1, 2, 3, 4}
