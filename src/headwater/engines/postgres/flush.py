"""Writing a batch: the arguments of the function that does it, and the statements for what few batches have.

The locks that a batch takes, all at once and in order of their numbers: one for each key and claim that it read or
writes, and for each FIFO group that it sends to or settles a message of. A batch that names more than `MOST_LOCKS`
takes the gate alone instead.
"""

from __future__ import annotations

from typing import Any

import msgspec

from headwater.applying.batch import Batch
from headwater.applying.pending import Pending
from headwater.applying.state import encode_envelope
from headwater.engines.postgres.database import Connection, Database, checksum
from headwater.engines.postgres.keys import pack_key, pack_part, pack_text
from headwater.engines.postgres.prefetch import pack_places
from headwater.engines.postgres.store import lock_number
from headwater.unit import Redaction

MOST_LOCKS = 1_000
_GONE, _FENCE = -1, -2
APPLY = f"SELECT outcome, first, lost FROM @apply({', '.join(f'${n}' for n in range(1, 53))})"
_ATTEMPTS = (
    "INSERT INTO @attempt (event_id, queue, n, outcome, error, traceback, started_ms, ended_ms)"
    " SELECT * FROM unnest($1::text[], $2::int[], $3::int[], $4::text[], $5::text[], $6::text[], $7::bigint[],"
    " $8::bigint[])"
)
_BURIED = (
    "INSERT INTO @dead (queue, event_id, envelope, crc, grp, receives, reason, died_ms)"
    " SELECT *, $8::bigint FROM unnest($1::int[], $2::text[], $3::bytea[], $4::bigint[], $5::text[], $6::int[],"
    " $7::text[])"
)
_REDRIVEN = "DELETE FROM @dead WHERE id = ANY ($1) RETURNING id"
_FLIP = "UPDATE @load SET state = 1, origin = $2 WHERE id = $1 AND state = 0 RETURNING id"
_GENERATION = "INSERT INTO @generation VALUES ($1, $2, $3) ON CONFLICT (tbl, scope) DO UPDATE SET load = excluded.load"
_REVISE = "UPDATE @head SET revision = revision + 1"
_MOVE = f"SELECT @move_rows({', '.join(f'${n}' for n in range(1, 16))}) AS moved"


class Stale(Exception):
    """What the batch was worked out from is not so any more: nothing was written."""


def is_plain(batch: Batch) -> bool:
    """Whether the one function writes all of the batch."""
    return not (batch.attempts or batch.buried or batch.redriven or batch.pending or batch.redactions)


