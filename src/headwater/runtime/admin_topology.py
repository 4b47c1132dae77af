"""Admin operations on how things are connected: handlers, what was seen to flow, models, processes."""

from __future__ import annotations

import os
from collections.abc import Container, Sequence
from typing import Any

from headwater.errors import UnknownResource
from headwater.events import Delivery
from headwater.handlers import HandlerSpec
from headwater.http.schemas import ModelSchema
from headwater.runtime.admin_base import AdminBase, time_of
from headwater.runtime.operations import Name, operation
from headwater.system import NAME

TOLD = 50
"""So many messages that a process holds are named."""


class TopologyOperations(AdminBase):
    @operation()
    async def topology(self) -> dict[str, Any]:
        """What is connected beyond the routes of `resources`: the handlers, and what was seen to flow.

        `fed` counts the events of each source that went to a queue, `made` those that the handler of a queue made; with
        an empty `queue` they came from outside: requests, schedules, commands. A server counts from the 1,000 events
        before it was first asked on. Without a server no handlers are known.
        """
        await self.flows.look(self.engine)
        flows, handlers = self.flows, self.supervisor.graph.handlers if self.supervisor else {}
        return {
            "handlers": [_handler_json(spec) for _, spec in sorted(handlers.items())],
            "fed": [{"source": s, "queue": q, "events": n} for (s, q), n in sorted(flows.fed.items())],
            "made": [{"queue": q, "source": s, "events": n} for (q, s), n in sorted(flows.made.items())],
            "events": flows.events,
            "since": time_of(flows.since_ms) if flows.since_ms else None,
        }

    @operation()
    async def schema(self, *, resource: Name) -> dict[str, Any]:
        """The JSON schema of what a table, topic or queue takes; null while its app does not run here."""
        catalog = await self.engine.catalog()
        kinds: dict[str, Container[str]] = {"table": catalog.tables, "topic": catalog.topics, "queue": catalog.queues}
        kind = next((kind for kind, named in kinds.items() if resource in named), None)
        if kind is None:
            raise UnknownResource("the store has no table, topic or queue of this name", resource=resource)
        app = self._declared_app(resource)
        declared = getattr(app, f"{kind}s").get(resource) if app else None
        if declared is None:
            return {"resource": resource, "kind": kind, "schema": None, "components": {}}
        model = ModelSchema(declared.model, resource, "validation")
        return {"resource": resource, "kind": kind, "schema": model.root, "components": model.components}

    @operation()
    async def workers(self) -> dict[str, Any]:
        """The server's process and its worker processes, with the messages that each holds: leased, not settled yet.

        `terms` tell which process does a work that one at a time does, where several have the store open.
        """
        if self.supervisor is None:
            return {"server": None, "workers": [], "terms": await self._terms()}
        holds = [
            {
                **_held_json(queue, consumer.held),
                "handler": consumer.spec.name,
                "concurrency": consumer.spec.concurrency,
                "running": consumer.stats.running,
            }
            for queue, consumer in sorted(self.supervisor.consumers.items())
        ]
        started = None if self.about is None else time_of(self.about.started_ms)
        server = {"pid": os.getpid(), "started": started, "holds": holds}
        return {"server": server, "workers": self._worker_processes(), "terms": await self._terms()}

    def _worker_processes(self) -> list[dict[str, Any]]:
        """Those that have connected, and those that this server has started and that have not yet."""
        if self.processes is None:
            return []
        started = self.processes.started()
        found = [
            {
                "pid": worker.pid,
                "since": time_of(worker.since_ms),
                "queue": started.pop(worker.pid, None),
                "connected": True,
                "holds": _holds(worker.held),
            }
            for worker in self.processes.connected()
        ]
        waiting: list[dict[str, Any]] = [
            {"pid": pid, "since": None, "queue": queue, "connected": False, "holds": []}
            for pid, queue in sorted(started.items())
        ]
        return sorted(found, key=lambda worker: str(worker["since"])) + waiting

    async def _terms(self) -> list[dict[str, Any]]:
        now_ms = await self.engine.now_ms()
        rows = [row for row in await self.system.rows(self.system.terms) if row.until_ms > now_ms]
        return [{"work": row.work, "holder": row.holder, "until": time_of(row.until_ms)} for row in rows]


def _handler_json(spec: HandlerSpec) -> dict[str, Any]:
    return {
        "queue": spec.queue,
        "handler": spec.name,
        "place": "" if spec.queue.startswith(f"{NAME}/") else spec.place,
        "runs": "process" if spec.in_process else "thread" if spec.in_thread else "loop",
        "concurrency": spec.concurrency,
        "batch": spec.batch,
        "scaled": spec.scale is not None,
        "filtered": spec.when is not None,
    }


def _holds(held: Sequence[Delivery]) -> list[dict[str, Any]]:
    by_queue: dict[str, list[Delivery]] = {}
    for delivery in held:
        by_queue.setdefault(delivery.queue, []).append(delivery)
    return [_held_json(queue, deliveries) for queue, deliveries in sorted(by_queue.items())]


def _held_json(queue: str, held: Sequence[Delivery]) -> dict[str, Any]:
    return {"queue": queue, "held": len(held), "messages": [delivery.message_id for delivery in held[:TOLD]]}
