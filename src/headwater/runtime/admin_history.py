"""Admin operations on events: what happened, and what it led to."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import msgspec

from headwater.engine import MessageNote, TracedEvent
from headwater.errors import UnknownResource
from headwater.runtime.admin_base import AdminBase, event_json, time_of
from headwater.runtime.log_lines import lines_of
from headwater.runtime.operations import MAX_PAGE, Limit, Name, Position, operation
from headwater.tracing import Span

TRACE_LIMIT = 1000


class HistoryOperations(AdminBase):
    @operation()
    async def tail(self, *, after: Position = -1, source: str = "", limit: Limit = 20) -> dict[str, Any]:
        """Events in commit order: the newest, or those after a position. Hand `next` to the following call as `after`.

        `source` keeps the events of one table, topic or queue; the newest are then those among the last 1,000.
        """
        scan = MAX_PAGE if source else limit
        events = await self.engine.events(after, scan)
        kept = [traced for traced in events if source in ("", traced.event.source)]
        following = events[-1].position if events else max(after, 0)
        more = after >= 0 and len(events) == scan
        if after < 0:
            kept = kept[-limit:]
        elif len(kept) > limit:
            kept, more = kept[:limit], True
            following = kept[-1].position
        return {"events": [_traced_json(traced) for traced in kept], "next": following, "more": more}

    @operation()
    async def event(self, *, id: Name) -> dict[str, Any]:
        """One event with the states of its messages: waiting, done or dead."""
        found = await self.engine.event(id)
        if found is None:
            raise _unknown(id)
        return _traced_json(found)

    @operation()
    async def trace(self, *, id: Name) -> dict[str, Any]:
        """All that a request led to, as a tree; `id` is that of an event, a message or a trace.

        `roots` are the requests and calls that began it. Each event has its messages, each message its failures and
        the events that its handler made. `spans` are the timed parts of the trace, if it was sampled, and its failures:
        requests, attempts of handlers, steps and outgoing calls. A span's `parent` is the id of another, `of` the
        message of an attempt, the cause that begins a root, or where a call went. `logs` are lines that were logged in
        it, as long as the server has them in memory.
        """
        event = await self.engine.event(id.partition("/")[0])
        trace = id if event is None else event.event.trace
        events = await self.engine.trace(trace, TRACE_LIMIT)
        spans = await self.tracer.of(trace, TRACE_LIMIT)
        if not events and not spans:
            raise _unknown(id)
        return {
            "trace": trace,
            "events": len(events),
            "complete": len(events) < TRACE_LIMIT and len(spans) < TRACE_LIMIT,
            "roots": _tree(events),
            "spans": [_span_json(span) for span in spans],
            "logs": lines_of(trace),
        }


def _unknown(id: str) -> UnknownResource:
    return UnknownResource(
        "the history has no event, message or trace of this id",
        operation="trace",
        resource=id,
        hint="events are kept until the `history` setting has passed",
    )


def _span_json(span: Span) -> dict[str, Any]:
    """A span; always with the same members."""
    told = msgspec.structs.asdict(span)
    start, duration_ms = time_of(told.pop("start_ms")), told.pop("duration_us") / 1000
    return {**told, "start": start, "duration_ms": duration_ms}


def _traced_json(traced: TracedEvent) -> dict[str, Any]:
    return {"position": traced.position, **event_json(traced.event), "messages": traced.messages}


def _tree(events: list[TracedEvent]) -> list[dict[str, Any]]:
    """Hang each event below the message, or the edited event, that caused it; the others are roots by cause."""
    known = {traced.event.id for traced in events}
    below: dict[str, list[TracedEvent]] = defaultdict(list)
    roots: dict[str, list[TracedEvent]] = {}
    for traced in events:
        cause = traced.event.cause or ""
        if cause.partition("/")[0] in known and cause != traced.event.id:
            below[cause].append(traced)
        else:
            roots.setdefault(cause, []).append(traced)
    return [
        {"cause": cause or None, "events": [_node(traced, below) for traced in found]} for cause, found in roots.items()
    ]


def _node(traced: TracedEvent, below: dict[str, list[TracedEvent]]) -> dict[str, Any]:
    """One event with its messages. A message is caused once, so the recursion ends with the events."""
    messages = []
    for queue, state in traced.messages.items():
        id = f"{traced.event.id}/{queue}"
        note = msgspec.to_builtins(traced.notes.get(queue, _NOTHING))
        made = [_node(child, below) for child in below.pop(id, ())]
        messages.append({"queue": queue, "state": state, **note, "events": made})
    edits = [_node(child, below) for child in below.pop(traced.event.id, ())]
    return {"position": traced.position, **event_json(traced.event), "messages": messages, "edited": edits}


_NOTHING = MessageNote()
