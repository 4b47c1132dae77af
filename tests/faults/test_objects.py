"""Objects when the process dies, the power fails or the disk is full: whole or absent, and nothing is left for ever."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from headwater import ObjectInfo
from headwater.blobs import blob_id
from headwater.errors import DeclarationError, StoreFull, UnknownResource
from headwater.objects.local import LocalBlobs
from headwater.testing import Harness
from tests.faults.disk_power_loss import RecordingDisk, images
from tests.faults.failing_disk import small_disk
from tests.faults.object_victim import KEYS, POINTS, PUTTERS, declare, puts_in
from tests.faults.processes import Victim
from tests.patience import PATIENCE_S

MIB = 1024 * 1024


# Killed


def run_until_killed(folder: Path, lines: int, point: str = "none", passes: int = 0) -> list[str]:
    """What the victim said: killed after so many lines, or by itself at its point."""
    said: list[str] = []
    deadline = time.monotonic() + PATIENCE_S
    with Victim("object_victim", str(folder), point, str(passes)) as victim:
        try:
            for line in victim.stdout:
                said.append(line.strip())
                if point == "none" and len(said) == lines:
                    victim.kill()
                assert time.monotonic() < deadline, "the victim lives on"
        finally:
            victim.kill()
    assert victim.returncode == -9, said[-3:]
    return said


async def audit(folder: Path, said: list[str]) -> None:
    """Everything acknowledged is there and whole, each put is told of once, and garbage is collected."""
    app, bucket, seen = declare()
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    async with Harness(app, store=folder, start=tomorrow) as h:
        present = {info.key: info for info in (await bucket.list(limit=1000)).items}
        for key, info in present.items():
            assert hashlib.sha256(await bucket.get(key)).hexdigest() == info.sha256
        assert os.listdir(folder / "objects" / "tmp") == [], "what was cut off is removed at the start"
        await h.run_until_idle()
        told = Counter(info.etag for info in seen)
        assert set(told.values()) <= {1}
        assert {info.etag for info in present.values()} <= set(told)
        puts = {line.split()[2] for line in said if line.startswith("put ")}
        assert puts <= set(told), "an acknowledged put without an event"
        assert_acknowledged(said, present)
        await h.advance(hours=3)
        assert blobs_in(folder / "objects") == {info.blob for info in present.values()}


def assert_acknowledged(said: list[str], present: dict[str, ObjectInfo]) -> None:
    """Each key is as its last acknowledged call left it; the call that was under way may have happened or not."""
    for number in range(PUTTERS):
        lines = [line.split() for line in said if line.split()[1].startswith(f"{number}/")]
        state = {words[1]: words[2:] for words in lines}
        turn = len(lines)
        for key in (f"{number}/{n}" for n in range(KEYS)):
            info = present.get(key)
            found = [info.etag, info.sha256] if info else []
            if found != state.get(key, []):
                assert key == f"{number}/{turn % KEYS}", f"{key} is {found}, not {state.get(key)}"
                assert bool(found) == puts_in(turn)


def blobs_in(objects: Path) -> set[str]:
    return {path.name for path in objects.glob("[0-9a-f][0-9a-f]/*")}


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_a_named_point_leaves_whole_objects_and_collectable_bytes(tmp_path: Path, point: str) -> None:
    said: list[str] = []
    for passes in (7, 40):
        said = run_until_killed(tmp_path, 0, point, passes)
        assert f"dies {point}" in said
        fresh = tmp_path.with_name(f"{tmp_path.name}-{passes}")
        shutil.copytree(tmp_path, fresh)
        shutil.rmtree(tmp_path)
        asyncio.run(audit(fresh, said))
    assert len(said) > 3, "nothing was acknowledged before the kill"


def test_a_kill_at_any_moment_leaves_whole_objects_and_collectable_bytes(tmp_path: Path) -> None:
    rng = random.Random(11)
    for round in range(4):
        folder = tmp_path / str(round)
        folder.mkdir()
        said = run_until_killed(folder, rng.randrange(20, 120))
        asyncio.run(audit(folder, said))


# Cut off from power


async def stream(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), 200_000):
        yield data[at : at + 200_000]


async def write_some(base: Path, disk: RecordingDisk) -> list[tuple[int, str, str]]:
    """Write blobs and delete some; (steps done, id, SHA-256 or "" when it may be gone) for what was acknowledged."""
    blobs = LocalBlobs(base / "deep" / "objects", disk)
    acknowledged: list[tuple[int, str, str]] = []
    await blobs.open("me")
    for number in range(8):
        blob = await blobs.write(blob_id(number), stream(os.urandom(1 + number * 90_000)), limit=MIB)
        acknowledged.append((len(disk.steps), blob.id, blob.sha256))
        if number % 3 == 2:
            acknowledged.append((len(disk.steps), acknowledged[-2][1], ""))
            await blobs.delete(acknowledged[-1][1])
    await blobs.close()
    return acknowledged


async def lost_or_torn(tmp_path: Path, leave_out: str = "") -> list[str]:
    """Cut the power after each step; what is wrong with the images."""
    base = tmp_path / "base"
    base.mkdir()
    disk = RecordingDisk(leave_out)
    acknowledged = await write_some(base, disk)
    whole = {id: sha256 for _, id, sha256 in acknowledged if sha256}
    wrong: list[str] = []
    for done, name in images(disk.steps, base, tmp_path / "images"):
        blobs = LocalBlobs(tmp_path / "images" / name / "deep" / "objects")
        promised = {id: sha256 for steps, id, sha256 in acknowledged if steps <= done}
        for id in {*await blobs.ids("", 1000), *(id for id, sha256 in promised.items() if sha256)}:
            try:
                chunks = [chunk async for chunk in await blobs.read(id, 0, (blobs._place(id)).stat().st_size)]
            except (UnknownResource, FileNotFoundError):
                wrong.append(f"{name}: {id} is lost")
                continue
            if hashlib.sha256(b"".join(chunks)).hexdigest() != whole[id]:
                wrong.append(f"{name}: {id} is torn")
        try:
            await blobs.open("me")
        except DeclarationError:
            wrong.append(f"{name}: whose it is is torn")
        await blobs.close()
        shutil.rmtree(tmp_path / "images" / name)
    return wrong


async def test_no_power_cut_loses_an_acknowledged_blob_or_shows_a_torn_one(tmp_path: Path) -> None:
    assert await lost_or_torn(tmp_path) == []


@pytest.mark.parametrize(
    ("leave_out", "seen"),
    [("flush", "torn"), ("flush_folder", "lost"), ("flush_folder objects", "lost"), ("flush_folder base", "lost")],
)
async def test_a_flush_that_is_left_out_is_seen(tmp_path: Path, leave_out: str, seen: str) -> None:
    """That the check above can fail."""
    wrong = await lost_or_torn(tmp_path, leave_out)
    assert any(problem.endswith(seen) for problem in wrong)


# Full


async def test_a_full_disk_refuses_an_upload_and_keeps_nothing_of_it(tmp_path: Path) -> None:
    app, bucket, seen = declare()
    (tmp_path / "store").mkdir()
    objects = tmp_path / "store" / "objects"
    objects.mkdir()
    with small_disk(objects, 4):
        async with Harness(app, store=tmp_path / "store") as h:
            kept = await bucket.put("kept", os.urandom(MIB))
            with pytest.raises(StoreFull) as refused:
                await bucket.put("a", stream(os.urandom(8 * MIB)))
            assert refused.value.retryable
            assert await bucket.head("a") is None
            assert blobs_in(objects) == {kept.blob}
            assert os.listdir(objects / "tmp") == []
            assert (await bucket.put("a", os.urandom(2 * MIB))).size == 2 * MIB, "its room is free again"
            await h.run_until_idle()
            assert [info.key for info in seen] == ["kept", "a"]


async def test_a_failing_disk_is_an_error_and_keeps_nothing(tmp_path: Path) -> None:
    """The same without a small disk: where a system call fails, what was begun is removed."""

    class Failing(RecordingDisk):
        at = ""

        def _fail(self, step: str) -> None:
            if self.at == step:
                raise OSError(28, os.strerror(28))

        def write(self, file: object, data: bytes) -> None:
            self._fail("write")
            super().write(file, data)  # type: ignore[arg-type]

        def flush(self, file: object) -> None:
            self._fail("flush")
            super().flush(file)  # type: ignore[arg-type]

        def rename(self, old: Path, new: Path) -> None:
            self._fail("rename")
            super().rename(old, new)

    disk = Failing()
    blobs = LocalBlobs(tmp_path, disk)
    await blobs.open("me")
    for step in ("write", "flush", "rename"):
        disk.at = step
        with pytest.raises(StoreFull):
            await blobs.write(blob_id(1), stream(b"x"), limit=1)
        assert os.listdir(tmp_path / "tmp") == []
        assert await blobs.ids("", 10) == []
    await blobs.close()
