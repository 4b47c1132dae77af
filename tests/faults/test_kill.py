"""The process is killed at any moment and at each named point: what it acknowledged is there and happens once."""

from __future__ import annotations

import asyncio
import random
import time
from functools import partial
from pathlib import Path

import apsw
import pytest

from headwater.clock import SystemClock
from headwater.engines.sqlite.engine import SqliteEngine
from tests.faults.processes import Victim
from tests.faults.victim import POINTS
from tests.faults.workload import CATALOG, Load, audit, drain
from tests.patience import PATIENCE_S

ROUNDS = 6


def run_until_killed(folder: Path, seed: int, commits: int, *point: str) -> list[str]:
    """What the victim said: killed after so many acknowledged commits, or by itself at its point."""
    said: list[str] = []
    deadline = time.monotonic() + PATIENCE_S
    with Victim("victim", "load", str(folder), str(seed), *point) as victim:
        try:
            for line in victim.stdout:
                said.append(line.strip())
                if not point and len(said) == commits:
                    victim.kill()
                assert time.monotonic() < deadline, "the victim lives on"
        finally:
            victim.kill()
    assert victim.returncode == -9, said[-3:]
    return said


async def inspect(folder: Path, acknowledged: list[str]) -> list[str]:
    engine = SqliteEngine(folder, clock=SystemClock())
    await engine.open()
    try:
        return [*audit(engine.reader, acknowledged), *await engine.check()]
    finally:
        await engine.close()


async def finish(folder: Path, acknowledged: list[str]) -> list[str]:
    """Handle what the killed processes left, and look again."""
    engine = SqliteEngine(folder, clock=SystemClock())
    await engine.open()
    try:
        await drain(Load(engine, acknowledged.append, seed=0))
        assert [stats.depth for stats in await engine.stats()] == [0, 0, 0, 0]
        return audit(engine.reader, acknowledged)
    finally:
        await engine.close()


def ids(said: list[str]) -> list[str]:
    return [line for line in said if len(line) == 32 and " " not in line]


def test_a_kill_under_load_loses_nothing_acknowledged_and_repeats_no_effect(tmp_path: Path) -> None:
    rng = random.Random(7)
    acknowledged: list[str] = []
    for seed in range(ROUNDS):
        acknowledged += ids(run_until_killed(tmp_path, seed, rng.randrange(50, 600)))
        if seed % 3 == 2:
            assert asyncio.run(inspect(tmp_path, acknowledged)) == [], f"after round {seed}"
    assert len(acknowledged) > ROUNDS * 50
    assert asyncio.run(finish(tmp_path, acknowledged)) == []


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_a_named_point_loses_nothing_acknowledged(tmp_path: Path, point: str) -> None:
    acknowledged: list[str] = []
    for passes in (1, 6):
        said = run_until_killed(tmp_path, passes, 0, point, str(passes))
        assert f"dies {point}" in said
        acknowledged += ids(said)
        assert asyncio.run(inspect(tmp_path, acknowledged)) == []
    assert asyncio.run(finish(tmp_path, acknowledged)) == []


def apply(statement: str, connection: apsw.Connection) -> None:
    connection.execute(statement)


def test_the_audit_finds_a_lost_a_torn_and_a_repeated_commit(tmp_path: Path) -> None:
    """The positive control of this folder's tests: each broken promise, made by hand, is named."""

    async def scenario() -> None:
        engine = SqliteEngine(tmp_path, clock=SystemClock())
        await engine.open()
        await engine.install(CATALOG)
        acknowledged: list[str] = []
        load = Load(engine, acknowledged.append, seed=1)
        await load.run(producers=4, actions=10)
        await drain(load)
        assert audit(engine.reader, acknowledged) == []
        assert any("is lost" in problem for problem in audit(engine.reader, ["f" * 32]))
        for harm, problem in (
            (
                "UPDATE record SET body = CAST(json_set(body, '$.n', 2) AS BLOB) WHERE pk LIKE '%|%'",
                "effect happened 2",
            ),
            ("DELETE FROM event WHERE subject IS NULL AND seq % 2", "events"),
            ("INSERT INTO message SELECT 1, 1, seq, NULL, 0, 0, 0, 0 FROM event LIMIT 1", "no event"),
        ):
            await engine.writer.run(partial(apply, harm))
            assert any(problem in found for found in audit(engine.reader, acknowledged)), harm
        await engine.close()

    asyncio.run(scenario())
