"""Answering a question: views for each table and for what the store itself keeps, and nothing else.

An authorizer refuses all but reading: tables of the store can be read inside of the views only. SQLite tells the
authorizer the name of the view, or of the common table expression, that a read stands in; so the views that read have
names that nobody can guess, and those for users select from them.

A table that merges a load is shown as `Records` reads it: staged rows over records, in the state of the snapshot.
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import apsw

from headwater.applying.state import decode_envelope
from headwater.clock import SystemClock
from headwater.codec import decode_json, encode_json
from headwater.engine import Answer, Question
from headwater.errors import HeadwaterError, InvalidValue, TimedOut, TooLarge, UnknownResource
from headwater.inspecting.views import Shown, View, store_views, table_view

MAX_VALUE, MAX_STATEMENT, MAX_ANSWER = 16 << 20, 100_000, 32 << 20
_OPCODES = 10_000
_REFUSED = frozenset({"load_extension", "fts3_tokenizer", "sqlite_log", "readfile", "writefile", "edit"})
_READABLE = frozenset({"json_each", "json_tree"})
_NO_TABLE = re.compile(r"no such table: (.+)")
_PLAIN = frozenset({apsw.SQLITE_SELECT, apsw.SQLITE_RECURSIVE})
Verify = Callable[[int, Callable[[], str], bytes | None], None]
"""Raises `StoreDamaged` when a checksum is not that of the bytes."""


class Deadline:
    """When a question must be answered: in real time, also where the store's stands still."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._now = SystemClock().monotonic
        self._end = self._now() + question.seconds

    @property
    def left_s(self) -> float:
        return self._end - self._now()

    def missed(self) -> TimedOut:
        return TimedOut(
            f"the statement ran longer than {self._question.seconds:g}s",
            operation="sql",
            hint="select less, or allow it more time",
        )


class Snapshot(NamedTuple):
    """What an engine provides of the store's state at one moment: a connection, tables, and a query of messages.

    `ending` tells whether to give up.
    """

    connection: apsw.Connection
    tables: Sequence[Shown]
    messages: str
    now_ms: int
    verify: Verify
    ending: Callable[[], bool]


class _Answering(NamedTuple):
    """One question on its connection; `secret` begins the names of the views that may read the store."""

    question: Question
    connection: apsw.Connection
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


def answer(question: Question, deadline: Deadline, snapshot: Snapshot) -> Answer:
    """Blocks. Raises what `engine.Inspection` says, and errors of SQLite that tell nothing of the statement."""
    views: list[View] = []
    try:
        return _prepare(question, deadline, snapshot, views).run()
    except apsw.Error as error:
        if (failure := _translated(error, deadline, views)) is None:
            raise
        raise failure from error
    except UnicodeDecodeError as error:
        raise InvalidValue("the answer has a text that is no UTF-8", operation="sql") from error
    except (KeyError, TypeError, OverflowError) as error:
        raise InvalidValue(f"the statement's parameters are wrong: {error}", operation="sql") from error


def _prepare(question: Question, deadline: Deadline, snapshot: Snapshot, views: list[View]) -> _Answering:
    connection = snapshot.connection
    connection.set_progress_handler(lambda: snapshot.ending() or deadline.left_s < 0, _OPCODES)
    connection.limit(apsw.SQLITE_LIMIT_LENGTH, MAX_VALUE)
    connection.limit(apsw.SQLITE_LIMIT_SQL_LENGTH, MAX_STATEMENT)
    connection.create_scalar_function("event_part", _event_part(question), 3)
    connection.create_scalar_function("sound", _sound(snapshot.verify), 3)
    secret = f"{secrets.token_hex(16)} "
    for shown in snapshot.tables:
        hidden = question.hidden.get(shown.spec.name, ())
        views.append(table_view(connection, shown, now_ms=snapshot.now_ms, hidden=hidden))
    views.extend(store_views(snapshot.messages))
    for n, view in enumerate(views):
        connection.execute(f'CREATE TEMP VIEW "{secret}{n}" AS {view.select}')
        for name in view.names:
            connection.execute(f'CREATE TEMP VIEW IF NOT EXISTS "{name}" AS SELECT * FROM "{secret}{n}"')
    readable = frozenset(name for view in views for name in view.names) | _READABLE
    answering = _Answering(question, connection, secret, readable)
    connection.authorizer = answering.authorize
    return answering


def _event_part(question: Question) -> Callable[..., Any]:
    """A part of an event's envelope, without the hidden fields of its source."""

    decode = lru_cache(maxsize=1)(decode_envelope)  # the parts of one event are asked for one after the other

    def part(*values: Any) -> Any:
        body, source, name = values
        event = decode(body)
        value = getattr(event, name)
        if isinstance(value, bytes):
            if fields := question.hidden.get(source):
                value = encode_json({k: v for k, v in decode_json(value).items() if k not in fields})
            return value.decode()
        return value

    return part


def _sound(verify: Verify) -> Callable[..., bool]:
    """Raises `StoreDamaged` for a row whose bytes are not those written."""

    def sound(*values: Any) -> bool:
        body, crc, key = values
        verify(crc, lambda: key, body)
        return True

    return sound


def _shown(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _unique(columns: list[str]) -> list[str]:
    """Names of columns, so that rows can be shown as objects."""
    return [name if name not in columns[:n] else f"{name}:{n}" for n, name in enumerate(columns)]


def _translated(error: apsw.Error, deadline: Deadline, views: list[View]) -> HeadwaterError | None:
    """What is wrong with the statement, None when it is something else."""
    message = str(error)
    match error:
        case apsw.InterruptError():
            return deadline.missed()
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
    return None


def _hint(views: list[View]) -> str:
    return f"there are {', '.join(sorted(_quoted(view.names[0]) for view in views))}"


def _quoted(name: str) -> str:
    return f'"{name}"' if "/" in name else name
