"""Wake-ups: when the work runs, one run at a time, and what becomes of a run that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from headwater.clock import LONGEST_SLEEP_S, SystemClock, Timer
from headwater.errors import CommitUnknown, StoreDamaged, StoreFull, Unavailable
from headwater.runtime.wakeups import RETRY_MS, Wakeups
from headwater.testing import VirtualClock


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_the_work_runs_at_start_and_at_the_time_it_asked_for() -> None:
    clock, runs = VirtualClock(), list[int]()

    async def work() -> int | None:
        runs.append(clock.wall_ms())
        return clock.wall_ms() + 60_000 if len(runs) < 3 else None

    begin, wakeups = clock.wall_ms(), Wakeups("test", clock, work)
    wakeups.start()
    await settle()
    for elapsed in (59, 60, 119, 120, 500):
        clock.move_to(elapsed)
        await settle()
    assert runs == [begin, begin + 60_000, begin + 120_000]
    await wakeups.stop()


async def test_a_wake_up_during_a_run_makes_it_run_once_more_and_never_beside_it() -> None:
    gate, runs, together = asyncio.Event(), 0, 0

    async def work() -> None:
        nonlocal runs, together
        together += 1
        assert together == 1
        runs += 1
        await gate.wait()
        together -= 1

    wakeups = Wakeups("test", VirtualClock(), work)
    wakeups.start()
    await settle()
    assert wakeups.busy
    wakeups.wake()
    wakeups.wake()
    gate.set()
    await settle()
    assert (runs, wakeups.busy) == (2, False)
    await wakeups.stop()


async def test_a_failing_run_is_tried_again_and_a_failed_store_ends_it() -> None:
    clock, errors = (
        VirtualClock(),
        [
            ValueError("odd"),
            StoreFull("no room"),
            Unavailable("away"),
            CommitUnknown("lost"),
            StoreDamaged("broken"),
            ValueError("never"),
        ],
    )

    async def work() -> None:
        raise errors.pop(0)

    wakeups = Wakeups("test", clock, work)
    wakeups.start()
    for run in range(1, 9):
        await settle()
        clock.move_to(run * RETRY_MS / 1000)
    await settle()
    assert [str(error) for error in errors] == ["never"]
    await wakeups.stop()


async def test_nothing_runs_before_the_start_or_after_the_stop() -> None:
    clock, runs = VirtualClock(), 0

    async def work() -> int:
        nonlocal runs
        runs += 1
        return clock.wall_ms() + 1000

    wakeups = Wakeups("test", clock, work)
    wakeups.wake()
    await settle()
    assert runs == 0
    wakeups.start()
    await settle()
    await wakeups.stop()
    wakeups.wake()
    clock.move_to(10)
    await settle()
    assert runs == 1


class _SetClock(SystemClock):
    """Its wall clock is set by the test, its timers fire when it says so."""

    def __init__(self) -> None:
        self.wall = 0
        self.waits: list[tuple[float, Callable[[], None]]] = []

    def wall_ms(self) -> int:
        return self.wall

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        self.waits.append((seconds, callback))
        return asyncio.get_running_loop().call_later(3600, lambda: None)


async def test_a_wait_for_a_wall_time_looks_at_a_clock_that_was_set_meanwhile() -> None:
    clock, fired = _SetClock(), list[int]()
    clock.call_at(3_600_000, lambda: fired.append(clock.wall))
    seconds, look = clock.waits.pop()
    assert seconds == LONGEST_SLEEP_S
    clock.wall = -3_600_000
    look()
    assert not fired
    _, look = clock.waits.pop()
    clock.wall = 3_600_001
    look()
    assert fired == [3_600_001]
    assert not clock.waits
