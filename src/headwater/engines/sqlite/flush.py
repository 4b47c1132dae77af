"""Writing a batch: the sum of its commits in a fixed number of statements, inside the caller's transaction."""

from __future__ import annotations

from array import array
from collections import defaultdict

import apsw
import msgspec

from headwater.applying.batch import Batch, Buried, NewEvent
from headwater.applying.pending import Pending
from headwater.applying.state import Slot, encode_envelope
from headwater.engines.sqlite.database import Row, checksum, insert_rows, select_rows
from headwater.engines.sqlite.redaction import redact


def write_batch(connection: apsw.Connection, batch: Batch) -> None:
    head = batch.head
    head.commit_no += 1
    connection.execute(
        "UPDATE head SET commit_no = ?, event_seq = ?, position = ?, time_ms = ?, revision = ?",
        (head.commit_no, head.event_seq, head.position, head.time_ms, head.revision),
    )
    if batch.dirty:
        _write_records(connection, batch)
    if batch.pending:
        _write_loads(connection, batch.pending)
    if batch.events:
        insert_rows(connection, "INSERT INTO event", [_event_row(new) for new in batch.events])
    if batch.fresh:
        insert_rows(connection, "INSERT INTO message", _message_rows(batch))
    if batch.settled:
        _write_settled(connection, batch)
    if batch.attempts:
        insert_rows(connection, "INSERT INTO attempt", batch.attempts)
    if batch.buried:
        insert_rows(
            connection,
            "INSERT INTO dead (queue, event_id, envelope, crc, grp, receives, reason, died_ms)",
            [_dead_row(batch, buried) for buried in batch.buried],
        )
    if batch.new_claims:
        rows = [(*key, *batch.claims[key]) for key in batch.new_claims]
        insert_rows(connection, "REPLACE INTO claim", rows)
    if batch.redriven:
        connection.execute("DELETE FROM dead WHERE id IN carray(?)", (apsw.carray(array("q", list(batch.redriven))),))
    if batch.redactions:
        redact(connection, batch.state, batch.redactions)


def _event_row(new: NewEvent) -> Row:
    seq, event, source, subject, places = new
    body = encode_envelope(event)
    where = ",".join([f"{queue}:{position}" for queue, position in places])
    return (seq, event.id, event.trace, source, subject, event.time_ms, body, checksum(body), where)


def _message_rows(batch: Batch) -> list[Row]:
    return [
        (queue, entry.position, entry.seq, entry.group, entry.ready_ms, 0, entry.redriven, entry.sent_ms)
        for queue, entries in batch.fresh.items()
        for entry in entries
    ]


def _dead_row(batch: Batch, buried: Buried) -> Row:
    queue, event, group, receives, reason = buried
    body = encode_envelope(event)
    return (queue, event.id, body, checksum(body), group, receives, reason, batch.now_ms)


def _write_loads(connection: apsw.Connection, pending: Pending) -> None:
    for tbl, flip in pending.flipped:
        origin = msgspec.msgpack.encode(pending.merging[tbl].origin)
        connection.execute("UPDATE load SET state = 1, origin = ? WHERE id = ?", (origin, flip.load))
        connection.execute("REPLACE INTO generation VALUES (?, ?, ?)", (tbl, flip.scope, flip.load))
    if pending.moved:
        select_rows(connection, "DELETE FROM staged WHERE (load, pk, sk) IN (VALUES {keys})", pending.moved)
    if pending.entries:
        columns = "(load, idx, partition, sort, pk, sk)"
        select_rows(connection, f"DELETE FROM staged_entry WHERE {columns} IN (VALUES {{keys}})", pending.entries)
    joined = [(*key, *member) for key, member in pending.members.items() if member]
    left = [key for key, member in pending.members.items() if member is None]
    if joined:
        insert_rows(connection, "REPLACE INTO member", joined)
    if left:
        select_rows(connection, "DELETE FROM member WHERE (tbl, scope, pk, sk) IN (VALUES {keys})", left)


def _write_records(connection: apsw.Connection, batch: Batch) -> None:
    present: list[Row] = []
    absent: list[Slot] = []
    for slot in batch.dirty:
        record = batch.records[slot]
        if record is None:
            absent.append(slot)
        else:
            crc = checksum(record.body)
            present.append((*slot, record.version, crc, record.schema, record.expires_ms, record.body))
    if present:
        insert_rows(connection, "REPLACE INTO record", present)
    if absent:
        select_rows(connection, "DELETE FROM record WHERE (tbl, pk, sk) IN (VALUES {keys})", absent)
    if batch.entries:
        _write_entries(connection, batch.entries)


def _write_entries(connection: apsw.Connection, entries: dict[Row, bool]) -> None:
    added = [row for row, present in entries.items() if present]
    removed = [row for row, present in entries.items() if not present]
    if removed:
        select_rows(
            connection,
            "DELETE FROM entry WHERE (idx, partition, sort, pk, sk) IN (VALUES {keys})",
            removed,
        )
    if added:
        insert_rows(connection, "REPLACE INTO entry", added)


def _write_settled(connection: apsw.Connection, batch: Batch) -> None:
    gone: dict[int, list[int]] = defaultdict(list)
    for (queue, position), (lease, settle) in batch.settled.items():
        if settle.outcome == "retry":
            connection.execute(
                "UPDATE message SET receives = ?, ready_ms = ? WHERE queue = ? AND position = ?",
                (lease.delivery.receives, settle.ready_ms, queue, position),
            )
        else:
            gone[queue].append(position)
    for queue, positions in gone.items():
        connection.execute(
            "DELETE FROM message WHERE queue = ? AND position IN carray(?)",
            (queue, apsw.carray(array("q", positions))),
        )
