"""Events: the immutable facts that handlers receive, and the envelope that engines store and hand on.

`Event` and the three kinds of change are what a handler sees, with data decoded to its model. `Envelope` is the
same fact as bytes, written once per commit and shared by all the queues that it was routed to. `Delivery` is one
attempt to hand an envelope to the handler of one queue.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec

from headwater.clock import from_ms

T = TypeVar("T")
KeyPart = str | int
Key: TypeAlias = tuple[str, KeyPart]
"""(partition, sort); a table without a sort key has the sort part ""."""

INSERTED, MODIFIED, REMOVED, MESSAGE = "inserted", "modified", "removed", "message"
MAX_DEPTH = 32
"""How many causes deep an event may be before it is dead-lettered instead of delivered."""


class Caller(msgspec.Struct, frozen=True):
    """Who made the request that an event began with."""

    subject: str
    roles: frozenset[str] = frozenset()
    tenant: str = ""
    method: str = ""


class Envelope(msgspec.Struct, omit_defaults=True, kw_only=True, gc=False):
    """A stored event. `data` is the message, or the new image; `old` the old image; both canonical JSON."""

    id: str
    source: str
    type: str
    subject: str = ""
    time_ms: int = 0
    data: bytes | None = None
    old: bytes | None = None
    key: Key | None = None
    version: str = ""
    expired: bool = False
    attributes: dict[str, str] = {}
    caller: Caller | None = None
    cause: str | None = None
    trace: str = ""
    depth: int = 0
    schema: int = 1
    old_schema: int = 1


class Delivery(msgspec.Struct, kw_only=True, gc=False):
    """One leased message. `fence` is the lease's fencing token; `receives` counts this attempt too."""

    queue: str
    position: int
    fence: int
    receives: int
    event: Envelope
    group: str | None = None
    sent_ms: int = 0
    redriven: bool = False

    @property
    def message_id(self) -> str:
        return f"{self.event.id}/{self.queue}"


class Event(msgspec.Struct, Generic[T], frozen=True, kw_only=True, gc=False):
    """An immutable fact, as its handler receives it. Attributes map one to one to CloudEvents 1.0.

    `attempt` is 1 on the first delivery. `idempotency_key` is the same for every delivery of this event to this
    queue: hand it to outside services, whose effects are at least once. `cause` is the id of the delivery or
    request that made the event; None when nothing did.
    """

    id: str
    source: str
    type: str
    subject: str
    time_ms: int
    data: T
    attributes: Mapping[str, str]
    cause: str | None
    caller: Caller | None
    attempt: int
    idempotency_key: str
    trace: str = ""

    @property
    def time(self) -> datetime:
        """When the event's commit was made, in the store's time (UTC)."""
        return from_ms(self.time_ms)

    def as_cloudevent(self) -> dict[str, Any]:
        """The event as a CloudEvents 1.0 JSON object; `data` stays the model's instance."""
        return {
            "specversion": "1.0",
            "id": self.id,
            "source": self.source,
            "type": self.type,
            "subject": self.subject,
            "time": self.time.isoformat().replace("+00:00", "Z"),
            "datacontenttype": "application/json",
            "data": self.data,
        }


class Inserted(Event[T], Generic[T], frozen=True, kw_only=True, gc=False):
    """A row that was absent before the commit. `version` is the row's version after it."""

    key: Key
    new: T
    version: str
    old: None = None


class Modified(Event[T], Generic[T], frozen=True, kw_only=True, gc=False):
    """A row whose content the commit changed."""

    key: Key
    old: T
    new: T
    version: str


class Removed(Event[T], Generic[T], frozen=True, kw_only=True, gc=False):
    """A row that the commit removed; `expired` when its time to live ended it. `data` is the old image."""

    key: Key
    old: T
    version: str
    expired: bool = False
    new: None = None


Change: TypeAlias = Inserted[T] | Modified[T] | Removed[T]


def subject_of(key: Key) -> str:
    """The key as an event's subject: "p" or "p/s", with "%" and "/" inside the parts percent-encoded."""
    partition, sort = key
    if "%" in partition or "/" in partition:
        partition = partition.replace("%", "%25").replace("/", "%2F")
    if sort == "":
        return partition
    return f"{partition}/{str(sort).replace('%', '%25').replace('/', '%2F')}"
