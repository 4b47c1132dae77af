"""A message that kills its process ends in the dead letters; those that ran beside it do not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from headwater.clock import SystemClock
from headwater.engines.sqlite.board import read_board
from headwater.engines.sqlite.engine import SqliteEngine
from headwater.events import Envelope
from headwater.unit import Emit, new_commit
from tests.faults.processes import Victim
from tests.faults.victim import QUEUE
from tests.faults.workload import CATALOG

MAX_RECEIVES = 3


async def prepare(folder: Path, messages: int) -> None:
    engine = SqliteEngine(folder, clock=SystemClock())
    await engine.open()
    queues = {**CATALOG.queues, QUEUE: msgspec.structs.replace(CATALOG.queues[QUEUE], max_receives=MAX_RECEIVES)}
    await engine.install(msgspec.structs.replace(CATALOG, queues=queues))
    for n in range(messages):
        commit = new_commit()
        event = Envelope(id=f"m{n}", source="shop/orders", type="message", data=b"{}")
        commit.emits.append(Emit(event, queue=QUEUE))
        await engine.commit(commit)
    await engine.close()


def lives(folder: Path, poison: str) -> list[list[str]]:
    """What each process said until one ended by itself."""
    said = []
    for _ in range(2 * MAX_RECEIVES):
        with Victim("victim", "handle", str(folder), poison) as victim:
            output = victim.read()
        said.append(output.splitlines())
        if victim.returncode == 0:
            return said
        assert victim.returncode == -9, output
    raise AssertionError(f"the poison still kills: {said}")


def test_the_poison_is_buried_after_its_receives_and_its_neighbours_are_handled(tmp_path: Path) -> None:
    asyncio.run(prepare(tmp_path, 6))
    assert lives(tmp_path, "m2") == [
        ["runs m0 1", "runs m1 1", "runs m2 1"],
        ["runs m0 2", "handled m0", "runs m1 2", "handled m1", "runs m2 2"],
        ["runs m2 3"],
        ["buried m2", "runs m3 1", "runs m4 1", "runs m5 1", "handled m3", "handled m4", "handled m5", "idle"],
    ]

    async def inspect() -> None:
        engine = SqliteEngine(tmp_path, clock=SystemClock())
        await engine.open()
        (letter,) = await engine.dead_letters(QUEUE)
        assert (letter.event.id, letter.receives) == ("m2", MAX_RECEIVES + 1)
        assert [failure["outcome"] for failure in letter.failures] == ["died", "died", "died", "bury"]
        assert [failure["receive"] for failure in letter.failures[:3]] == [1, 2, 3]
        assert await engine.check() == []
        await engine.close()

    asyncio.run(inspect())


def test_a_message_that_was_leased_but_not_begun_is_not_counted(tmp_path: Path) -> None:
    asyncio.run(prepare(tmp_path, 4))
    first, second, *_ = lives(tmp_path, "m0")
    assert first == ["runs m0 1", "runs m1 1", "runs m2 1"], "m3 is leased only"
    assert not any("m3" in line for line in second), "m3 is no suspect"

    async def receives() -> list[int]:
        engine = SqliteEngine(tmp_path / "other", clock=SystemClock())
        await engine.open()
        try:
            return [waiting.receives for waiting in await engine.peek(QUEUE, 10)]
        finally:
            await engine.close()

    asyncio.run(prepare(tmp_path / "other", 5))
    with Victim("victim", "handle", str(tmp_path / "other"), "m0") as victim:
        victim.read()
    assert asyncio.run(receives()) == [1, 1, 1, 0, 0]


@pytest.mark.parametrize("ended", [True, False], ids=["ended", "running"])
def test_a_clean_end_counts_no_receive(tmp_path: Path, ended: bool) -> None:
    asyncio.run(prepare(tmp_path, 1))

    async def scenario() -> None:
        engine = SqliteEngine(tmp_path, clock=SystemClock())
        await engine.open()
        (delivery,) = await engine.receive(QUEUE, 1)
        engine.begin(delivery)
        if ended:
            engine.end(delivery)
        await engine.close()
        await engine.open()
        assert await engine.suspects(QUEUE) == []
        (delivery,) = await engine.receive(QUEUE, 1)
        assert delivery.receives == 1
        await engine.close()

    asyncio.run(scenario())


def test_attempts_of_one_message_that_overlap_leave_no_trace_on_the_board(tmp_path: Path) -> None:
    """A lease that was lost lets a second attempt begin before the first has ended."""
    asyncio.run(prepare(tmp_path, 1))

    async def scenario() -> list[list[tuple[int, int]]]:
        engine = SqliteEngine(tmp_path, clock=SystemClock())
        await engine.open()
        (delivery,) = await engine.receive(QUEUE, 1)
        listed = []
        for step in (engine.begin, engine.begin, engine.end, engine.end):
            step(delivery)
            listed.append(read_board(tmp_path / "board").running)
        await engine.close()
        return listed

    listed = asyncio.run(scenario())
    assert [len(running) for running in listed] == [1, 1, 1, 0]
