"""Forgetting a key: looking up what the store keeps of it, and having the database give up the bytes.

Each look-up is a statement of its own, of a slice; what was found goes out with commits (`redaction.py`).

PostgreSQL keeps what was deleted or replaced as dead rows until a VACUUM, which spares those that a transaction might
still see. `scrub` asks for the oldest of these: when all that are open began after `scrub` did, so after the commits
of the erasure, VACUUM takes out every row that they made dead, with its index entries.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from headwater.applying import forgetting as searching
from headwater.applying.documents import subject
from headwater.applying.forgetting import Found, Part, Search
from headwater.applying.state import Counts, decode_envelope
from headwater.engine import Forgotten, Remains
from headwater.engines.postgres.database import Pauses, verify
from headwater.engines.postgres.keys import pack_key, pack_text, unpack_text
from headwater.engines.postgres.queues import GATE
from headwater.engines.postgres.records import read_queues
from headwater.engines.postgres.staging import Loads
from headwater.errors import StoreError

SCAN = 500
VACUUM_S = 3600.0
SHORT_S = 2.0
"""How long to wait for transactions that are open: those of commits end in a moment."""
_SLICE = 50
_CHANGES = "SELECT seq, envelope, crc, queues FROM @event"
OWN = f"{_CHANGES} WHERE source = $1 AND subject = $2 AND seq > $3 ORDER BY seq LIMIT $4"
TRACE = "SELECT seq FROM @event WHERE trace = $1 AND seq > $2 ORDER BY seq + 0 LIMIT $3"
HAVING = (
    f"{_CHANGES} WHERE seq = ANY ($1) AND EXISTS (SELECT FROM unnest($2::bytea[]) n WHERE position(n IN envelope) > 0)"
    " ORDER BY seq"
)
WAITING = (
    "SELECT m.queue, m.position FROM unnest($1::int[], $2::bigint[]) AS k(queue, position)"
    " JOIN @message m ON m.queue = k.queue AND m.position = k.position"
)
LETTERS = "SELECT id, envelope, crc FROM @dead WHERE id > $1 ORDER BY id LIMIT $2"
CLAIMS = "SELECT scope, id, result FROM @claim WHERE (scope, id) > ($1, $2) ORDER BY scope, id LIMIT $3"
STAGED = (
    "SELECT l.id FROM @load l WHERE l.tbl = $1 AND l.state <> 1"
    " AND EXISTS (SELECT FROM @staged s WHERE s.load = l.id AND s.pk = $2 AND s.sk = $3)"
)
MEMBERS = (
    "SELECT g.scope FROM @generation g WHERE g.tbl = $1"
    " AND EXISTS (SELECT FROM @member m WHERE m.tbl = g.tbl AND m.scope = g.scope AND m.pk = $2 AND m.sk = $3)"
)
_UNLEASED = (
    "SELECT position, grp FROM @message WHERE queue = $1 AND position = ANY ($2) AND fence = 0"
    " ORDER BY position FOR UPDATE SKIP LOCKED"
)
_NOW = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text"
_HELD_BACK = (
    "SELECT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid <> pg_backend_pid()"
    " AND (a.datname = current_database() OR a.datname IS NULL)"
    " AND NOT EXISTS (SELECT FROM pg_stat_progress_vacuum v WHERE v.pid = a.pid)"
    " AND greatest(age(a.backend_xid), age(a.backend_xmin)) > age($1::text::xid8::xid))"
    " OR EXISTS (SELECT FROM pg_prepared_xacts p WHERE p.database = current_database()"
    " AND age(p.transaction) > age($1::text::xid8::xid))"
    " OR EXISTS (SELECT FROM pg_replication_slots s WHERE age(s.xmin) > age($1::text::xid8::xid))"
)
_TABLES = ("record", "entry", "event", "message", "attempt", "dead", "claim", "staged", "staged_entry", "member")
_OTHERS = (
    "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE n.nspname = $1 AND c.relname = ANY ($2) AND NOT (pg_has_role(c.relowner, 'USAGE')"
    " OR (SELECT pg_has_role(d.datdba, 'USAGE') FROM pg_database d WHERE d.datname = current_database())"
    " OR CASE WHEN current_setting('server_version_num')::int >= 170000"
    " THEN has_table_privilege(c.oid, 'MAINTAIN') ELSE false END) ORDER BY 1"
)


class _Search(Search):
    def __init__(self, store: Loads) -> None:
        self._store = store

    async def own(self, forgotten: Forgotten) -> AsyncGenerator[list[Found], None]:
        """Copies made later of changes from before it was forgotten are among them: those have the changes' time."""
        source, named = self._store.state.ids.get(forgotten.table, 0), pack_text(subject(forgotten.key))
        for own in (named, f"/{named}"):
            after = 0
            while rows := await self._events(OWN, source, own, after, searching.SLICE):
                yield [
                    found
                    for found in rows
                    if found.place <= forgotten.until or (own != named and found.event.time_ms < forgotten.until_ms)
                ]
                after = rows[-1].place

    async def having(self, trace: str, needles: Sequence[bytes]) -> AsyncGenerator[list[Found], None]:
        after = 0
        while seqs := [seq for (seq,) in await self._store.database.fetch(TRACE, trace, after, SCAN)]:
            for at in range(0, len(seqs), searching.SLICE):
                yield await self._events(HAVING, seqs[at : at + searching.SLICE], needles)
            after = seqs[-1]

    async def _events(self, statement: str, *arguments: Any) -> list[Found]:
        rows = await self._store.database.fetch(statement, *arguments)
        places = [(queue, seq) for seq, _, _, queues in rows for queue in read_queues(queues)]
        waiting: dict[int, list[tuple[str, int]]] = {}
        if places:
            queues, positions = zip(*places, strict=True)
            for queue, position in await self._store.database.fetch(WAITING, queues, positions):
                waiting.setdefault(position, []).append((self._store.state.names[queue], position))
        found = []
        for seq, body, crc, _ in rows:
            verify(crc, lambda: f"event {seq}", body)  # noqa: B023
            found.append(Found(seq, decode_envelope(body), len(body), waiting.get(seq, ())))
        return found

    async def letters(self) -> AsyncGenerator[list[Found], None]:
        after = 0
        while rows := await self._store.database.fetch(LETTERS, after, searching.SLICE):
            for id, body, crc in rows:
                verify(crc, lambda: f"dead letter {id}", body)  # noqa: B023
            yield [Found(id, decode_envelope(body), len(body)) for id, body, _ in rows]
            after = rows[-1]["id"]

    async def loaded(self, forgotten: Forgotten) -> AsyncGenerator[Part, None]:
        table = self._store.state.ids.get(forgotten.table, 0)
        key = pack_key(forgotten.key)
        for (load,) in await self._store.database.fetch(STAGED, table, *key):
            yield Part("staged", (load, *forgotten.key))
        for (scope,) in await self._store.database.fetch(MEMBERS, table, *key):
            yield Part("member", (table, scope, *forgotten.key))

    async def claims(self) -> AsyncGenerator[list[tuple[str, str, bytes]], None]:
        after = ("", "")
        while rows := await self._store.database.fetch(CLAIMS, *after, searching.SLICE):
            yield [(unpack_text(scope), unpack_text(id), result) for scope, id, result in rows]
            after = (rows[-1]["scope"], rows[-1]["id"])


