"""Redaction: which events name a forgotten key, and what is left of an event when the key is taken out of it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import unquote

import msgspec

from headwater.codec import decode_json
from headwater.events import Envelope, Key

REDACTED = "redacted"
"""The attribute of an event that was redacted: which erasure did it."""
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
