"""Expiry and retention, in small slices that block no other writer for long."""

from __future__ import annotations

from array import array
from typing import Any

import apsw

from headwater.engines.sqlite.database import Row, checksum, fetch, insert_rows
from headwater.engines.sqlite.queues import Queues, delete_messages
from headwater.engines.sqlite.records import read_places
from headwater.ids import new_id
from headwater.unit import Commit, Write


class Upkeep(Queues):
    _swept = 0
    """The last event that sweeping has passed; the next slice begins after it, so kept ones hold up nobody."""

    async def expire_records(self, limit: int) -> int:
        if not self.state.tables:
            return 0
        rows = fetch(
            self.reader,
            "SELECT tbl, pk, sk FROM record WHERE expires_ms <= ? AND tbl IN carray(?) ORDER BY expires_ms LIMIT ?",
            (self.present_ms(), apsw.carray(array("q", [self.state.ids[name] for name in self.state.tables])), limit),
        )
        if not rows:
            return 0
        commit = Commit(id=new_id())
        commit.trace = commit.id
        for n, (tbl, pk, sk) in enumerate(rows):
            commit.writes.append(Write(self.state.names[tbl], (pk, sk), f"{commit.id}-{n}", expired=True))
        await self.writer.submit(commit)
        return len(rows)

    async def expire_messages(self, limit: int) -> int:
        total = 0
        for queue, spec in list(self.state.queues.items()):
            number = self.queue_number(queue)
            oldest_ms = self.present_ms() - spec.retention_ms
            due = fetch(self.reader, "SELECT sent_ms FROM message WHERE queue = ? ORDER BY position LIMIT 1", (number,))
            if due and due[0][0] <= oldest_ms:
                total += await self._expire_queue(number, oldest_ms, limit - total)
            if total >= limit:
                break
        return total

    async def _expire_queue(self, number: int, oldest_ms: int, limit: int) -> int:
        def work(connection: apsw.Connection, held: list[int]) -> int:
            rows = fetch(
                connection,
                "SELECT m.position, e.id, e.envelope, m.grp, m.receives FROM message m"
                " CROSS JOIN event e ON e.seq = m.event"
                " WHERE m.queue = ? AND m.sent_ms <= ? ORDER BY m.position LIMIT ?",
                (number, oldest_ms, limit),
            )
            self._hold(number, [row[0] for row in rows], held)
            now_ms, chosen = self.writer.now_ms(), set(held)
            letters = [
                (number, id, body, checksum(body), group, receives, "retention: waited too long", now_ms)
                for position, id, body, group, receives in rows
                if position in chosen
            ]
            if letters:
                insert_rows(
                    connection,
                    "INSERT INTO dead (queue, event_id, envelope, crc, grp, receives, reason, died_ms)",
                    letters,
                )
            delete_messages(connection, number, held)
            return 0

        died, _ = await self._remove(number, work, die=True)
        return died

    async def sweep(self, history_ms: int, limit: int, *, most: int | None = None) -> int:
        oldest_ms = self.present_ms() - history_ms
        oldest_seq = 0 if most is None else self.state.head.event_seq - most
        if not self._anything_to_sweep(oldest_ms, oldest_seq):
            return 0

        def work(connection: apsw.Connection) -> Any:
            connection.execute(
                "DELETE FROM claim WHERE (scope, id) IN"
                " (SELECT scope, id FROM claim WHERE expires_ms <= ? ORDER BY expires_ms LIMIT ?)",
                (self.writer.now_ms(), limit),
            )
            swept = connection.changes()
            rows = fetch(
                connection,
                "SELECT seq, id, messages, time_ms FROM event WHERE seq > ? ORDER BY seq LIMIT ?",
                (self._swept, limit),
            )
            # Time never steps back along seq: what follows the first young event is younger still.
            rows = [row for row in rows if row[0] <= oldest_seq or row[-1] <= oldest_ms]
            self._swept = rows[-1][0] if len(rows) == limit else 0
            return swept + _sweep_events(connection, rows)

        return int(await self.writer.run(work))

    def _anything_to_sweep(self, oldest_ms: int, oldest_seq: int) -> bool:
        """Looked up before a commit is spent on it."""
        claims = fetch(self.reader, "SELECT 1 FROM claim WHERE expires_ms <= ? LIMIT 1", (self.present_ms(),))
        following = fetch(
            self.reader, "SELECT seq, time_ms FROM event WHERE seq > ? ORDER BY seq LIMIT 1", (self._swept,)
        )
        old = any(seq <= oldest_seq or time_ms <= oldest_ms for seq, time_ms in following)
        if not old:
            self._swept = 0
        return old or bool(claims)


def _sweep_events(connection: apsw.Connection, rows: list[Row]) -> int:
    """Delete those of the events that no waiting message needs, with the attempts made on them."""
    gone = [(seq, id) for seq, id, messages, _ in rows if not _is_needed(connection, messages)]
    if not gone:
        return 0
    connection.execute("DELETE FROM event WHERE seq IN carray(?)", (apsw.carray(array("q", [s for s, _ in gone])),))
    connection.execute(
        "DELETE FROM attempt WHERE event_id IN carray(?) AND NOT EXISTS"
        " (SELECT 1 FROM dead WHERE dead.event_id = attempt.event_id)",
        (apsw.carray(tuple(id for _, id in gone)),),
    )
    return len(gone)


def _is_needed(connection: apsw.Connection, messages: str) -> bool:
    """Whether one of the event's messages still waits."""
    return any(
        fetch(connection, "SELECT 1 FROM message WHERE queue = ? AND position = ?", place)
        for place in read_places(messages).items()
    )
