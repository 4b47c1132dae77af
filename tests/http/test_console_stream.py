"""The stream of the console: what is looked at, how often, and that looking has a limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from itertools import pairwise
from typing import Any

import pytest

from headwater.console.stream import MOST_S, PERIOD_S, TOPICS, Stream
from headwater.testing import VirtualClock


class House:
    """Counts what it is asked; each answer takes a while of virtual time."""

    def __init__(self, clock: VirtualClock, takes_s: float) -> None:
        self.clock = clock
        self.takes_s = takes_s
        self.asked: list[tuple[float, str]] = []

    async def call(self, operation: str, parameters: Mapping[str, Any], by: str = "") -> Any:
        self.asked.append((self.clock.monotonic(), operation))
        self.clock.move_to(self.clock.monotonic() + self.takes_s)
        return {"queues": [{"name": "a/b", "dead": len(self.asked)}], "time": "", "n": len(self.asked)}


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def looks_in(seconds: int, takes_s: float, topics: str = "queues") -> list[tuple[float, str]]:
    clock = VirtualClock()
    house = House(clock, takes_s)
    stream = Stream(house, clock)  # type: ignore[arg-type]
    told: AsyncIterator[Any] = stream.response(topics).body_iterator  # type: ignore[assignment]
    listening = asyncio.ensure_future(_drain(told))
    await settle()
    for _ in range(seconds * 10):
        clock.move_to(clock.monotonic() + 0.1)
        await settle()
    stream.end()
    await listening
    return house.asked


async def _drain(told: AsyncIterator[Any]) -> None:
    async for _ in told:
        pass


async def test_only_what_somebody_listens_for_is_looked_at() -> None:
    assert {operation for _, operation in await looks_in(5, 0, "queues workers nonsense")} == {"queues", "workers"}
    assert await looks_in(5, 0, "") == []


@pytest.mark.parametrize(("takes_s", "pause_s"), [(0, PERIOD_S), (0.2, 8.0), (5, MOST_S)])
async def test_looking_takes_a_fortieth_of_the_time(takes_s: float, pause_s: float) -> None:
    times = [time for time, _ in await looks_in(60, takes_s)]
    pauses = [later - sooner - takes_s for sooner, later in pairwise(times)]
    assert pauses
    assert all(pause_s - 0.01 <= pause <= pause_s + 0.5 for pause in pauses)


async def test_many_dead_letters_are_not_read() -> None:
    clock = VirtualClock()
    house = House(clock, 0)
    await TOPICS["letters"](house)  # type: ignore[arg-type]
    assert [operation for _, operation in house.asked] == ["queues"]
