"""A process is killed while it forgets a person: the next one ends it, and no file has a byte of the person."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from headwater.engine import Query
from headwater.erasures import erasure_of
from tests.faults.forgetful import CHANGES, ID, OTHER, TABLE, TOKEN, go_on, opened
from tests.faults.processes import Victim
from tests.patience import PATIENCE_S


def run_until_killed(folder: Path, lines: int) -> list[str]:
    """What the process said before it died, after so many lines or when it was done."""
    said: list[str] = []
    deadline = time.monotonic() + PATIENCE_S
    with Victim("forgetful", str(folder), str(lines)) as process:
        try:
            for line in process.stdout:
                said.append(line.strip())
                if said[-1] == "done":
                    break
                assert time.monotonic() < deadline, "the process lives on"
        finally:
            process.kill()
    assert process.returncode == -9
    return said


def found(folder: Path, token: str) -> list[str]:
    return [path.name for path in sorted(folder.iterdir()) if path.is_file() and token.encode() in path.read_bytes()]


async def finish(folder: Path) -> None:
    engine = await opened(folder)
    try:
        await go_on(engine)
        erasure = await erasure_of(engine, ID)
        assert erasure is not None
        assert (erasure.state, erasure.targets) == ("done", [])
        assert erasure.events == 2 * CHANGES + 1, "each is counted once"
        assert found(folder, TOKEN) == [], "also while the store is open"
        page = await engine.query(Query(table=TABLE, index="by-name"))
        assert [record.key[0] for record in page.records] == [OTHER]
        assert len(await engine.history(TABLE, (OTHER, ""), 100)) == CHANGES
        assert await engine.check() == []
    finally:
        await engine.close()


@pytest.mark.parametrize("kills", [(1,), (4, 3), (9, 2), (16,), (19, 1), (20,), (23,), (99,)])
def test_a_kill_at_any_slice_leaves_no_byte_in_the_end(tmp_path: Path, kills: tuple[int, ...]) -> None:
    said: list[str] = []
    for lines in kills:
        said = run_until_killed(tmp_path, lines)
        if said[-1] != "done":
            assert len(said) == lines
    if said[-1] == "commit" and len(said) < 10:
        assert found(tmp_path, TOKEN), "the search finds what is not redacted yet"
    asyncio.run(finish(tmp_path))
    assert found(tmp_path, TOKEN) == []
    assert found(tmp_path, OTHER) == ["store.db"]
