"""Headwater: event-driven backends, declared in Python. One commit from write to event.

The names are imported when they are first used, so that the command line starts fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headwater.app import App
    from headwater.buckets import Bucket
    from headwater.datasets import csv, jsonl, parquet
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
    from headwater.http.require import Auth, anyone, require
    from headwater.http.unit_layer import no_rerun
    from headwater.ids import new_id
    from headwater.late import Late
    from headwater.messaging import Queue, Topic
    from headwater.object_listing import ObjectInfo
    from headwater.services import Service
    from headwater.tables import Page, Stored, Table
    from headwater.transactions import attempt, step, wait
    from headwater.webhooks import verify_webhook, webhook

_HOMES = {
    "app": ("App",),
    "buckets": ("Bucket",),
    "datasets": ("csv", "jsonl", "parquet"),
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
    "http.require": ("Auth", "anyone", "require"),
    "http.unit_layer": ("no_rerun",),
    "ids": ("new_id",),
    "late": ("Late",),
    "messaging": ("Queue", "Topic"),
    "services": ("Service",),
    "object_listing": ("ObjectInfo",),
    "tables": ("Page", "Stored", "Table"),
    "transactions": ("attempt", "step", "wait"),
    "webhooks": ("verify_webhook", "webhook"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "App",
    "Auth",
    "Bucket",
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
    "ObjectInfo",
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
    "anyone",
    "attempt",
    "csv",
    "jsonl",
    "new_id",
    "no_rerun",
    "parquet",
    "require",
    "step",
    "verify_webhook",
    "wait",
    "webhook",
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
