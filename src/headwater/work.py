"""The unit of work that runs: the writes, events and reads of one handler or request until they are committed.

The current unit is a context variable. While it is open, everything that the code calls joins it; after it is
closed, code that outlived it (a background task, a generator) gets `UnitClosed`, never a silent commit of its own.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar, Token
from types import MappingProxyType
from typing import Any, Protocol, TypeVar, cast

from headwater.codec import decode_json, encode_json
from headwater.engine import Engine, Record
from headwater.errors import Conflict, Discard, HeadwaterError, InvalidValue, TooLarge, UnitClosed
from headwater.events import MESSAGE, Caller, Delivery, Envelope, Key
from headwater.tracing import Tracer, span_of
from headwater.unit import (
    MAX_MESSAGE,
    Claim,
    Commit,
    Committed,
    Emit,
    Flip,
    Merge,
    Origin,
    Read,
    Settle,
    Write,
    apply_merge,
    new_commit,
)

R = TypeVar("R")
RERUNS = 5
"""How often work is re-run in place after a conflict before the conflict counts as a failure."""
current: ContextVar[UnitOfWork | None] = ContextVar("headwater_unit", default=None)
current_request: ContextVar[RequestFacts | None] = ContextVar("headwater_request", default=None)
rehearsing: ContextVar[bool] = ContextVar("headwater_rehearsing", default=False)
"""Whether nothing of what runs is to have an effect (`runtime.rehearsal`)."""
Slot = tuple[str, Key]
Mark = tuple[int, int, dict[Slot, Write], int, int]


NOWHERE = Origin()
BLOCKED = Exception("an earlier message of the group failed")
"""Stands in `UnitOfWork.failures` for an event that only waits behind a failed one of its group."""
FILTERED = Exception("filtered")
"""Stands in `UnitOfWork.failures` for an event that the handler's predicate left out."""
HARMLESS = (BLOCKED, FILTERED)


def caused_by(delivery: Delivery) -> Origin:
    event = delivery.event
    return Origin(delivery.message_id, event.caller, event.trace, event.depth + 1)


_NO_ENTRIES = cast("dict[Any, Any]", MappingProxyType({}))
_NO_MEMBERS = cast("set[Any]", frozenset())


class RequestFacts(Protocol):
    """What is known of the HTTP request that runs."""

    @property
    def facts(self) -> dict[str, str]:
        """For logs: app, method and path template."""
        ...

    @property
    def tracestate(self) -> str:
        """What the caller's tracing system wants to be passed on with the trace."""
        ...