def columns(rows: list[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]


def arguments(
    batch: Batch, image: dict[Any, str | None], taken: dict[tuple[str, str], int | None], done: list[int]
) -> list[Any]:
    """All after the first five of `apply`: `image` and `taken` are what was read, `done` the leases that end."""
    groups = _settled_groups(batch, gone=True)
    locks = _locks(batch, image, taken, _settled_groups(batch))
    wide = len(locks) > MOST_LOCKS or bool(batch.pending and batch.pending.flipped)
    return [
        wide,
        [] if wide else locks,
        *_image_columns(image),
        [pack_text(scope) for scope, _ in taken],
        [pack_text(id) for _, id in taken],
        list(taken.values()),
        *columns(settle_rows(batch), 5),
        [queue for queue, _ in groups],
        [pack_text(name) for _, name in groups],
        done,
        *columns(_record_rows(batch), 8),
        *columns(_entry_rows(batch), 6),
        *columns(_event_rows(batch), 7),
        *columns(_message_rows(batch), 5),
        *columns([(*map(pack_text, key), *batch.claims[key]) for key in batch.new_claims], 4),
    ]


def _locks(batch: Batch, image: Any, taken: Any, groups: list[tuple[int, str]]) -> list[int]:
    store = batch.head.store
    found = {lock_number(store, "record", *slot) for slot in image}
    found |= {lock_number(store, "claim", *claim) for claim in taken}
    found |= {lock_number(store, "group", *group) for group in groups}
    for queue, entries in batch.fresh.items():
        found |= {lock_number(store, "group", queue, entry.group) for entry in entries if entry.group is not None}
    return sorted(found)


def _image_columns(image: dict[Any, str | None]) -> list[list[Any]]:
    return [*pack_places(list(image)), list(image.values())]


def _settled_groups(batch: Batch, *, gone: bool = False) -> list[tuple[int, str]]:
    """The FIFO groups of which a message is settled, or gone."""
    return sorted(
        {
            (queue, group)
            for (queue, _), (lease, settle) in batch.settled.items()
            if (group := lease.delivery.group) is not None and not (gone and settle.outcome == "retry")
        }
    )


def settle_rows(batch: Batch) -> list[tuple[Any, ...]]:
    rows = [
        (
            queue,
            position,
            lease.delivery.fence,
            settle.ready_ms if settle.outcome == "retry" else _GONE,
            lease.delivery.receives,
        )
        for (queue, position), (lease, settle) in batch.settled.items()
    ]
    rows += [(batch.state.ids[x.queue], x.position, x.fence, _FENCE, 0) for x in batch.fenced]
    return rows


def _record_rows(batch: Batch) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for slot in batch.dirty:
        record, place = batch.records[slot], (slot[0], *pack_key(slot[1:]))
        if record is None:
            rows.append((*place, "", 0, 0, None, None))
        else:
            crc = checksum(record.body)
            rows.append((*place, record.version, crc, record.schema, record.expires_ms, record.body))
    return rows


def _entry_rows(batch: Batch) -> list[tuple[Any, ...]]:
    return [(*pack_entry(row), present) for row, present in batch.entries.items()]


def pack_entry(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """(index, partition, sort, pk, sk) as it is stored."""
    idx, partition, sort, pk, sk = row
    return idx, pack_part(partition), pack_part(sort), *pack_key((pk, sk))


def _event_rows(batch: Batch) -> list[tuple[Any, ...]]:
    rows = []
    for _, event, source, subject, places in batch.events:
        body = encode_envelope(event)
        queues = ",".join([str(queue if position else -queue) for queue, position in places])
        rows.append((event.id, event.trace, source, subject and pack_text(subject), body, checksum(body), queues))
    return rows


def _message_rows(batch: Batch) -> list[tuple[Any, ...]]:
    return [
        (queue, entry.seq, entry.ready_ms, entry.redriven, entry.group and pack_text(entry.group))
        for queue, entries in batch.fresh.items()
        for entry in entries
    ]


async def write_rest(database: Database, connection: Connection, batch: Batch) -> None:
    """What `apply` does not write, in the transaction that called it. Raises `Stale`."""

    async def run(statement: str, *values: Any) -> list[Any]:
        return await connection.fetch(database.sql(statement), *values)

    if batch.redriven and len(await run(_REDRIVEN, list(batch.redriven))) < len(batch.redriven):
        raise Stale("dead letters were redriven by another process")
    if batch.attempts:
        attempts = [x._replace(error=pack_text(x.error), traceback=pack_text(x.traceback)) for x in batch.attempts]
        await run(_ATTEMPTS, *columns(list(attempts), 8))
    if batch.buried:
        rows = []
        for queue, event, group, receives, reason in batch.buried:
            body = encode_envelope(event)
            told = group and pack_text(group), receives, pack_text(reason)
            rows.append((queue, event.id, body, checksum(body), *told))
        await run(_BURIED, *columns(rows, 7), batch.now_ms)
    if batch.pending:
        await _write_loads(run, batch.pending)
    if batch.redactions:
        await redact(connection, database, batch)


async def _write_loads(run: Any, pending: Pending) -> None:
    for tbl, flip in pending.flipped:
        origin = msgspec.msgpack.encode(pending.merging[tbl].origin)
        if not await run(_FLIP, flip.load, origin):
            raise Stale("the load was given up")
        await run(_GENERATION, tbl, flip.scope, flip.load)
    if pending.flipped:
        await run(_REVISE)
    if pending.moved:
        entries = [(load, *pack_entry(tuple(row))) for load, *row in pending.entries]
        members = [
            (tbl, scope, *pack_key((pk, sk)), *(member or (None, None)))
            for (tbl, scope, pk, sk), member in pending.members.items()
        ]
        arguments = (*pack_places(pending.moved), *columns(entries, 6), *columns(members, 6))
        if not (await run(_MOVE, *arguments))[0]["moved"]:
            raise Stale("another process has moved the rows")


async def redact(connection: Connection, database: Database, batch: Batch) -> None:
    from headwater.engines.postgres.redaction import redact as write

    redactions: list[Redaction] = batch.redactions
    await write(connection, database, batch.state, redactions)
