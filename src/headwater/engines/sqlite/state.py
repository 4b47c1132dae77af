"""What the owner of a SQLite store holds in memory: names, specs, routes, leases and the numbers of the head.

The writer's thread changes it, between transactions or after a COMMIT; the event loop reads it and grants leases.
"""

from __future__ import annotations

import apsw
import msgspec

from headwater.catalog import Catalog, QueueSpec, Router, RouteSpec, TableSpec
from headwater.engines.sqlite.database import fetch
from headwater.events import Delivery, Envelope
from headwater.unit import Origin

encode_envelope = msgspec.msgpack.Encoder().encode
decode_envelope = msgspec.msgpack.Decoder(Envelope).decode


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
    """The row that every commit moves on (see `schema.sql`)."""

    store: str
    revision: int
    commit_no: int
    event_seq: int
    position: int
    time_ms: int


class Counts(msgspec.Struct):
    """Counters of one queue; `depth` is exact, the others count since the start of the process."""

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

    def load(self, connection: apsw.Connection) -> None:
        """Read all of it from the store."""
        row = fetch(connection, "SELECT store, revision, commit_no, event_seq, position, time_ms FROM head")[0]
        self.head = Head(*row)
        self.names = dict(fetch(connection, "SELECT id, name FROM name"))
        self.ids = {name: id for id, name in self.names.items()}
        self.apps = {
            name: msgspec.json.decode(body, type=Catalog)
            for name, body in fetch(connection, "SELECT name, catalog FROM app")
        }
        self.subscriptions = {
            id: msgspec.json.decode(body, type=RouteSpec)
            for id, body in fetch(connection, "SELECT id, route FROM subscription")
        }
        self.paused = {queue for (queue,) in fetch(connection, "SELECT queue FROM paused")}
        self.merging = {
            tbl: Merging(load, scope, msgspec.msgpack.decode(origin, type=Origin))
            for load, tbl, scope, origin in fetch(connection, "SELECT id, tbl, scope, origin FROM load WHERE state = 1")
        }
        self.compile()
        self.count(connection)

    def count(self, connection: apsw.Connection) -> None:
        self.counts = {self.ids[name]: Counts() for name in self.queues}
        for queue, depth in fetch(connection, "SELECT queue, count(*) FROM message GROUP BY queue"):
            self.counts.setdefault(queue, Counts()).depth = depth
        for queue, dead in fetch(connection, "SELECT queue, count(*) FROM dead GROUP BY queue"):
            self.counts.setdefault(queue, Counts()).dead = dead

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

    def intern(self, connection: apsw.Connection, name: str) -> int:
        """The number of a name, given one inside the caller's transaction when it is new."""
        if name not in self.ids:
            connection.execute("INSERT OR IGNORE INTO name (name) VALUES (?)", (name,))
            (id,) = fetch(connection, "SELECT id FROM name WHERE name = ?", (name,))[0]
            self.ids[name], self.names[id] = id, name
        return self.ids[name]
