"""From a record of a table's stream to the change events it stands for.

A record has the item before and after one write. Whose write it was says the new item: its origin, or nobody we know
when its version is missing or is the old one's. Then the record's own number makes the event's id, so that it is the
same whenever the record is read.

    old item     new item     event
    ────────     ────────     ─────
    absent       present      inserted
    present      present      modified; nothing when the documents are equal
    present      tombstone    removed, with the tombstone's origin
    present      none         removed; expired when time to live did it
    expired      present      removed (expired), inserted
    expired      tombstone    removed (expired)
    absent       tombstone    nothing, nor when a tombstone goes

Absent is what is not there, or is a tombstone. Whoever ends an expired record first, the event of its end has the id
that belongs to the ended version, so it is sent once.
"""

from __future__ import annotations

from typing import NamedTuple

from headwater.aws.items import Image, Item, Origin, unpack
from headwater.aws.journal import made_id
from headwater.catalog import TableSpec
from headwater.events import INSERTED, MODIFIED, REMOVED, Envelope, subject_of


class Record(NamedTuple):
    """A stream's record. `by_service`: DynamoDB's time to live removed the item."""

    old: Item | None
    new: Item | None
    sequence: str
    made_ms: int
    by_service: bool = False


class Streamed(NamedTuple):
    """A record of the stream of a table, named as in DynamoDB; or an event that another stack's topic sent."""

    table: str
    record: Record | None
    event: Envelope | None = None


def changes_of(spec: TableSpec, record: Record) -> list[Envelope]:
    """The events of one record, in order."""
    if spec.images == "none":
        return []
    old = unpack(record.old) if record.old else None
    new = unpack(record.new) if record.new else None
    now_ms = new.origin.time_ms if new and new.origin and _is_ours(old, new) else record.made_ms
    before = old if old and old.body is not None else None
    after = new if new and new.body is not None else None
    found = []
    if before and (record.by_service or not before.is_present(now_ms)):
        found.append(_ended(spec, before, new, record))
        before = None
    if (before or after) and (before is None or after is None or before.body != after.body):
        found.append(_changed(spec, before, after, new, record))
    return found


def _is_ours(old: Image | None, new: Image) -> bool:
    return bool(new.version) and (old is None or old.version != new.version)


def _ended(spec: TableSpec, before: Image, new: Image | None, record: Record) -> Envelope:
    """A record whose time to live has passed is no more."""
    id = made_id(before.expires_ms or record.made_ms, f"{spec.name}/{before.version or record.sequence}")
    origin = new.origin if new and new.origin and _is_ours(before, new) else None
    event = _event(spec, id, REMOVED, origin, record)
    return _with_images(event, spec, before, None, new or before, expired=True)


def _changed(spec: TableSpec, before: Image | None, after: Image | None, new: Image | None, record: Record) -> Envelope:
    kind = REMOVED if after is None else INSERTED if before is None else MODIFIED
    ours = new is not None and _is_ours(before, new)
    id = new.version if new is not None and ours else made_id(record.made_ms, f"{spec.name}/{record.sequence}")
    event = _event(spec, id, kind, new.origin if new is not None and ours else None, record)
    writer = new or before
    assert writer is not None
    return _with_images(event, spec, before, after, writer, expired=False)


def _event(spec: TableSpec, id: str, kind: str, origin: Origin | None, record: Record) -> Envelope:
    origin = origin or Origin(record.made_ms, trace=id)
    return Envelope(
        id=id,
        source=spec.name,
        type=kind,
        time_ms=origin.time_ms,
        version=id,
        caller=origin.caller,
        cause=origin.cause,
        trace=origin.trace,
        depth=origin.depth,
    )


def _with_images(
    event: Envelope, spec: TableSpec, before: Image | None, after: Image | None, of: Image, *, expired: bool
) -> Envelope:
    event.key, event.subject, event.expired = of.key, subject_of(of.key), expired
    event.version = of.version or event.version
    event.data = after.body if after and spec.images in ("both", "new") else None
    event.old = before.body if before and spec.images in ("both", "old") else None
    event.schema = after.schema if after else spec.schema
    event.old_schema = before.schema if before else 1
    return event
