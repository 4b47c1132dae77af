"""A process that is cut off, stopped or dead loses its leases to another; what it commits late has no effect."""

from __future__ import annotations

import asyncio
import signal

import pytest

from headwater.engines.postgres.engine import PostgresEngine
from headwater.errors import LeaseLost
from headwater.unit import new_commit
from tests.conformance.workbench import data
from tests.patience import PATIENCE_S
from tests.postgres.machines import address_of, through
from tests.postgres.proxy import Proxy
from tests.postgres.shop import (
    JOBS,
    STEPS,
    ack,
    balance,
    catalog,
    commit,
    done,
    hurry,
    note,
    opened,
    send,
    soon,
)
from tests.postgres.victim import spawn

pytestmark = pytest.mark.anyio
MAX_RECEIVES = 3


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


async def send_steps(engine: PostgresEngine, count: int) -> None:
    for n in range(count):
        await commit(engine, lambda made: send(made, STEPS, n, group="g"))  # noqa: B023


async def go_through(engine: PostgresEngine, count: int) -> None:
    for _ in range(count):
        (delivery,) = await soon(engine.receive(STEPS, 1))
        await soon(engine.commit(note(ack(new_commit(), delivery), data(delivery))))


async def test_the_late_commit_of_a_process_that_was_cut_off_has_no_effect(postgres_url: str) -> None:
    with Proxy(address_of(postgres_url)) as proxy:
        async with (
            opened(postgres_url, install=catalog()) as other,
            opened(through(postgres_url, proxy.port)) as engine,
        ):
            await send_steps(other, 3)
            (delivery,) = await soon(engine.receive(STEPS, 1))
            assert data(delivery) == 0
            proxy.hold()
            late = engine.commit(note(ack(new_commit(), delivery), "late"))
            await go_through(other, 2)
            proxy.heal()
            with pytest.raises(LeaseLost):
                await soon(late)
            await go_through(engine, 1)
            assert await done(other) == [0, 1, 2]


async def test_a_group_has_one_valid_lease(postgres_url: str) -> None:
    """Its holder lives, so the others wait for longer than a life and a visibility time that was extended."""
    async with opened(postgres_url, install=catalog(visibility_ms=2_500)) as one, opened(postgres_url) as other:
        await send_steps(one, 2)
        (delivery,) = await soon(one.receive(STEPS, 1))
        waiting = asyncio.ensure_future(go_through(other, 1))
        for _ in range(10):
            await asyncio.wait([waiting], timeout=0.3)
            await one.extend([delivery])
        assert not waiting.done()
        await soon(one.commit(note(ack(new_commit(), delivery), data(delivery))))
        await soon(waiting)
        assert await done(other) == [0, 1]


async def test_the_late_commit_of_a_stopped_process_has_no_effect(postgres_url: str) -> None:
    async with opened(postgres_url, install=catalog(visibility_ms=60_000)) as engine:
        await send_steps(engine, 2)
        with spawn("hold", postgres_url) as victim:
            try:
                assert victim.stdin is not None
                assert victim.stdout is not None
                assert await asyncio.to_thread(victim.stdout.readline) == "holds 0\n"
                victim.send_signal(signal.SIGSTOP)
                await go_through(engine, 2)
                victim.send_signal(signal.SIGCONT)
                victim.stdin.write("\n")
                victim.stdin.flush()
                assert await asyncio.to_thread(victim.stdout.readline) == "LeaseLost\n"
            finally:
                victim.kill()
        assert await done(engine) == [0, 1]


async def lives(url: str, poison: str) -> list[list[str]]:
    """What each process said until one ended by itself."""
    said = []
    for _ in range(3 * MAX_RECEIVES):
        with spawn("handle", url, poison) as victim:
            output, _ = await asyncio.to_thread(victim.communicate, timeout=PATIENCE_S)
        said.append(output.splitlines())
        if victim.returncode == 0:
            return said
        assert victim.returncode == -signal.SIGKILL, output
    raise AssertionError(f"the poison still kills: {said}")


async def test_the_poison_is_buried_and_its_neighbours_are_handled(postgres_url: str) -> None:
    names = [f"m{n}" for n in range(6)]
    async with opened(postgres_url, install=catalog(visibility_ms=60_000, max_receives=MAX_RECEIVES)) as engine:
        for name in names:
            await commit(engine, lambda made: send(made, JOBS, name))  # noqa: B023
        said = await lives(postgres_url, "m1")
        assert said[0] == ["m0/1 m1/1 m2/1"]
        assert {line for life in said[1:] for line in life if "m1" in line} == {"m1/2", "m1/3", "m1/4"}, "it ran alone"
        assert [await balance(engine, name) for name in names] == [1, 0, 1, 1, 1, 1]
        (letter,) = await engine.dead_letters(JOBS)
        assert (data(letter), letter.receives) == ("m1", MAX_RECEIVES + 1)
        assert [failure["outcome"] for failure in letter.failures] == ["died", "died", "died", "bury"]
