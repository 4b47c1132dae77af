"""The pool of worker processes: as many as are wanted, again when they end, gone when they are to go."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from headwater.clock import SystemClock
from headwater.runtime.worker_pool import WorkerPool
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.anyio
OBEDIENT = "import sys; sys.stdin.read()"
STUBBORN = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); sys.stdin.read()"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def python(code: str) -> Callable[[str], list[str]]:
    return lambda _: [sys.executable, "-S", "-c", code]


@pytest.fixture
async def pool() -> AsyncIterator[WorkerPool]:
    pool = WorkerPool(python(OBEDIENT), SystemClock(), drain_s=5)
    yield pool
    await pool.stop(0)


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not what():  # noqa: ASYNC110 processes tell nothing when they start
            await asyncio.sleep(0.01)


async def test_there_are_as_many_as_are_wanted(pool: WorkerPool) -> None:
    await pool.set("a/one", 2)
    await pool.set("a/two", 1)
    await pool.set("a/one", 2)
    await until(lambda: (pool.running("a/one"), pool.running("a/two")) == (2, 1))
    oldest = pool.pids("a/one")[0]
    await pool.set("a/one", 1)
    assert pool.pids("a/one") == [oldest], "the newest go first"
    await pool.set("a/one", 0)
    assert pool.running("a/one") == 0
    await until(lambda: not Path(f"/proc/{oldest}").exists())


async def test_one_that_ends_is_started_again(pool: WorkerPool) -> None:
    await pool.set("a/one", 1)
    await until(lambda: pool.running("a/one") == 1)
    (first,) = pool.pids("a/one")
    os.kill(first, signal.SIGKILL)
    await until(lambda: pool.pids("a/one") not in ([], [first]))


async def test_one_that_fails_again_and_again_is_started_with_growing_pauses(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    pool = WorkerPool(lambda _: ["/bin/sh", "-c", f"echo >> {starts}; exit 1"], SystemClock(), drain_s=1)
    await pool.set("a/one", 1)
    await until(lambda: starts.exists() and starts.read_text().count("\n") == 3)
    await pool.stop(1)
    assert starts.read_text().count("\n") == 3


async def test_a_command_that_is_missing_is_no_end(tmp_path: Path) -> None:
    pool = WorkerPool(lambda _: [str(tmp_path / "none")], SystemClock(), drain_s=1)
    await pool.set("a/one", 1)
    await asyncio.sleep(0)
    assert pool.running("a/one") == 0
    await pool.stop(1)


async def test_one_that_ignores_the_signal_is_killed_in_the_end() -> None:
    pool = WorkerPool(python(STUBBORN), SystemClock(), drain_s=60)
    await pool.set("a/one", 1)
    await until(lambda: pool.running("a/one") == 1)
    (pid,) = pool.pids("a/one")
    async with asyncio.timeout(PATIENCE_S):
        await pool.stop(0.2)
    assert not Path(f"/proc/{pid}").exists()
    await pool.set("a/one", 1)
    assert pool.running("a/one") == 0, "a pool that is stopped starts nothing"
