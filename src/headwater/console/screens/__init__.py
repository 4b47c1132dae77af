"""The screens. Each module has `SCREENS`: what it serves, in the order of the navigation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple

from headwater.clock import Clock, SystemClock
from headwater.console.guard import Visitor
from headwater.console.house import House

MODULES = (
    "map",
    "queues",
    "topics",
    "letters",
    "traces",
    "tables",
    "tracked",
    "schedules",
    "alarms",
    "metrics",
    "mailbox",
    "buckets",
    "apis",
    "workers",
    "audit",
    "clock",
)


class View(NamedTuple):
    """One request for a page: whose, with which parts of the path and which filters."""

    house: House
    visitor: Visitor
    path: Mapping[str, str]
    query: Mapping[str, str]
    clock: Clock = SystemClock()

    async def ask(self, operation: str, **parameters: Any) -> Any:
        """An operation's answer; parameters that are None are left out."""
        given = {name: value for name, value in parameters.items() if value is not None}
        return await self.house.call(operation, given, by=self.visitor.name)


Load = Callable[[View], Awaitable[Mapping[str, Any]]]


class Screen(NamedTuple):
    """One page. `load` gives what its template shows. With a `key` it is in the navigation, reached by `g` and the key.

    `topics` name what makes it stale (see `stream.py`): the page then fetches its parts anew.
    """

    path: str
    title: str
    template: str
    load: Load
    key: str = ""
    topics: tuple[str, ...] = ()


def all_screens() -> list[Screen]:
    found: list[Screen] = []
    for name in MODULES:
        try:
            module = import_module(f"headwater.console.screens.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"headwater.console.screens.{name}":
                raise
            continue
        found += module.SCREENS
    return found
