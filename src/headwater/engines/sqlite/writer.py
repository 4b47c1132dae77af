"""The writer: one thread that owns the writing connection and commits in groups.

Group commit needs no timer: a batch is what arrived while the last one was flushed. Results, refusals too, are
handed to the event loop only after the COMMIT, once a batch. Tasks (everything that is not a commit: installing a
catalog, pausing, sweeping) run between batches in transactions of their own, in the order of arrival.

Failures: an unexpected error of one commit rolls the batch back and replays its commits singly, so that only the
guilty one fails. A full disk refuses the batch with `StoreFull`. Any other I/O error means that the outcome is
unknown: the batch and all that follows get `CommitUnknown` until the store is opened anew. So does an error after
the COMMIT, when what is in memory may have left the store behind.

The WAL is moved into the database between batches: when the store is idle, or when it is long; sooner while a load's
rows are moved into place, which fills it so fast that others would wait for it too often. A reader that is in
the way only defers that; the next try comes after `_IDLE_PAGES` more.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import apsw

from headwater.applying.batch import Batch
from headwater.clock import Clock
from headwater.engines.sqlite.board import Board
from headwater.engines.sqlite.database import translate
from headwater.engines.sqlite.flush import write_batch
from headwater.engines.sqlite.prefetch import prefetch
from headwater.engines.sqlite.state import State
from headwater.errors import CommitUnknown, HeadwaterError, StoreDamaged, StoreError, StoreFull, StoreLocked
from headwater.unit import Commit, Committed

MAX_BATCH = 512
_IDLE_S = 0.25
_IDLE_PAGES, _LOADING_PAGES, _FULL_PAGES = 1_000, 4_000, 16_000
Work = Callable[[apsw.Connection], Any]
Adopt = Callable[[Any], None]
Result = Committed | HeadwaterError
Done = Callable[[Batch, list[tuple["asyncio.Future[Committed]", Result]]], None]


class Task(NamedTuple):
    """Work between batches; `adopt(answer)` then changes the state, after the COMMIT when there is one."""

    work: Work
    adopt: Adopt | None
    durable: bool


class Writer:
    """Start with `start()`; `submit`, `run` and `stop` are called on the event loop."""

    def __init__(self, connection: apsw.Connection, state: State, board: Board, clock: Clock, done: Done) -> None:
        self._connection = connection
        self._state = state
        self._board = board
        self._clock = clock
        self._done = done
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="headwater-writer", daemon=True)
        self._wal_pages = 0
        self._tried_pages = 0
        self._flushing = False
        self._stopping = False
        self.failure: HeadwaterError | None = None
        connection.set_wal_hook(self._count_pages)

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.broken: asyncio.Future[HeadwaterError] = self._loop.create_future()
        self._thread.start()

    async def stop(self) -> None:
        """Take nothing more, answer all that was taken, end the thread. Idempotent."""
        self._stopping = True
        self._inbox.put(None)
        await self._loop.run_in_executor(None, self._thread.join)

    def submit(self, commit: Commit) -> asyncio.Future[Committed]:
        if self._stopping:
            raise StoreError("the store is being closed", operation="commit")
        future: asyncio.Future[Committed] = self._loop.create_future()
        self._inbox.put((commit, future))
        return future

    def run(self, work: Work, adopt: Adopt | None = None, *, durable: bool = True) -> asyncio.Future[Any]:
        """Run `work(connection)` after all that was submitted before, in a transaction when `durable`."""
        if self._stopping:
            raise StoreError("the store is being closed", operation="write")
        future: asyncio.Future[Any] = self._loop.create_future()
        self._inbox.put((Task(work, adopt, durable), future))
        return future

    def now_ms(self) -> int:
        return max(self._state.head.time_ms, self._clock.wall_ms())

    def _count_pages(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def _work(self) -> None:
        while (items := self._take()) is not None:
            at = 0
            while at < len(items):
                if isinstance(items[at][0], Commit):
                    end = at
                    while end < len(items) and isinstance(items[end][0], Commit):
                        end += 1
                    self._commit(items[at:end])
                    at = end
                else:
                    self._run_task(*items[at])
                    at += 1
            self._checkpoint(_LOADING_PAGES if self._state.merging else _FULL_PAGES)

    def _take(self) -> list[Any] | None:
        """All that waits, at least one item; None after `stop`."""
        get = self._inbox.get_nowait
        try:
            item = self._inbox.get(timeout=_IDLE_S)
        except queue.Empty:
            self._checkpoint(_IDLE_PAGES)
            item = self._inbox.get()
        items = []
        while item is not None:
            items.append(item)
            if len(items) == MAX_BATCH:
                return items
            try:
                item = get()
            except queue.Empty:
                return items
        if items:
            self._inbox.put(None)
            return items
        return None

    def _commit(self, items: list[tuple[Commit, asyncio.Future[Committed]]]) -> None:
        batch, results = self._attempt([commit for commit, _ in items])
        if batch is None and len(items) > 1 and self.failure is None and _blames_a_commit(results[0]):
            for item in items:
                self._commit([item])
            return
        answers = [(future, result) for (_, future), result in zip(items, results, strict=True)]
        self._post(self._done, batch, answers)

    def _attempt(self, commits: list[Commit]) -> tuple[Batch | None, list[Result]]:
        """Apply and flush; (None, the error for each) when nothing was written, or nobody knows."""
        if self.failure is not None:
            return None, [self.failure] * len(commits)
        try:
            batch, results = self._write(commits)
        except Exception as error:
            return None, [self._failed(error)] * len(commits)
        try:
            self._adopt(batch)
        except Exception as error:
            return None, [self._fail(error)] * len(commits)
        return batch, results

    def _write(self, commits: list[Commit]) -> tuple[Batch, list[Result]]:
        execute = self._connection.execute
        self._flushing = False
        batch = Batch(self._state, self.now_ms())
        execute("BEGIN IMMEDIATE")
        prefetch(self._connection, batch, commits)
        results: list[Result] = [batch.apply(commit) for commit in commits]
        write_batch(self._connection, batch)
        self._flushing = True
        execute("COMMIT")
        return batch, results

    def _adopt(self, batch: Batch) -> None:
        state = self._state
        state.head = batch.head
        self._board.flushed(batch.head.commit_no)
        for number, entries in batch.fresh.items():
            counts = state.counts[number]
            counts.depth += len(entries)
            counts.sent += len(entries)
        for place, (_, settle) in batch.settled.items():
            del state.leases[place]
            counts = state.counts[place[0]]
            if settle.outcome == "retry":
                counts.retried += 1
            else:
                counts.depth -= 1
                counts.settled += 1
        for buried in batch.buried:
            state.counts[buried.queue].dead += 1
        for number in batch.redriven.values():
            state.counts[number].dead -= 1
        if batch.pending:
            state.merging = batch.pending.merging

    def _failed(self, error: Exception) -> HeadwaterError:
        """Roll back and say what it means for the callers."""
        if isinstance(error, StoreDamaged):
            self._break(error)
        elif isinstance(error, apsw.FullError):
            pass
        elif isinstance(error, apsw.CorruptError | apsw.NotADBError):
            self._break(translate(error, "commit"))
        elif isinstance(error, apsw.IOError) or (self._flushing and isinstance(error, apsw.Error)):
            self._fail(error)
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except apsw.Error as failed:
                self._break(self.failure or translate(failed, "rollback"))
        if self.failure is None and isinstance(error, HeadwaterError):
            return error
        wrapped = self.failure
        if wrapped is None:
            wrapped = translate(error, "commit") if isinstance(error, apsw.Error) else StoreError(repr(error))
        if wrapped is not error:
            wrapped.__cause__ = error
        return wrapped

    def _fail(self, error: Exception) -> HeadwaterError:
        """What became of a commit is unknown, or memory may not follow the store any more."""
        failure = CommitUnknown(
            f"the outcome of a commit is unknown: {error!r}",
            operation="commit",
            hint="the store is stopped; start it again to recover what was committed",
        )
        failure.__cause__ = error
        self._break(failure)
        return failure

    def _break(self, failure: HeadwaterError) -> None:
        self.failure = failure
        self._post(_tell, self.broken, failure)

    def _run_task(self, task: Task, future: asyncio.Future[Any]) -> None:
        if self.failure is not None:
            self._post(_resolve, future, self.failure)
            return
        self._flushing = False
        try:
            answer = self._transact(task.work) if task.durable else task.work(self._connection)
        except Exception as error:
            self._post(_resolve, future, self._failed(error))
            return
        try:
            if task.durable:
                self._state.head.commit_no += 1
                self._board.flushed(self._state.head.commit_no)
            if task.adopt:
                task.adopt(answer)
        except Exception as error:
            answer = self._fail(error)
        self._post(_resolve, future, answer)

    def _transact(self, work: Work) -> Any:
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        answer = work(self._connection)
        execute("UPDATE head SET commit_no = commit_no + 1")
        self._flushing = True
        execute("COMMIT")
        return answer

    def _checkpoint(self, pages: int) -> None:
        """Move the WAL into the database when it has grown to `pages`; a full disk only defers it."""
        if self._wal_pages < pages or self.failure is not None:
            return
        if self._tried_pages <= self._wal_pages < self._tried_pages + _IDLE_PAGES:
            return
        self._tried_pages = self._wal_pages
        try:
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except (apsw.FullError, apsw.BusyError):
            return
        except apsw.Error as error:
            self._flushing = True
            self._failed(error)

    def _post(self, callback: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            """The loop is closed: nobody waits for the answer any more."""


def _blames_a_commit(result: Result) -> bool:
    """Whether a batch failed by one of its commits; a full disk or a foreign lock would meet each of them."""
    return not isinstance(result, StoreFull | StoreLocked)


def _resolve(future: asyncio.Future[Any], answer: Any) -> None:
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)


def _tell(broken: asyncio.Future[HeadwaterError], failure: HeadwaterError) -> None:
    if not broken.done():
        broken.set_result(failure)
