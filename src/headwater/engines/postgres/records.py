"""Reading records: by key, by range, by index; and the history of events. Each in one statement, so in one snapshot."""

from __future__ import annotations

from typing import Any

from headwater.applying.documents import subject
from headwater.applying.state import decode_envelope
from headwater.engine import MessageNote, Query, Record, RecordPage, TracedEvent
from headwater.engines.postgres.database import verify
from headwater.engines.postgres.keys import (
    after_prefix,
    pack_key,
    pack_part,
    pack_text,
    unpack_key,
    unpack_part,
    unpack_text,
)
from headwater.engines.postgres.store import Store
from headwater.errors import UnknownResource
from headwater.events import Envelope, Key, KeyPart

READ = (
    "SELECT s.version, s.body, s.crc, s.schema, s.expires_ms, true FROM @load l JOIN @staged s ON s.load = l.id"
    " WHERE l.tbl = $1 AND l.state = 1 AND s.pk = $2 AND s.sk = $3"
    " UNION ALL SELECT version, body, crc, schema, expires_ms, false FROM @record r"
    " WHERE r.tbl = $1 AND r.pk = $2 AND r.sk = $3"
)
_EVENT = "SELECT seq, envelope, crc, queues FROM @event"
_DEAD = "SELECT event_id, queue, id, receives, reason FROM @dead WHERE event_id = ANY ($1)"
_WAITING = (
    "SELECT m.position, m.queue, m.receives FROM unnest($1::int[], $2::bigint[]) AS k(queue, position)"
    " JOIN @message m ON m.queue = k.queue AND m.position = k.position"
)
_ATTEMPTS = (
    "SELECT event_id, queue, n, outcome, error, traceback, started_ms, ended_ms FROM @attempt"
    " WHERE event_id = ANY ($1) ORDER BY id"
)
_FAILURE = ("receive", "outcome", "error", "traceback", "started_ms", "ended_ms")
Failures = dict[tuple[str, int], tuple[dict[str, Any], ...]]


