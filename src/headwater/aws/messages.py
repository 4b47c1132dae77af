"""Envelopes as bodies of SQS and SNS messages, and back.

A body is a JSON object with the envelope's fields, of which `data` and `old` are the documents themselves, so that
filter policies and people can read them; what only a queue has to know of it stands in `to`. An event that is too large
stays in the journal table in pieces, and its message has all but the images. A body that is none of ours becomes an
event of its queue, with the body as its data.

SQS takes only the characters that XML has, groups of up to 128 ASCII characters, and deduplication ids of that kind.
"""

from __future__ import annotations

import hashlib
import re

import msgspec

from headwater.codec import decode_json, encode_json
from headwater.events import MESSAGE, Caller, Envelope, Key

MAX_BODY = 256 * 1024
_ROOM = 2 * 1024
"""Kept free of a body's limit: what SNS and SQS add."""
_FOREIGN = re.compile(r"[\ufffe\uffff]")
_ESCAPED = re.compile(rb"(?<!\\)(?:\\\\)*\\u[fF]{3}[eEfF]")
_GROUP = re.compile(r"[A-Za-z0-9!\"#$%&'()*+,./:;<=>?@\[\\\]^_`{|}-][\x21-\x7e]{0,127}")


class Address(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a queue has to know of a message besides its event.

    `turn` sets a redriven message apart from the one that died. `by_topic` marks what a topic sent on to its queues.
    A message that comes before `ready_ms` is to be held back; `stored` ones have their images elsewhere.
    """

    group: str | None = None
    turn: str = ""
    by_topic: bool = False
    stored: bool = False
    ready_ms: int = 0


class Arrived(msgspec.Struct, frozen=True):
    """A message as it came. The images of an event that is `stored` are to be fetched."""

    event: Envelope
    address: Address


_NO_IMAGE = msgspec.Raw()


class _Body(msgspec.Struct, omit_defaults=True):
    id: str
    source: str
    type: str
    subject: str = ""
    time_ms: int = 0
    data: msgspec.Raw = _NO_IMAGE
    old: msgspec.Raw = _NO_IMAGE
    key: Key | None = None
    version: str = ""
    expired: bool = False
    attributes: dict[str, str] = {}
    caller: Caller | None = None
    cause: str | None = None
    trace: str = ""
    depth: int = 0
    schema: int = 1
    old_schema: int = 1
    to: Address = Address()


_decode = msgspec.json.Decoder(_Body).decode
_encode = msgspec.json.Encoder().encode


def body_of(event: Envelope, address: Address) -> str:
    """The message's body; without the images when it says that they are stored."""
    fields = {name: getattr(event, name) for name in Envelope.__struct_fields__}
    for name in ("data", "old"):
        image = fields[name]
        fields[name] = _NO_IMAGE if image is None or address.stored else msgspec.Raw(image)
    text = _encode(_Body(**fields, to=address)).decode()
    return _FOREIGN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def is_too_large(body: str) -> bool:
    return len(body.encode()) > MAX_BODY - _ROOM


def read_body(body: str, *, queue: str, id: str, sent_ms: int = 0) -> Arrived:
    """The message with this body; one that is none of ours is an event of the queue with the given id."""
    try:
        read = _decode(body)
    except msgspec.DecodeError:
        data = _canonical(body.encode())
        return Arrived(Envelope(id=id, source=queue, type=MESSAGE, time_ms=sent_ms, data=data), Address())
    fields = {name: getattr(read, name) for name in Envelope.__struct_fields__}
    for name in ("data", "old"):
        image = bytes(fields[name])
        fields[name] = (encode_json(decode_json(image)) if _ESCAPED.search(image) else image) or None
    return Arrived(Envelope(**fields), read.to)


def _canonical(body: bytes) -> bytes:
    try:
        return encode_json(decode_json(body))
    except msgspec.DecodeError:
        return encode_json(body.decode(errors="replace"))


def group_id(group: str) -> str:
    """The group as SQS has it; different ones stay different."""
    return group if _GROUP.fullmatch(group) else f"~{_digest(group)}"


def deduplication_id(event: str, queue: str, turn: str = "") -> str:
    """The same for every time that the relay sends the same message."""
    return _digest(f"{event}/{queue}/{turn}")


def marker_of(message_id: str, turn: str = "") -> str:
    """What stands for a message whose effect was committed."""
    return f"done#{message_id}#{turn}" if turn else f"done#{message_id}"


def position_of(sqs_id: str) -> int:
    """A message's place as a number: the same in all processes."""
    return int(hashlib.sha256(sqs_id.encode()).hexdigest()[:15], 16) or 1


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
