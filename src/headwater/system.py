"""Headwater's own app: what the server itself keeps in the store, in tables and queues like everybody's.

`headwater/keys` has the API keys (digests only), `headwater/usage` the counts of usage plans, `headwater/webhooks`
the webhooks subscribed at run time. The topic `headwater/alarms` tells what a person should know. Reads and writes
here are never part of a unit of work that happens to be open: who calls is no business of the request's commit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from headwater.app import App
from headwater.http.keys import Key
from headwater.http.metering import Used
from headwater.tables import Table
from headwater.unit import Merge
from headwater.work import UnitOfWork

NAME = "headwater"
USAGE_KEPT = "400d"
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


class System:
    """The app's resources, and the few ways in which the server uses them."""

    def __init__(self) -> None:
        self.app: App[None] = App(NAME)
        self.keys = self.app.table("keys", Key, key="id")
        self.usage = self.app.table("usage", Used, key=("who", "period"), images="none", ttl=USAGE_KEPT)
        self.webhooks = self.app.table("webhooks", Hook, key="id")
        self.alarms = self.app.topic("alarms", Alarm)

    async def get(self, id: str) -> Key | None:
        """The API key of this id (`http.keys.Rows`)."""
        return await self.read(self.keys, id)

    async def read(self, table: Table[R], *key: str) -> R | None:
        """A committed row, outside of any unit of work."""
        record = await self.app.binding.engine.read(table.name, table.key(*key))
        return None if record is None else table.codec.decode(record.body)

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
