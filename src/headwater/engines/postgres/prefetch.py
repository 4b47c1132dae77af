"""Reading the image of a batch: the records, claims and dead letters that its commits name, and depths of queues."""

from __future__ import annotations

from collections.abc import Sequence

from headwater.applying.batch import Batch, Letter, Wanted
from headwater.applying.pending import Pending
from headwater.applying.state import Counts, Slot, Staged, Stored, decode_envelope
from headwater.engines.postgres.database import Connection, Database, verify
from headwater.engines.postgres.keys import Packed, pack_key, pack_text, unpack_key, unpack_text
from headwater.unit import Commit, Flip

RECORDS = (
    "SELECT r.tbl, r.pk, r.sk, r.version, r.body, r.crc, r.schema, r.expires_ms"
    " FROM unnest($1::int[], $2::bytea[], $3::bytea[]) AS k(tbl, pk, sk)"
    " CROSS JOIN LATERAL (SELECT * FROM @record x WHERE x.tbl = k.tbl AND x.pk = k.pk AND x.sk = k.sk LIMIT 1) r"
)
STAGED = (
    "SELECT s.load, s.pk, s.sk, s.version, s.body, s.crc, s.schema, s.expires_ms, s.digest"
    " FROM unnest($1::bigint[], $2::bytea[], $3::bytea[]) AS k(load, pk, sk)"
    " CROSS JOIN LATERAL (SELECT * FROM @staged x WHERE x.load = k.load AND x.pk = k.pk AND x.sk = k.sk LIMIT 1) s"
)
_LOADS = "SELECT id, tbl, scope, state FROM @load WHERE id = ANY ($1)"
_GENERATIONS = (
    "SELECT tbl, scope, load FROM @generation WHERE (tbl, scope) IN (SELECT * FROM unnest($1::int[], $2::text[]))"
)
CLAIMS = (
    "SELECT c.scope, c.id, c.expires_ms, c.result FROM unnest($1::text[], $2::text[]) AS k(scope, id)"
    " CROSS JOIN LATERAL (SELECT * FROM @claim x WHERE x.scope = k.scope AND x.id = k.id LIMIT 1) c"
)
_DEAD = "SELECT id, queue, envelope, crc, grp FROM @dead WHERE id = ANY ($1)"
_DEPTH = "SELECT count(*) FROM (SELECT FROM @message WHERE queue = $1 LIMIT $2) m"
Places = tuple[list[int], list[bytes], list[bytes]]


async def prefetch(database: Database, connection: Connection, batch: Batch, commits: Sequence[Commit]) -> None:
    """Fill the batch's image."""
    wanted = Wanted(batch.state, commits)
    if wanted.flips or batch.state.merging:
        # Before the records: a row that gets into place meanwhile is found in one of both.
        batch.pending = await _read_pending(database, connection, batch, wanted)
    if wanted.records:
        await _read_records(database, connection, batch, wanted.records)
    batch.wanted_claims = wanted.claims
    if wanted.claims:
        scopes, ids = zip(*((pack_text(scope), pack_text(id)) for scope, id in wanted.claims), strict=True)
        for scope, id, expires_ms, result in await connection.fetch(database.sql(CLAIMS), scopes, ids):
            batch.claims[unpack_text(scope), unpack_text(id)] = (expires_ms, result)
    if wanted.dead:
        for id, queue, body, crc, group in await connection.fetch(database.sql(_DEAD), list(wanted.dead)):
            verify(crc, lambda: f"dead letter {id}", body)  # noqa: B023
            batch.dead_letters[id] = Letter(queue, decode_envelope(body), group and unpack_text(group))
    for number, most in _bounded_queues(batch, commits).items():
        depth = await connection.fetchval(database.sql(_DEPTH), number, most + 1)
        batch.state.counts.setdefault(number, Counts()).depth = depth


def _bounded_queues(batch: Batch, commits: Sequence[Commit]) -> dict[int, int]:
    """The queues with a maximum depth that something is sent to."""
    state, found = batch.state, {}
    for commit in commits:
        for emit in commit.emits:
            spec = state.queues.get(emit.queue) if emit.queue else None
            if spec is not None and spec.max_depth:
                found[state.ids[spec.name]] = spec.max_depth
    return found


def pack_places(places: Sequence[tuple[int, str, str | int]]) -> Places:
    """(number, partition, sort) of many as three columns."""
    packed: list[Packed] = [pack_key((pk, sk)) for _, pk, sk in places]
    return [number for number, _, _ in places], [pk for pk, _ in packed], [sk for _, sk in packed]


async def _read_records(database: Database, connection: Connection, batch: Batch, slots: set[Slot]) -> None:
    batch.records = dict.fromkeys(slots)
    for tbl, pk, sk, version, body, crc, schema, expires_ms in await connection.fetch(
        database.sql(RECORDS), *pack_places(list(slots))
    ):
        verify(crc, lambda: f"{batch.state.names[tbl]} {pk} {sk}", body)  # noqa: B023
        batch.records[(tbl, *unpack_key(pk, sk))] = Stored(version, body, expires_ms, schema)


async def _read_pending(database: Database, connection: Connection, batch: Batch, wanted: Wanted) -> Pending:
    pending = Pending(batch.state)
    places = pending.places(wanted.records, wanted.flips)
    if places:
        for load, pk, sk, version, body, crc, schema, expires_ms, digest in await connection.fetch(
            database.sql(STAGED), *pack_places(places)
        ):
            verify(crc, lambda: f"load {load} {pk} {sk}", body)  # noqa: B023
            pending.rows[(load, *unpack_key(pk, sk))] = Staged(version, body, schema, expires_ms, digest)
    if wanted.flips:
        await _read_generations(database, connection, pending, batch, wanted.flips)
    return pending


async def _read_generations(
    database: Database, connection: Connection, pending: Pending, batch: Batch, flips: list[Flip]
) -> None:
    for id, tbl, scope, state in await connection.fetch(database.sql(_LOADS), [flip.load for flip in flips]):
        pending.loads[id] = (tbl, scope, state)
    tables = [batch.state.ids.get(flip.table, 0) for flip in flips]
    rows = await connection.fetch(database.sql(_GENERATIONS), tables, [flip.scope for flip in flips])
    pending.generations = {(tbl, scope): load for tbl, scope, load in rows}
