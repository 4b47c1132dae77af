"""Headwater: event-driven backends, declared in Python. One commit from write to event.

The names are imported when they are first used, so that the command line starts fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headwater.alarms import AlarmState
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
        LoadRefused,
        NotGranted,
        QueueFull,
        Retry,
        StoreFull,
        TooLarge,
        Undeliverable,
        UnitClosed,
        UnknownResource,
    )
    from headwater.events import Caller, Change, Event, Inserted, Modified, Removed
    from headwater.http.require import Auth, anyone, require
    from headwater.http.unit_layer import no_rerun
    from headwater.ids import new_id
    from headwater.late import Late
    from headwater.mail import email
    from headwater.messaging import Queue, Topic
    from headwater.metrics import Metric
    from headwater.object_listing import ObjectInfo
    from headwater.operations.operation import Operation
    from headwater.operations.tracked import ContractChange, Tracked
    from headwater.permits import Grant, uses
    from headwater.scaling import Scale
    from headwater.schedules import Tick
    from headwater.services import Service
    from headwater.tables import Page, Stored, Table
    from headwater.transactions import attempt, step, wait
    from headwater.webhooks import verify_webhook, webhook

_HOMES = {
    "alarms": ("AlarmState",),
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
        "LoadRefused",
        "NotGranted",
        "QueueFull",
        "Retry",
        "StoreFull",
        "TooLarge",
        "Undeliverable",
        "UnitClosed",
        "UnknownResource",
    ),
    "events": ("Caller", "Change", "Event", "Inserted", "Modified", "Removed"),
    "http.require": ("Auth", "anyone", "require"),
    "http.unit_layer": ("no_rerun",),
    "ids": ("new_id",),
    "late": ("Late",),
    "mail": ("email",),
    "messaging": ("Queue", "Topic"),
    "metrics": ("Metric",),
    "permits": ("Grant", "uses"),
    "scaling": ("Scale",),
    "schedules": ("Tick",),
    "services": ("Service",),
    "object_listing": ("ObjectInfo",),
    "operations.operation": ("Operation",),
    "operations.tracked": ("ContractChange", "Tracked"),
    "tables": ("Page", "Stored", "Table"),
    "transactions": ("attempt", "step", "wait"),
    "webhooks": ("verify_webhook", "webhook"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AlarmState",
    "App",
    "Auth",
    "Bucket",
    "Caller",
    "Change",
    "ConditionFailed",
    "Conflict",
    "ContractChange",
    "DeclarationError",
    "Discard",
    "Event",
    "Grant",
    "HeadwaterError",
    "Inserted",
    "InvalidValue",
    "Late",
    "LeaseLost",
    "LoadRefused",
    "Metric",
    "Modified",
    "NotGranted",
    "ObjectInfo",
    "Operation",
    "Page",
    "Queue",
    "QueueFull",
    "Removed",
    "Retry",
    "Scale",
    "Service",
    "StoreFull",
    "Stored",
    "Table",
    "Tick",
    "TooLarge",
    "Topic",
    "Tracked",
    "Undeliverable",
    "UnitClosed",
    "UnknownResource",
    "anyone",
    "attempt",
    "csv",
    "email",
    "jsonl",
    "new_id",
    "no_rerun",
    "parquet",
    "require",
    "step",
    "uses",
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
