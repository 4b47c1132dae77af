"""The steered clock: it goes with the machine's, stands still when paused, and fires what is due when it is moved."""

from __future__ import annotations

import asyncio
import time

from headwater.virtual_clock import SteeredClock
from tests.patience import PATIENCE_S

HOUR_S = 3600.0


async def test_it_goes_with_the_machines_clock() -> None:
    clock = SteeredClock()
    assert abs(clock.ahead_ms()) < 1000
    rang = asyncio.Event()
    begin, began = clock.monotonic(), time.monotonic()
    clock.call_later(0.05, rang.set)
    await asyncio.wait_for(rang.wait(), PATIENCE_S)
    assert time.monotonic() - began >= 0.049
    assert clock.monotonic() - begin >= 0.05


async def test_paused_it_stands_still_and_nothing_rings() -> None:
    clock = SteeredClock()
    rang: list[str] = []
    both = asyncio.Event()
    clock.call_later(0.01, lambda: rang.append("early"))
    clock.pause()
    clock.call_later(0.02, lambda: rang.append("late"))
    clock.call_later(0.03, both.set)
    stood = clock.wall_ms()
    await asyncio.sleep(0.06)  # of the machine's time, which must not count
    assert (clock.wall_ms(), rang) == (stood, [])
    clock.resume()
    await asyncio.wait_for(both.wait(), PATIENCE_S)
    assert rang == ["early", "late"]


async def test_moving_it_rings_in_order_and_it_goes_on_from_there() -> None:
    clock = SteeredClock()
    rang: list[str] = []
    clock.call_later(2 * HOUR_S, lambda: rang.append("second"))
    clock.call_later(HOUR_S, lambda: rang.append("first"))
    cancelled = clock.call_later(HOUR_S, lambda: rang.append("never"))
    cancelled.cancel()
    clock.pause()
    clock.move_to(clock.monotonic() + 3 * HOUR_S)
    assert rang == ["first", "second"]
    clock.resume()
    assert abs(clock.ahead_ms() - 3 * HOUR_S * 1000) < 100_000


async def test_it_catches_up_with_a_store_and_never_goes_back() -> None:
    clock = SteeredClock()
    rang = asyncio.Event()
    store_ms = clock.wall_ms() + 5_000_000
    clock.call_at(store_ms - 1000, rang.set)
    clock.catch_up(store_ms)
    assert clock.wall_ms() >= store_ms
    await asyncio.wait_for(rang.wait(), PATIENCE_S)
    clock.catch_up(0)
    assert clock.wall_ms() >= store_ms


async def test_sleep_ends_when_it_is_moved() -> None:
    clock = SteeredClock()
    clock.pause()
    sleeping = asyncio.create_task(clock.sleep(HOUR_S))
    await asyncio.sleep(0)
    clock.move_to(clock.monotonic() + HOUR_S)
    await asyncio.wait_for(sleeping, PATIENCE_S)
