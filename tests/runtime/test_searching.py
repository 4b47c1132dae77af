"""Searching what waits in a queue for the console: slice by slice, page by page, nothing twice, nothing left out."""

from __future__ import annotations

from typing import Any

import pytest

from headwater import App
from headwater.clock import Clock, SystemClock
from headwater.console import searching
from headwater.console.guard import Visitor
from headwater.console.screens import View
from headwater.console.searching import Found, find_messages
from headwater.console.serving import ServedHouse
from headwater.pytest_plugin import StartHarness
from headwater.runtime.admin import Admin
from headwater.testing import Harness

QUEUE = "shop/jobs"
SENT = 130


@pytest.fixture
async def filled(harness: StartHarness, monkeypatch: pytest.MonkeyPatch) -> Harness:
    """A paused FIFO queue; each tenth message has a needle, each third is of the group "odd"."""
    monkeypatch.setattr(searching, "SLICE", 40)
    monkeypatch.setattr(searching, "SHOWN", 5)
    app = App[None]("shop")
    jobs = app.queue("jobs", dict, fifo=True)
    h = await harness(app)
    await h.supervisor.engine.pause(QUEUE, True)
    async with app.transaction():
        for n in range(SENT):
            await jobs.send(
                {"n": n, "text": "a Nädel" if n % 10 == 0 else "hay"}, group="odd" if n % 3 == 0 else "even"
            )
    return h


class Slow(SystemClock):
    """A clock on which a slice takes as long as a page may look."""

    def __init__(self) -> None:
        self._now = 0.0

    def monotonic(self) -> float:
        self._now += searching.LOOKING_S
        return self._now


async def find(h: Harness, wanted: str = "", group: str = "", after: int = 0, clock: Clock | None = None) -> Found:
    house = ServedHouse(Admin(h.supervisor.engine, h.supervisor, clock=h.clock))
    view = View(house, Visitor("local", "operator", ""), {}, {}, clock or SystemClock())
    return await find_messages(view, QUEUE, wanted, group, after)


async def find_all(h: Harness, wanted: str = "", group: str = "") -> list[int]:
    """All pages."""
    numbers: list[int] = []
    found = await find(h, wanted, group)
    numbers += read(found)
    while found.next is not None:
        found = await find(h, wanted, group, found.next)
        numbers += read(found)
    return numbers


def read(found: Found) -> list[int]:
    datas: list[Any] = [message["event"]["data"] for message in found.messages]
    return [data["n"] for data in datas]


async def test_every_message_is_on_one_page(filled: Harness) -> None:
    assert await find_all(filled) == list(range(SENT))


async def test_texts_are_found_in_any_case_and_slice(filled: Harness) -> None:
    assert await find_all(filled, "NÄDEL") == list(range(0, SENT, 10))
    assert await find_all(filled, "neither") == []


async def test_a_group_alone_and_with_a_text(filled: Harness) -> None:
    assert await find_all(filled, group="odd") == list(range(0, SENT, 3))
    assert await find_all(filled, "nädel", "odd") == list(range(0, SENT, 30))


async def test_a_page_looks_at_no_more_than_it_may(filled: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "MOST", 80)
    found = await find(filled, "neither")
    assert (found.messages, found.looked_at) == ([], 80)
    assert found.next is not None
    rest = await find(filled, "neither", after=found.next)
    assert (rest.looked_at, rest.next) == (SENT - 80, None)
    assert dict(found.groups) == {"odd": 27, "even": 53}


async def test_a_page_looks_no_longer_than_it_may(filled: Harness) -> None:
    found = await find(filled, "neither", clock=Slow())
    assert (found.messages, found.looked_at) == ([], 40)
    numbers, pages = list[int](), 0
    after: int | None = 0
    while after is not None:
        found = await find(filled, "nädel", after=after, clock=Slow())
        numbers, after, pages = numbers + read(found), found.next, pages + 1
    assert numbers == list(range(0, SENT, 10))
    assert pages == 4


async def test_an_id_is_found(filled: Harness) -> None:
    (one, *_) = (await find(filled)).messages
    assert read(await find(filled, one["id"])) == [0]
