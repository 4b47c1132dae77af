"""The connections of a process to its database, and the translation of PostgreSQL's errors.

No session state: no locks, settings or cursors that outlive a transaction, so that a pooler in transaction mode may
stand in between. Reading is tried again while the database can't be reached, up to `PATIENCE_S`; what writes is the
caller's to judge (`lost` tells whether its outcome is unknown).
"""

from __future__ import annotations

import asyncio
import random
import re
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg

from headwater.engines.postgres.hosts import Hosts
from headwater.errors import (
    CommitUnknown,
    DeclarationError,
    HeadwaterError,
    StoreDamaged,
    StoreError,
    StoreFull,
    Unavailable,
)
from headwater.store_url import shown_store

PATIENCE_S = 30.0
"""How long to try to reach the database before giving up a read, or an unknown outcome."""
CONNECT_S, STATEMENT_S, RELEASE_S = 10.0, 30.0, 5.0
BOUND = (
    "SET LOCAL idle_in_transaction_session_timeout = '5s'; SET LOCAL tcp_keepalives_idle = 5;"
    " SET LOCAL tcp_keepalives_interval = 2; SET LOCAL tcp_keepalives_count = 3"
)
"""In each transaction of several statements: it would keep its locks for hours when its process is cut off, or stopped,
in the midst of it. One that waits between the plan and the values of a statement is not idle: so the second half."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,40}\Z")
_OWN = ("schema", "pool", "prepared", "listen", "durability")
T = TypeVar("T")
Row = Mapping[str | int, Any]
Pool = asyncpg.Pool
Connection = asyncpg.pool.PoolConnectionProxy
UNREACHABLE = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.QueryCanceledError,
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.InvalidSQLStatementNameError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InternalClientError,
)
"""The database is not there, is starting or stopping, is a standby, or was too busy: it may be there in a moment."""

_BROKEN_OFF = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InternalClientError,
)


class Address:
    """A store's URL: "postgresql://USER@HOST:PORT/DATABASE?schema=NAME" and asyncpg's own parameters.

    `schema` is "headwater" unless it says otherwise; `pool` the most connections (10); `prepared=off` for a pooler that
    doesn't keep prepared statements; `listen` the URL of a connection past the pooler, or "off"; `durability=relaxed`
    accepts a server whose commits don't wait for the disk.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        given = dict(parse_qsl(parts.query, keep_blank_values=True))
        own = {name: given.pop(name) for name in _OWN if name in given}
        self.dsn = urlunsplit(parts._replace(query=urlencode(given)))
        self.schema = own.get("schema", "headwater")
        self.listen = own.get("listen", self.dsn)
        self.prepared = own.get("prepared", "on") != "off"
        self.relaxed = own.get("durability") == "relaxed"
        self.shown = shown_store(url)
        if parts.fragment or "@" in parts.path:
            raise _unreadable(self.shown)
        if not _NAME.match(self.schema):
            raise _misnamed("schema", self.schema, "lower-case letters, digits and _, at most 41")
        if not own.get("pool", "10").isdigit() or int(own.get("pool", "10")) < 3:
            raise _misnamed("pool", own["pool"], "a number of connections of at least 3")
        self.pool = int(own.get("pool", "10"))


def _misnamed(name: str, value: str, form: str) -> DeclarationError:
    return DeclarationError(f"{name}={value!r} in the store's URL is not {form}", operation="open", hint="mend the URL")


def _unreadable(shown: str) -> DeclarationError:
    hint = "special characters of a password are written with %, such as %40 for @ and %2F for /"
    return DeclarationError("the store's URL cannot be read", operation="open", resource=shown, hint=hint)


class _Connection(asyncpg.Connection):
    async def reset(self, *, timeout: float | None = None) -> None:
        """Nothing is left behind that would have to be reset."""


