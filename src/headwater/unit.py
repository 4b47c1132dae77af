"""The unit of work as data: what one commit reads, writes, emits and settles.

A `Commit` is built on the caller's side and handed to an engine, which applies all of it or nothing. Its id is
made beforehand; the ids of its events and the versions of its records are derived from it, so they are known
before the commit. `UnitOfWork` collects a commit while a handler or request runs.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from headwater.events import Caller, Envelope, Key
from headwater.ids import new_id

MAX_DOCUMENT = 400 * 1024
MAX_MESSAGE = 256 * 1024


class Origin(msgspec.Struct, frozen=True, gc=False):
    """What a unit's events are caused by."""

    cause: str | None = None
    caller: Caller | None = None
    trace: str = ""
    depth: int = 0


class Merge(msgspec.Struct, frozen=True, gc=False):
    """One update of a document: fields set, numbers added, list items appended, fields removed."""

    set: dict[str, Any] = {}
    add: dict[str, int | float] = {}
    append: dict[str, list[Any]] = {}
    unset: tuple[str, ...] = ()


class Write(msgspec.Struct, gc=False):
    """The one operation of a commit on one key.

    `body` None removes the record (with no merges). `merges` are applied at commit to `body`, or, when
    `blind`, to the present document (an absent one starts from the key's fields). Merges never conflict. In a
    batch, `origin` says which event the change is caused by; None stands for the commit's own. `staged` moves what a
    flipped load holds for the key into place, and does nothing else. The change of a `forgotten` record has no image.
    """

    table: str
    key: Key
    version: str
    body: bytes | None = None
    merges: tuple[Merge, ...] = ()
    blind: bool = False
    expired: bool = False
    origin: Origin | None = None
    staged: bool = False
    forgotten: bool = False


class Read(msgspec.Struct, frozen=True, gc=False):
    """A point read to validate: the record still has this version (None: is still absent)."""

    table: str
    key: Key
    version: str | None


class Emit(msgspec.Struct, gc=False):
    """An event that is published to its source's routes, or sent straight to `queue`."""

    event: Envelope
    queue: str = ""
    group: str | None = None
    delay_ms: int | None = None
    dedup: str = ""


class Claim(msgspec.Struct, frozen=True, gc=False):
    """The `once` primitive: refuse the commit when (scope, id) is taken and not expired, else take it."""

    scope: str
    id: str
    expires_ms: int
    result: bytes = b""


class Flip(msgspec.Struct, frozen=True, gc=False):
    """A staged load becomes what readers of its scope see, and its changes become events, caused by the commit.

    Refused with `Conflict` when the scope's last load is not `after` any more (0: it had none), or when an earlier
    load of the table has not got all its rows into place yet.
    """

    table: str
    scope: str
    load: int
    after: int


class Redaction(msgspec.Struct, frozen=True, gc=False):
    """Take a forgotten key out of one thing that the store keeps; without effect when that is gone.

    `place` is the engine's own name of it (`engine.Remains`). An event and a dead letter keep id, time and type, and
    `mark` says which erasure took the rest, or lose their caller only unless it is `whole`; anything else is deleted.
    """

    kind: Literal["event", "dead_letter", "claim", "staged", "member"]
    place: tuple[int | str, ...]
    mark: str
    whole: bool = True


Outcome = Literal["ack", "retry", "bury", "fence", "discard", "filter"]


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """What one failed attempt left behind."""

    error: str
    traceback: str = ""
    started_ms: int = 0
    ended_ms: int = 0


class Settle(msgspec.Struct, gc=False):
    """How a leased delivery ends with this commit; refused with `LeaseLost` when the lease has passed on.

    ack, discard and filter remove the message; retry returns it, ready at `ready_ms`; bury moves it to the dead
    letters; fence only checks that the lease still holds.
    """

    queue: str
    position: int
    fence: int
    outcome: Outcome = "ack"
    ready_ms: int = 0
    reason: str = ""
    failure: Failure | None = None


class Redrive(msgspec.Struct, frozen=True, gc=False):
    """A dead letter that joins its queue's tail again, or is discarded. `data` replaces the message."""

    id: int
    discard: bool = False
    data: bytes | None = None
    reason: str = ""


class Commit(msgspec.Struct, kw_only=True, gc=False):
    """What is applied as a whole.

    A `tolerant` commit has nothing but settles, of which those whose lease has passed on are skipped: so
    acknowledgements without any effect can share one.
    """

    id: str
    reads: list[Read] = []
    writes: list[Write] = []
    emits: list[Emit] = []
    settles: list[Settle] = []
    claims: list[Claim] = []
    redrives: list[Redrive] = []
    flips: list[Flip] = []
    redactions: list[Redaction] = []
    cause: str | None = None
    caller: Caller | None = None
    trace: str = ""
    depth: int = 0
    tolerant: bool = False


class Committed(msgspec.Struct, frozen=True, gc=False):
    """The result of a commit. `duplicates` maps the index of an emit whose deduplication id was taken to the
    id of the event that took it; `missing` lists redrives that named no dead letter, `lost` the places of the settles
    that a tolerant commit skipped."""

    time_ms: int
    duplicates: dict[int, str] = {}
    missing: tuple[int, ...] = ()
    lost: tuple[int, ...] = ()


def apply_merge(document: dict[str, Any], merge: Merge) -> dict[str, Any]:
    """The document after one update; the given one is not changed.

    Raises `TypeError` naming the field when a number is added to something else or items to no list.
    """
    merged = dict(document)
    merged.update(merge.set)
    for name, amount in merge.add.items():
        present = merged.get(name) or 0
        if isinstance(present, bool) or not isinstance(present, int | float):
            raise TypeError(f"cannot add to {name!r}: it holds {type(present).__name__}")
        merged[name] = present + amount
    for name, items in merge.append.items():
        present = merged.get(name) or []
        if not isinstance(present, list):
            raise TypeError(f"cannot append to {name!r}: it holds {type(present).__name__}")
        merged[name] = [*present, *items]
    for name in merge.unset:
        merged.pop(name, None)
    return merged


def new_commit(cause: str | None = None, caller: Caller | None = None, trace: str = "", depth: int = 0) -> Commit:
    """An empty commit; without a trace it begins one of its own."""
    identity = new_id()
    return Commit(id=identity, cause=cause, caller=caller, trace=trace or identity, depth=depth)
