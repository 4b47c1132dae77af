"""`SqliteEngine`: opening, recovering, closing, and the catalog. Its other methods are in the parts it extends."""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path

import apsw
import msgspec

from headwater.catalog import Catalog, QueueSpec, Router, TableSpec
from headwater.clock import Clock
from headwater.engine import Features
from headwater.engines.sqlite.batch import entry_rows
from headwater.engines.sqlite.board import Board
from headwater.engines.sqlite.database import checksum, connect, fetch, insert_rows, open_writer, translate
from headwater.engines.sqlite.state import State
from headwater.engines.sqlite.upkeep import Upkeep
from headwater.engines.sqlite.writer import Writer
from headwater.errors import DeclarationError, StoreDamaged, StoreError, StoreLocked
from headwater.unit import Commit, Committed

MAX_OPERATIONS = 10_000


class SqliteEngine(Upkeep):
    """One store in one folder. `synchronous` and `vfs` are for tests of durability."""

    features = Features(engine="sqlite", max_unit_operations=MAX_OPERATIONS, single_process=True)

    def __init__(
        self,
        folder: Path,
        *,
        clock: Clock,
        read_only: bool = False,
        synchronous: str = "FULL",
        vfs: str | None = None,
    ) -> None:
        super().__init__(folder, clock, read_only=read_only)
        self._synchronous = synchronous
        self._vfs = vfs
        self._lock: int | None = None
        self._tasks = set()

    async def open(self) -> None:
        self.state = State()
        self._prepare_deliveries()
        try:
            if self.read_only:
                self._open_reader()
            else:
                self._open_owner()
        except apsw.Error as error:
            self._let_go()
            raise translate(error, "open") from error
        except Exception:
            self._let_go()
            raise
        self.state.load(self.reader)

    def _open_reader(self) -> None:
        path = self.folder / "store.db"
        if not path.exists():
            raise StoreError("there is no store here", operation="open", resource=str(self.folder))
        self.reader = connect(path, read_only=True, vfs=self._vfs)

    def _open_owner(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        path = self.folder / "store.db"
        connection = open_writer(path, synchronous=self._synchronous, vfs=self._vfs)
        self._connection = connection
        self.state.load(connection)
        self.board = Board(self.folder / "board")
        self._recover(connection)
        self.reader = connect(path, read_only=True, vfs=self._vfs)
        self._writer = Writer(connection, self.state, self.board, self.clock, self._committed)
        self._writer.start()

    def _take_lock(self) -> None:
        self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._lock, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._lock)
            self._lock = None
            raise StoreLocked(
                f"process {holder} owns the store",
                operation="open",
                resource=str(self.folder),
                hint="stop it, or talk to it: every command does when it finds it running",
            ) from error
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)

    def _recover(self, connection: apsw.Connection) -> None:
        """Hold the store against the board; count a receive for each delivery that ran when the process died."""
        store, flushed, running = self.board.read()
        head = self.state.head
        if store and (store != head.store or flushed > head.commit_no):
            raise StoreDamaged(
                f"acknowledged commits are missing: the store ends at {head.commit_no}, {flushed} were flushed"
                if store == head.store
                else "the board beside it belongs to another store",
                operation="open",
                resource=str(self.folder),
                hint="its WAL was damaged or an older copy was restored; `headwater doctor --accept` goes on with it",
            )
        if running:
            connection.execute("BEGIN IMMEDIATE")
            for queue, position in running:
                self._count_death(connection, queue, position)
            connection.execute("UPDATE head SET commit_no = commit_no + 1")
            connection.execute("COMMIT")
            head.commit_no += 1
            self._suspects = running
        self.board.reset(head.store, head.commit_no)

    def _count_death(self, connection: apsw.Connection, queue: int, position: int) -> None:
        now_ms = self.present_ms()
        rows = fetch(
            connection,
            "UPDATE message SET receives = receives + 1, ready_ms = 0 WHERE queue = ? AND position = ?"
            " RETURNING receives, event",
            (queue, position),
        )
        for receives, seq in rows:
            connection.execute(
                "INSERT INTO attempt SELECT id, ?, ?, 'died', 'the process died while the handler ran', '', ?, ?"
                " FROM event WHERE seq = ?",
                (queue, receives, now_ms, now_ms, seq),
            )

    async def accept(self) -> None:
        """Go on with a store that is older than its board: what is missing is given up. Not while open."""
        self._take_lock()
        try:
            (self.folder / "board").unlink(missing_ok=True)
        finally:
            self._let_go()

    async def close(self) -> None:
        if self._writer is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._writer.stop)
            await asyncio.sleep(0)
            self._writer = None
        for line in self._lines.values():
            if line.timer is not None:
                line.timer.cancel()
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        self._let_go()

    def _let_go(self) -> None:
        for name in ("reader", "_connection", "board"):
            opened = self.__dict__.pop(name, None)
            if opened is not None:
                opened.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def commit(self, commit: Commit) -> asyncio.Future[Committed]:
        return self.writer.submit(commit)

    async def now_ms(self) -> int:
        return self.present_ms()

    async def catalog(self) -> Catalog:
        return self.state.merged()

    async def install(self, catalog: Catalog) -> int:
        for app in catalog.apps:
            part = _part(catalog, app)
            if self.state.apps.get(app) != part:
                await self._install(app, part)
        return self.state.head.revision

    async def _install(self, app: str, part: Catalog) -> None:
        before = self.state.apps.get(app, Catalog(apps=(app,)))
        _check_keys(before, part)
        trial = State()
        trial.apps = {**self.state.apps, app: part}
        trial.subscriptions = self.state.subscriptions
        merged = trial.merged()
        Router(merged.queues, merged.routes)
        kept = _orphans(before, part, self.state)
        part.queues.update(kept)

        def work(connection: apsw.Connection) -> None:
            for old, new in part.renamed.items():
                _rename(connection, self.state, old, new)
            for name in (*part.tables, *part.topics, *part.queues):
                self.state.intern(connection, name)
            for spec in part.tables.values():
                self._build_indexes(connection, before.tables.get(spec.name), spec)
            connection.execute("REPLACE INTO app VALUES (?, ?)", (app, msgspec.json.encode(part)))
            connection.execute("UPDATE head SET revision = revision + 1")

        def adopt(_: None) -> None:
            self.state.apps[app] = part
            self.state.head.revision += 1
            self.state.compile()

        await self.writer.run(work, adopt)

    def _build_indexes(self, connection: apsw.Connection, before: TableSpec | None, spec: TableSpec) -> None:
        known = set(before.indexes) if before else set()
        wanted = [index for index in spec.indexes if index not in known]
        for index in wanted:
            number = self.state.intern(connection, f"{spec.name}#{index.name}")
            connection.execute("DELETE FROM entry WHERE idx = ?", (number,))
        if not wanted or before is None:
            return
        partial = msgspec.structs.replace(spec, indexes=tuple(wanted))
        table, after = self.state.ids[spec.name], ("", "")
        while rows := fetch(
            connection,
            "SELECT pk, sk, body FROM record WHERE tbl = ? AND (pk, sk) > (?, ?) ORDER BY pk, sk LIMIT 1000",
            (table, *after),
        ):
            for pk, sk, body in rows:
                entries = entry_rows(partial, self.state.ids, (pk, sk), body)
                insert_rows(connection, "REPLACE INTO entry", entries)
            after = rows[-1][:2]

    async def check(self) -> list[str]:
        found = [f"structure: {row[0]}" for row in self.reader.execute("PRAGMA integrity_check") if row[0] != "ok"]
        for table, label, body in (
            ("record", "pk", "body"),
            ("event", "id", "envelope"),
            ("dead", "id", "envelope"),
        ):
            for name, content, crc in self.reader.execute(f"SELECT {label}, {body}, crc FROM {table}"):
                if checksum(content) != crc:
                    found.append(f"{table} {name}: its checksum does not match its bytes")
        lost = fetch(
            self.reader,
            "SELECT queue, position FROM message m WHERE NOT EXISTS (SELECT 1 FROM event WHERE seq = m.event)",
        )
        return found + [f"message {queue}/{position}: its event is missing" for queue, position in lost]


