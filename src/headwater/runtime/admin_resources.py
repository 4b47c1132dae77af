"""Admin operations on the store as a whole: its state, its resources, its health."""

from __future__ import annotations

from typing import Any

import msgspec

from headwater.catalog import Catalog, QueueSpec, TableSpec
from headwater.engine import QueueStats
from headwater.runtime.admin_alarms import state_json
from headwater.runtime.admin_base import AdminBase, orphans_of, time_of
from headwater.runtime.alarms import read_states
from headwater.runtime.garbage import blob_tables
from headwater.runtime.inventory import take_inventory
from headwater.runtime.operations import operation
from headwater.runtime.tally import Counting
from headwater.system import NAME

_TOTALS = ("depth", "in_flight", "delayed", "dead")


class ResourceOperations(AdminBase):
    @operation()
    async def status(self) -> dict[str, Any]:
        """The store, the server that owns it, and the sums of all queues."""
        catalog, stats = await self.engine.catalog(), await self.engine.stats()
        return {
            "store": self.store,
            "engine": self.engine.features.engine,
            "time": time_of(await self.engine.now_ms()),
            "apps": _apps(catalog),
            "server": self._server(),
            "queues": {"count": len(stats), **{name: sum(getattr(s, name) for s in stats) for name in _TOTALS}},
            "paused": [queue.queue for queue in stats if queue.paused],
            "orphans": orphans_of(catalog, {queue.queue: queue.depth for queue in stats}),
            "alarms": [state_json(row) for row in await read_states(self.engine, self.system) if row.state == "alarm"],
        }

    def _server(self) -> dict[str, Any] | None:
        if self.supervisor is None:
            return None
        about = {} if self.about is None else msgspec.to_builtins(self.about)
        if self.about is not None:
            about["started"] = time_of(about.pop("started_ms"))
        apps = [app.name for app in self.supervisor.graph.apps if app.name != NAME]
        return {**about, "revision": self.supervisor.revision, "apps": apps}

    @operation()
    async def resources(self) -> dict[str, Any]:
        """All that the store's apps declare: tables, buckets, topics, schedules, queues, routes, subscriptions."""
        catalog, schedules = await self.engine.catalog(), await self.schedule_names()
        routes = [msgspec.to_builtins(route) for route in catalog.routes]
        return {
            "apps": _apps(catalog),
            "tables": [
                _table_json(spec)
                for name, spec in sorted(catalog.tables.items())
                if not _is_own(name) and not spec.bucket
            ],
            "buckets": _buckets(catalog),
            "topics": [{"name": name} for name in sorted(catalog.topics.keys() - schedules) if not _is_own(name)],
            "schedules": [{"name": name} for name in sorted(schedules)],
            "queues": await self._queues(),
            "routes": [route for route in routes if not route["id"] and route["origin"] != NAME],
            "subscriptions": [route for route in routes if route["id"]],
        }

    @operation()
    async def queues(self) -> dict[str, Any]:
        """All queues: policy, depths, and the consumer's counts while a server runs.

        `rates` are a second, over the last 10 seconds or so; null until the queues were asked for a second time.
        """
        return {"queues": await self._queues()}

    async def _queues(self) -> list[dict[str, Any]]:
        catalog = await self.engine.catalog()
        consumed = frozenset(catalog.consumed)
        all_stats = await self.engine.stats()
        rates = self.rates.look(self.clock.monotonic(), {stats.queue: self._counts(stats) for stats in all_stats})
        found = []
        for stats in all_stats:
            spec = catalog.queues.get(stats.queue)
            if spec is not None or stats.depth or stats.dead:
                shown = self._queue(stats, spec)
                found.append({**shown, "consumed": stats.queue in consumed, "rates": rates.get(stats.queue)})
        return found

    def _counts(self, stats: QueueStats) -> dict[str, int]:
        failed = sum(counting.stats.failed for counting in self._counting(stats.queue))
        return {"sent": stats.sent, "settled": stats.settled, "retried": stats.retried, "failed": failed}

    def _counting(self, queue: str) -> list[Counting]:
        """Who counts the attempts at a queue: its consumer here, worker processes, consumers over HTTP."""
        if self.supervisor is None:
            return []
        places = (self.supervisor.consumers, self.supervisor.tallies, self.supervisor.pulls.tallies)
        return [place[queue] for place in places if queue in place]

    def _queue(self, stats: QueueStats, spec: QueueSpec | None) -> dict[str, Any]:
        policy = None if spec is None else msgspec.to_builtins(spec)
        if policy is not None:
            del policy["name"]
        counts: dict[str, Any] = msgspec.to_builtins(stats)
        return {"name": counts.pop("queue"), **counts, "policy": policy, "consumer": self._consumer(stats.queue)}

    def _consumer(self, queue: str) -> dict[str, Any] | None:
        consumer = self.supervisor.consumers.get(queue) if self.supervisor else None
        if consumer is None:
            return None
        spec = consumer.spec
        return {
            **msgspec.to_builtins(consumer.stats),
            "handler": spec.name,
            "place": spec.place,
            "concurrency": spec.concurrency,
            "batch": spec.batch,
        }

    @operation()
    async def check(self) -> dict[str, Any]:
        """Read the whole store and name each damage found; an empty list means that it is sound.

        `unreferenced_blobs` counts the bytes in the place for objects that no object has, which the server collects.
        """
        damage, unreferenced = await self.engine.check(), 0
        if await blob_tables(self.engine):
            if place := await self.system.read(self.system.places, "objects"):
                await self.blobs.check(place.owner)
            inventory = await take_inventory(self.engine, self.blobs)
            damage, unreferenced = [*damage, *inventory.missing], inventory.unreferenced
        return {"sound": not damage, "damage": damage, "unreferenced_blobs": unreferenced}


def _apps(catalog: Catalog) -> list[str]:
    return sorted(app for app in catalog.apps if app != NAME)


def _is_own(resource: str) -> bool:
    """Whether it is the server's own: kept in the store like others, but nobody's to look after."""
    return resource.startswith(f"{NAME}/")


def _buckets(catalog: Catalog) -> list[dict[str, Any]]:
    """The buckets, each told by the table of its objects."""
    tables = catalog.tables
    named = sorted(name for name, spec in tables.items() if spec.bucket and "." not in name)
    return [
        {"name": name, "versions": f"{name}.versions" in tables, "expire_ms": tables[name].ttl_ms} for name in named
    ]


def _table_json(spec: TableSpec) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(spec)
    del shown["bucket"]
    shown["key"] = [part for part in (shown.pop("partition"), shown.pop("sort")) if part]
    return shown