class Forgetting(Loads):
    async def traces(self, forgotten: Forgotten) -> set[str]:
        return await _Search(self).traces(forgotten)

    def remains(self, forgotten: Forgotten, traces: set[str]) -> AsyncGenerator[Remains, None]:
        return _Search(self).remains(forgotten, traces)

    async def withdraw(self, places: Sequence[tuple[str, int]]) -> int:
        self.writable()
        total = 0
        for queue in sorted({queue for queue, _ in places}):
            positions = [position for of, position in places if of == queue]
            for at in range(0, len(positions), _SLICE):
                total += await self._withdraw(self.state.ids[queue], positions[at : at + _SLICE])
        return total

    async def _withdraw(self, number: int, positions: list[int]) -> int:
        async def work() -> int:
            async with self.database.transaction() as connection:
                # Nobody may send to a group while its head goes.
                await connection.fetch(GATE, self.gate)
                rows = await connection.fetch(self.database.sql(_UNLEASED), number, positions)
                await self.remove(connection, number, [(row["position"], row["grp"]) for row in rows])
                return len(rows)

        removed = await self.database.patiently("write", work)
        self.state.counts.setdefault(number, Counts()).settled += removed
        if removed:
            self.announce({number})
        return removed

    async def scrub(self) -> bool:
        """Also False while a standby or a replication slot holds rows back."""
        self.writable()
        if not await self._all_can_see():
            return False
        schema = self.address.schema
        if others := [table for (table,) in await self.database.fetch(_OTHERS, schema, _TABLES)]:
            raise StoreError(
                f"the store's user may not VACUUM {', '.join(others)}",
                operation="forget",
                resource=self.address.shown,
                hint="make the store's user a member of the role that owns its tables",
            )

        async def vacuum() -> None:
            connection = await self.database.connect()
            try:
                for table in _TABLES:
                    statement = self.database.sql(f"VACUUM (INDEX_CLEANUP ON) @{table}")
                    await connection.execute(statement, timeout=VACUUM_S)
                await connection.close(timeout=5.0)
            finally:
                connection.terminate()

        await self.database.patiently("forget", vacuum)
        return True

    async def _all_can_see(self) -> bool:
        """Whether each transaction that is open sees what was written up to now."""
        ((now,),) = await self.database.fetch(_NOW)
        pauses = Pauses(SHORT_S)
        while (await self.database.fetch(_HELD_BACK, now))[0][0]:
            if pauses.over:
                return False
            await pauses.wait()
        return True