def _part(catalog: Catalog, app: str) -> Catalog:
    """What one app declares of a catalog: its own resources, and the routes that it wrote."""
    prefix = f"{app}/"
    return Catalog(
        apps=(app,),
        tables={name: spec for name, spec in catalog.tables.items() if name.startswith(prefix)},
        topics={name: schema for name, schema in catalog.topics.items() if name.startswith(prefix)},
        queues={name: spec for name, spec in catalog.queues.items() if name.startswith(prefix)},
        routes=tuple(route for route in catalog.routes if route.origin == app),
        renamed={old: new for old, new in catalog.renamed.items() if new.startswith(prefix)},
        consumed=tuple(name for name in catalog.consumed if name.startswith(prefix)),
    )


def _check_keys(before: Catalog, after: Catalog) -> None:
    for name, spec in after.tables.items():
        old = before.tables.get(name)
        if old and (old.partition, old.sort) != (spec.partition, spec.sort):
            raise DeclarationError(
                f"its key changed from {old.partition!r}, {old.sort!r} to {spec.partition!r}, {spec.sort!r}",
                operation="install",
                resource=name,
                hint="a key cannot change; declare a new table and copy the rows",
            )


def _orphans(before: Catalog, after: Catalog, state: State) -> dict[str, QueueSpec]:
    """Queues that are declared no more but still hold messages or dead letters: they are kept."""
    gone = {name: spec for name, spec in before.queues.items() if name not in after.queues}
    renamed = set(after.renamed)
    return {
        name: spec
        for name, spec in gone.items()
        if name not in renamed and (counts := state.counts.get(state.ids[name])) and (counts.depth or counts.dead)
    }


def _rename(connection: apsw.Connection, state: State, old: str, new: str) -> None:
    if old in state.ids and new not in state.ids:
        number = state.ids.pop(old)
        connection.execute("UPDATE name SET name = ? WHERE id = ?", (new, number))
        state.ids[new], state.names[number] = number, new
