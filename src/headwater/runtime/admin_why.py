"""The admin operation that tells why an event fired something, or did not."""

from __future__ import annotations

from typing import Any

import msgspec

from headwater.engine import TracedEvent
from headwater.errors import UnknownResource
from headwater.events import Delivery
from headwater.runtime.admin_base import AdminBase, time_of
from headwater.runtime.operations import Name, operation
from headwater.why import Way, explain_routes

_LATER = "it matches now, and the event has no message there: the route was not in force when it happened"
_ELSEWHERE = "no route leads here now: it was sent or replayed to this queue, or the route is gone"


class WhyOperations(AdminBase):
    @operation()
    async def why(self, *, id: Name) -> dict[str, Any]:
        """Which routes took an event and which did not, naming the part of the pattern; `id` is that of the event.

        Judged by the routes that are in force now. `outcome` of a way is "taken", "refused" by a pattern, "filtered"
        by its handler's `when=`, "doubled" by an earlier way to the same queue, or "later" where the route matches but
        did not exist then; "direct" is a message that came by no route.
        """
        traced = await self.engine.event(id.partition("/")[0])
        if traced is None:
            raise UnknownResource(
                "the history has no event of this id",
                operation="why",
                resource=id,
                hint="events are kept until the `history` setting has passed; `headwater tail` lists them",
            )
        catalog = await self.engine.catalog()
        shown: list[dict[str, Any]] = []
        for way in explain_routes(traced.event, catalog.queues, catalog.routes):
            doubled = any(other["queue"] == way.queue and other["failed"] is None for other in shown)
            shown.append(self._judged(way, traced, doubled=doubled))
        reached = {way["queue"] for way in shown if way["failed"] is None}
        shown += [
            _way_json(queue, (), "direct", state, _ELSEWHERE)
            for queue, state in traced.messages.items()
            if queue not in reached
        ]
        event = traced.event
        told = {name: getattr(event, name) for name in ("id", "source", "type", "subject", "trace")}
        return {**told, "time": time_of(event.time_ms), "ways": shown, "verdict": _verdict(event.source, shown)}

    def _judged(self, way: Way, traced: TracedEvent, *, doubled: bool) -> dict[str, Any]:
        state = traced.messages.get(way.queue)
        outcome, reason = "taken", ""
        if way.reason is not None:
            outcome, reason = "refused", way.reason
        elif doubled:
            outcome, reason = "doubled", "an earlier way to this queue has taken it"
        elif state is None:
            outcome, reason = "later", _LATER
        elif (left_out := self._left_out(way.queue, traced)) is not None:
            outcome, reason = "filtered", left_out
        path = (*(route.source for route in way.routes), way.queue)
        return {
            **_way_json(way.queue, path, outcome, state if outcome != "refused" else None, reason),
            "routes": [msgspec.to_builtins(route) for route in way.routes],
            "failed": way.failed,
        }

    def _left_out(self, queue: str, traced: TracedEvent) -> str | None:
        """What the predicate of the queue's handler says, where it runs here."""
        consumer = self.supervisor.consumers.get(queue) if self.supervisor else None
        if consumer is None or consumer.spec.when is None:
            return None
        delivery = Delivery(queue=queue, position=0, fence=0, receives=1, event=traced.event)
        try:
            if consumer.spec.when(consumer.spec.feed.decoder()(delivery)):
                return None
        except Exception as error:  # the app's own code
            return f"when= of {consumer.spec.name} failed: {type(error).__name__}: {error}"
        return f"when= of {consumer.spec.name} left it out ({consumer.spec.place})"


def _way_json(queue: str, path: tuple[str, ...], outcome: str, state: str | None, reason: str) -> dict[str, Any]:
    return {
        "queue": queue,
        "path": list(path),
        "outcome": outcome,
        "state": state,
        "reason": reason,
        "routes": [],
        "failed": None,
    }


def _verdict(source: str, ways: list[dict[str, Any]]) -> str:
    if not ways:
        return f"nothing is routed from {source}"
    count = sum(way["outcome"] in ("taken", "direct") for way in ways)
    queues = "1 queue" if count == 1 else f"{count} queues"
    left = sum(way["outcome"] in ("refused", "filtered") for way in ways)
    others = f"; {left} {'way was' if left == 1 else 'ways were'} refused or filtered" if left else ""
    return f"it went to {queues}{others}"
