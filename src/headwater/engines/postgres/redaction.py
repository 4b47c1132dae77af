"""Redaction: taking a forgotten key out of what the store keeps, inside of a commit.

The rows of events and dead letters are locked in the order of their numbers before they are written anew: another
process may redact the same ones for another key, or sweep them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headwater.applying.batch import entry_rows
from headwater.applying.redaction import REDACTED, redacted
from headwater.applying.state import State, decode_envelope, encode_envelope
from headwater.engines.postgres.database import Connection, Database, checksum, verify
from headwater.engines.postgres.keys import pack_key, pack_part, pack_text
from headwater.unit import Redaction

_EVENTS = "SELECT seq, id, envelope, crc FROM @event WHERE seq = ANY ($1) ORDER BY seq FOR UPDATE"
_LETTERS = "SELECT id, event_id, envelope, crc FROM @dead WHERE id = ANY ($1) ORDER BY id FOR UPDATE"
_NEW = "unnest($1::bigint[], $2::bytea[], $3::bigint[], $4::boolean[]) AS n(place, body, crc, whole)"
_REDACT_EVENTS = (
    "UPDATE @event e SET envelope = n.body, crc = n.crc, subject = CASE WHEN n.whole THEN NULL ELSE e.subject END"
    f" FROM {_NEW} WHERE e.seq = n.place"
)
_REDACT_LETTERS = (
    "UPDATE @dead d SET envelope = n.body, crc = n.crc, reason = $5,"
    " grp = CASE WHEN n.whole AND d.grp IS NOT NULL THEN $6 ELSE d.grp END"
    f" FROM {_NEW} WHERE d.id = n.place"
)
_REDACT_FAILURES = "UPDATE @attempt SET error = $2, traceback = '' WHERE event_id = ANY ($1)"
_CLAIM = "DELETE FROM @claim WHERE scope = $1 AND id = $2"
_MEMBER = "DELETE FROM @member WHERE tbl = $1 AND scope = $2 AND pk = $3 AND sk = $4"
_STAGED = "DELETE FROM @staged WHERE load = $1 AND pk = $2 AND sk = $3 RETURNING body"
_LOAD = "SELECT tbl FROM @load WHERE id = $1"
_ENTRY = (
    "DELETE FROM @staged_entry WHERE load = $1 AND idx = $2 AND partition = $3 AND sort = $4 AND pk = $5 AND sk = $6"
)


async def redact(connection: Connection, database: Database, state: State, redactions: Sequence[Redaction]) -> None:
    """Inside the caller's transaction."""
    writing = _Redacting(connection, database, state)
    by_kind: dict[str, list[Redaction]] = {}
    for redaction in redactions:
        by_kind.setdefault(redaction.kind, []).append(redaction)
    await writing.rewrite(_EVENTS, _REDACT_EVENTS, by_kind.get("event", []))
    await writing.rewrite(_LETTERS, _REDACT_LETTERS, by_kind.get("dead_letter", []))
    for redaction in by_kind.get("claim", []):
        await writing.run(_CLAIM, *(pack_text(str(part)) for part in redaction.place))
    for redaction in by_kind.get("member", []):
        table, scope, *key = redaction.place
        await writing.run(_MEMBER, table, scope, *_packed(key))
    for redaction in by_kind.get("staged", []):
        await writing.delete_staged(redaction)


class _Redacting:
    def __init__(self, connection: Connection, database: Database, state: State) -> None:
        self._connection = connection
        self._database = database
        self._state = state

    async def run(self, statement: str, *arguments: Any) -> list[Any]:
        return await self._connection.fetch(self._database.sql(statement), *arguments)

    async def rewrite(self, select: str, update: str, redactions: Sequence[Redaction]) -> None:
        """Events or dead letters, and what handlers said about them, which may quote them."""
        if not redactions:
            return
        asked = {int(redaction.place[0]): redaction for redaction in redactions}
        rows: list[tuple[Any, ...]] = []
        events = []
        for place, event_id, body, crc in await self.run(select, list(asked)):
            of = asked[place]
            verify(crc, lambda: f"{of.kind} {place}", body)  # noqa: B023
            left = encode_envelope(redacted(decode_envelope(body), of.mark, whole=of.whole))
            rows.append((place, left, checksum(left), of.whole))
            events.append(event_id)
        if rows:
            more = [REDACTED, redactions[0].mark] if update is _REDACT_LETTERS else []
            await self.run(update, *map(list, zip(*rows, strict=True)), *more)
            await self.run(_REDACT_FAILURES, events, REDACTED)

    async def delete_staged(self, redaction: Redaction) -> None:
        load, *key = redaction.place
        place = (load, *_packed(key))
        for (body,) in await self.run(_STAGED, *place):
            for (table,) in await self.run(_LOAD, load):
                spec = self._state.tables.get(self._state.names[table])
                if spec is None or body is None:
                    continue
                for index, partition, sort, *_ in entry_rows(spec, self._state.ids, (str(key[0]), key[1]), body):
                    await self.run(_ENTRY, load, index, pack_part(partition), pack_part(sort), *place[1:])


def _packed(key: Sequence[str | int]) -> tuple[bytes, bytes]:
    return pack_key((str(key[0]), key[1]))
