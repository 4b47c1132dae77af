"""Forgetting a key: the search for what a store keeps of it.

Order matters, since an erasure may begin anew at any point: the traces are found by the key's own changes, so of each
trace the other events go before those; and while a message of a trace waits, its handler may still add to the trace.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from typing import Literal, NamedTuple

from headwater.applying.redaction import REDACTED, claim_names, names_key, values_of
from headwater.codec import encode_json
from headwater.engine import Forgotten, Remains
from headwater.events import Envelope
from headwater.unit import Redaction

SLICE, SLICE_BYTES = 50, 256 * 1024


class Found(NamedTuple):
    """An event's position (or a dead letter's id), the event, its size, and the messages that still need it."""

    place: int
    event: Envelope
    size: int
    waiting: Sequence[tuple[str, int]] = ()


class Part(NamedTuple):
    """One thing that is left of a key, or the messages that still need it."""

    kind: Literal["event", "dead_letter", "claim", "staged", "member"]
    place: tuple[int | str, ...]
    size: int = 0
    waiting: Sequence[tuple[str, int]] = ()
    whole: bool = True


class Search(ABC):
    """What an engine looks up, a slice at a time, and what follows from it."""

    @abstractmethod
    def own(self, forgotten: Forgotten) -> AsyncGenerator[list[Found], None]:
        """The key's own changes and their copies."""

    @abstractmethod
    def having(self, trace: str, needles: Sequence[bytes]) -> AsyncGenerator[list[Found], None]:
        """The events of a trace whose envelopes have one of these in their bytes."""

    @abstractmethod
    def letters(self) -> AsyncGenerator[list[Found], None]:
        """All dead letters."""

    @abstractmethod
    def loaded(self, forgotten: Forgotten) -> AsyncGenerator[Part, None]:
        """What loads keep of the key that are not flipped, and that their scopes have had it."""

    @abstractmethod
    def claims(self) -> AsyncGenerator[list[tuple[str, str, bytes]], None]:
        """All claims: (scope, id, result)."""

    async def traces(self, forgotten: Forgotten) -> set[str]:
        found: set[str] = set()
        async for events in self.own(forgotten):
            found.update(event.trace for _, event, *_ in events)
        async for letters in self.letters():
            found.update(event.trace for _, event, *_ in letters if _is_own(event, forgotten))
        return found - {""}

    async def remains(self, forgotten: Forgotten, traces: set[str]) -> AsyncGenerator[Remains, None]:
        slice, size = Remains([], []), 0
        async for part in self._parts(forgotten, traces):
            if part.waiting:
                slice.waiting.extend(part.waiting)
                continue
            slice.redactions.append(Redaction(part.kind, part.place, forgotten.mark, part.whole))
            size += part.size
            if len(slice.redactions) == SLICE or size > SLICE_BYTES:
                yield slice
                slice, size = Remains([], []), 0
        if slice.redactions or slice.waiting:
            yield slice

    async def _parts(self, forgotten: Forgotten, traces: set[str]) -> AsyncGenerator[Part, None]:
        held: set[str] = set()
        async for found in self._telling(forgotten, traces):
            yield (part := _part(found, whole=_tells(found.event, forgotten)))
            if part.waiting:
                held.add(found.event.trace)
        waits = bool(held)
        async for events in self.own(forgotten):
            for found in events:
                if found.event.trace not in held:
                    yield (part := _part(found))
                    waits = waits or bool(part.waiting)
        async for part in self._letters(forgotten, traces):
            yield part
        async for part in self.loaded(forgotten):
            yield part
        if not waits:
            async for claims in self.claims():
                for scope, id, result in claims:
                    if claim_names(scope, id, result, forgotten.names):
                        yield Part("claim", (scope, id))

    async def _telling(self, forgotten: Forgotten, traces: set[str]) -> AsyncGenerator[Found, None]:
        """Other events of the traces that name the key, or were caused by a caller of this name."""
        needles = _needles(forgotten)
        for trace in traces:
            async for events in self.having(trace, needles):
                for found in events:
                    if _tells(found.event, forgotten) or _is_by(found.event, forgotten):
                        yield found

    async def _letters(self, forgotten: Forgotten, traces: set[str]) -> AsyncGenerator[Part, None]:
        async for letters in self.letters():
            for id, event, size, _ in letters:
                whole = _is_own(event, forgotten) or (event.trace in traces and _tells(event, forgotten))
                if whole or (event.trace in traces and _is_by(event, forgotten)):
                    yield Part("dead_letter", (id,), size, whole=whole)


def _part(found: Found, *, whole: bool = True) -> Part:
    return Part("event", (found.place,), found.size, found.waiting, whole)


def _is_own(event: Envelope, forgotten: Forgotten) -> bool:
    """Whether a dead letter is a change of the key, from before it was forgotten."""
    if (event.source, event.key) != (forgotten.table, forgotten.key):
        return False
    return event.time_ms <= forgotten.until_ms


def _tells(event: Envelope, forgotten: Forgotten) -> bool:
    """Whether an event that is not a change of the key itself names it."""
    if REDACTED in event.attributes or (event.source, event.key) == (forgotten.table, forgotten.key):
        return False
    return names_key(values_of(event), forgotten.names)


def _is_by(event: Envelope, forgotten: Forgotten) -> bool:
    """Whether another event's caller is who is forgotten."""
    if event.caller is None or (event.source, event.key) == (forgotten.table, forgotten.key):
        return False
    return names_key({event.caller.subject}, forgotten.names)


def _needles(forgotten: Forgotten) -> list[bytes]:
    """What an event that names the key has among its bytes: most others need not be decoded."""
    return sorted({form for key in forgotten.names for form in (key[0].encode(), encode_json(key[0])[1:-1])})
