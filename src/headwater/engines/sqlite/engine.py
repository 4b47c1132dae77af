"""`SqliteEngine`: opening, recovering, closing, and the catalog. Its other methods are in the parts it extends."""

from __future__ import annotations

import asyncio
import fcntl
import os
import weakref
from collections.abc import Iterator
from pathlib import Path

import apsw
import msgspec

from headwater.applying.batch import entry_rows
from headwater.applying.installing import check_keys, check_targets, orphans, part_of
from headwater.catalog import Catalog, TableSpec
from headwater.clock import Clock
from headwater.engine import Features
from headwater.engines.sqlite.board import Board, Place, Standing, read_board
from headwater.engines.sqlite.database import (
    Row,
    check_format,
    checksum,
    close_cleanly,
    connect,
    fetch,
    insert_rows,
    make_folder,
    open_writer,
    translate,
    translate_os,
)
from headwater.engines.sqlite.inspection import Inspections
from headwater.engines.sqlite.state import State
from headwater.engines.sqlite.writer import Writer
from headwater.errors import HeadwaterError, StoreDamaged, StoreError, StoreLocked
from headwater.unit import Commit, Committed

MAX_OPERATIONS = 10_000


class SqliteEngine(Inspections):
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
        super().__init__(folder, clock, read_only=read_only, vfs=vfs)
        self._synchronous = synchronous
        self._lock: int | None = None
        self._lifecycle = asyncio.Lock()
        self._tasks = set()

    async def open(self) -> None:
        async with self._lifecycle:
            if "reader" in self.__dict__:
                raise StoreError("the store is open", operation="open", resource=str(self.folder))
            try:
                self._open()
            except BaseException:
                self._let_go()
                raise

    def _open(self) -> None:
        self.state = State()
        self._prepare_deliveries()
        try:
            if self.read_only:
                self._open_reader()
            else:
                self._open_owner()
        except apsw.Error as error:
            raise translate(error, "open") from error
        except OSError as error:
            raise translate_os(error, "open", str(self.folder)) from error
        except (msgspec.MsgspecError, LookupError) as error:
            raise StoreDamaged(
                f"the store's catalog cannot be read: {error!r}",
                operation="open",
                resource=str(self.folder),
                hint="restore a backup; `headwater doctor` lists all damage",
            ) from error

    def _open_reader(self) -> None:
        path = self.folder / "store.db"
        if not path.exists():
            raise StoreError("there is no store here", operation="open", resource=str(self.folder))
        standing = read_board(self.folder / "board")
        self.reader = connect(path, read_only=True, vfs=self._vfs)
        check_format(self.reader, path)
        self.state.load(self.reader)
        self._compare(standing)

    def _open_owner(self) -> None:
        make_folder(self.folder)
        self._lock = self._take_lock()
        path = self.folder / "store.db"
        standing = read_board(self.folder / "board")
        self._connection = open_writer(path, synchronous=self._synchronous, vfs=self._vfs, create=not standing.store)
        self.state.load(self._connection)
        self._compare(standing)
        self._prepare_loads(self._connection)
        self._recover(self._connection, standing.running)
        self.board = Board(self.folder / "board")
        self.board.reset(self.state.head.store, self.state.head.commit_no)
        self.reader = connect(path, read_only=True, vfs=self._vfs)
        self._writer = Writer(self._connection, self.state, self.board, self.clock, self._committed)
        self._writer.start()
        _owners.add(self)

    def _take_lock(self) -> int:
        lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.pwrite(lock, f"{os.getpid():<20}".encode(), 0)
        except BlockingIOError as error:
            holder = os.pread(lock, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(lock)
            raise StoreLocked(
                f"process {holder} owns the store",
                operation="open",
                resource=str(self.folder),
                hint="stop it, or talk to it: every command does when it finds it running",
            ) from error
        except OSError:
            os.close(lock)
            raise
        return lock

    def _compare(self, standing: Standing) -> None:
        """Hold the store against the board that was left beside it, read before the store was."""
        head = self.state.head
        if not standing.store or (standing.store == head.store and standing.commit <= head.commit_no):
            return
        raise StoreDamaged(
            f"acknowledged commits are missing: the store ends at {head.commit_no}, {standing.commit} were flushed"
            if standing.store == head.store
            else "the board beside it belongs to another store",
            operation="open",
            resource=str(self.folder),
            hint="its WAL was damaged or an older copy was restored; `headwater doctor --accept` goes on with it",
        )

    def _recover(self, connection: apsw.Connection, running: list[Place]) -> None:
        """Count a receive for each delivery that ran when the process died."""
        if not running:
            return
        connection.execute("BEGIN IMMEDIATE")
        for queue, position in running:
            self._count_death(connection, queue, position)
        connection.execute("UPDATE head SET commit_no = commit_no + 1")
        connection.execute("COMMIT")
        self.state.head.commit_no += 1
        self._suspects = running

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
        try:
            lock = self._take_lock()
            try:
                (self.folder / "board").unlink(missing_ok=True)
            finally:
                os.close(lock)
        except OSError as error:
            raise translate_os(error, "accept", str(self.folder)) from error

    async def close(self) -> None:
        async with self._lifecycle:
            if "reader" not in self.__dict__:
                return
            clean = False
            try:
                await self._end_questions()
                if self._writer is not None:
                    await self._writer.stop()
                    await asyncio.gather(*self._tasks, return_exceptions=True)
                    clean = self._writer.failure is None
                    self._writer = None
                    self.board.reset(self.state.head.store, self.state.head.commit_no)
            except OSError as error:
                raise translate_os(error, "close", str(self.folder)) from error
            finally:
                if self._writer is None:
                    self._end_waiting()
                    self._let_go(clean=clean)

    def _end_waiting(self) -> None:
        """Cancel the timers, and let those who wait for messages see that the store is closed."""
        for line in self._lines.values():
            if line.timer is not None:
                line.timer.cancel()
            while line.waiters:
                line.wake()
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    def _let_go(self, *, clean: bool = False) -> None:
        _owners.discard(self)
        for name in ("reader", "board"):
            opened = self.__dict__.pop(name, None)
            if opened is not None:
                opened.close()
        connection = self.__dict__.pop("_connection", None)
        if connection is not None:
            if clean:
                close_cleanly(connection)
            else:
                connection.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _disown(self) -> None:
        """In a forked child: the store stays the parent's, and its lock must not outlive the parent here."""
        self._writer = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def commit(self, commit: Commit) -> asyncio.Future[Committed]:
        return self.writer.submit(commit)

    async def broken(self) -> HeadwaterError:
        return await asyncio.shield(self.writer.broken)

    async def now_ms(self) -> int:
        return self.present_ms()

    async def catalog(self) -> Catalog:
        return self.state.merged()

    async def install(self, catalog: Catalog) -> int:
        for app in catalog.apps:
            await self._install(app, part_of(catalog, app))
        return self.state.head.revision

    async def _install(self, app: str, part: Catalog) -> None:
        """Judge and write the app's part between two batches; what is in memory changes after the COMMIT."""
        trial = State()

        def work(connection: apsw.Connection) -> None:
            before = self.state.apps.get(app, Catalog(apps=(app,)))
            check_keys(before, part)
            trial.apps = {**self.state.apps, app: part}
            trial.subscriptions = self.state.subscriptions
            trial.ids, trial.names = dict(self.state.ids), dict(self.state.names)
            trial.compile()
            check_targets(part, trial)
            for old, new in part.renamed.items():
                _rename(connection, trial, old, new)
            for name in (*part.tables, *part.topics, *part.queues):
                trial.intern(connection, name)
            for spec in part.tables.values():
                _build_indexes(connection, trial, before.tables.get(spec.name), spec)
            connection.execute("REPLACE INTO app VALUES (?, ?)", (app, msgspec.json.encode(part)))
            connection.execute("UPDATE head SET revision = revision + 1")

        def adopt(_: None) -> None:
            self.state.ids, self.state.names = trial.ids, trial.names
            self.state.apps[app] = part
            self.state.head.revision += 1
            self.state.compile()

        part.queues.update(orphans(self.state, app, part))
        if self.state.apps.get(app) != part:
            await self.writer.run(work, adopt)

    async def check(self) -> list[str]:
        found: list[str] = []
        for kind, inspect in (("structure", self._check_structure), ("content", self._check_content)):
            try:
                found.extend(inspect())
            except apsw.Error as error:
                found.append(f"{kind}: {error}")
        return found

    def _check_structure(self) -> Iterator[str]:
        for (line,) in fetch(self.reader, "PRAGMA integrity_check"):
            if line != "ok":
                yield f"structure: {line}"

    def _check_content(self) -> Iterator[str]:
        for table, label, body in (
            ("record", "pk", "body"),
            ("event", "id", "envelope"),
            ("dead", "id", "envelope"),
            ("staged", "pk", "body"),
        ):
            for name, content, crc in self.reader.execute(f"SELECT {label}, {body}, crc FROM {table}"):
                if checksum(content) != crc:
                    yield f"{table} {name}: its checksum does not match its bytes"
        for queue, position in fetch(
            self.reader,
            "SELECT queue, position FROM message m WHERE NOT EXISTS (SELECT 1 FROM event WHERE seq = m.event)",
        ):
            yield f"message {queue}/{position}: its event is missing"


_owners: weakref.WeakSet[SqliteEngine] = weakref.WeakSet()


def _disown_all() -> None:
    for engine in list(_owners):
        engine._disown()


os.register_at_fork(after_in_child=_disown_all)


def _build_indexes(connection: apsw.Connection, state: State, before: TableSpec | None, spec: TableSpec) -> None:
    known = set(before.indexes) if before else set()
    wanted = [index for index in spec.indexes if index not in known]
    for index in wanted:
        number = state.intern(connection, f"{spec.name}#{index.name}")
        connection.execute("DELETE FROM entry WHERE idx = ?", (number,))
    if not wanted or before is None:
        return
    partial = msgspec.structs.replace(spec, indexes=tuple(wanted))
    table = state.ids[spec.name]
    for pk, sk, body in _rows(connection, "record", "tbl", table):
        insert_rows(connection, "REPLACE INTO entry", entry_rows(partial, state.ids, (pk, sk), body))
    for (load,) in fetch(connection, "SELECT id FROM load WHERE tbl = ? AND state = 1", (table,)):
        for pk, sk, body in _rows(connection, "staged", "load", load):
            entries = [] if body is None else entry_rows(partial, state.ids, (pk, sk), body)
            insert_rows(connection, "REPLACE INTO staged_entry", [(load, *entry) for entry in entries])


def _rows(connection: apsw.Connection, table: str, column: str, number: int) -> Iterator[Row]:
    """All rows of a table or load, a page at a time."""
    after: Row = ("", "")
    statement = f"SELECT pk, sk, body FROM {table} WHERE {column} = ? AND (pk, sk) > (?, ?) ORDER BY pk, sk LIMIT 1000"
    while rows := fetch(connection, statement, (number, *after)):
        yield from rows
        after = rows[-1][:2]


def _rename(connection: apsw.Connection, state: State, old: str, new: str) -> None:
    if old in state.ids and new not in state.ids:
        number = state.ids.pop(old)
        connection.execute("UPDATE name SET name = ? WHERE id = ?", (new, number))
        state.ids[new], state.names[number] = number, new
