"""Expiry and retention, in small slices that block no other writer for long. Any process may do it, at any time."""

from __future__ import annotations

from typing import Any

from headwater.engines.postgres.database import checksum
from headwater.engines.postgres.keys import unpack_key
from headwater.engines.postgres.queues import GATE, Queues
from headwater.ids import new_id
from headwater.unit import Commit, Write

_EXPIRED = "SELECT tbl, pk, sk FROM @record WHERE expires_ms <= $1 AND tbl = ANY ($2) ORDER BY expires_ms LIMIT $3"
_OVERDUE = (
    "SELECT m.position, m.grp, m.receives, e.id, e.envelope FROM @message m JOIN @event e ON e.seq = m.position"
    " WHERE m.queue = $1 AND m.sent_ms <= $2 AND m.fence = 0 ORDER BY m.position LIMIT $3 FOR UPDATE OF m SKIP LOCKED"
)
_OLDEST = "SELECT sent_ms FROM @message WHERE queue = $1 ORDER BY position LIMIT 1"
_BURY = (
    "INSERT INTO @dead (queue, event_id, envelope, crc, grp, receives, reason, died_ms)"
    " SELECT $1::int, e.id, e.body, e.crc, e.grp, e.receives, 'retention: waited too long', $7::bigint"
    " FROM unnest($2::text[], $3::bytea[], $4::bigint[], $5::text[], $6::int[]) AS e(id, body, crc, grp, receives)"
)
_CLAIMS = (
    "DELETE FROM @claim WHERE (scope, id) IN (SELECT scope, id FROM @claim WHERE expires_ms <= $1"
    " ORDER BY expires_ms LIMIT $2 FOR UPDATE SKIP LOCKED) RETURNING 1"
)
_EVENTS = (
    "SELECT e.seq, e.id, e.time_ms,"
    " EXISTS (SELECT FROM unnest(string_to_array(nullif(e.queues, ''), ',')::int[]) q"
    " JOIN @message m ON m.queue = q AND m.position = e.seq) AS needed"
    " FROM @event e WHERE e.seq > $1 ORDER BY e.seq LIMIT $2"
)
_NEWEST = "SELECT seq FROM @event ORDER BY seq DESC OFFSET $1 LIMIT 1"
_LONG = 100_000
_ABOUT = "SELECT reltuples::bigint FROM pg_class WHERE oid = to_regclass($1)"
_SWEEP = "DELETE FROM @event WHERE seq = ANY ($1)"
_ATTEMPTS = (
    "DELETE FROM @attempt a WHERE a.event_id = ANY ($1)"
    " AND NOT EXISTS (SELECT FROM @dead d WHERE d.event_id = a.event_id)"
)


class Upkeep(Queues):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._oldest_sent: dict[int, int] = {}

    _swept = 0
    """The last event that sweeping has passed; the next slice begins after it, so kept ones hold up nobody."""

    async def expire_records(self, limit: int) -> int:
        tables = [self.state.ids[name] for name in self.state.tables]
        rows = await self.database.fetch(_EXPIRED, self.present_ms(), tables, limit)
        if not rows:
            return 0
        commit = Commit(id=new_id())
        commit.trace = commit.id
        for n, (tbl, pk, sk) in enumerate(rows):
            key = unpack_key(pk, sk)
            commit.writes.append(Write(self.state.names[tbl], key, f"{commit.id}-{n}", expired=True))
        await self.submit(commit)
        return len(rows)

    async def expire_messages(self, limit: int) -> int:
        total = 0
        for queue, spec in list(self.state.queues.items()):
            number = self.queue_number(queue)
            oldest_ms = self.present_ms() - spec.retention_ms
            if await self._oldest(number, oldest_ms) <= oldest_ms:
                total += await self._expire_queue(number, oldest_ms, limit - total)
            if total >= limit:
                break
        return total

    async def _oldest(self, number: int, oldest_ms: int) -> int:
        """When the oldest message of a queue was sent, at the earliest: asked for when the last one is due."""
        known = self._oldest_sent.get(number, 0)
        if known <= oldest_ms:
            now_ms = self.present_ms()
            rows = await self.database.fetch(_OLDEST, number)
            known = self._oldest_sent[number] = rows[0][0] if rows else now_ms
        return known

    async def _expire_queue(self, number: int, oldest_ms: int, limit: int) -> int:
        self.writable()

        async def work() -> int:
            async with self.database.transaction() as connection:
                await connection.fetch(GATE, self.gate)
                rows = await connection.fetch(self.database.sql(_OVERDUE), number, oldest_ms, limit)
                if rows:
                    bodies = [row["envelope"] for row in rows]
                    await connection.execute(
                        self.database.sql(_BURY),
                        number,
                        [row["id"] for row in rows],
                        bodies,
                        [checksum(body) for body in bodies],
                        [row["grp"] for row in rows],
                        [row["receives"] for row in rows],
                        self.present_ms(),
                    )
                    await self.remove(connection, number, [(row["position"], row["grp"]) for row in rows])
                return len(rows)

        died = await self.database.patiently("write", work)
        if died:
            self.announce({number})
        return died

    async def sweep(self, history_ms: int, limit: int, *, most: int | None = None) -> int:
        self.writable()
        now_ms = self.present_ms()
        swept = len(await self.database.fetch(_CLAIMS, now_ms, limit))
        oldest_seq = 0
        if most is not None and await self._may_hold(most):
            newest = await self.database.fetch(_NEWEST, most)
            oldest_seq = newest[0][0] if newest else 0
        rows = await self.database.fetch(_EVENTS, self._swept, limit)
        # The first young event ends it: times hardly step back along seq, and the next round looks again.
        passed = []
        for row in rows:
            if row["seq"] > oldest_seq and row["time_ms"] > now_ms - history_ms:
                break
            passed.append(row)
        self._swept = passed[-1]["seq"] if len(passed) == limit else 0
        gone = [row for row in passed if not row["needed"]]
        if gone:
            await self._sweep_events([row["seq"] for row in gone], [row["id"] for row in gone])
        return swept + len(gone)

    async def _may_hold(self, most: int) -> bool:
        """Whether the history may have more events than `most`, which is told from statistics when it is long."""
        if most < _LONG:
            return True
        ((about,),) = await self.database.fetch(_ABOUT, f"{self.address.schema}.event")
        return bool(about >= most * 0.8)

    async def _sweep_events(self, seqs: list[int], ids: list[str]) -> None:
        async def work() -> None:
            async with self.database.transaction() as connection:
                await connection.execute(self.database.sql(_SWEEP), seqs)
                await connection.execute(self.database.sql(_ATTEMPTS), ids)

        await self.database.patiently("write", work)