class UnitOfWork:
    """Collects one commit. `settle` entries of the handled deliveries are added by the runtime."""

    # Most units use few of these: the shared defaults are replaced, never changed.
    _begun: Commit | None = None
    _using: Origin | None = None
    _operations = 0
    _reads: dict[Slot, Record | None] = _NO_ENTRIES
    _validated: set[Slot] = _NO_MEMBERS
    _writes: dict[Slot, Write] = _NO_ENTRIES
    _submitted = False
    closed = False
    why = ""
    handling = ""
    """The message, in a step, and in an attempt at one event of a batch."""
    tracer: Tracer | None = None
    """Set where the unit's trace is sampled."""
    deliveries: Sequence[Delivery] = ()
    failures: dict[int, Exception] = _NO_ENTRIES
    failed_groups: set[str | None] = _NO_MEMBERS

    def __init__(self, engine: Engine, origin: Origin | Delivery = NOWHERE) -> None:
        self.engine = engine
        self._origin = origin

    @property
    def _commit(self) -> Commit:
        """The commit, begun when it is first needed: most attempts of many handlers write nothing."""
        if self._begun is None:
            origin = self._origin if isinstance(self._origin, Origin) else caused_by(self._origin)
            self._begun = new_commit(origin.cause, origin.caller, origin.trace, origin.depth)
        return self._begun

    def use(self, origin: Origin) -> Origin:
        """Emit what follows as caused by `origin` (batches: the event that is being handled); what was before."""
        self._using = origin
        commit = self._commit
        before = Origin(commit.cause, commit.caller, commit.trace, commit.depth)
        commit.cause, commit.caller, commit.depth = origin.cause, origin.caller, origin.depth
        commit.trace = origin.trace or commit.trace
        return before

    def call_for(self, caller: Caller) -> None:
        """What the unit emits is done for this caller."""
        self._commit.caller = caller

    @property
    def trace(self) -> str:
        return self._commit.trace

    @property
    def span(self) -> str:
        """The id of the span that the unit's code runs in."""
        return span_of(self._commit.id)

    @property
    def writes_anything(self) -> bool:
        commit = self._begun
        return bool(self._writes) or (commit is not None and bool(commit.emits or commit.claims or commit.flips))

    def next_id(self) -> str:
        """An id of this commit; the next one sorts after it as text: …-9, …-a10, …-a99, …-b100."""
        number = self._operations
        self._operations = number + 1
        if number < 10:
            return f"{self._commit.id}-{number}"
        digits = str(number)
        return f"{self._commit.id}-{chr(95 + len(digits))}{digits}"

    def check_open(self) -> None:
        if self.closed:
            raise UnitClosed(
                f"this code outlived its unit of work{self.why and f' ({self.why})'}",
                hint="await the work before the handler or request returns, send a message to a queue instead, or "
                "open `async with app.transaction()` in it",
            )

    async def read(self, table: str, key: Key, *, validate: bool = True) -> Record | None:
        """The record as this unit sees it: its first read of the key, with its own write on top."""
        self.check_open()
        slot = (table, key)
        write = self._writes.get(slot)
        if write is not None and not write.blind:
            return written(write, None)
        if slot not in self._reads:
            record = await self.engine.read(table, key)
            if not self._reads:
                self._reads = {}
            self._reads.setdefault(slot, record)
        if validate:
            if not self._validated:
                self._validated = set()
            self._validated.add(slot)
        present = self._reads[slot]
        return present if write is None else written(write, present)

    def write(self, write: Write) -> str:
        """Put or remove: replaces what the unit wrote to the key before."""
        self.check_open()
        self._set(write)
        return write.version

    def _set(self, write: Write) -> None:
        if not self._writes:
            self._writes = {}
        write.origin = self._using
        self._writes[write.table, write.key] = write

    def merge(self, table: str, key: Key, merge: Merge) -> str:
        """Update: merged at commit into the present record, or into the unit's own write of the key."""
        self.check_open()
        before = self._writes.get((table, key))
        version = self.next_id()
        if before is None:
            write = Write(table, key, version, merges=(merge,), blind=True)
        else:
            write = Write(table, key, version, before.body, (*before.merges, merge), before.blind)
        self._set(write)
        return version

    def wrote(self, table: str, key: Key) -> bool:
        return (table, key) in self._writes

    def own_writes(self, table: str) -> list[Key]:
        return [key for of, key in self._writes if of == table]

    def publish(self, source: str, data: bytes, attributes: dict[str, str], *, dedup: str = "") -> str:
        self.check_open()
        event = self._message(source, data, attributes)
        self._commit.emits.append(Emit(event, dedup=dedup))
        return event.id

    def send(
        self, queue: str, data: bytes, *, group: str | None, dedup: str, delay_ms: int | None, unordered: bool
    ) -> str:
        """`unordered`: a message without a group is a group of its own."""
        self.check_open()
        event = self._message(queue, data, {})
        own_group = event.id if unordered and group is None else group
        self._commit.emits.append(Emit(event, queue, own_group, delay_ms, dedup))
        return event.id

    def _message(self, source: str, data: bytes, attributes: dict[str, str]) -> Envelope:
        if len(data) > MAX_MESSAGE:
            raise TooLarge(
                f"the message has {len(data)} bytes, {MAX_MESSAGE} are allowed",
                operation="send",
                resource=source,
                hint="store the content in a table or bucket and send its key",
            )
        commit = self._commit
        return Envelope(
            id=self.next_id(),
            source=source,
            type=MESSAGE,
            data=data,
            attributes=attributes,
            caller=commit.caller,
            cause=commit.cause,
            trace=commit.trace,
            depth=commit.depth,
        )

    def claim(self, claim: Claim) -> None:
        self.check_open()
        self._commit.claims.append(claim)

    def flip(self, flip: Flip) -> None:
        """Have a staged load seen from this unit's commit on; without that commit the load is abandoned."""
        self.check_open()
        self._commit.flips.append(flip)

    def flips(self, table: str) -> bool:
        """Whether the unit loads the table."""
        return self._begun is not None and any(flip.table == table for flip in self._begun.flips)

    def _abandon_loads(self, first: int = 0) -> None:
        for flip in self._commit.flips[first:]:
            self.engine.abandon(flip.load)

    def mark(self) -> Mark:
        """A point to which `undo` can go back."""
        commit = self._commit
        return len(commit.emits), len(commit.claims), dict(self._writes), len(commit.settles), len(commit.flips)

    def undo(self, mark: Mark) -> None:
        emits, claims, writes, settles, flips = mark
        self._abandon_loads(flips)
        del self._commit.emits[emits:], self._commit.claims[claims:], self._commit.settles[settles:]
        del self._commit.flips[flips:]
        self._writes = writes

    def fail(self, delivery: Delivery, error: Exception) -> None:
        """One event of the batch has failed alone; the later ones of its group wait behind it."""
        if not self.failures:
            self.failures, self.failed_groups = {}, set()
        self.failures[delivery.position] = error
        if delivery.group is not None and error not in HARMLESS and not isinstance(error, Discard):
            self.failed_groups.add(delivery.group)

    def settle(self, settle: Settle) -> None:
        self._commit.settles.append(settle)

    def duplicate_of(self, id: str, committed: Committed) -> str:
        """The id that an emit ended with: its own, or that of the one it duplicates."""
        for index, other in committed.duplicates.items():
            if self._commit.emits[index].event.id == id:
                return other
        return id

    async def stale(self) -> str | None:
        """Name a key that the unit read and that has changed since."""
        for table, key in self._validated:
            before, now = self._reads[table, key], await self.engine.read(table, key)
            if (before.version if before else None) != (now.version if now else None):
                return f"{table} {key[0]!r}"
        return None

    def close(self, why: str = "", *, commits: bool = False) -> None:
        """Take nothing more. Unless it `commits` afterwards, what it has loaded is abandoned."""
        self.closed, self.why = True, why
        if self._begun is not None and self._begun.flips and not commits and not self._submitted:
            self._abandon_loads()

    def to_commit(self) -> Commit:
        """The finished commit; the unit is closed."""
        self.closed = True
        commit = self._commit
        if self._writes:
            commit.writes = list(self._writes.values())
        if self._validated and self.writes_anything:
            commit.reads = [
                Read(table, key, record.version if (record := self._reads[table, key]) else None)
                for table, key in self._validated
            ]
        if self._operations > 1 or len(commit.reads) > 1:
            self._check_size(commit)
        return commit

    def _check_size(self, commit: Commit) -> None:
        count = len(commit.writes) + len(commit.emits) + len(commit.reads) + len(commit.claims)
        limit = self.engine.features.max_unit_operations
        if count > limit:
            raise TooLarge(
                f"the unit of work has {count} operations, {limit} are allowed",
                operation="commit",
                hint="split the work into several messages or transactions",
            )

    def commit(self) -> asyncio.Future[Committed]:
        """Hand the commit to the engine; never raises itself."""
        try:
            commit = self.to_commit()
            committing = self.engine.commit(commit)
            if commit.flips:
                self._submitted = True
                committing.add_done_callback(self._end_loads)
            return committing
        except HeadwaterError as error:
            refused: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
            refused.set_exception(error)
            return refused

    def _end_loads(self, committing: asyncio.Future[Committed]) -> None:
        if committing.cancelled() or committing.exception() is not None:
            self._abandon_loads()


