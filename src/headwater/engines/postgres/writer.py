"""The writer: commits in groups, one batch after the other, each in one transaction of the database.

A batch is what arrived while the last one was written. Its image is read without locks; `apply` (see the migrations)
then takes the locks, and writes only if the image, the leases and the catalog's revision still stand. If they don't,
the batch is worked out anew from a fresh image; after `_TRIES` times it takes the gate alone first, so that it comes
to an end. Batches of other processes run at the same time: they meet in the database's locks only.

When the answer to a batch is lost, its outcome is unknown until the database is back: its row in `applied` tells it.
If there is none, one is put there that keeps a late copy of the batch from being written; then it is written again.
Only when the database stays away for longer than `PATIENCE_S` do the callers get `CommitUnknown`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import asyncpg

from headwater.applying.batch import Batch
from headwater.engines.postgres.database import (
    BOUND,
    UNREACHABLE,
    Connection,
    Pauses,
    break_off,
    lost,
    translate,
    unknown,
)
from headwater.engines.postgres.flush import APPLY, Stale, arguments, is_plain, settle_rows, write_rest
from headwater.engines.postgres.prefetch import prefetch
from headwater.engines.postgres.store import Store
from headwater.errors import CommitUnknown, HeadwaterError, StoreError, StoreFull, Unavailable
from headwater.ids import new_id
from headwater.unit import Commit, Committed

MAX_BATCH = 512
MOST_OPERATIONS = 2_000
_TRIES = 3
_WRITTEN, _REVISED, _STALE, _LOST = range(4)
_GATE = "SELECT pg_advisory_xact_lock($1)"
_REVISION = "SELECT revision FROM @head"
_RESOLVE = (
    "INSERT INTO @applied AS a VALUES ($1, 0, $2, true)"
    " ON CONFLICT (id) DO UPDATE SET void = a.void RETURNING block, void"
)
"""It writes also when it finds the row: so it waits until that is flushed, and on the standby."""
Result = Committed | HeadwaterError
Item = tuple[Commit, "asyncio.Future[Committed]"]
Written = tuple[Batch, list[Result], int]
"""A batch with its results and the position that those of its events follow."""


class Writer:
    """`ending(batch)` names the leases that end with a batch; `done(batch, first)` is told of each that was written."""

    def __init__(
        self, store: Store, *, ending: Callable[[Batch], list[int]], done: Callable[[Batch, int], None]
    ) -> None:
        self._store = store
        self._ending = ending
        self._done = done
        self._inbox: deque[Item] = deque()
        self._arrived = asyncio.Event()
        self._stopping = False
        self._task = asyncio.get_running_loop().create_task(self._work())

    def submit(self, commit: Commit) -> asyncio.Future[Committed]:
        if self._stopping:
            raise StoreError("the store is being closed", operation="commit")
        future: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
        self._inbox.append((commit, future))
        self._arrived.set()
        return future

    async def stop(self) -> None:
        """Take nothing more and answer all that was taken. Idempotent."""
        self._stopping = True
        self._arrived.set()
        await asyncio.shield(self._task)

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            if not self._inbox:
                if self._stopping:
                    return
                self._arrived.clear()
                continue
            await self._commit(self._take())

    def _take(self) -> list[Item]:
        items: list[Item] = []
        operations = 0
        while self._inbox and len(items) < MAX_BATCH and operations < MOST_OPERATIONS:
            operations += _size(self._inbox[0][0])
            if items and operations > MOST_OPERATIONS:
                break
            items.append(self._inbox.popleft())
        return items

    async def _commit(self, items: list[Item]) -> None:
        try:
            batch, results, first = await self._write([commit for commit, _ in items])
        except Exception as error:
            failure = translate(error, "commit", self._store.address)
            if len(items) > 1 and not isinstance(failure, StoreFull | Unavailable | CommitUnknown) and not lost(error):
                for item in items:
                    await self._commit([item])
                return
            failure.__cause__ = error if failure is not error else error.__cause__
            for _, future in items:
                if not future.done():
                    future.set_exception(failure)
            return
        if first:
            self._done(batch, first)
        for (_, future), result in zip(items, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Committed):
                future.set_result(result)
            else:
                future.set_exception(result)

    async def _write(self, commits: Sequence[Commit]) -> Written:
        """Until it is written, refused, or the database was away for too long."""
        pauses = Pauses()
        tries = 0
        while True:
            id = new_id()
            try:
                return await self._attempt(id, commits, alone=tries >= _TRIES)
            except Stale:
                tries += 1
                continue
            except _Unanswered as unanswered:
                if (first := await self._resolve(id, unanswered.cause)) is not None:
                    return unanswered.batch, unanswered.results, first
            except (asyncpg.PostgresError, *UNREACHABLE) as error:
                if not isinstance(error, UNREACHABLE) or pauses.over:
                    raise
            await pauses.wait()

    async def _attempt(self, id: str, commits: Sequence[Commit], *, alone: bool) -> Written:
        """Work a batch out and write it. Raises `Stale`, `_Unanswered`, or what kept it from being tried."""
        database = self._store.database
        async with database.connection() as connection:
            if not alone:
                batch, results, image = await self._work_out(connection, commits)
                if batch.is_empty:
                    await self._check_revision(connection, batch, commits)
                    return batch, results, 0
                if is_plain(batch):
                    return batch, results, await self._apply(id, connection, batch, results, image)
            async with _transaction(connection) as ending:
                if alone:
                    await connection.fetch(_GATE, self._store.gate)
                    await self._store.reload()
                    batch, results, image = await self._work_out(connection, commits)
                ending.batch, ending.results = batch, results
                first = 0
                if not batch.is_empty:
                    first = await self._apply(id, connection, batch, results, image)
                    await write_rest(database, connection, batch)
            return batch, results, first

    async def _work_out(self, connection: Connection, commits: Sequence[Commit]) -> tuple[Batch, list[Result], Any]:
        store = self._store
        batch = Batch(store.state, store.present_ms())
        batch.head.event_seq = batch.head.position = 0
        await prefetch(store.database, connection, batch, commits)
        image = {slot: record.version if record else None for slot, record in batch.records.items()}
        wanted = dict.fromkeys(batch.wanted_claims)
        taken = wanted | {claim: expires_ms for claim, (expires_ms, _) in batch.claims.items()}
        return batch, [batch.apply(commit) for commit in commits], (image, taken)

    async def _check_revision(self, connection: Connection, batch: Batch, commits: Sequence[Commit]) -> None:
        """What is only read or refused, too, is judged by the catalog and the loads in force."""
        if any(_size(commit) > 1 for commit in commits):
            revision = await connection.fetchval(self._store.database.sql(_REVISION))
            if revision != batch.head.revision:
                await self._store.reload()
                raise Stale("the catalog has changed")

    async def _apply(
        self, id: str, connection: Connection, batch: Batch, results: list[Result], image: tuple[Any, Any]
    ) -> int:
        store = self._store
        given = (id, batch.head.revision, batch.now_ms, store.given_ms, store.gate)
        try:
            row = await connection.fetchrow(
                store.database.sql(APPLY), *given, *arguments(batch, *image, self._ending(batch))
            )
        except Exception as error:
            if lost(error):
                break_off(connection)
                raise _Unanswered(error, batch, results) from error
            raise
        assert row is not None
        if row["outcome"] == _REVISED:
            await store.reload()
            raise Stale("the catalog has changed")
        if row["outcome"] == _STALE:
            raise Stale("what was read has changed")
        if row["outcome"] == _LOST:
            rows = settle_rows(batch)
            for n in row["lost"]:
                store.state.leases.pop(rows[n][:2], None)
            raise Stale("leases have passed on")
        return int(row["first"])

    async def _resolve(self, id: str, cause: BaseException) -> int | None:
        """What became of a batch: its first position, or None when it never was and never will be written."""
        store, database = self._store, self._store.database

        async def work() -> int | None:
            ((block, void),) = await database.once(database.sql(_RESOLVE), (id, store.present_ms()))
            return None if void else block

        try:
            return await database.patiently("commit", work)
        except HeadwaterError:
            raise unknown(cause, store.address) from cause


class _Unanswered(Exception):
    """A batch was sent, and no answer came."""

    def __init__(self, cause: BaseException, batch: Batch, results: list[Result]) -> None:
        super().__init__(str(cause))
        self.cause, self.batch, self.results = cause, batch, results


class _transaction:
    """A transaction whose lost COMMIT is told as `_Unanswered`."""

    batch: Batch
    results: list[Result]

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._transaction = connection.transaction()

    async def __aenter__(self) -> _transaction:
        await self._transaction.start()
        await self._connection.execute(BOUND)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if kind is None:
            try:
                await self._transaction.commit()
            except Exception as failed:
                if lost(failed):
                    break_off(self._connection)
                    raise _Unanswered(failed, self.batch, self.results) from failed
                raise
            return
        if isinstance(error, _Unanswered):
            return
        ending: Awaitable[None] = self._transaction.rollback()
        try:
            await ending
        except (asyncpg.PostgresError, *UNREACHABLE):
            """The connection is gone, and the transaction with it."""


def _size(commit: Commit) -> int:
    """How many operations the commit has, for bounding batches."""
    return 1 + len(commit.writes) + len(commit.emits) + len(commit.settles) + len(commit.reads)
