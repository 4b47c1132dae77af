"""Redaction: taking a forgotten key out of what the store keeps, inside of a commit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import apsw

from headwater.applying.batch import entry_rows
from headwater.applying.redaction import REDACTED, redacted
from headwater.applying.state import State, decode_envelope, encode_envelope
from headwater.engines.sqlite.database import checksum, fetch, select_rows, verify
from headwater.unit import Redaction

_STAGED = "SELECT l.tbl, s.body FROM staged s JOIN load l ON l.id = s.load WHERE s.load = ? AND s.pk = ? AND s.sk = ?"


def redact(connection: apsw.Connection, state: State, redactions: Sequence[Redaction]) -> None:
    """Inside the caller's transaction."""
    for redaction in redactions:
        match redaction.kind:
            case "event":
                _redact_event(connection, redaction)
            case "dead_letter":
                _redact_letter(connection, redaction)
            case "claim":
                connection.execute("DELETE FROM claim WHERE scope = ? AND id = ?", redaction.place)
            case "member":
                connection.execute(
                    "DELETE FROM member WHERE tbl = ? AND scope = ? AND pk = ? AND sk = ?", redaction.place
                )
            case "staged":
                _delete_staged(connection, state, redaction)


def _redact_event(connection: apsw.Connection, redaction: Redaction) -> None:
    for id, body in _rewritten(connection, "SELECT id, envelope, crc FROM event WHERE seq = ?", redaction):
        connection.execute(
            "UPDATE event SET envelope = ?, crc = ?, subject = iif(?, NULL, subject) WHERE seq = ?",
            (body, checksum(body), redaction.whole, *redaction.place),
        )
        _redact_failures(connection, id)


def _redact_letter(connection: apsw.Connection, redaction: Redaction) -> None:
    for id, body in _rewritten(connection, "SELECT event_id, envelope, crc FROM dead WHERE id = ?", redaction):
        connection.execute(
            "UPDATE dead SET envelope = ?, crc = ?, grp = iif(? AND grp IS NOT NULL, ?, grp), reason = ? WHERE id = ?",
            (body, checksum(body), redaction.whole, redaction.mark, REDACTED, *redaction.place),
        )
        _redact_failures(connection, id)


def _rewritten(connection: apsw.Connection, statement: str, redaction: Redaction) -> Iterator[tuple[str, bytes]]:
    for id, body, crc in fetch(connection, statement, redaction.place):
        verify(crc, lambda: f"{redaction.kind} {redaction.place[0]}", body)
        yield id, encode_envelope(redacted(decode_envelope(body), redaction.mark, whole=redaction.whole))


def _redact_failures(connection: apsw.Connection, event_id: str) -> None:
    """What handlers said about an event may quote it."""
    connection.execute("UPDATE attempt SET error = ?, traceback = '' WHERE event_id = ?", (REDACTED, event_id))


def _delete_staged(connection: apsw.Connection, state: State, redaction: Redaction) -> None:
    load, pk, sk = redaction.place
    for tbl, body in fetch(connection, _STAGED, redaction.place):
        spec = state.tables.get(state.names[tbl])
        if spec is not None and body is not None:
            entries = [(load, *entry) for entry in entry_rows(spec, state.ids, (str(pk), sk), body)]
            columns = "(load, idx, partition, sort, pk, sk)"
            select_rows(connection, f"DELETE FROM staged_entry WHERE {columns} IN (VALUES {{keys}})", entries)
    connection.execute("DELETE FROM staged WHERE load = ? AND pk = ? AND sk = ?", redaction.place)
