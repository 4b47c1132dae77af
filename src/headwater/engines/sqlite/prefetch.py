"""Reading the image of a batch: all records, claims and dead letters that its commits name, in a few statements."""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from headwater.applying.batch import Batch, Letter, Wanted
from headwater.applying.pending import Pending
from headwater.applying.state import Slot, Staged, Stored, decode_envelope
from headwater.engines.sqlite.database import fetch, select_rows, verify
from headwater.unit import Commit, Flip

_RECORDS = (
    "WITH k(t, p, s) AS (VALUES {keys}) SELECT tbl, pk, sk, version, body, crc, schema, expires_ms"
    " FROM k CROSS JOIN record ON tbl = t AND pk = p AND sk = s"
)
STAGED = (
    "WITH k(l, p, s) AS (VALUES {keys}) SELECT load, pk, sk, version, body, crc, schema, expires_ms, digest"
    " FROM k CROSS JOIN staged ON load = l AND pk = p AND sk = s"
)
_LOAD = "SELECT tbl, scope, state FROM load WHERE id = ?"
_GENERATION = "SELECT load FROM generation WHERE tbl = ? AND scope = ?"
_CLAIMS = (
    "WITH k(s, i) AS (VALUES {keys}) SELECT scope, id, expires_ms, result"
    " FROM k CROSS JOIN claim ON scope = s AND id = i"
)
_DEAD = "WITH k(i) AS (VALUES {keys}) SELECT id, queue, envelope, crc, grp FROM k CROSS JOIN dead ON id = i"


def prefetch(connection: apsw.Connection, batch: Batch, commits: Sequence[Commit]) -> None:
    wanted = Wanted(batch.state, commits)
    if wanted.records:
        _read_records(connection, batch, list(wanted.records))
    if wanted.flips or batch.state.merging:
        batch.pending = _read_pending(connection, batch, wanted.records, wanted.flips)
    if wanted.claims:
        rows = select_rows(connection, _CLAIMS, list(wanted.claims))
        batch.claims = {(scope, id): (expires, result) for scope, id, expires, result in rows}
    if wanted.dead:
        for id, queue, body, crc, group in select_rows(connection, _DEAD, [(id,) for id in wanted.dead]):
            verify(crc, lambda: f"dead letter {id}", body)  # noqa: B023
            batch.dead_letters[id] = Letter(queue, decode_envelope(body), group)


def _read_records(connection: apsw.Connection, batch: Batch, slots: list[Slot]) -> None:
    batch.records = dict.fromkeys(slots)
    for tbl, pk, sk, version, body, crc, schema, expires in select_rows(connection, _RECORDS, slots):
        verify(crc, lambda: f"{batch.state.names[tbl]} {pk} {sk}", body)  # noqa: B023
        batch.records[tbl, pk, sk] = Stored(version, body, expires, schema)


def _read_pending(connection: apsw.Connection, batch: Batch, slots: set[Slot], flips: list[Flip]) -> Pending:
    pending = Pending(batch.state)
    places = pending.places(slots, flips)
    for load, pk, sk, version, body, crc, schema, expires_ms, digest in select_rows(connection, STAGED, places):
        verify(crc, lambda: f"load {load} {pk} {sk}", body)  # noqa: B023
        pending.rows[load, pk, sk] = Staged(version, body, schema, expires_ms, digest)
    for flip in flips:
        scope = (batch.state.ids.get(flip.table, 0), flip.scope)
        for row in fetch(connection, _LOAD, (flip.load,)):
            pending.loads[flip.load] = row
        for (load,) in fetch(connection, _GENERATION, scope):
            pending.generations[scope] = load
    return pending
