"""What a store must be able to do: the Protocols that every engine implements, in semantic verbs.

Identities: resources are named "app/resource"; a record by (table, key); a message by (queue, position), with a
lease's fencing token added while it is delivered; an event, commit and record version by the ids that
`unit.Commit` carries. States of a message: delayed → ready → leased → gone, or → dead letter.

Guarantee: `commit` resolves only when all of the commit is on stable storage. It raises and nothing was written:
`Conflict` (a validated read is stale), `LeaseLost` (a settled lease has passed on), `AlreadyClaimed` (a claim is
taken), `QueueFull`, `InvalidValue` and `TooLarge` (the commit itself is wrong), `StoreFull` (no room). It raises
`CommitUnknown` when the outcome can't be known; the store must then be opened anew.

Order: commits are applied one after the other. Changes of one key, and messages of one group, are handed out in
commit order; a group has at most one valid lease holder.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from headwater.catalog import Catalog, RouteSpec
from headwater.clock import Clock
from headwater.errors import HeadwaterError, LeaseLost
from headwater.events import Delivery, Envelope, Key, KeyPart
from headwater.unit import Commit, Committed, Flip, Redaction


class AlreadyClaimed(HeadwaterError):
    """A claim of the commit is taken; `result` is what its taker stored."""

    def __init__(self, scope: str, id: str, result: bytes) -> None:
        super().__init__(f"{id} was used before", operation="claim", resource=scope)
        self.result = result


class AlreadyDone(LeaseLost):
    """A message that the commit settles has taken effect before, by another attempt; so it is done."""


class Features(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine can do; an app that needs more is refused at start.

    Without `ordered_scans` the rows of a whole table, or of a whole index, come in no order. Without `peeks` nobody
    sees the messages of a queue but who receives them. Without `keeps_time` the store's time is each process's own
    clock, without `times_messages` delays, leases and retention go by a clock of the queues' own. Without `sweeps`
    old events go by themselves. Without `whole_loads` the rows of a flipped load are seen as they get into place.
    Without `renames_queues` a queue that is declared under another name is a new one.
    """

    engine: str
    max_unit_operations: int
    ordered_groups: bool = True
    single_process: bool = False
    ordered_scans: bool = True
    peeks: bool = True
    keeps_time: bool = True
    times_messages: bool = True
    sweeps: bool = True
    whole_loads: bool = True
    renames_queues: bool = True
    erasure: bool = True
    sql: bool = True


class Record(msgspec.Struct, frozen=True):
    key: Key
    body: bytes
    version: str
    schema: int = 1


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Records of one partition (or of the whole table when None), in key order, or in the index's order.

    `low` and `high` bound the sort part, both ends included; `prefix` is a prefix of a string sort part. `after`
    is the position that a page ended at (`Rows.next`), exclusive, in the direction of reading.
    """

    table: str
    index: str = ""
    partition: KeyPart | None = None
    low: KeyPart | None = None
    high: KeyPart | None = None
    prefix: str = ""
    limit: int = 100
    after: tuple[KeyPart, ...] | None = None
    reverse: bool = False


class RecordPage(msgspec.Struct, frozen=True):
    records: list[Record]
    next: tuple[KeyPart, ...] | None = None


class Document(NamedTuple):
    """A row to load: its key, its canonical JSON, and a digest of that of 16 bytes."""

    key: Key
    body: bytes
    digest: bytes


class Differences(msgspec.Struct, frozen=True):
    """How many of the rows compared are new, have changed, and are as they were."""

    inserted: int = 0
    modified: int = 0
    unchanged: int = 0

    def __add__(self, other: Differences) -> Differences:
        return Differences(
            self.inserted + other.inserted, self.modified + other.modified, self.unchanged + other.unchanged
        )


MANY_GROUPS = 128
"""Groups are counted at least so far."""


class QueueStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of messages. `depth` is all that wait (ready or delayed) or are leased; ages in milliseconds.

    `sent`, `settled` and `retried` count since any time, in all processes that have the store open.
    `due_ms` is when the message was or will be ready that is so first; 0 without messages. `groups` is how many groups
    of a FIFO queue are ready or leased, `MANY_GROUPS` or more when there are more; None of a queue without groups.
    """

    queue: str
    depth: int
    in_flight: int
    delayed: int
    dead: int
    oldest_age_ms: int
    paused: bool
    sent: int = 0
    settled: int = 0
    retried: int = 0
    due_ms: int = 0
    groups: int | None = None


class Counted(msgspec.Struct, kw_only=True):
    """What a worker process has counted of a queue's attempts since it last told: `durations` by bucket."""

    queue: str
    handled: int
    failed: int
    conflicts: int
    durations: list[int]
    total_s: float


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """A message as it waits, seen without leasing it."""

    queue: str
    position: int
    event: Envelope
    receives: int
    ready_ms: int
    group: str | None = None
    failures: tuple[dict[str, Any], ...] = ()


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    queue: str
    message_id: str
    event: Envelope
    receives: int
    reason: str
    died_ms: int
    group: str | None = None
    failures: tuple[dict[str, Any], ...] = ()