class Records(Store):
    async def read(self, table: str, key: Key) -> Record | None:
        number, now_ms = self.table_number(table), self.present_ms()
        rows = await self.database.fetch(READ, number, *pack_key(key))
        staged = next((row for row in rows if row[5]), None)
        record = next((row for row in rows if not row[5]), None)
        if staged is not None:
            leaves_ms = staged["expires_ms"]
            if staged["body"] is not None:
                record = staged
            elif leaves_ms is None or leaves_ms <= now_ms:
                return None
        if record is None or (record["expires_ms"] is not None and record["expires_ms"] <= now_ms):
            return None
        verify(record["crc"], lambda: f"{table} {key}", record["body"])
        return Record(key, record["body"], record["version"], record["schema"])

    async def query(self, query: Query) -> RecordPage:
        statement, arguments = _by_index(self, query) if query.index else _by_key(self, query)
        rows = await self.database.fetch(statement, *arguments)
        records = []
        for row in rows[: query.limit]:
            key = unpack_key(row["pk"], row["sk"])
            verify(row["crc"], lambda: f"{query.table} {key}", row["body"])  # noqa: B023
            records.append(Record(key, row["body"], row["version"], row["schema"]))
        more = len(rows) > query.limit
        return RecordPage(records, _place(rows[query.limit - 1], query) if more else None)

    async def history(self, table: str, key: Key, limit: int) -> list[Envelope]:
        rows = await self.database.fetch(
            f"{_EVENT} WHERE source = $1 AND subject = $2 ORDER BY seq DESC LIMIT $3",
            self.table_number(table),
            pack_text(subject(key)),
            limit,
        )
        return [_envelope(row) for row in rows]

    async def claimed(self, scope: str, id: str) -> bytes | None:
        rows = await self.database.fetch(
            "SELECT result FROM @claim WHERE scope = $1 AND id = $2 AND expires_ms > $3",
            pack_text(scope),
            pack_text(id),
            self.present_ms(),
        )
        return rows[0][0] if rows else None

    async def event(self, id: str) -> TracedEvent | None:
        found = await self._traced(f"{_EVENT} WHERE id = $1 ORDER BY seq", id)
        return found[0] if found else None

    async def trace(self, trace: str, limit: int = 1000) -> list[TracedEvent]:
        return await self._traced(f"{_EVENT} WHERE trace = $1 ORDER BY seq LIMIT $2", trace, limit)

    async def events(self, after: int, limit: int = 100) -> list[TracedEvent]:
        """Behind the oldest transaction that still writes: so that who reads on from a position misses nothing."""
        if after < 0:
            newest = await self._traced(f"{_EVENT} ORDER BY seq DESC LIMIT $1", limit)
            return sorted(newest, key=lambda event: event.position)
        settled = "tx < pg_snapshot_xmin(pg_current_snapshot())"
        return await self._traced(f"{_EVENT} WHERE seq > $1 AND {settled} ORDER BY seq LIMIT $2", after, limit)

    async def _traced(self, statement: str, *arguments: Any) -> list[TracedEvent]:
        """Events with the states of their messages; a redriven event, stored again, is told once."""
        found: dict[str, TracedEvent] = {}
        places: dict[str, dict[int, int]] = {}
        for row in await self.database.fetch(statement, *arguments):
            event = _envelope(row)
            found.setdefault(event.id, TracedEvent(position=row["seq"], event=event, messages={}))
            places.setdefault(event.id, {}).update(dict.fromkeys(read_queues(row["queues"]), row["seq"]))
        if found:
            await self._note(found, places)
        return list(found.values())

    async def _note(self, found: dict[str, TracedEvent], places: dict[str, dict[int, int]]) -> None:
        """Tell of each message of an event whether it waits, is dead or done, and what happened to it."""
        ids = list(found)
        failures = await self.failures(ids)
        flat = [(queue, seq) for of in places.values() for queue, seq in of.items()]
        waits = await self.database.fetch(_WAITING, [queue for queue, _ in flat], [seq for _, seq in flat])
        receiving = {(row["queue"], row["position"]): row["receives"] for row in waits}
        dead = {
            (event_id, queue): (letter, receives, unpack_text(reason))
            for event_id, queue, letter, receives, reason in await self.database.fetch(_DEAD, ids)
        }
        for id, traced in found.items():
            for number in {**places[id], **{queue: 0 for event, queue in dead if event == id}}:
                queue = self.state.names[number]
                place = (number, places[id].get(number, 0))
                waiting = place in receiving
                letter, receives, reason = dead.get((id, number), (None, None, None))
                if waiting:
                    receives = receiving[place]
                traced.messages[queue] = "waiting" if waiting else "done" if letter is None else "dead"
                if waiting or letter is not None or (id, number) in failures:
                    traced.notes[queue] = MessageNote(
                        receives=receives,
                        failures=failures.get((id, number), ()),
                        dead_letter=letter,
                        reason=reason,
                    )

    async def failures(self, event_ids: list[str]) -> Failures:
        """By event and queue the attempts that did not end in a plain acknowledgement, oldest first."""
        found: Failures = {}
        for event_id, queue, *values in await self.database.fetch(_ATTEMPTS, event_ids):
            told = {
                name: unpack_text(value) if isinstance(value, str) else value
                for name, value in zip(_FAILURE, values, strict=True)
            }
            found[event_id, queue] = (*found.get((event_id, queue), ()), told)
        return found


def _envelope(row: Any) -> Envelope:
    verify(row["crc"], lambda: f"event {row['seq']}", row["envelope"])
    return decode_envelope(row["envelope"])


def read_queues(queues: str) -> list[int]:
    """An event row's `queues`: the numbers of those that it went to, as a dead letter at once too."""
    return [abs(int(queue)) for queue in queues.split(",") if queue]


def _place(row: Any, query: Query) -> tuple[KeyPart, ...]:
    key = unpack_key(row["pk"], row["sk"])
    return (unpack_part(row["partition"]), unpack_part(row["sort"]), *key) if query.index else key


_CONTENT = "r.version, r.body, r.crc, r.schema"
_IN_FORCE = (
    "NOT EXISTS (SELECT FROM @load l JOIN @staged s ON s.load = l.id WHERE l.tbl = $1 AND l.state = 1"
    " AND s.pk = r.pk AND s.sk = r.sk AND (s.body IS NOT NULL OR s.expires_ms IS NULL OR s.expires_ms <= $2))"
)
"""Of a record: no load has replaced, removed or expired it."""


