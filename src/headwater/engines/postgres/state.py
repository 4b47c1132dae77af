"""What a process knows of the store, read from the database; a commit made with an old copy is refused."""

from __future__ import annotations

from typing import Any

import msgspec

from headwater.applying import state
from headwater.applying.state import Merging
from headwater.catalog import Catalog, RouteSpec
from headwater.engines.postgres.database import Connection
from headwater.unit import Origin

_HEAD = "SELECT store, revision FROM @head"
_NAMES = "SELECT id, name FROM @name"
_APPS = "SELECT name, catalog FROM @app"
_SUBSCRIPTIONS = "SELECT id, route FROM @subscription"
_PAUSED = "SELECT queue FROM @paused"
_MERGING = "SELECT tbl, id, scope, origin FROM @load WHERE state = 1"


class State(state.State):
    async def load(self, connection: Connection, schema: str) -> None:
        """Read all of it in the caller's transaction, which sees one snapshot. Leases and counters stay."""

        async def rows(statement: str) -> list[Any]:
            return [tuple(row) for row in await connection.fetch(statement.replace("@", f"{schema}."))]

        ((store, revision),) = await rows(_HEAD)
        self.names = dict(await rows(_NAMES))
        self.ids = {name: id for id, name in self.names.items()}
        self.apps = {name: msgspec.json.decode(body, type=Catalog) for name, body in await rows(_APPS)}
        self.subscriptions = {id: msgspec.json.decode(body, type=RouteSpec) for id, body in await rows(_SUBSCRIPTIONS)}
        self.paused = {queue for (queue,) in await rows(_PAUSED)}
        self.merging = {
            tbl: Merging(load, scope, msgspec.msgpack.decode(origin, type=Origin))
            for tbl, load, scope, origin in await rows(_MERGING)
        }
        self.head.store, self.head.revision = store, revision
        self.compile()
