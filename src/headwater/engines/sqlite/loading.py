"""Reading waiting messages into memory: the queries behind the ready windows, on the event loop's connection."""

from __future__ import annotations

from array import array

import apsw

from headwater.applying.state import Entry, decode_envelope
from headwater.engines.sqlite.database import Row, fetch, verify

_COLUMNS = (
    "SELECT m.position, m.event, m.grp, m.ready_ms, m.receives, m.redriven, m.sent_ms, e.envelope, e.crc"
    " FROM message m CROSS JOIN event e ON e.seq = m.event WHERE m.queue = ?"
)
READY = f"{_COLUMNS} AND m.position > ? AND m.ready_ms = 0 ORDER BY m.position LIMIT ?"
PLACES = "SELECT position, grp FROM message WHERE queue = ? AND position > ? ORDER BY position LIMIT ?"
IN_ORDER = f"{_COLUMNS} AND m.position > ? ORDER BY m.position LIMIT ?"
DELAYED = f"{_COLUMNS} AND m.ready_ms > 0 AND (m.ready_ms, m.position) > (?, ?) ORDER BY m.ready_ms, m.position LIMIT ?"
AT_POSITIONS = f"{_COLUMNS} AND m.position IN carray(?) ORDER BY m.position"


class Loader:
    """Waiting messages of one queue as entries, in the order that each method names."""

    def __init__(self, reader: apsw.Connection, queue: int) -> None:
        self._reader = reader
        self._queue = queue

    def ready(self, after: int, limit: int) -> list[Entry]:
        """Messages sent without delay, by position."""
        return self._entries(READY, (after, limit))

    def in_order(self, after: int, limit: int) -> list[Entry]:
        """All messages by position, delayed ones too."""
        return self._entries(IN_ORDER, (after, limit))

    def places(self, after: int, limit: int) -> list[Row]:
        """(position, group) of all messages by position."""
        return fetch(self._reader, PLACES, (self._queue, after, limit))

    def delayed(self, after: tuple[int, int], limit: int) -> list[Entry]:
        """Messages with a ready time, by (ready time, position)."""
        return self._entries(DELAYED, (*after, limit))

    def at(self, positions: list[int]) -> list[Entry]:
        return self._entries(AT_POSITIONS, (apsw.carray(array("q", positions)),))

    def _entries(self, statement: str, bindings: Row) -> list[Entry]:
        return [_entry(row) for row in fetch(self._reader, statement, (self._queue, *bindings))]


def _entry(row: Row) -> Entry:
    position, seq, group, ready_ms, receives, redriven, sent_ms, body, crc = row
    verify(crc, lambda: f"event {seq}", body)
    return Entry(position, seq, decode_envelope(body), group, ready_ms, receives, bool(redriven), sent_ms)
