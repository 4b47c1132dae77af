"""Reading the store with SQL (`headwater.inspecting`).

A statement is run by SQLite, in memory, on virtual tables (`relations.py`) that read the database in one transaction.
Each question has a connection of its own, and a thread with an event loop for it: nothing waits for the answer but
this thread.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import apsw
import asyncpg

from headwater.engine import Answer, Question
from headwater.engines.postgres.database import UNREACHABLE, translate, verify
from headwater.engines.postgres.forgetting import Forgetting
from headwater.engines.postgres.relations import RELATIONS, Module, merged_records
from headwater.engines.postgres.state import State
from headwater.engines.postgres.store import Store
from headwater.errors import StoreError
from headwater.inspecting.answering import Deadline, Snapshot, answer
from headwater.inspecting.asking import Asking
from headwater.inspecting.views import Shown

T = TypeVar("T")


class Inspections(Forgetting):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._asking = Asking()
        self._readings: set[_Reading] = set()

    async def ask(self, question: Question) -> Answer:
        return await self._asking.ask(partial(self._answer, question, self.present_ms()))

    async def _end_questions(self) -> None:
        for reading in list(self._readings):
            reading.stop()
        await self._asking.end()

    def _answer(self, question: Question, now_ms: int) -> Answer:
        deadline = Deadline(question)
        connection = apsw.Connection(":memory:")
        try:
            with self._reading(deadline) as reading:
                state = reading.begin()
                tables = self._attach(connection, reading, state, now_ms)
                snapshot = Snapshot(connection, tables, "message", now_ms, verify, lambda: self._asking.ending)
                return answer(question, deadline, snapshot)
        except apsw.Error as error:
            raise StoreError(str(error), operation="sql", resource=self.address.shown) from error
        except (asyncpg.PostgresError, *UNREACHABLE) as error:
            raise translate(error, "sql", self.address) from error
        finally:
            connection.close()

    def _attach(self, connection: apsw.Connection, reading: _Reading, state: State, now_ms: int) -> list[Shown]:
        connection.execute("CREATE TABLE name (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)")
        connection.executemany("INSERT INTO name VALUES (?, ?)", state.names.items())
        merged = {table: merged_records(table, merging.load, now_ms) for table, merging in state.merging.items()}
        for relation in (*RELATIONS, *merged.values()):
            module: Any = Module(relation, reading.fetch, self.database.sql)
            connection.create_module(relation.name, module, use_bestindex_object=True, read_only=True)
            connection.execute(f"CREATE VIRTUAL TABLE {relation.name} USING {relation.name}")
        specs = [(state.ids[name], spec) for name, spec in sorted(state.tables.items()) if name in state.ids]
        return [
            Shown(spec, number, records=merged[number].name if number in merged else "record") for number, spec in specs
        ]

    @contextlib.contextmanager
    def _reading(self, deadline: Deadline) -> Iterator[_Reading]:
        reading = _Reading(self, deadline)
        self._readings.add(reading)
        try:
            yield reading
        finally:
            self._readings.discard(reading)
            reading.close()


class _Reading:
    """One transaction that reads, in the loop of the thread that uses it. Only `stop` is for other threads."""

    def __init__(self, store: Store, deadline: Deadline) -> None:
        self._store = store
        self._deadline = deadline
        self._loop = asyncio.new_event_loop()
        self._connection: Any = None
        self._task: asyncio.Task[Any] | None = None
        self._stopped = False

    def begin(self) -> State:
        return self._run(self._begin())

    async def _begin(self) -> State:
        database, state = self._store.database, State()
        self._connection = await database.patiently("sql", database.connect)
        await self._connection.transaction(isolation="repeatable_read", readonly=True).start()
        await state.load(self._connection, self._store.address.schema)
        return state

    def fetch(self, statement: str, arguments: Sequence[Any]) -> Sequence[Any]:
        patience_s = self._deadline.left_s + 1  # instead of the connection's own, which may be shorter
        return self._run(self._connection.fetch(statement, *arguments, timeout=patience_s))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        self._task = self._loop.create_task(self._bounded(work))
        if self._stopped:
            self._task.cancel()
        try:
            result: T = self._loop.run_until_complete(self._task)
        except asyncio.CancelledError as error:
            raise StoreError("the store is being closed", operation="sql") from error
        return result

    async def _bounded(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            async with asyncio.timeout(max(self._deadline.left_s, 0)):
                return await work
        except TimeoutError as error:
            if self._connection is None:
                raise translate(error, "sql", self._store.address) from error
            raise self._deadline.missed() from error

    def stop(self) -> None:
        """Have what runs end with an error, and all that would run later."""
        self._stopped = True
        with contextlib.suppress(RuntimeError):  # its loop is closed
            self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def close(self) -> None:
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _end(self) -> None:
        if self._connection is not None:
            try:
                await self._connection.close(timeout=1.0)
            except (asyncpg.PostgresError, *UNREACHABLE):
                self._connection.terminate()