class Subscription(msgspec.Struct, frozen=True):
    id: str
    route: RouteSpec


class MessageNote(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to tell of a message that is not simply done. `receives` and `dead_letter` are None when it is."""

    receives: int | None = None
    failures: tuple[dict[str, Any], ...] = ()
    dead_letter: int | None = None
    reason: str | None = None


class TracedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event of the history with the state of each of its messages by queue: waiting, dead or done.

    `notes` tells more of those that wait, died, or did not succeed at once.
    """

    position: int
    event: Envelope
    messages: dict[str, str]
    notes: dict[str, MessageNote] = {}


class Lifecycle(Protocol):
    @property
    def features(self) -> Features: ...

    async def open(self) -> None:
        """Take the store, recover it, create or check its schema.

        Raises `StoreLocked`, `StoreTooNew`, `StoreDamaged`.
        """
        ...

    async def close(self) -> None:
        """Finish the commits in flight and give the store back. Idempotent."""
        ...

    async def install(self, catalog: Catalog) -> int:
        """Merge the catalog of these apps and return the store's revision; the same catalog keeps it.

        Backfills new indexes. Raises `DeclarationError` for a changed key or an unknown route target.
        """
        ...

    async def catalog(self) -> Catalog:
        """The merged catalog of all apps, with the subscriptions made at run time."""
        ...

    async def broken(self) -> HeadwaterError:
        """Wait until the store has failed for good (an unknown outcome, damage); why."""
        ...

    async def check(self) -> list[str]:
        """Read everything and name each damage found; empty means sound."""
        ...


class Commits(Protocol):
    @property
    def clock(self) -> Clock:
        """The clock of this process, which leases and timers go by."""
        ...

    def commit(self, commit: Commit) -> asyncio.Future[Committed]:
        """Apply all of the commit durably, or raise and apply nothing (see the module's note).

        Commits of one caller are applied in the order of the calls. Cancelling the future undoes nothing.
        """
        ...

    async def now_ms(self) -> int:
        """The store's time: never steps back."""
        ...


class Records(Protocol):
    async def read(self, table: str, key: Key) -> Record | None:
        """The committed record; None when absent or expired."""
        ...

    async def query(self, query: Query) -> RecordPage: ...

    async def history(self, table: str, key: Key, limit: int) -> list[Envelope]:
        """The key's changes that the history still holds, newest first."""
        ...


class Deliveries(Protocol):
    async def receive(self, queue: str, limit: int, *, grouped: bool = False) -> list[Delivery]:
        """Lease up to `limit` ready messages; waits until there is one. `grouped` allows several of one group.

        Cancelling it loses nothing. A paused queue hands out nothing.
        """
        ...

    async def suspects(self, queue: str) -> list[Delivery]:
        """Lease the messages that ran when the process last died; their receive counts include that run."""
        ...

    def begin(self, delivery: Delivery) -> None:
        """The handler is about to run: from here the process's death counts as a receive."""
        ...

    def end(self, delivery: Delivery) -> None:
        """The handler has returned; its commit may still be under way."""
        ...

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Hold the leases for another visibility time-out; leases already lost are ignored."""
        ...

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Give the leases back at once, without counting this receive."""
        ...


class Queues(Protocol):
    async def stats(self) -> list[QueueStats]: ...

    async def peek(self, queue: str, limit: int, after: int = 0) -> list[Waiting]: ...

    async def pause(self, queue: str, paused: bool) -> None:
        """Durable. Leased messages finish; nothing more is handed out until resumed."""
        ...

    async def purge(self, queue: str) -> int:
        """Remove all messages that are not leased; how many there were."""
        ...

    async def dead_letters(self, queue: str = "", limit: int = 100, after: int = 0) -> list[DeadLetter]: ...

    async def subscribe(self, route: RouteSpec) -> Subscription:
        """Add a route at run time; the same route again returns the present subscription."""
        ...

    async def unsubscribe(self, id: str) -> bool: ...

    async def replay(self, table: str, queue: str) -> int:
        """Put each present record into the queue as an `inserted` change; how many."""
        ...


class History(Protocol):
    async def claimed(self, scope: str, id: str) -> bytes | None:
        """The result stored with a claim that is not expired."""
        ...

    async def event(self, id: str) -> TracedEvent | None: ...

    async def trace(self, trace: str, limit: int = 1000) -> list[TracedEvent]:
        """The events of a trace in commit order."""
        ...

    async def events(self, after: int, limit: int = 100) -> list[TracedEvent]:
        """Events in commit order from the position `after`, exclusive; -1 answers the newest ones."""
        ...


Missing = Literal["keep", "delete", "expire"]
"""What becomes of rows of a scope that its next load does not bring."""


class Staging(Protocol):
    """One load on its way: what it changes is staged, seen by nobody, until a commit carries its `flip`.

    Nothing of it is ever seen when that does not happen. Not safe for use by several tasks at once.
    """

    @property
    def flip(self) -> Flip: ...

    @property
    def staged(self) -> int:
        """How many rows are staged; with none there is nothing to flip."""
        ...

    async def add(self, documents: Sequence[Document]) -> Differences:
        """Compare rows with the present content and stage those that differ.

        Raises `InvalidValue` for a key that the load has brought before, or that belongs to another scope.
        """
        ...

    async def finish(self, missing: Missing, grace_ms: int, max_removed: float) -> int:
        """Deal with the scope's rows that the load has not brought; how many there are. Nothing is added after it.

        What another scope's load has flipped meanwhile gets into place; `InvalidValue` when it has the same key.
        Raises `LoadRefused` when more than the share `max_removed` of the scope would be removed.
        """
        ...

    def close(self) -> None:
        """Give up what comparing needed; what is staged stays until it is flipped or abandoned. Idempotent."""
        ...


class Loads(Protocol):
    async def begin_load(self, table: str, scope: str) -> Staging:
        """Begin to stage; first, the rows of the table's last load get into place."""
        ...

    async def unchanged_since_load(self, table: str, scope: str) -> bool:
        """Whether each row of the scope is there as its last load wrote it."""
        ...

    async def expand(self, table: str) -> int:
        """Move a slice of the rows of the table's flipped load into place, in key order, with their change events.

        How many; 0 when all are in place. Whoever calls it and however often, each change becomes one event.
        """
        ...

    def abandon(self, load: int) -> None:
        """A load will not be flipped: what it staged may go. Without effect on one that was flipped."""
        ...

    async def sweep_loads(self, limit: int) -> int:
        """Delete staged rows of loads that were abandoned, by a crash too; how many of at most `limit`."""
        ...


class Upkeep(Protocol):
    async def expire_records(self, limit: int) -> int:
        """Remove records whose time to live has passed, as changes marked `expired`; how many."""
        ...

    async def expire_messages(self, limit: int) -> int:
        """Move messages older than their queue's retention to the dead letters; how many."""
        ...

    async def sweep(self, history_ms: int, limit: int, *, most: int | None = None) -> int:
        """Delete events that no message needs and that are older than `history_ms` or not among the newest `most`
        ones, and expired claims; how many of at most `limit` each."""
        ...


class Forgotten(msgspec.Struct, frozen=True, kw_only=True):
    """A key that is to be forgotten: what happened to it up to the event at the position `until`, of time `until_ms`.

    An event of another source tells of it when it names all parts of one of `names`. `mark` stands for it afterwards.
    """

    table: str
    key: Key
    names: tuple[Key, ...]
    until: int
    until_ms: int
    mark: str


class Remains(msgspec.Struct, frozen=True):
    """Some of what the store keeps of a forgotten key: what a commit can take out now, and messages that are first to
    be delivered, as (queue, position)."""

    redactions: list[Redaction]
    waiting: list[tuple[str, int]] = []


class Erasure(Protocol):
    async def traces(self, forgotten: Forgotten) -> set[str]:
        """The traces in which something happened to the key, as far as the store still knows."""
        ...

    def remains(self, forgotten: Forgotten, traces: set[str]) -> AsyncGenerator[Remains, None]:
        """What is left of the key, in slices small enough for a commit each.

        Its own changes with their copies, what other events of `traces` tell of it, dead letters, what is staged by
        loads that are not flipped, and, once no message waits, claims. Of a trace that has a message waiting for
        its delivery the key's own changes stay, so that the next look finds the trace again.
        """
        ...

    async def withdraw(self, places: Sequence[tuple[str, int]]) -> int:
        """Remove those of the messages that are not leased; how many."""
        ...

    async def scrub(self) -> bool:
        """Have what was deleted or replaced leave the store's files; False when a reader is in the way."""
        ...


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A statement in SQL that reads; `hidden` are the fields of tables that nobody is to see.

    At most `limit` rows are answered, and nothing that takes more than `seconds`.
    """

    statement: str
    parameters: Mapping[str, Any] = {}
    hidden: Mapping[str, tuple[str, ...]] = {}
    limit: int = 1000
    seconds: float = 10.0


class Answer(msgspec.Struct, frozen=True):
    """Rows of JSON types; `more` tells that there are further ones."""

    columns: list[str]
    rows: list[tuple[Any, ...]]
    more: bool = False


class Inspection(Protocol):
    async def ask(self, question: Question) -> Answer:
        """Run it on a snapshot of the store in a thread of its own. Every table is a view (docs/sql.md).

        Raises `UnknownResource` for a table that there is not, `InvalidValue` for a wrong statement or one that does
        not only read, `TimedOut`, `TooLarge`.
        """
        ...


class Engine(Lifecycle, Commits, Records, Deliveries, Queues, History, Loads, Upkeep, Erasure, Inspection, Protocol):
    """One store, opened by one process."""
