"""Admin operations on traces: the recent ones, and a test that plays one again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

from headwater.codec import decode_json
from headwater.engine import TracedEvent
from headwater.errors import UnknownResource
from headwater.runtime.admin_base import AdminBase, time_of
from headwater.runtime.masking import searchable
from headwater.runtime.operations import Hide, Limit, Name, operation
from headwater.runtime.trace_tests import write_test

WINDOW = 1000
"""How many events one page looks at."""
MAX_EVENTS = 1000


class TraceOperations(AdminBase):
    @operation()
    async def traces(
        self,
        *,
        search: str = "",
        hide: Hide = [],  # noqa: B006
        state: Literal["", "done", "waiting", "dead"] = "",
        limit: Limit = 50,
        before: Annotated[int, msgspec.Meta(ge=0)] = 0,
    ) -> dict[str, Any]:
        """The traces of the last events, newest first: with what each began, and what became of its messages.

        `search` keeps those with the text in an id, source, subject or data, `state` those with a message in this
        state. A page looks at 1,000 events; hand its `next` to the following call as `before`. `search` looks past
        fields of the names `hide`.
        """
        events = await self.engine.events(max(before - 1 - WINDOW, 0) if before else -1, WINDOW)
        if before:
            events = [traced for traced in events if traced.position < before]
        found: dict[str, list[TracedEvent]] = {}
        for traced in events:
            found.setdefault(traced.event.trace, []).append(traced)
        kept = [
            trace
            for trace in sorted(found.values(), key=lambda trace: -trace[-1].position)
            if _has_state(trace, state) and (not search or any(_has(traced, search.lower(), hide) for traced in trace))
        ]
        lowest = events[0].position if events else 0
        following = lowest if lowest > 1 else None
        if len(kept) > limit:
            kept = kept[:limit]
            following = kept[-1][-1].position
        return {"traces": [_summary(trace) for trace in kept], "next": following}

    @operation()
    async def trace_test(self, *, id: Name) -> dict[str, Any]:
        """A test for `headwater.testing.Harness` that does what a trace began with, and expects what came of it.

        `id` is that of a trace, an event or a message. Takes a running server: it knows where the apps are.
        """
        event = await self.engine.event(id.partition("/")[0])
        events = await self.engine.trace(id if event is None else event.event.trace, MAX_EVENTS)
        if not events:
            raise UnknownResource("the history has no trace, event or message of this id", resource=id)
        apps = self.supervisor.graph.apps if self.supervisor else ()
        return {"code": write_test(events, apps, await self.engine.catalog())}


def _has_state(trace: Sequence[TracedEvent], state: str) -> bool:
    return not state or any(state in traced.messages.values() for traced in trace)


def _has(traced: TracedEvent, search: str, hide: Sequence[str]) -> bool:
    event = traced.event
    texts = (event.id, event.trace, event.source, event.subject, searchable(event.data, hide))
    return any(search in text.lower() for text in texts)


def _summary(trace: Sequence[TracedEvent]) -> dict[str, Any]:
    first, last = trace[0].event, trace[-1].event
    states = [state for traced in trace for state in traced.messages.values()]
    return {
        "trace": first.trace,
        "cause": first.cause,
        "time": time_of(first.time_ms),
        "took_ms": last.time_ms - first.time_ms,
        "source": first.source,
        "type": first.type,
        "subject": first.subject,
        "data": None if first.data is None else decode_json(first.data),
        "events": len(trace),
        "sources": list(dict.fromkeys(traced.event.source for traced in trace)),
        **{state: states.count(state) for state in ("done", "waiting", "dead")},
    }