class Database:
    """A pool of connections. `sql` puts the schema in place of each `@`."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._hosts = Hosts(address.dsn)
        self._pool: asyncpg.Pool | None = None
        self._statements: dict[str, str] = {}

    async def open(self) -> None:
        address = self.address

        async def connect() -> asyncpg.Pool:
            # None is kept open for its own sake: asyncpg would log each attempt to have it back with a traceback.
            pool = await asyncpg.create_pool(
                connect=self._hosts.connect,
                min_size=0,
                max_size=address.pool,
                connection_class=_Connection,
                **self._options,
            )
            await pool.release(await pool.acquire(timeout=CONNECT_S * len(self._hosts)))
            return pool

        try:
            self._pool = await self.patiently("open", connect)
        except (ValueError, ssl.SSLError) as error:
            if isinstance(error, ValueError) and not isinstance(error, ssl.SSLError):
                raise _unreadable(address.shown) from None  # it may quote a part of the password
            raise StoreError(str(error), operation="open", resource=address.shown, hint="mend the URL") from error

    async def close(self) -> None:
        """Idempotent. Connections that are still in use are broken off after a moment."""
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                await asyncio.wait_for(pool.close(), 5.0)
            except (TimeoutError, *UNREACHABLE):
                pool.terminate()

    @property
    def _options(self) -> dict[str, Any]:
        prepared = self.address.prepared
        return {
            "statement_cache_size": 200 if prepared else 0,
            "max_cached_statement_lifetime": 0,
            "command_timeout": STATEMENT_S,
            "timeout": CONNECT_S,
            "server_settings": {"application_name": "headwater"} if prepared else None,
        }

    async def connect(self) -> asyncpg.Connection:
        """A connection beside the pool, in the loop that runs; the caller closes it."""
        return await self._hosts.connect(**self._options)

    @property
    def is_open(self) -> bool:
        return self._pool is not None

    @property
    def pool(self) -> asyncpg.Pool:
        if self._pool is None:
            raise StoreError("the store is not open", operation="use", resource=self.address.shown)
        return self._pool

    def sql(self, statement: str) -> str:
        text = self._statements.get(statement)
        if text is None:
            text = self._statements[statement] = statement.replace("@", f"{self.address.schema}.")
        return text

    async def fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        """All rows of a statement that only reads, or that may run twice."""
        text = self.sql(statement)
        return await self.patiently("read", lambda: self.once(text, arguments))

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection of the pool, which is broken off when it is late."""
        pool = self.pool
        connection: Connection = await pool.acquire(timeout=CONNECT_S * len(self._hosts))
        try:
            yield connection
        except (TimeoutError, asyncio.CancelledError):
            break_off(connection)
            raise
        finally:
            await pool.release(connection, timeout=RELEASE_S)

    async def once(self, text: str, arguments: Sequence[Any]) -> list[asyncpg.Record]:
        """Run a statement now."""
        async with self.connection() as connection:
            rows: list[asyncpg.Record] = await connection.fetch(text, *arguments)
        return rows

    @asynccontextmanager
    async def transaction(self, *, isolation: Any = None, readonly: bool = False) -> AsyncIterator[Connection]:
        """A connection in a transaction, which is committed in the end and rolled back on an exception.

        Its errors are asyncpg's; `translate` makes ours of them.
        """
        async with (
            self.connection() as connection,
            connection.transaction(isolation=isolation, readonly=readonly),
        ):
            await connection.execute(BOUND)
            yield connection

    async def patiently(self, operation: str, work: Callable[[], Awaitable[T]]) -> T:
        """Do what may be done twice, again and again while the database can't be reached."""
        pauses = Pauses()
        while True:
            try:
                return await work()
            except (asyncpg.PostgresError, *UNREACHABLE) as error:
                if not isinstance(error, UNREACHABLE) or isinstance(error, ssl.SSLCertVerificationError) or pauses.over:
                    raise translate(error, operation, self.address) from error
            await pauses.wait()


class Pauses:
    """Back-off with jitter, up to `PATIENCE_S` in all."""

    def __init__(self, patience_s: float | None = None) -> None:
        self._end = asyncio.get_running_loop().time() + (PATIENCE_S if patience_s is None else patience_s)
        self._pause_s = _FIRST_PAUSE_S

    @property
    def over(self) -> bool:
        return asyncio.get_running_loop().time() >= self._end

    async def wait(self) -> None:
        await asyncio.sleep(self._pause_s * random.uniform(0.5, 1.0))
        self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)


def break_off(connection: Connection) -> None:
    """Close it at once, unless it is closed."""
    with suppress(asyncpg.InterfaceError):
        connection.terminate()


def lost(error: BaseException) -> bool:
    """Whether a statement that failed so may have been carried out all the same."""
    return isinstance(error, _BROKEN_OFF)


def translate(error: BaseException, operation: str, address: Address | None = None) -> HeadwaterError:
    """PostgreSQL's error as one of ours, the cause kept by the caller's `from`."""
    where = address.shown if address else ""
    match error:
        case HeadwaterError():
            return error
        case asyncpg.DiskFullError():
            return StoreFull("the database has no room", operation=operation, resource=where, hint="make room")
        case asyncpg.DataCorruptedError() | asyncpg.IndexCorruptedError():
            return StoreDamaged(str(error), operation=operation, resource=where, hint="restore a backup")
        case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
            return StoreError(str(error), operation=operation, resource=where, hint="mend user and password in the URL")
        case ssl.SSLCertVerificationError():
            return StoreError(
                str(error), operation=operation, resource=where, hint="mend sslmode or sslrootcert in the URL"
            )
        case asyncpg.InvalidCatalogNameError():
            return StoreError(str(error), operation=operation, resource=where, hint="create the database first")
        case asyncpg.InsufficientPrivilegeError():
            return StoreError(str(error), operation=operation, resource=where, hint="grant the user what it needs")
        case asyncpg.UndefinedTableError() | asyncpg.UndefinedFunctionError() | asyncpg.InvalidSchemaNameError():
            return StoreError(str(error), operation=operation, resource=where, hint="run `headwater migrate`")
        case _ if isinstance(error, UNREACHABLE):
            return Unavailable(
                f"the database can't be reached: {str(error) or type(error).__name__}",
                operation=operation,
                resource=where,
                hint="it is tried again; is it running?",
            )
        case _:
            return StoreError(str(error), operation=operation, resource=where)


def unknown(error: BaseException, address: Address) -> CommitUnknown:
    failure = CommitUnknown(
        f"the outcome of a commit is unknown: {str(error) or type(error).__name__}",
        operation="commit",
        resource=address.shown,
        hint="try again with the same idempotency key",
    )
    failure.__cause__ = error
    return failure


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
