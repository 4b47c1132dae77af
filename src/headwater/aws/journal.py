"""The history as items of the journal table: events by source and subject, by trace and by day.

The relay writes the same item whenever it reads the same event. An event's position is a number made of its id, which
begins with its commit's: so events of one process come in the order of their commits, those of several in that of their
clocks, and an event is found by its id.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import msgspec

from headwater.aws.items import PK, SK, TTL, Item, unpack_binary
from headwater.events import Envelope

TRACE, DAY, AT = "hw_trace", "hw_day", "hw_at"
_VALUE, _QUEUES, _PIECES = "hw_e", "hw_q", "hw_n"
MOST_BYTES = 320 * 1024
EPOCH_MS = 1_577_836_800_000
_MADE = re.compile(r"([0-9a-f]{12})7[0-9a-f]{3}8([0-9a-f]{7})[0-9a-f]{8}(?:-[a-z]?(\d+))?x?")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Envelope).decode


class Entry(msgspec.Struct, frozen=True):
    """An event of the journal with the queues that it went to. The images of a `stored` one are to be fetched."""

    event: Envelope
    queues: tuple[str, ...]
    position: int
    pieces: int = 0


def position_of(event_id: str) -> int:
    """The event's place in the history; 0 of an id that is not made as ours are."""
    made = _MADE.fullmatch(event_id)
    if made is None:
        return 0
    ms, rest = int(made[1], 16), (int(made[2], 16) & 0x3FFF) << 9 | min(int(made[3] or 0), 0x1FF)
    return max(0, ms - EPOCH_MS) << 23 | rest


def made_id(time_ms: int, salt: str) -> str:
    """An id for what has no commit: the same for the same time and salt, and in its place among others."""
    digest = hashlib.sha256(salt.encode()).hexdigest()
    return f"{time_ms:012x}7{digest[:3]}8{digest[3:18]}"


def time_of(position: int) -> int:
    """About when the event of this position was made, in milliseconds."""
    return (position >> 23) + EPOCH_MS


def is_large(event: Envelope) -> bool:
    return len(event.data or b"") + len(event.old or b"") > MOST_BYTES


def history_key(source: str, subject: str) -> str:
    return _fitting(f"{source}|{subject}")


def pack_entry(
    event: Envelope, queues: Iterable[str], keep_ms: int, *, is_copy: bool = False, in_pieces: bool = False
) -> list[Item]:
    """The event's item, after those of its pieces when it is too large for one, or messages refer to them.

    A copy, as of a change that is sent again, is no change of its key in the history.
    """
    position = position_of(event.id)
    expires = {"N": str((event.time_ms + keep_ms) // 1000)}
    parts = _pieces(event, expires) if in_pieces or is_large(event) else []
    kept = msgspec.structs.replace(event, data=None, old=None) if parts else event
    item: Item = {
        PK: {"S": history_key(event.source, f"/{event.subject}" if is_copy else event.subject)},
        SK: {"S": event.id},
        TRACE: {"S": event.trace or event.id},
        **place(position),
        _VALUE: {"B": _encode(kept)},
        _QUEUES: {"L": [{"S": queue} for queue in queues]},
        _PIECES: {"N": str(len(parts))},
        TTL: expires,
    }
    return [*parts, item]


def place(position: int) -> Item:
    """Where the event of this position is in the index by day."""
    return {DAY: {"S": day_of(time_of(position))}, AT: {"S": f"{position:020d}"}}


def _pieces(event: Envelope, expires: dict[str, str]) -> list[Item]:
    packed = _encode(event)
    parts = [packed[at : at + MOST_BYTES] for at in range(0, len(packed), MOST_BYTES)]
    return [
        {PK: {"S": piece_key(event.id)}, SK: {"S": f"{n:04d}"}, _VALUE: {"B": part}, TTL: expires}
        for n, part in enumerate(parts)
    ]


def piece_key(event_id: str) -> str:
    return f"body#{event_id}"


def join_pieces(items: Iterable[Item]) -> Envelope:
    """The event whose pieces these are, in order."""
    return _decode(b"".join(unpack_binary(item[_VALUE]) for item in items))


def unpack_entry(item: Item) -> Entry:
    queues = tuple(queue["S"] for queue in item[_QUEUES]["L"])
    event = _decode(unpack_binary(item[_VALUE]))
    return Entry(event, queues, int(item[AT]["S"]), int(item[_PIECES]["N"]))


def day_of(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d")


def days_between(first_ms: int, last_ms: int) -> list[str]:
    """All days from the one to the other, both included."""
    first, last = (datetime.fromtimestamp(ms / 1000, UTC).date() for ms in (first_ms, last_ms))
    return [(first + timedelta(days=n)).isoformat() for n in range((last - first).days + 1)]


def _fitting(key: str) -> str:
    return key if len(key) * 4 <= 2048 else key.encode()[:2048].decode(errors="ignore")
