"""Redaction: which events name a forgotten key, and what is left of an event when the key is taken out of it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import unquote

import apsw
import msgspec

from headwater.applying.batch import entry_rows
from headwater.applying.state import State, decode_envelope, encode_envelope
from headwater.codec import decode_json
from headwater.engines.sqlite.database import checksum, fetch, select_rows, verify
from headwater.events import Envelope, Key
from headwater.unit import Redaction

REDACTED = "redacted"
"""The attribute of an event that was redacted: which erasure did it."""
_STAGED = "SELECT l.tbl, s.body FROM staged s JOIN load l ON l.id = s.load WHERE s.load = ? AND s.pk = ? AND s.sk = ?"
_PARTS = re.compile(r"[^\w.@+-]+")


def names_key(values: set[str | int], names: Sequence[Key]) -> bool:
    """Whether all parts of one of the keys are among the values."""
    return any(all(part in values for part in key if part != "") for key in names)


def values_of(event: Envelope) -> set[str | int]:
    """The texts and whole numbers in an event's images, key and attributes, names of fields among them."""
    found: set[str | int] = {*(event.key or ()), *event.attributes.values()}
    for image in (event.data, event.old):
        if image is not None:
            found.update(scalars(decode_json(image)))
    return found


def scalars(value: Any) -> Iterator[str | int]:
    match value:
        case bool() | None:
            return
        case str() | int():
            yield value
        case dict():
            for name, item in value.items():
                yield name
                yield from scalars(item)
        case list() | tuple():
            for item in value:
                yield from scalars(item)


def parts_of(text: str) -> set[str]:
    """The words of a path, a scope or a header: what punctuation other than . @ + - parts."""
    return {text, *_PARTS.split(unquote(text))}


def redacted(event: Envelope, mark: str, *, whole: bool) -> Envelope:
    """The event without its key, images, attributes and caller; without its caller only unless `whole`."""
    if not whole:
        return msgspec.structs.replace(event, caller=None)
    return Envelope(
        id=event.id,
        source=event.source,
        type=event.type,
        time_ms=event.time_ms,
        version=event.version,
        expired=event.expired,
        attributes={REDACTED: mark},
        cause=event.cause,
        trace=event.trace,
        depth=event.depth,
        schema=event.schema,
        old_schema=event.old_schema,
    )


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


def claim_names(scope: str, id: str, result: bytes, names: Sequence[Key]) -> bool:
    """Whether what identifies a claim, or the answer stored with it, names one of the keys."""
    values: set[str | int] = {*parts_of(scope), *parts_of(id)}
    for decode in (decode_json, msgspec.msgpack.decode):
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            values.update(_words(decode(result)))
            break
    return names_key(values, names)


def _words(value: Any) -> Iterator[str | int]:
    """The scalars of a stored answer: its headers' words, and what is in its body when that is JSON."""
    if isinstance(value, bytes):
        try:
            yield from scalars(decode_json(value))
        except (msgspec.DecodeError, UnicodeDecodeError):
            yield from parts_of(value.decode("utf-8", "replace"))
    elif isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _words(item)
    else:
        yield from scalars(value)