class _Reading:
    """A query's conditions, the same on records and on staged rows, and its order. $1 is the table, $2 the time."""

    def __init__(self, query: Query, columns: tuple[str, ...], arguments: list[Any]) -> None:
        self.arguments = arguments
        self._query = query
        packed_partition = pack_part if query.index else _pack_partition
        where: list[str] = []
        partition, sort = columns[0], columns[1]
        ranged, pack = partition, packed_partition
        if query.partition is not None:
            where.append(f"{partition} = {self._bind(packed_partition(query.partition))}")
            ranged, pack = sort, pack_part
        for value, comparison in ((query.low, ">="), (query.high, "<=")):
            if value is not None:
                where.append(f"{ranged} {comparison} {self._bind(pack(value))}")
        if query.prefix:
            prefix = pack(query.prefix)
            where.append(f"{ranged} >= {self._bind(prefix)} AND {ranged} < {self._bind(after_prefix(prefix))}")
        if query.after is not None:
            comparison = "<" if query.reverse else ">"
            after = ", ".join(self._bind(part) for part in _pack_place(query.after))
            where.append(f"({', '.join(columns)}) {comparison} ({after})")
        where.append("(r.expires_ms IS NULL OR r.expires_ms > $2)")
        self.where = " AND ".join(where)
        direction = " DESC" if query.reverse else ""
        names = (column.partition(".")[2] for column in columns)
        self.order = f" ORDER BY {', '.join(f'{name}{direction}' for name in names)}"
        self.limit = f" LIMIT {self._bind(query.limit + 1)}"

    def _bind(self, value: Any) -> str:
        self.arguments.append(value)
        return f"${len(self.arguments)}"

    def union(self, records: str, staged: str) -> str:
        """Both limited before they are merged, so that each is read along its index."""
        tail = self.order + self.limit
        return f"(({records}{tail}) UNION ALL ({staged}{tail})){tail}"


def _pack_partition(part: KeyPart) -> bytes:
    return str(part).encode()


def _pack_place(after: tuple[KeyPart, ...]) -> tuple[bytes, ...]:
    """A page's end: (partition, sort), or (index partition, index sort, partition, sort)."""
    entry = tuple(pack_part(part) for part in after[:-2])
    return (*entry, *pack_key((str(after[-2]), after[-1])))


def _by_key(store: Store, query: Query) -> tuple[str, list[Any]]:
    reading = _Reading(query, ("r.pk", "r.sk"), [store.table_number(query.table), store.present_ms()])
    fields = f"SELECT r.pk, r.sk, {_CONTENT}"
    records = f"{fields} FROM @record r WHERE r.tbl = $1 AND {reading.where} AND {_IN_FORCE}"
    staged = (
        f"{fields} FROM @staged r WHERE r.load = (SELECT id FROM @load WHERE tbl = $1 AND state = 1)"
        f" AND r.body IS NOT NULL AND {reading.where}"
    )
    return reading.union(records, staged), reading.arguments


def _by_index(store: Store, query: Query) -> tuple[str, list[Any]]:
    number = store.state.ids.get(f"{query.table}#{query.index}")
    if number is None:
        raise UnknownResource("the table has no such index", operation="query", resource=f"{query.table}#{query.index}")
    arguments = [store.table_number(query.table), store.present_ms(), number]
    reading = _Reading(query, ("e.partition", "e.sort", "e.pk", "e.sk"), arguments)
    fields = f"SELECT e.pk, e.sk, {_CONTENT}, e.partition, e.sort"
    records = (
        f"{fields} FROM @entry e"
        " CROSS JOIN LATERAL (SELECT * FROM @record x WHERE x.tbl = $1 AND x.pk = e.pk AND x.sk = e.sk LIMIT 1) r"
        f" WHERE e.idx = $3 AND {reading.where} AND {_IN_FORCE}"
    )
    staged = (
        f"{fields} FROM @staged_entry e"
        " CROSS JOIN LATERAL (SELECT * FROM @staged x WHERE x.load = e.load AND x.pk = e.pk AND x.sk = e.sk LIMIT 1) r"
        f" WHERE e.load = (SELECT id FROM @load WHERE tbl = $1 AND state = 1) AND e.idx = $3 AND {reading.where}"
    )
    return reading.union(records, staged), reading.arguments
