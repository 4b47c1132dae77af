"""Reading the store with SQL: a snapshot, a view for each table and for what the store itself keeps, and nothing else.

Each question has a connection of its own, read-only, in a thread. In one read transaction it makes temporary views and
then runs the statement. An authorizer refuses all but reading: tables of the store can be read inside of those views
only. SQLite tells the authorizer the name of the view, or of the common table expression, that a read stands in; so
the views that read have names that nobody can guess, and those for users select from them.

A table that merges a load is shown as `Records` reads it: staged rows over records, in the state of the snapshot.
"""

from __future__ import annotations

import asyncio
import math
import re
import secrets
from collections.abc import Callable
from typing import Any, NamedTuple

import apsw

from headwater.applying.state import decode_envelope
from headwater.clock import SystemClock
from headwater.codec import decode_json, encode_json
from headwater.engine import Answer, Question
from headwater.engines.sqlite.database import connect, fetch, translate, verify
from headwater.engines.sqlite.forgetting import Forgetting
from headwater.engines.sqlite.views import STORE_VIEWS, View, table_view
from headwater.errors import HeadwaterError, InvalidValue, TimedOut, TooLarge, UnknownResource

AT_ONCE = 2
MAX_VALUE, MAX_STATEMENT, MAX_ANSWER = 16 << 20, 100_000, 32 << 20
_OPCODES = 10_000
_REFUSED = frozenset({"load_extension", "fts3_tokenizer", "sqlite_log", "readfile", "writefile", "edit"})
_READABLE = frozenset({"json_each", "json_tree"})
_NO_TABLE = re.compile(r"no such table: (.+)")
_PLAIN = frozenset({apsw.SQLITE_SELECT, apsw.SQLITE_RECURSIVE})


class _Answering(NamedTuple):
    """One question on its connection; `secret` begins the names of the views that may read the store."""

    question: Question
    connection: apsw.Connection
    views: list[View]
    secret: str
    readable: frozenset[str]

    def authorize(self, action: int, first: str | None, second: str | None, _: str | None, within: str | None) -> int:
        allowed = action in _PLAIN
        if action == apsw.SQLITE_FUNCTION:
            allowed = second not in _REFUSED
        elif action == apsw.SQLITE_READ:
            # Without a column it only counts rows, or checks that there are any.
            inside = (within or "").startswith(self.secret)
            allowed = inside or not second or first in self.readable or (first or "").startswith(self.secret)
        return apsw.SQLITE_OK if allowed else apsw.SQLITE_DENY

    def run(self) -> Answer:
        columns: list[str] = []

        def prepared(cursor: apsw.Cursor, _statement: str, _bindings: Any) -> bool:
            if columns or not cursor.is_readonly:
                raise InvalidValue("give one statement that reads", operation="sql")
            columns.extend(str(column[0]) for column in cursor.get_description())
            if not columns:
                raise InvalidValue("give one statement that reads", operation="sql")
            return True

        rows: list[tuple[Any, ...]] = []
        size = 0
        cursor = self.connection.cursor()
        cursor.exec_trace = prepared
        for row in cursor.execute(self.question.statement, dict(self.question.parameters)):
            if len(rows) == self.question.limit:
                return Answer(_unique(columns), rows, more=True)
            rows.append(tuple(_shown(value) for value in row))
            size += sum(len(value) if isinstance(value, str) else 8 for value in rows[-1])
            if size > MAX_ANSWER:
                raise TooLarge(f"the answer has more than {MAX_ANSWER >> 20} MiB", operation="sql", hint="select less")
        if not columns:
            raise InvalidValue("there is no statement", operation="sql")
        return Answer(_unique(columns), rows)