def written(write: Write, present: Record | None) -> Record | None:
    """The record after the unit's own write."""
    body = (present.body if present else None) if write.blind else write.body
    if write.merges:
        document = decode_json(body) if body is not None else {}
        for merge in write.merges:
            try:
                document = apply_merge(document, merge)
            except TypeError as error:
                raise InvalidValue(str(error), operation="update", resource=write.table) from error
        body = encode_json(document)
    return None if body is None else Record(write.key, body, write.version)


def enter(unit: UnitOfWork) -> Token[UnitOfWork | None]:
    return current.set(unit)


def leave(token: Token[UnitOfWork | None]) -> None:
    current.reset(token)


def contention_pause_s(attempt: int) -> float:
    """How long to wait before re-running work that met a conflict; passes in real time, under a test's clock too."""
    return random.random() * 0.002 * float(2**attempt)


async def back_off(attempt: int) -> None:
    await asyncio.sleep(contention_pause_s(attempt))


async def alone(engine: Engine, work: Callable[[UnitOfWork], Awaitable[R]]) -> R:
    """Run one call in the current unit, or as a commit of its own that is re-run on a conflict."""
    unit = current.get()
    if unit is not None:
        return await work(unit)
    for attempt in range(RERUNS + 1):
        unit = UnitOfWork(engine)
        result = await work(unit)
        try:
            committed = await unit.commit()
        except Conflict:
            if attempt == RERUNS:
                raise
            await back_off(attempt)
        else:
            if committed.duplicates and isinstance(result, str):
                return unit.duplicate_of(result, committed)  # type: ignore[return-value]
            return result
    raise AssertionError("unreachable")
