"""Connections, statements over many rows, and the translation of SQLite's errors."""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import apsw

from headwater.errors import HeadwaterError, StoreDamaged, StoreError, StoreFull, StoreLocked, StoreTooNew
from headwater.ids import new_id

FORMAT = 2
BUSY_MS = 5_000
_CHUNKS = (*range(512, 64, -32), *range(64, 16, -8), *range(16, 0, -1))
"""How many rows a statement may have: few enough sizes that all stay prepared, close enough for one or two each."""
Row = tuple[Any, ...]


def connect(path: Path, *, read_only: bool = False, vfs: str | None = None) -> apsw.Connection:
    flags = apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    connection = apsw.Connection(str(path), flags=flags, vfs=vfs, statementcachesize=500)
    connection.set_busy_timeout(BUSY_MS)
    connection.execute("PRAGMA cache_size = -32768")
    return connection


def fetch(connection: apsw.Connection, statement: str, bindings: Any = ()) -> list[Row]:
    """All rows of a statement; fetching them all ends its read transaction."""
    return connection.execute(statement, bindings).fetchall()


def open_writer(
    path: Path, *, synchronous: str = "FULL", vfs: str | None = None, create: bool = True
) -> apsw.Connection:
    """The one writing connection, with its schema made (unless `create` is off) or checked.

    `synchronous` other than FULL breaks the promise of durability: it exists for the positive controls of tests.
    """
    if not create and not (path.exists() and path.stat().st_size):
        raise _missing(path)
    connection = connect(path, vfs=vfs)
    try:
        # A store that is refused keeps its WAL as it was found; `close_cleanly` lifts this.
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        fetch(connection, "PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        fetch(connection, "PRAGMA fullfsync = ON")
        fetch(connection, "PRAGMA wal_autocheckpoint = 0")
        fetch(connection, "PRAGMA secure_delete = ON")
        fetch(connection, "PRAGMA journal_size_limit = 67108864")
        if not fetch(connection, "SELECT 1 FROM sqlite_schema WHERE name = 'head'"):
            if not create:
                raise _missing(path)
            _create(connection)
        check_format(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def close_cleanly(connection: apsw.Connection) -> None:
    """Close the last connection of a sound store: its WAL is moved into the database and removed."""
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
    connection.close()


def _missing(path: Path) -> StoreDamaged:
    return StoreDamaged(
        "the store is empty, the board beside it knows one",
        operation="open",
        resource=str(path),
        hint="bring the database and its WAL back; `headwater doctor --accept` begins a new store",
    )


def check_format(connection: apsw.Connection, path: Path) -> None:
    """Raise `StoreTooNew` for a store of a newer version, `StoreError` for one of an older format, `StoreDamaged` for
    one that has lost its head."""
    rows = fetch(connection, "SELECT format FROM head")
    if not rows:
        raise StoreDamaged("the store has no head", operation="open", resource=str(path), hint="restore a backup")
    if rows[0][0] > FORMAT:
        raise StoreTooNew(
            f"the store has format {rows[0][0]}, this version knows {FORMAT}",
            operation="open",
            resource=str(path),
            hint="upgrade headwater, or restore a backup made before the newer version ran",
        )
    if rows[0][0] < FORMAT:
        raise StoreError(
            f"the store has format {rows[0][0]}, of a version before the first release; this one needs {FORMAT}",
            operation="open",
            resource=str(path),
            hint="begin with a new store, or run the version that made it",
        )


def _create(connection: apsw.Connection) -> None:
    schema = files("headwater.engines.sqlite").joinpath("schema.sql").read_text("utf-8")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(schema)
    connection.execute("INSERT INTO head VALUES (1, ?, ?, 0, 0, 0, 0, 0)", (FORMAT, new_id()))
    connection.execute("COMMIT")


def chunks(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Slices of a few fixed sizes, so that their statements stay prepared."""
    at, left = 0, len(rows)
    while left:
        size = next(size for size in _CHUNKS if size <= left)
        yield rows[at : at + size]
        at, left = at + size, left - size


def placeholders(rows: int, columns: int) -> str:
    row = "(" + ",".join("?" * columns) + ")"
    return ",".join([row] * rows)


_statements: dict[tuple[str, int, int], str] = {}


def insert_rows(connection: apsw.Connection, into: str, rows: Sequence[Row]) -> None:
    """INSERT (or REPLACE) all rows: one statement a chunk, since each step gives up the interpreter lock."""
    for chunk in chunks(rows):
        shape = (into, len(chunk), len(chunk[0]))
        statement = _statements.get(shape)
        if statement is None:
            statement = _statements[shape] = f"{into} VALUES {placeholders(shape[1], shape[2])}"
        connection.execute(statement, [value for row in chunk for value in row])


def select_rows(connection: apsw.Connection, statement: str, keys: Sequence[Row]) -> list[Row]:
    """Rows of a statement whose `{keys}` stands for a list of key rows, in a few fixed sizes."""
    found: list[Row] = []
    for chunk in chunks(keys):
        shape = (statement, len(chunk), len(chunk[0]))
        text = _statements.get(shape)
        if text is None:
            text = _statements[shape] = statement.format(keys=placeholders(shape[1], shape[2]))
        found.extend(fetch(connection, text, [value for key in chunk for value in key]))
    return found


def checksum(*parts: bytes | None) -> int:
    crc = 0
    for part in parts:
        if part:
            crc = zlib.crc32(part, crc)
    return crc


def verify(crc: int, place: Callable[[], str], *parts: bytes | None) -> None:
    """Raise `StoreDamaged` when the bytes read are not the bytes written."""
    if checksum(*parts) != crc:
        raise StoreDamaged(
            "its checksum does not match its bytes",
            operation="read",
            resource=place(),
            hint="restore a backup; `headwater doctor` lists all damage",
        )


def translate(error: apsw.Error, operation: str) -> HeadwaterError:
    """SQLite's error as one of ours, the cause kept by the caller's `from`."""
    match error:
        case apsw.FullError():
            return StoreFull("the disk is full", operation=operation, hint="make room; reads go on meanwhile")
        case apsw.CorruptError() | apsw.NotADBError():
            return StoreDamaged(str(error), operation=operation, hint="run `headwater doctor`, restore a backup")
        case apsw.BusyError() | apsw.LockedError():
            return StoreLocked("another process writes the store", operation=operation)
        case apsw.CantOpenError() | apsw.ReadOnlyError() | apsw.PermissionsError():
            return StoreError(str(error), operation=operation, hint="may the process write the store's folder?")
        case _:
            return StoreError(str(error), operation=operation)


def translate_os(error: OSError, operation: str, resource: str) -> HeadwaterError:
    """The system's error on a file of the store as one of ours."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull("the disk is full", operation=operation, resource=resource, hint="make room")
    return StoreError(
        error.strerror or str(error),
        operation=operation,
        resource=error.filename or resource,
        hint="the store needs a local folder that its process may read and write",
    )


def make_folder(folder: Path) -> None:
    """Make a folder whose name survives a power loss."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for made in reversed(missing):
        descriptor = os.open(made.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
