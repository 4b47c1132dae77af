"""Headwater: event-driven backends, declared in Python. One commit from write to event."""

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
from headwater.ids import new_id
from headwater.late import Late
from headwater.messaging import Queue, Topic
from headwater.services import Service
from headwater.tables import Page, Stored, Table
from headwater.transactions import attempt, step, wait

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
    "step",
    "wait",
]