class Inspections(Forgetting):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._asking = asyncio.Semaphore(AT_ONCE)
        self._asked: set[asyncio.Task[Answer]] = set()
        self._ending = False

    async def ask(self, question: Question) -> Answer:
        task = asyncio.get_running_loop().create_task(self._ask(question))
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)
        return await asyncio.shield(task)

    async def _ask(self, question: Question) -> Answer:
        async with self._asking:
            return await asyncio.to_thread(self._answer, question, self.present_ms())

    async def _end_questions(self) -> None:
        """Their connections would keep the store's files open."""
        self._ending = True
        await asyncio.gather(*self._asked, return_exceptions=True)
        self._ending = False

    def _answer(self, question: Question, now_ms: int) -> Answer:
        views: list[View] = []
        try:
            connection = connect(self.folder / "store.db", read_only=True, vfs=self._vfs)
            try:
                answering = self._prepare(connection, question, now_ms, views)
                return answering.run()
            finally:
                connection.close()
        except apsw.Error as error:
            raise _translated(error, question, views) from error
        except UnicodeDecodeError as error:
            raise InvalidValue("the answer has a text that is no UTF-8", operation="sql") from error
        except (KeyError, TypeError, OverflowError) as error:
            raise InvalidValue(f"the statement's parameters are wrong: {error}", operation="sql") from error

    def _prepare(self, connection: apsw.Connection, question: Question, now_ms: int, views: list[View]) -> _Answering:
        elapsed = SystemClock().monotonic  # a statement runs in real time, also where the store's stands still
        deadline = elapsed() + question.seconds
        connection.set_progress_handler(lambda: self._ending or elapsed() > deadline, _OPCODES)
        connection.limit(apsw.SQLITE_LIMIT_LENGTH, MAX_VALUE)
        connection.limit(apsw.SQLITE_LIMIT_SQL_LENGTH, MAX_STATEMENT)
        connection.create_scalar_function("event_part", _event_part(question), 3)
        connection.create_scalar_function("sound", _sound, 3)
        connection.execute("BEGIN")
        merging: dict[int, int] = dict(fetch(connection, "SELECT tbl, id FROM load WHERE state = 1"))
        secret = f"{secrets.token_hex(16)} "
        specs = [spec for name, spec in sorted(self.state.tables.items()) if name in self.state.ids]
        for spec in specs:
            number = self.state.ids[spec.name]
            hidden = question.hidden.get(spec.name, ())
            load = merging.get(number)
            views.append(table_view(connection, spec, number, load=load, now_ms=now_ms, hidden=hidden))
        views.extend(STORE_VIEWS)
        for n, view in enumerate(views):
            connection.execute(f'CREATE TEMP VIEW "{secret}{n}" AS {view.select}')
            for name in view.names:
                connection.execute(f'CREATE TEMP VIEW IF NOT EXISTS "{name}" AS SELECT * FROM "{secret}{n}"')
        readable = frozenset(name for view in views for name in view.names) | _READABLE
        answering = _Answering(question, connection, views, secret, readable)
        connection.authorizer = answering.authorize
        return answering


def _event_part(question: Question) -> Callable[..., Any]:
    """A part of an event's envelope, without the hidden fields of its source."""

    def part(*values: Any) -> Any:
        body, source, name = values
        event = decode_envelope(body)
        value = getattr(event, name)
        if isinstance(value, bytes):
            if fields := question.hidden.get(source):
                value = encode_json({k: v for k, v in decode_json(value).items() if k not in fields})
            return value.decode()
        return value

    return part


def _sound(*values: Any) -> bool:
    """Raise `StoreDamaged` for a row whose bytes are not those written."""
    body, crc, key = values
    verify(crc, lambda: key, body)
    return True


def _shown(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _unique(columns: list[str]) -> list[str]:
    """Names of columns, so that rows can be shown as objects."""
    return [name if name not in columns[:n] else f"{name}:{n}" for n, name in enumerate(columns)]


def _translated(error: apsw.Error, question: Question, views: list[View]) -> HeadwaterError:
    message = str(error)
    match error:
        case apsw.InterruptError():
            return TimedOut(
                f"the statement ran longer than {question.seconds:g}s",
                operation="sql",
                hint="select less, or allow it more time",
            )
        case apsw.AuthError():
            return InvalidValue(f"it does not only read the views: {message}", operation="sql", hint=_hint(views))
        case apsw.TooBigError():
            return TooLarge(f"a value has more than {MAX_VALUE >> 20} MiB", operation="sql")
        case apsw.SQLError() | apsw.BindingsError() | apsw.ReadOnlyError() | apsw.RangeError():
            if missing := _NO_TABLE.search(message):
                return UnknownResource(
                    "there is no such table", operation="sql", resource=missing[1], hint=_hint(views)
                )
            return InvalidValue(message, operation="sql")
    return translate(error, "sql")


def _hint(views: list[View]) -> str:
    return f"there are {', '.join(sorted(_quoted(view.names[0]) for view in views))}"


def _quoted(name: str) -> str:
    return f'"{name}"' if "/" in name else name
