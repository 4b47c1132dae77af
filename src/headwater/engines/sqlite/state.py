"""What the owner of a SQLite store holds in memory, read from the store.

The writer's thread changes it, between transactions or after a COMMIT; the event loop reads it and grants leases.
"""

from __future__ import annotations

import apsw
import msgspec

from headwater.applying import state
from headwater.applying.state import Counts, Head, Merging
from headwater.catalog import Catalog, RouteSpec
from headwater.engines.sqlite.database import fetch
from headwater.unit import Origin


class State(state.State):
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

    def intern(self, connection: apsw.Connection, name: str) -> int:
        """The number of a name, given one inside the caller's transaction when it is new."""
        if name not in self.ids:
            connection.execute("INSERT OR IGNORE INTO name (name) VALUES (?)", (name,))
            (id,) = fetch(connection, "SELECT id FROM name WHERE name = ?", (name,))[0]
            self.ids[name], self.names[id] = id, name
        return self.ids[name]
