"""One batch of commits: checked and applied one after the other in memory, written as one sum.

The engine fills the batch with an image of what its commits name (`wanted`): records, claims, dead letters, what loads
hold. `apply` checks one commit against that image, moved on by the commits before it, and adopts it or refuses it as a
whole: a refusal leaves no trace. The engine then writes what changed. So a batch costs a fixed number of statements,
whatever its length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from headwater.applying import documents
from headwater.applying.pending import Pending
from headwater.applying.state import Entry, Head, Lease, Slot, Staged, State, Stored
from headwater.catalog import QueueSpec, TableSpec, index_entry
from headwater.codec import decode_json
from headwater.engine import AlreadyClaimed
from headwater.errors import Conflict, HeadwaterError, LeaseLost, QueueFull, UnknownResource
from headwater.events import INSERTED, MAX_DEPTH, MODIFIED, REMOVED, Envelope, Key
from headwater.unit import Commit, Committed, Emit, Flip, Redaction, Settle, Write

DEDUPLICATION_MS = 5 * 60_000
Row = tuple[Any, ...]


class NewEvent(NamedTuple):
    """An event to write. `places` are the (queue, position) that it went to; position 0: a dead letter at once."""

    seq: int
    event: Envelope
    source: int
    subject: str | None
    places: list[tuple[int, int]]


class Attempt(NamedTuple):
    """What there is to tell of a delivery that did not end in a plain acknowledgement."""

    event_id: str
    queue: int
    receives: int
    outcome: str
    error: str
    traceback: str
    started_ms: int
    ended_ms: int


class Buried(NamedTuple):
    """A dead letter to write."""

    queue: int
    event: Envelope
    group: str | None
    receives: int
    reason: str


class Letter(NamedTuple):
    """A dead letter of the image."""

    queue: int
    event: Envelope
    group: str | None


class Wanted:
    """What the image of some commits consists of."""

    def __init__(self, state: State, commits: Sequence[Commit]) -> None:
        self.records: set[Slot] = set()
        self.flips: list[Flip] = []
        self.claims: set[tuple[str, str]] = set()
        self.dead: set[int] = set()
        ids = state.ids
        for commit in commits:
            for read in commit.reads:
                self.records.add((ids.get(read.table, 0), *read.key))
            for write in commit.writes:
                self.records.add((ids.get(write.table, 0), *write.key))
            for claim in commit.claims:
                self.claims.add((claim.scope, claim.id))
            for emit in commit.emits:
                if emit.dedup:
                    self.claims.add(_dedup(emit))
            for redrive in commit.redrives:
                self.dead.add(redrive.id)
            self.flips += commit.flips


class _Plan:
    """What one commit would do, worked out before anything of the batch is touched.

    Most commits use little of it: the shared defaults are replaced, never changed.
    """

    records: Sequence[tuple[Slot, Write, Stored | None, Stored | None]] = ()
    emits: Sequence[Emit] = ()
    duplicates: Mapping[int, str] = MappingProxyType({})
    missing: Sequence[int] = ()
    lost: Sequence[int] = ()


class Batch:
    """`records`, `claims`, `dead_letters` and `pending` are to be filled before the first commit is applied."""

    def __init__(self, state: State, now_ms: int) -> None:
        self.state = state
        self.now_ms = now_ms
        self.plain = Committed(now_ms)
        self.head = Head(*msgspec.structs.astuple(state.head))
        self.head.time_ms = now_ms
        self.records: dict[Slot, Stored | None] = {}
        self.claims: dict[tuple[str, str], tuple[int, bytes]] = {}
        self.wanted_claims: set[tuple[str, str]] = set()
        self.dead_letters: dict[int, Letter] = {}
        self.pending: Pending | None = None
        """Only while a load is flipped."""
        self.dirty: set[Slot] = set()
        self.entries: dict[Row, bool] = {}
        self.new_claims: set[tuple[str, str]] = set()
        self.events: list[NewEvent] = []
        self.fresh: dict[int, list[Entry]] = {}
        self.settled: dict[tuple[int, int], tuple[Lease, Settle]] = {}
        self.fenced: list[Settle] = []
        self.attempts: list[Attempt] = []
        self.buried: list[Buried] = []
        self.redriven: dict[int, int] = {}
        self.redactions: list[Redaction] = []

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return not (
            self.events
            or self.dirty
            or self.settled
            or self.fenced
            or self.new_claims
            or self.buried
            or self.redriven
            or self.redactions
            or (self.pending and (self.pending.flipped or self.pending.moved))
        )

    def apply(self, commit: Commit) -> Committed | HeadwaterError:
        """Adopt the commit into the batch, or return why it is refused."""
        merging = self.pending.merging if self.pending else None
        try:
            plan = self._plan(commit)
        except HeadwaterError as error:
            if self.pending and merging is not None:
                self.pending.merging = merging
            return error
        if self.pending:
            self.pending.adopt_flips(commit)
        for slot, write, old, new in plan.records:
            self._adopt_record(commit, slot, write, old, new)
        for emit in plan.emits:
            self._adopt_emit(emit)
        for n, settle in enumerate(commit.settles):
            if n not in plan.lost:
                self._adopt_settle(settle)
        for claim in commit.claims:
            self._claim((claim.scope, claim.id), claim.expires_ms, claim.result)
        if commit.redrives:
            plan.missing = self._redrive(commit)
        if commit.redactions:
            self.redactions += commit.redactions
        if plan.duplicates or plan.missing or plan.lost:
            return Committed(self.now_ms, dict(plan.duplicates), tuple(plan.missing), tuple(plan.lost))
        return self.plain

    # Checks: nothing of the batch changes here.

    def _plan(self, commit: Commit) -> _Plan:
        plan = _Plan()
        if commit.tolerant:
            plan.lost = [n for n, settle in enumerate(commit.settles) if not self._holds(settle)]
            return plan
        for settle in commit.settles:
            if not self._holds(settle):
                raise LeaseLost(
                    "the lease has passed on; this attempt has no effect", operation="commit", resource=settle.queue
                )
        for read in commit.reads:
            present = self._present((self._table_id(read.table), *read.key))
            if (present.version if present else None) != read.version:
                raise Conflict(f"{read.key[0]!r} changed after it was read", operation="commit", resource=read.table)
        for claim in commit.claims:
            taken = self.claims.get((claim.scope, claim.id))
            if taken and taken[0] > self.now_ms:
                raise AlreadyClaimed(claim.scope, claim.id, taken[1])
        if self.pending and commit.flips:
            self.pending.plan_flips(commit)
        if commit.writes:
            plan.records = [self._plan_record(write) for write in commit.writes]
        if commit.emits:
            self._plan_emits(plan, commit)
        return plan

    def _plan_record(self, write: Write) -> tuple[Slot, Write, Stored | None, Stored | None]:
        slot = (self._table_id(write.table), *write.key)
        old = self._present(slot)
        return slot, write, old, self._after(write, old)

    def _holds(self, settle: Settle) -> bool:
        """Whether the settle's lease is still valid."""
        place = (self.state.ids.get(settle.queue, 0), settle.position)
        lease = self.state.leases.get(place)
        return lease is not None and lease.delivery.fence == settle.fence and place not in self.settled

    def _table_id(self, table: str) -> int:
        if table not in self.state.tables:
            raise UnknownResource("no such table", operation="commit", resource=table)
        return self.state.ids[table]

    def _present(self, slot: Slot) -> Stored | None:
        record = self._unexpired(self.records[slot])
        if self.pending and (staged := self.pending.of(slot)):
            return self._unexpired(staged.over(record))
        return record

    def _unexpired(self, record: Stored | None) -> Stored | None:
        if record and record.expires_ms is not None and record.expires_ms <= self.now_ms:
            return None
        return record

    def _after(self, write: Write, old: Stored | None) -> Stored | None:
        spec = self.state.tables[write.table]
        body = write.body
        if write.staged:
            return None
        if write.blind or write.merges:
            base = (old.body if old else None) if write.blind else body
            body = documents.merged(spec, write, base)
        if body is None:
            return None
        return Stored(write.version, body, documents.expiry(spec, body, self.now_ms), spec.schema)

    def _plan_emits(self, plan: _Plan, commit: Commit) -> None:
        sends: dict[str, int] = {}
        taken: dict[tuple[str, str], str] = {}
        duplicates: dict[int, str] = {}
        for n, emit in enumerate(commit.emits):
            if emit.dedup and (first := self._taken(emit, taken)):
                duplicates[n] = first
                continue
            if emit.queue:
                self._check_queue(emit.queue, commit, sends)
            if emit.event.source not in self.state.ids:
                raise UnknownResource("no such source", operation="publish", resource=emit.event.source)
        plan.emits = commit.emits
        if duplicates:
            plan.emits = [emit for n, emit in enumerate(commit.emits) if n not in duplicates]
            plan.duplicates = duplicates

    def _check_queue(self, queue: str, commit: Commit, sends: dict[str, int]) -> None:
        spec = self.state.queues.get(queue)
        if spec is None:
            raise UnknownResource("no such queue", operation="send", resource=queue)
        if spec.max_depth:
            sends[queue] = sends.get(queue, 0) + 1
            self._check_depth(spec, sends[queue], commit)

    def _taken(self, emit: Emit, taken: dict[tuple[str, str], str]) -> str | None:
        """The id of the event that took the deduplication id; None when this one takes it."""
        key = _dedup(emit)
        claim = self.claims.get(key)
        if claim and claim[0] > self.now_ms:
            return claim[1].decode()
        first = taken.setdefault(key, emit.event.id)
        return None if first is emit.event.id else first

    def _check_depth(self, spec: QueueSpec, more: int, commit: Commit) -> None:
        number = self.state.ids[spec.name]
        depth = self.state.counts[number].depth + len(self.fresh.get(number, ())) + more
        if depth <= spec.max_depth:
            return
        gone = sum(place[0] == number and settle.outcome != "retry" for place, (_, settle) in self.settled.items())
        own = sum(x.queue == spec.name and x.outcome not in ("retry", "fence") for x in commit.settles)
        if depth - gone - own > spec.max_depth:
            raise QueueFull(
                f"the queue holds its maximum of {spec.max_depth} messages",
                operation="send",
                resource=spec.name,
                hint="send later, or raise max_depth",
            )

    # Adoption: the commit is accepted, nothing below can refuse it.

    def _adopt_record(self, commit: Commit, slot: Slot, write: Write, old: Stored | None, new: Stored | None) -> None:
        spec = self.state.tables[write.table]
        if self.pending and (staged := self.pending.of(slot)):
            self._move_into_place(commit, slot, write, staged)
        if write.staged:
            return
        stale = self.records[slot]
        if stale is not None and old is None and not write.expired:
            self._emit_change(commit, write, stale, None, expired=True)
            self.records[slot] = None
            self.dirty.add(slot)
        if write.expired:
            if old is not None:
                return
            old = stale
        if stale is None and new is None:
            return
        self.records[slot] = new
        self.dirty.add(slot)
        self._move_entries(spec, slot, stale, new)
        if (old or new) and (old is None or new is None or old.body != new.body):
            self._emit_change(commit, write, old, new, expired=write.expired)

    def _move_into_place(self, commit: Commit, slot: Slot, write: Write, staged: Staged) -> None:
        """What a load changed for the key comes before anything that is done to it now."""
        assert self.pending is not None
        spec, old = self.state.tables[write.table], self._unexpired(self.records[slot])
        if spec.indexes and staged.body is not None:
            self.pending.leave_index(slot[0], entry_rows(spec, self.state.ids, write.key, staged.body))
        moved = Write(write.table, write.key, staged.version, origin=self.pending.move(slot))
        self._adopt_record(commit, slot, moved, old, staged.over(old))

    def _move_entries(self, spec: TableSpec, slot: Slot, old: Stored | None, new: Stored | None) -> None:
        if not spec.indexes:
            return
        before = decode_json(old.body) if old else {}
        after = decode_json(new.body) if new else {}
        for index in spec.indexes:
            number = self.state.ids[f"{spec.name}#{index.name}"]
            was, now = index_entry(index, before), index_entry(index, after)
            if was == now:
                continue
            if was:
                self.entries[number, *was, *slot[1:]] = False
            if now:
                self.entries[number, *now, *slot[1:]] = True

    def _emit_change(
        self, commit: Commit, write: Write, old: Stored | None, new: Stored | None, *, expired: bool
    ) -> None:
        spec = self.state.tables[write.table]
        if spec.images == "none":
            return
        origin = write.origin or commit
        kind = REMOVED if new is None else INSERTED if old is None else MODIFIED
        superseded = expired and not write.expired
        event = Envelope(
            id=f"{write.version}x" if superseded else write.version,
            source=write.table,
            type=kind,
            subject=documents.subject(write.key),
            time_ms=self.now_ms,
            data=new.body if new and spec.images in ("both", "new") else None,
            old=old.body if old and spec.images in ("both", "old") and not write.forgotten else None,
            key=write.key,
            version=write.version,
            expired=expired,
            caller=origin.caller,
            cause=origin.cause,
            trace=origin.trace,
            depth=origin.depth,
            schema=spec.schema,
            old_schema=old.schema if old else 1,
        )
        self._store_event(event)

    def _store_event(self, event: Envelope) -> None:
        places = []
        seq = self._next_seq()
        for destination in self.state.router.destinations(event):
            number = self.state.ids[destination.queue]
            places.append(self._add_message(number, seq, event, destination.group, destination.delay_ms))
        self._append_event(seq, event, places, event.subject if event.key else None)

    def _next_seq(self) -> int:
        self.head.event_seq += 1
        return self.head.event_seq

    def _append_event(self, seq: int, event: Envelope, places: list[tuple[int, int]], subject: str | None) -> None:
        self.events.append(NewEvent(seq, event, self.state.ids.get(event.source, 0), subject, places))

    def _add_message(
        self, queue: int, seq: int, event: Envelope, group: str | None, delay_ms: int, *, redriven: bool = False
    ) -> tuple[int, int]:
        """Put the event into a queue; its place there."""
        if event.depth > MAX_DEPTH:
            self.buried.append(Buried(queue, event, group, 0, f"the event is more than {MAX_DEPTH} causes deep"))
            return queue, 0
        self.head.position = position = self.head.position + 1
        ready_ms = self.now_ms + delay_ms if delay_ms else 0
        entry = Entry(position, seq, event, group, ready_ms, 0, redriven, self.now_ms)
        fresh = self.fresh.get(queue)
        if fresh is None:
            self.fresh[queue] = [entry]
        else:
            fresh.append(entry)
        return queue, position

    def _adopt_emit(self, emit: Emit) -> None:
        event, queue = emit.event, emit.queue
        event.time_ms = self.now_ms
        if emit.dedup:
            self._claim(_dedup(emit), self.now_ms + DEDUPLICATION_MS, event.id.encode())
        if not queue:
            self._store_event(event)
            return
        spec, number = self.state.queues[queue], self.state.ids[queue]
        seq = self._next_seq()
        delay_ms = spec.delay_ms if emit.delay_ms is None else emit.delay_ms
        place = self._add_message(number, seq, event, (emit.group or "") if spec.fifo else None, delay_ms)
        self._append_event(seq, event, [place], documents.subject_of_copy(event))

    def _adopt_settle(self, settle: Settle) -> None:
        if settle.outcome == "fence":
            self.fenced.append(settle)
            return
        number = self.state.ids[settle.queue]
        place = (number, settle.position)
        lease = self.state.leases[place]
        self.settled[place] = (lease, settle)
        delivery = lease.delivery
        if settle.outcome == "bury":
            self.buried.append(Buried(number, delivery.event, delivery.group, delivery.receives, settle.reason))
        if settle.outcome in ("retry", "bury", "discard"):
            self._record_attempt(number, lease, settle)

    def _record_attempt(self, queue: int, lease: Lease, settle: Settle) -> None:
        delivery, failure = lease.delivery, settle.failure
        self.attempts.append(
            Attempt(
                delivery.event.id,
                queue,
                delivery.receives,
                settle.outcome,
                failure.error if failure else settle.reason,
                failure.traceback if failure else "",
                failure.started_ms if failure else self.now_ms,
                failure.ended_ms if failure else self.now_ms,
            )
        )

    def _claim(self, key: tuple[str, str], expires_ms: int, result: bytes) -> None:
        self.claims[key] = (expires_ms, result)
        self.new_claims.add(key)

    def _redrive(self, commit: Commit) -> list[int]:
        missing: list[int] = []
        for n, redrive in enumerate(commit.redrives):
            letter = self.dead_letters.pop(redrive.id, None)
            if letter is None:
                missing.append(redrive.id)
                continue
            queue, event, group = letter
            self.redriven[redrive.id] = queue
            outcome = "discard" if redrive.discard else "redrive"
            self.attempts.append(Attempt(event.id, queue, 0, outcome, redrive.reason, "", self.now_ms, self.now_ms))
            if redrive.discard:
                continue
            if redrive.data is not None:
                event = documents.edited(event, f"{commit.id}-r{n}", redrive.data, self.now_ms)
            event.depth = 0
            seq = self._next_seq()
            place = self._add_message(queue, seq, event, group, 0, redriven=True)
            self._append_event(seq, event, [place], documents.subject_of_copy(event))
        return missing


def _dedup(emit: Emit) -> tuple[str, str]:
    return f"dedup:{emit.queue or emit.event.source}", emit.dedup


def entry_rows(spec: TableSpec, ids: dict[str, int], key: Key, body: bytes) -> list[Row]:
    """All index entries of one record, for backfilling."""
    document: dict[str, Any] = decode_json(body)
    rows: list[Row] = []
    for index in spec.indexes:
        entry = index_entry(index, document)
        if entry:
            rows.append((ids[f"{spec.name}#{index.name}"], *entry, *key))
    return rows
