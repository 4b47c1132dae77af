"""Headwater: event-driven backends, declared in Python. One commit from write to event.

The names are imported when they are first used, so that the command line starts fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headwater.app import App
    from headwater.errors import (
        ConditionFailed,
        Conflict,
        DeclarationError,
        Discard,
        HeadwaterError,
        InvalidValue,
        LeaseLost,
        QueueFull,
        Retry,
        StoreFull,
        TooLarge,
        UnitClosed,
        UnknownResource,
    )
    from headwater.events import Caller, Change, Event, Inserted, Modified, Removed
    from headwater.http.unit_layer import no_rerun
    from headwater.ids import new_id
    from headwater.late import Late
    from headwater.messaging import Queue, Topic
    from headwater.services import Service
    from headwater.tables import Page, Stored, Table
    from headwater.transactions import attempt, step, wait

_HOMES = {
    "app": ("App",),
    "errors": (
        "ConditionFailed",
        "Conflict",
        "DeclarationError",
        "Discard",
        "HeadwaterError",
        "InvalidValue",
        "LeaseLost",
        "QueueFull",
        "Retry",
        "StoreFull",
        "TooLarge",
        "UnitClosed",
        "UnknownResource",
    ),
    "events": ("Caller", "Change", "Event", "Inserted", "Modified", "Removed"),
    "http.unit_layer": ("no_rerun",),
    "ids": ("new_id",),
    "late": ("Late",),
    "messaging": ("Queue", "Topic"),
    "services": ("Service",),
    "tables": ("Page", "Stored", "Table"),
    "transactions": ("attempt", "step", "wait"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "App",
    "Caller",
    "Change",
    "ConditionFailed",
    "Conflict",
    "DeclarationError",
    "Discard",
    "Event",
    "HeadwaterError",
    "Inserted",
    "InvalidValue",
    "Late",
    "LeaseLost",
    "Modified",
    "Page",
    "Queue",
    "QueueFull",
    "Removed",
    "Retry",
    "Service",
    "StoreFull",
    "Stored",
    "Table",
    "TooLarge",
    "Topic",
    "UnitClosed",
    "UnknownResource",
    "attempt",
    "new_id",
    "no_rerun",
    "step",
    "wait",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'headwater' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"headwater.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
