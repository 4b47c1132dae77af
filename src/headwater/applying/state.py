"""What a process holds of a store in memory: names, specs, routes, leases and the numbers that commits move on."""

from __future__ import annotations

import msgspec

from headwater.catalog import Catalog, QueueSpec, Router, RouteSpec, TableSpec
from headwater.events import Delivery, Envelope
from headwater.unit import Origin

encode_envelope = msgspec.msgpack.Encoder().encode
decode_envelope = msgspec.msgpack.Decoder(Envelope).decode
Slot = tuple[int, str, str | int]
"""A record's place: (table, partition, sort)."""


class Stored(msgspec.Struct, frozen=True):
    """A record as a batch sees it."""

    version: str
    body: bytes
    expires_ms: int | None
    schema: int


class Staged(msgspec.Struct, frozen=True):
    """A row of a load as it is staged: without a body it removes the record, at `expires_ms` if that is set; without a
    digest it leaves its scope."""

    version: str
    body: bytes | None
    schema: int
    expires_ms: int | None
    digest: bytes | None

    def over(self, record: Stored | None) -> Stored | None:
        """The record that it makes of the present one."""
        if self.body is not None:
            return Stored(self.version, self.body, self.expires_ms, self.schema)
        if record is None or self.expires_ms is None:
            return None
        return msgspec.structs.replace(record, expires_ms=self.expires_ms)


class Entry(msgspec.Struct, eq=False, gc=False):
    """A waiting message in memory."""

    position: int
    seq: int
    event: Envelope
    group: str | None
    ready_ms: int
    receives: int
    redriven: bool
    sent_ms: int


class Lease(msgspec.Struct, eq=False, gc=False):
    """`entry` None: held while the message is removed; `refused` is then what a consumer took in vain."""

    delivery: Delivery
    entry: Entry | None
    deadline: float
    refused: Entry | None = None


class Merging(msgspec.Struct, frozen=True):
    """A flipped load whose rows are not all in place yet: readers look at its staged rows first."""

    load: int
    scope: str
    origin: Origin


class Head(msgspec.Struct):
    """The numbers that commits move on: of the commit, of the last event and message, and the store's time."""

    store: str
    revision: int
    commit_no: int
    event_seq: int
    position: int
    time_ms: int


class Counts(msgspec.Struct):
    """Counters of one queue; the last three count since the start of the process."""

    depth: int = 0
    dead: int = 0
    sent: int = 0
    settled: int = 0
    retried: int = 0


class State:
    def __init__(self) -> None:
        self.head = Head("", 0, 0, 0, 0, 0)
        self.ids: dict[str, int] = {}
        self.names: dict[int, str] = {}
        self.apps: dict[str, Catalog] = {}
        self.subscriptions: dict[str, RouteSpec] = {}
        self.tables: dict[str, TableSpec] = {}
        self.queues: dict[str, QueueSpec] = {}
        self.router = Router({}, ())
        self.paused: set[int] = set()
        self.counts: dict[int, Counts] = {}
        self.leases: dict[tuple[int, int], Lease] = {}
        self.merging: dict[int, Merging] = {}

    def compile(self) -> None:
        """Merge the apps' catalogs and subscriptions and compile the router."""
        merged = self.merged()
        router = Router(merged.queues, merged.routes)
        self.tables, self.queues, self.router = merged.tables, merged.queues, router
        for name in self.queues:
            if name in self.ids:
                self.counts.setdefault(self.ids[name], Counts())

    def merged(self) -> Catalog:
        catalog = Catalog(apps=tuple(sorted(self.apps)))
        for part in self.apps.values():
            catalog.tables.update(part.tables)
            catalog.topics.update(part.topics)
            catalog.queues.update(part.queues)
            catalog.renamed.update(part.renamed)
            catalog.routes += part.routes
            catalog.consumed += part.consumed
        catalog.routes += tuple(self.subscriptions.values())
        return catalog
