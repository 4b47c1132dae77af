"""Admin operations on numbers of workers: what is wanted and why, and how it came about."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from headwater.engine import Query
from headwater.runtime.admin_base import AdminBase, time_of
from headwater.runtime.operations import Name, operation
from headwater.scaling import Scaling

Many = Annotated[int, msgspec.Meta(ge=1, le=1000)]


class ScalingOperations(AdminBase):
    @operation()
    async def scales(self) -> dict[str, Any]:
        """The queues whose workers are scaled, with the wanted number, its reason, and what was seen last.

        Without a server that scales them, those of the last decisions.
        """
        if self.supervisor is not None:
            return {"scales": self.supervisor.autoscaler.report()}
        last: dict[str, Scaling] = {row.queue: row for row in await self.system.rows(self.system.scalings)}
        return {
            "scales": [
                {"queue": queue, "wanted": row.wanted, "reason": row.reason, "since": time_of(row.at_ms)}
                for queue, row in sorted(last.items())
            ]
        }

    @operation()
    async def scalings(self, *, queue: Name, limit: Many = 100) -> dict[str, Any]:
        """The changes of a queue's wanted number of workers in the last two weeks, newest first, with their reasons."""
        table = self.system.scalings
        await self.queue_spec(queue)
        query = Query(table=table.name, partition=queue, limit=limit, reverse=True)
        known = table.name in (await self.engine.catalog()).tables
        records = (await self.engine.query(query)).records if known else []
        return {"scalings": [_scaling_json(table.codec.decode(record.body)) for record in records]}


def _scaling_json(row: Scaling) -> dict[str, Any]:
    return {
        "queue": row.queue,
        "time": time_of(row.at_ms),
        "before": row.before,
        "wanted": row.wanted,
        "reason": row.reason,
        "backlog": row.backlog,
        "oldest_age_ms": row.oldest_age_ms,
        "busy": row.busy,
    }
