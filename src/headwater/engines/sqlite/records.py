"""Reading records: by key, by range, by index; and the history of events. All on the event loop's connection."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import apsw

from headwater.applying.documents import subject
from headwater.applying.state import decode_envelope
from headwater.engine import MessageNote, Query, Record, RecordPage, TracedEvent
from headwater.engines.sqlite.database import Row, fetch, translate, verify
from headwater.engines.sqlite.store import Store
from headwater.errors import UnknownResource
from headwater.events import Envelope, Key, KeyPart

P = ParamSpec("P")
R = TypeVar("R")
_READ = "SELECT version, body, crc, schema, expires_ms FROM record WHERE tbl = ? AND pk = ? AND sk = ?"
_READ_STAGED = "SELECT version, body, crc, schema, expires_ms FROM staged WHERE load = ? AND pk = ? AND sk = ?"
_TRIED = "SELECT DISTINCT queue FROM attempt WHERE event_id = ?"
_GONE: Row = ("", None, 0, 0, None)
_DEAD = "SELECT queue, id, receives, reason FROM dead WHERE event_id = ?"
_WAITING = "SELECT receives FROM message WHERE queue = ? AND position = ?"
_EVENT = "SELECT seq, envelope, crc, messages FROM event"


def translated(operation: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Raise SQLite's errors as Headwater's."""

    def wrap(fn: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(fn)
        def inner(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return fn(*args, **kwargs)
            except apsw.Error as error:
                raise translate(error, operation) from error

        return inner

    return wrap


class Records(Store):
    async def read(self, table: str, key: Key) -> Record | None:
        return self._read(table, key)

    @translated("read")
    def _read(self, table: str, key: Key) -> Record | None:
        number = self.table_number(table)
        merging = self.state.merging.get(number)
        # Staged before record: a row that gets into place between the two look-ups is found by the second.
        rows = fetch(self.reader, _READ_STAGED, (merging.load, *key)) if merging else []
        if rows and rows[0][1] is None:
            leaves_ms = rows[0][-1]
            rows = [] if leaves_ms is not None and leaves_ms > self.present_ms() else [_GONE]
        version, body, crc, schema, expires_ms = (rows or fetch(self.reader, _READ, (number, *key)) or [_GONE])[0]
        if body is None or (expires_ms is not None and expires_ms <= self.present_ms()):
            return None
        verify(crc, lambda: f"{table} {key}", body)
        return Record(key, body, version, schema)

    async def query(self, query: Query) -> RecordPage:
        return self._query(query)

    @translated("query")
    def _query(self, query: Query) -> RecordPage:
        rows = self._rows(query)
        records = []
        for pk, sk, version, body, crc, schema, *_ in rows[: query.limit]:
            verify(crc, lambda: f"{query.table} {pk} {sk}", body)  # noqa: B023
            records.append(Record((pk, sk), body, version, schema))
        more = len(rows) > query.limit
        return RecordPage(records, _place(rows[query.limit - 1], query) if more else None)

    def _rows(self, query: Query) -> list[Row]:
        number = self.table_number(query.table)
        while True:
            merging = self.state.merging.get(number)
            statement, bindings = (_by_index if query.index else _by_key)(self, query, merging.load if merging else 0)
            rows = fetch(self.reader, statement, bindings)
            # A flip between the look-up and the statement could have shown rows of both datasets.
            if self.state.merging.get(number) is merging:
                return rows

    async def history(self, table: str, key: Key, limit: int) -> list[Envelope]:
        return self._history(table, key, limit)

    @translated("history")
    def _history(self, table: str, key: Key, limit: int) -> list[Envelope]:
        found = fetch(
            self.reader,
            f"{_EVENT} WHERE source = ? AND subject = ? ORDER BY seq DESC LIMIT ?",
            (self.table_number(table), subject(key), limit),
        )
        return [_envelope(row) for row in found]

    async def claimed(self, scope: str, id: str) -> bytes | None:
        return self._claimed(scope, id)

    @translated("claimed")
    def _claimed(self, scope: str, id: str) -> bytes | None:
        rows = fetch(
            self.reader,
            "SELECT result FROM claim WHERE scope = ? AND id = ? AND expires_ms > ?",
            (scope, id, self.present_ms()),
        )
        return rows[0][0] if rows else None

    async def event(self, id: str) -> TracedEvent | None:
        found = self._traced(f"{_EVENT} WHERE id = ? ORDER BY seq", (id,))
        return found[0] if found else None

    async def trace(self, trace: str, limit: int = 1000) -> list[TracedEvent]:
        return self._traced(f"{_EVENT} WHERE trace = ? ORDER BY seq LIMIT ?", (trace, limit))

    async def events(self, after: int, limit: int = 100) -> list[TracedEvent]:
        if after < 0:
            newest = self._traced(f"{_EVENT} ORDER BY seq DESC LIMIT ?", (limit,))
            return sorted(newest, key=lambda event: event.position)
        return self._traced(f"{_EVENT} WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit))

    @translated("trace")
    def _traced(self, statement: str, bindings: Row) -> list[TracedEvent]:
        """Events with the states of their messages; a redriven event, stored again, is told once."""
        found: dict[str, TracedEvent] = {}
        places: dict[str, dict[int, int]] = {}
        for seq, body, crc, messages in fetch(self.reader, statement, bindings):
            event = _envelope((seq, body, crc, messages))
            found.setdefault(event.id, TracedEvent(position=seq, event=event, messages={}))
            places.setdefault(event.id, {}).update(read_places(messages))
        for id, traced in found.items():
            self._note(traced, places[id])
        return list(found.values())

    def _note(self, traced: TracedEvent, places: dict[int, int]) -> None:
        """Tell of each message of an event whether it waits, is dead or done, and what happened to it."""
        event_id = traced.event.id
        tried = {queue for (queue,) in fetch(self.reader, _TRIED, (event_id,))}
        dead = {row[0]: row[1:] for row in fetch(self.reader, _DEAD, (event_id,))}
        for number in {**places, **dead}:
            queue = self.state.names[number]
            waiting = fetch(self.reader, _WAITING, (number, places.get(number, 0)))
            letter, receives, reason = dead.get(number, (None, None, None))
            if waiting:
                receives = waiting[0][0]
            traced.messages[queue] = "waiting" if waiting else "done" if letter is None else "dead"
            if waiting or letter is not None or number in tried:
                failures = self.failures(event_id, number) if number in tried else ()
                traced.notes[queue] = MessageNote(
                    receives=receives, failures=failures, dead_letter=letter, reason=reason
                )

    def failures(self, event_id: str, queue: int) -> tuple[dict[str, Any], ...]:
        """The attempts of a message that did not end in a plain acknowledgement, oldest first."""
        rows = fetch(
            self.reader,
            "SELECT n, outcome, error, traceback, started_ms, ended_ms FROM attempt"
            " WHERE event_id = ? AND queue = ? ORDER BY rowid",
            (event_id, queue),
        )
        names = ("receive", "outcome", "error", "traceback", "started_ms", "ended_ms")
        return tuple(dict(zip(names, row, strict=True)) for row in rows)


def _envelope(row: Row) -> Envelope:
    seq, body, crc, _ = row
    verify(crc, lambda: f"event {seq}", body)
    return decode_envelope(body)


def read_places(messages: str) -> dict[int, int]:
    """An event row's `messages`: queue → position."""
    return {int(queue): int(position) for queue, _, position in (m.partition(":") for m in messages.split(",") if m)}


def _place(row: Row, query: Query) -> tuple[KeyPart, ...]:
    pk, sk, *_, partition, sort = row
    return (partition, sort, pk, sk) if query.index else (pk, sk)


def _bounds(query: Query, partition: str, sort: str) -> tuple[list[str], list[Any]]:
    """The conditions of a query on its partition and sort columns."""
    where: list[str] = []
    bindings: list[Any] = []
    ranged = sort
    if query.partition is None:
        ranged = partition
    else:
        where.append(f"{partition} = ?")
        bindings.append(query.partition)
    for value, comparison in ((query.low, ">="), (query.high, "<=")):
        if value is not None:
            where.append(f"{ranged} {comparison} ?")
            bindings.append(value)
    if query.prefix:
        where.append(f"{ranged} >= ? AND {ranged} < ?")
        bindings += [query.prefix, _after_prefix(query.prefix)]
    return where, bindings


def _after_prefix(prefix: str) -> str | bytes:
    """The least value that sorts after all strings with the prefix (bytes sort after every string)."""
    kept = prefix.rstrip("\U0010ffff")
    if not kept:
        return b""
    following = ord(kept[-1]) + 1
    return kept[:-1] + chr(0xE000 if following == 0xD800 else following)


_CONTENT = "r.version, r.body, r.crc, r.schema"
_IN_FORCE = (
    "NOT EXISTS (SELECT 1 FROM staged s WHERE s.load = ? AND s.pk = r.pk AND s.sk = r.sk"
    " AND (s.body IS NOT NULL OR s.expires_ms IS NULL OR s.expires_ms <= ?))"
)
"""Of a record: no load has replaced, removed or expired it."""


class _Reading:
    """A query's conditions, the same on records and on staged rows, and its order."""

    def __init__(self, query: Query, columns: tuple[str, ...], ordinals: tuple[int, ...], now_ms: int) -> None:
        where, self.bindings = _bounds(query, columns[0], columns[1])
        if query.after is not None:
            comparison = "<" if query.reverse else ">"
            where.append(f"({', '.join(columns)}) {comparison} ({', '.join('?' * len(columns))})")
            self.bindings += query.after
        where.append("(r.expires_ms IS NULL OR r.expires_ms > ?)")
        self.bindings.append(now_ms)
        self.where = " AND ".join(where)
        direction = " DESC" if query.reverse else ""
        self.tail = f" ORDER BY {', '.join(f'{ordinal}{direction}' for ordinal in ordinals)} LIMIT ?"
        self.limit = query.limit + 1


def _by_key(store: Store, query: Query, load: int = 0) -> tuple[str, list[Any]]:
    table, now_ms = store.table_number(query.table), store.present_ms()
    reading = _Reading(query, ("r.pk", "r.sk"), (1, 2), now_ms)
    where, own = reading.where, reading.bindings
    records = f"SELECT r.pk, r.sk, {_CONTENT}, NULL, NULL FROM record r WHERE r.tbl = ? AND {where}"
    if not load:
        return records + reading.tail, [table, *own, reading.limit]
    staged = (
        f"SELECT r.pk, r.sk, {_CONTENT}, NULL, NULL FROM staged r WHERE r.load = ? AND r.body IS NOT NULL AND {where}"
    )
    return (
        f"{records} AND {_IN_FORCE} UNION ALL {staged}{reading.tail}",
        [table, *own, load, now_ms, load, *own, reading.limit],
    )


def _by_index(store: Store, query: Query, load: int = 0) -> tuple[str, list[Any]]:
    table, now_ms = store.table_number(query.table), store.present_ms()
    number = store.state.ids.get(f"{query.table}#{query.index}")
    if number is None:
        raise UnknownResource("the table has no such index", operation="query", resource=f"{query.table}#{query.index}")
    reading = _Reading(query, ("e.partition", "e.sort", "e.pk", "e.sk"), (7, 8, 1, 2), now_ms)
    where, own = reading.where, reading.bindings
    fields = f"SELECT e.pk, e.sk, {_CONTENT}, e.partition, e.sort"
    placed = "entry e CROSS JOIN record r ON r.tbl = ? AND r.pk = e.pk AND r.sk = e.sk"
    records = f"{fields} FROM {placed} WHERE e.idx = ? AND {where}"
    if not load:
        return records + reading.tail, [table, number, *own, reading.limit]
    waiting = "staged_entry e CROSS JOIN staged r ON r.load = e.load AND r.pk = e.pk AND r.sk = e.sk"
    staged = f"{fields} FROM {waiting} WHERE e.load = ? AND e.idx = ? AND {where}"
    return (
        f"{records} AND {_IN_FORCE} UNION ALL {staged}{reading.tail}",
        [table, number, *own, load, now_ms, load, number, *own, reading.limit],
    )
