"""Headwater's own app: what the server itself keeps in the store, in tables and queues like everybody's.

`headwater/keys` has the API keys (digests only), `headwater/usage` the counts of usage plans, `headwater/webhooks`
the webhooks subscribed at run time, `headwater/places` what marks the place of objects as this store's,
`headwater/loads` the summaries of bulk loads. The topic `headwater/alarms` tells what a person should know; the queue
`headwater/expansions` has a message for each load whose changes are to become events. Reads and writes here are never
part of a unit of work that happens to be open (who calls is no business of the request's commit), but for the summary
and the message of a load, which are committed with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from headwater.app import App
from headwater.errors import Discard, UnknownResource
from headwater.events import Event
from headwater.http.keys import Key
from headwater.http.metering import Used
from headwater.ids import new_id
from headwater.loads import EXPANSIONS, LOADS, Expansion, LoadSummary
from headwater.tables import Table
from headwater.unit import Merge
from headwater.work import UnitOfWork

NAME = "headwater"
USAGE_KEPT = LOADS_KEPT = "400d"
TRIES = 1_000_000
"""How often an expansion is tried: its table waits for it, so it is never given up."""
R = TypeVar("R")


class Alarm(msgspec.Struct, kw_only=True):
    """A message of `headwater/alarms`: what is wrong with which resource."""

    name: str
    resource: str
    detail: str
    state: str = "alarm"


class Hook(msgspec.Struct, kw_only=True):
    """A webhook subscribed at run time; its secret is sealed."""

    id: str
    topic: str
    queue: str
    url: str
    secret_sealed: str
    created_ms: int = 0


class Place(msgspec.Struct, kw_only=True):
    """What marks a place outside of the store as this store's own."""

    kind: str
    owner: str


class System:
    """The app's resources, and the few ways in which the server uses them."""

    def __init__(self) -> None:
        self.app: App[None] = App(NAME)
        self.keys = self.app.table("keys", Key, key="id")
        self.usage = self.app.table("usage", Used, key=("who", "period"), images="none", ttl=USAGE_KEPT)
        self.webhooks = self.app.table("webhooks", Hook, key="id")
        self.places = self.app.table("places", Place, key="kind", images="none")
        self.alarms = self.app.topic("alarms", Alarm)
        self.loads = self.app.table(
            LOADS.removeprefix(f"{NAME}/"),
            LoadSummary,
            key=("dataset", "id"),
            indexes={"by-table": ("table", "id")},
            images="none",
            ttl=LOADS_KEPT,
        )
        self.expansions = self.app.queue(
            EXPANSIONS.removeprefix(f"{NAME}/"), Expansion, fifo=True, max_receives=TRIES, retention="520w"
        )
        self.app.on(self.expansions)(self._expand)

    async def _expand(self, event: Event[Expansion]) -> None:
        """Get the rows of a flipped load into place, with their events; a crash leaves the rest to the next try."""
        try:
            while await self.app.binding.engine.expand(event.data.table):
                pass
        except UnknownResource as error:
            raise Discard("the table is declared no more") from error

    async def get(self, id: str) -> Key | None:
        """The API key of this id (`http.keys.Rows`)."""
        return await self.read(self.keys, id)

    async def read(self, table: Table[R], *key: str) -> R | None:
        """A committed row, outside of any unit of work."""
        record = await self.app.binding.engine.read(table.name, table.key(*key))
        return None if record is None else table.codec.decode(record.body)

    async def owner(self) -> str:
        """What this store marks its place for objects with; made when it is first asked for."""
        found = await self.read(self.places, "objects")
        if found is None:
            found = Place(kind="objects", owner=new_id())
            await self.places.put(found)
        return found.owner

    async def count(self, who: str, period: str) -> int:
        """Requests written for this period (`http.metering.UsageStore`)."""
        found = await self.read(self.usage, who, period)
        return 0 if found is None else found.count

    async def add(self, used: list[Used]) -> None:
        """Add to counts, in one commit."""
        unit = UnitOfWork(self.app.binding.engine)
        for one in used:
            fixed: Mapping[str, Any] = {"who": one.who, "period": one.period, "plan": one.plan}
            unit.merge(self.usage.name, self.usage.key(one.who, one.period), Merge(dict(fixed), {"count": one.count}))
        await unit.commit()
