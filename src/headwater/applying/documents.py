"""Pure functions on stored documents: merging, expiry, subjects and edits."""

from __future__ import annotations

from datetime import UTC, datetime

from headwater.catalog import TableSpec
from headwater.codec import check_json, decode_json, encode_json
from headwater.errors import InvalidValue, TooLarge
from headwater.events import Envelope, Key, subject_of
from headwater.unit import MAX_DOCUMENT, Write, apply_merge

subject = subject_of
_LAST_SECOND = 253_402_300_799  # the end of the year 9999


def subject_of_copy(event: Envelope) -> str | None:
    """What the row of a replayed or redriven change has as its subject: it is no change of its own in the history."""
    return f"/{event.subject}" if event.key else None


def merged(spec: TableSpec, write: Write, body: bytes | None) -> bytes:
    """The body after the write's merges; an absent document starts from its key's fields."""
    document = decode_json(body) if body is not None else key_fields(spec, write.key)
    for merge in write.merges:
        try:
            document = apply_merge(document, merge)
        except TypeError as error:
            raise InvalidValue(str(error), operation="update", resource=write.table) from error
    check_json(document)
    encoded = encode_json(document)
    if len(encoded) > MAX_DOCUMENT:
        raise TooLarge(
            f"the document has {len(encoded)} bytes after the update, {MAX_DOCUMENT} are allowed",
            operation="update",
            resource=write.table,
            hint="split it into several rows, or keep large content in a bucket",
        )
    return encoded


def key_fields(spec: TableSpec, key: Key) -> dict[str, object]:
    fields: dict[str, object] = {spec.partition: key[0]}
    if spec.sort:
        fields[spec.sort] = key[1]
    return fields


def expiry(spec: TableSpec, body: bytes, now_ms: int) -> int | None:
    """When the record expires: its age limit from now, or the time in the declared field."""
    if spec.ttl_ms:
        return now_ms + spec.ttl_ms
    if not spec.ttl:
        return None
    value = decode_json(body).get(spec.ttl)
    if isinstance(value, str) and value:
        try:
            time = datetime.fromisoformat(value)
        except ValueError as error:
            raise InvalidValue(f"{spec.ttl!r} is no time: {value!r}", operation="write", resource=spec.name) from error
        return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if abs(value) > _LAST_SECOND:
            raise InvalidValue(f"{spec.ttl!r} is no time: {value!r}", operation="write", resource=spec.name)
        return int(value * 1000)
    return None


def edited(event: Envelope, id: str, data: bytes, now_ms: int) -> Envelope:
    """A dead letter's event with other data: a new fact, caused by the old one."""
    event.attributes = {**event.attributes, "redriven-from": event.id}
    event.cause, event.id, event.data, event.time_ms = event.id, id, data, now_ms
    return event
