"""`PostgresEngine`: opening, closing, and the catalog. Its other methods are in the parts it extends."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from headwater.applying.batch import entry_rows
from headwater.applying.installing import check_keys, check_targets, orphans, part_of
from headwater.applying.state import Counts
from headwater.catalog import Catalog, TableSpec
from headwater.clock import Clock
from headwater.engine import Features
from headwater.engines.postgres.database import Connection, checksum, translate
from headwater.engines.postgres.flush import columns, pack_entry
from headwater.engines.postgres.inspection import Inspections
from headwater.engines.postgres.keys import unpack_key
from headwater.engines.postgres.migrations import check_schema
from headwater.engines.postgres.queues import GATE, REVISE
from headwater.engines.postgres.state import State
from headwater.engines.postgres.writer import Writer
from headwater.errors import HeadwaterError, StoreError
from headwater.unit import Commit, Committed

MAX_OPERATIONS = 10_000
OLDEST_SERVER = 150_000
_SETTINGS = (
    "SELECT current_setting('server_version_num')::int AS version, current_setting('fsync') AS fsync,"
    " current_setting('full_page_writes') AS full_page_writes, current_setting('synchronous_commit') AS flushed"
)
_INTERN = "INSERT INTO @name (name) VALUES ($1) ON CONFLICT (name) DO NOTHING"
_RENAME = "UPDATE @name SET name = $2 WHERE name = $1 AND NOT EXISTS (SELECT FROM @name WHERE name = $2)"
_NAMES = "SELECT id, name FROM @name"
_APP = "INSERT INTO @app VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET catalog = excluded.catalog"
_UNINDEX = "DELETE FROM @entry WHERE idx = $1"
_PAGE = "SELECT pk, sk, body FROM @record WHERE tbl = $1 AND (pk, sk) > ($2, $3) ORDER BY pk, sk LIMIT 1000"
_STAGED_PAGE = (
    "SELECT s.pk, s.sk, s.body, s.load FROM @staged s JOIN @load l ON l.id = s.load WHERE l.tbl = $1 AND l.state = 1"
    " AND s.body IS NOT NULL AND (s.pk, s.sk) > ($2, $3) ORDER BY s.pk, s.sk LIMIT 1000"
)
_INDEX = (
    "INSERT INTO @entry SELECT * FROM unnest($1::int[], $2::bytea[], $3::bytea[], $4::bytea[], $5::bytea[])"
    " ON CONFLICT DO NOTHING"
)
_INDEX_STAGED = (
    "INSERT INTO @staged_entry SELECT $6::bigint, * FROM unnest($1::int[], $2::bytea[], $3::bytea[], $4::bytea[],"
    " $5::bytea[]) ON CONFLICT DO NOTHING"
)
_COUNT = (
    "SELECT (SELECT count(*) FROM @message WHERE queue = $1) AS depth,"
    " (SELECT count(*) FROM @dead WHERE queue = $1) AS dead"
)
_BODIES = (
    ("record", "pk::text", "body"),
    ("event", "id", "envelope"),
    ("dead", "id::text", "envelope"),
    ("staged", "pk::text", "body"),
)
_MISSING = "SELECT m.queue, m.position FROM @message m WHERE NOT EXISTS (SELECT FROM @event e WHERE e.seq = m.position)"


class PostgresEngine(Inspections):
    """One store in one schema of a database; any number of processes may have it open."""

    features = Features(engine="postgres", max_unit_operations=MAX_OPERATIONS)

    def __init__(self, url: str, *, clock: Clock, read_only: bool = False) -> None:
        super().__init__(url, clock, read_only=read_only)
        self._lifecycle = asyncio.Lock()
        self._writer: Writer | None = None

    async def open(self) -> None:
        async with self._lifecycle:
            if self.database.is_open:
                raise StoreError("the store is open", operation="open", resource=self.address.shown)
            self._prepare_deliveries()
            self._prepare_queues()
            self._prepare_beats()
            self._prepare_listening()
            self._prepare_loads()
            self.broken_by: asyncio.Future[HeadwaterError] = asyncio.get_running_loop().create_future()
            await self.database.open()
            try:
                await self._check_server()
                await check_schema(self.database, create=not self.read_only)
                await self.reload()
                await self._measure()
                if not self.read_only:
                    await self._first_beat()
                    self._writer = Writer(self, ending=self._ending, done=self._written)
                    self._beat_later()
                    self._start_listening()
            except BaseException:
                await self.database.close()
                raise

    async def _check_server(self) -> None:
        """Refuse a database that does not keep what it acknowledges."""
        ((version, fsync, full_page_writes, flushed),) = await self.database.fetch(_SETTINGS)
        if version < OLDEST_SERVER:
            raise self._refused(f"PostgreSQL {version // 10_000} is too old", "it takes PostgreSQL 15 or newer")
        for name, value in (("fsync", fsync), ("full_page_writes", full_page_writes)):
            if value != "on":
                raise self._refused(f"{name} is off: acknowledged commits would be lost", f"set {name} = on")
        if flushed in ("off", "local") and not self.address.relaxed:
            raise self._refused(
                f"synchronous_commit is {flushed}: acknowledged commits may be lost",
                "set it on, or say that you want it so with &durability=relaxed in the store's URL",
            )

    def _refused(self, message: str, hint: str) -> StoreError:
        return StoreError(message, operation="open", resource=self.address.shown, hint=hint)

    async def close(self) -> None:
        async with self._lifecycle:
            if not self.database.is_open:
                return
            try:
                await self._end_questions()
                if self._writer is not None:
                    await self._writer.stop()
                    self._writer = None
                    self._closing = True
                    await self._stop_listening()
                    await self._leave()
            except HeadwaterError:
                """The others take back what it held."""
            finally:
                self._closing = True
                for task in list(self._tasks):
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)
                self._end_waiting()
                await self.database.close()

    def _end_waiting(self) -> None:
        """Cancel the timers, and let those who wait for messages see that the store is closed."""
        for line in self._lines.values():
            if line.timer is not None:
                line.timer.cancel()
            while line.waiters:
                line.wake()
        for timer in (self._expiry, self._beat_timer, self._poll_timer):
            if timer is not None:
                timer.cancel()

    def commit(self, commit: Commit) -> asyncio.Future[Committed]:
        self.writable()
        if self._writer is None:
            raise StoreError("the store is not open", operation="commit", resource=self.address.shown)
        return self._writer.submit(commit)

    async def submit(self, commit: Commit) -> None:
        await self.commit(commit)

    async def broken(self) -> HeadwaterError:
        return await asyncio.shield(self.broken_by)

    def fail(self, error: Exception) -> None:
        if not self.broken_by.done():
            self.broken_by.set_result(translate(error, "use", self.address))

    async def now_ms(self) -> int:
        return self.present_ms()

    async def catalog(self) -> Catalog:
        await self.reload()
        return self.state.merged()

    async def install(self, catalog: Catalog) -> int:
        self.writable()
        await self.reload()
        for app in catalog.apps:
            await self._install(app, part_of(catalog, app))
        return self.state.head.revision

    async def _install(self, app: str, part: Catalog) -> None:
        """Judge and write the app's part while nobody commits."""

        async def work() -> None:
            async with self.database.transaction() as connection:
                await connection.fetch(GATE, self.gate)
                state = State()
                await state.load(connection, self.address.schema)
                await self._count_queues(connection, state, app)
                part.queues.update(orphans(state, app, part))
                if state.apps.get(app) != part:
                    await self._write_part(connection, state, app, part)

        await self.database.patiently("install", work)
        await self.reload()
        self.revised()

    async def _count_queues(self, connection: Connection, state: State, app: str) -> None:
        for name in state.apps.get(app, Catalog(apps=())).queues:
            row = await connection.fetchrow(self.database.sql(_COUNT), state.ids[name])
            assert row is not None
            state.counts[state.ids[name]] = Counts(row["depth"], row["dead"])

    async def _write_part(self, connection: Connection, state: State, app: str, part: Catalog) -> None:
        async def run(statement: str, *arguments: Any) -> None:
            await connection.execute(self.database.sql(statement), *arguments)

        before = state.apps.get(app, Catalog(apps=(app,)))
        check_keys(before, part)
        state.apps[app] = part
        state.compile()
        check_targets(part, state)
        for old, new in part.renamed.items():
            await run(_RENAME, old, new)
        indexes = [f"{spec.name}#{index.name}" for spec in part.tables.values() for index in spec.indexes]
        for name in (*part.tables, *part.topics, *part.queues, *indexes):
            await run(_INTERN, name)
        await run(_APP, app, msgspec.json.encode(part))
        await run(REVISE)
        state.names = {row[0]: row[1] for row in await connection.fetch(self.database.sql(_NAMES))}
        state.ids = {name: id for id, name in state.names.items()}
        for spec in part.tables.values():
            if spec.name in before.tables:
                await self._build_indexes(connection, state, before.tables[spec.name], spec)

    async def _build_indexes(self, connection: Connection, state: State, before: TableSpec, spec: TableSpec) -> None:
        known = set(before.indexes)
        wanted = tuple(index for index in spec.indexes if index not in known)
        if not wanted:
            return
        for index in wanted:
            await connection.execute(self.database.sql(_UNINDEX), state.ids[f"{spec.name}#{index.name}"])
        partial, table = msgspec.structs.replace(spec, indexes=wanted), state.ids[spec.name]
        for statement, into in ((_PAGE, _INDEX), (_STAGED_PAGE, _INDEX_STAGED)):
            after = (b"", b"")
            while rows := await connection.fetch(self.database.sql(statement), table, *after):
                entries = [
                    pack_entry(entry)
                    for row in rows
                    for entry in entry_rows(partial, state.ids, unpack_key(row["pk"], row["sk"]), row["body"])
                ]
                load = [rows[0]["load"]] if into is _INDEX_STAGED else []
                await connection.execute(self.database.sql(into), *columns(entries, 5), *load)
                after = (rows[-1]["pk"], rows[-1]["sk"])

    async def check(self) -> list[str]:
        found: list[str] = []
        for table, label, body in _BODIES:
            statement = self.database.sql(f"SELECT {label}, {body}, crc FROM @{table} WHERE {body} IS NOT NULL")
            async with self.database.transaction(readonly=True) as connection:
                async for name, content, crc in connection.cursor(statement, prefetch=500):
                    if checksum(content) != crc:
                        found.append(f"{table} {name}: its checksum does not match its bytes")
        for queue, position in await self.database.fetch(_MISSING):
            found.append(f"message {queue}/{position}: its event is missing")
        return found
