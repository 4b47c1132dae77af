"""The database's tables as virtual tables of SQLite, for `headwater sql`.

A relation's rows are read in pages along its key, each page one statement: conditions of the statement that its columns
allow go with it, and SQLite checks them again. So what a page reads is at most too much. Only columns that are used are
read. A page begins with few rows and grows as far as their size allows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import apsw
import msgspec

from headwater.engines.postgres.keys import pack_part, unpack_part
from headwater.events import KeyPart

FIRST_ROWS, MOST_ROWS, PAGE_BYTES = 64, 4096, 4 << 20
_TRIP = 1000.0
"""What a page costs, in rows that are read along."""
Fetch = Callable[[str, Sequence[Any]], Sequence[Any]]


class Column(NamedTuple):
    """`found`: whether conditions on it go to the database; "index": one that is not the key leads to few rows."""

    name: str
    kind: Literal["integer", "text", "bytes", "partition", "sort"]
    found: Literal["", "filter", "index"] = ""


_AFFINITY = {"integer": "INTEGER", "text": "TEXT", "bytes": "BLOB", "partition": "TEXT", "sort": ""}


class Relation(NamedTuple):
    """`source` is the database's table or query, under the alias r. The first `key` columns are unique: the order."""

    name: str
    source: str
    key: int
    columns: tuple[Column, ...]

    @property
    def declaration(self) -> str:
        return f"CREATE TABLE x ({', '.join(f'{c.name} {_AFFINITY[c.kind]}' for c in self.columns)})"


_RECORD = (
    Column("tbl", "integer", "filter"),
    Column("pk", "partition", "filter"),
    Column("sk", "sort", "filter"),
    Column("version", "text"),
    Column("crc", "integer"),
    Column("schema", "integer"),
    Column("expires_ms", "integer"),
    Column("body", "bytes"),
)
EVENT = Relation(
    "event",
    "@event r",
    1,
    (
        Column("seq", "integer", "filter"),
        Column("id", "text", "index"),
        Column("trace", "text", "index"),
        Column("source", "integer", "filter"),
        Column("time_ms", "integer"),
        Column("envelope", "bytes"),
    ),
)
MESSAGE = Relation(
    "message",
    "(SELECT m.*, e.id, e.source, e.envelope, e.trace FROM @message m JOIN @event e ON e.seq = m.position) r",
    2,
    (
        Column("queue", "integer", "filter"),
        Column("position", "integer", "filter"),
        Column("grp", "text"),
        Column("receives", "integer"),
        Column("sent_ms", "integer"),
        Column("ready_ms", "integer"),
        Column("id", "text"),
        Column("source", "integer"),
        Column("envelope", "bytes"),
        Column("trace", "text"),
    ),
)
DEAD = Relation(
    "dead",
    "@dead r",
    2,
    (
        Column("queue", "integer", "filter"),
        Column("id", "integer", "filter"),
        Column("event_id", "text", "index"),
        Column("envelope", "bytes"),
        Column("grp", "text"),
        Column("receives", "integer"),
        Column("reason", "text"),
        Column("died_ms", "integer"),
    ),
)
ATTEMPT = Relation(
    "attempt",
    "@attempt r",
    1,
    (
        Column("id", "integer", "filter"),
        Column("event_id", "text", "index"),
        Column("queue", "integer", "filter"),
        Column("n", "integer"),
        Column("outcome", "text"),
        Column("error", "text"),
        Column("started_ms", "integer"),
        Column("ended_ms", "integer"),
    ),
)
_IN_FORCE = (
    "SELECT c.tbl, c.pk, c.sk, c.version, c.crc, c.schema, c.expires_ms, c.body FROM @record c WHERE NOT EXISTS ("
    "SELECT FROM @load l JOIN @staged s ON s.load = l.id WHERE l.tbl = c.tbl AND l.state = 1 AND s.pk = c.pk"
    " AND s.sk = c.sk AND (s.body IS NOT NULL OR s.expires_ms IS NULL OR s.expires_ms <= {now_ms}))"
    " UNION ALL SELECT l.tbl, s.pk, s.sk, s.version, s.crc, s.schema, s.expires_ms, s.body"
    " FROM @load l JOIN @staged s ON s.load = l.id WHERE l.state = 1 AND s.body IS NOT NULL"
)


def relations(now_ms: int, *, merging: bool) -> list[Relation]:
    """`merging`: some table's load is flipped and not in place, so its rows are to be seen over records."""
    source = f"({_IN_FORCE.format(now_ms=now_ms)}) r" if merging else "@record r"
    return [Relation("record", source, 3, _RECORD), EVENT, MESSAGE, DEAD, ATTEMPT]


_OPERATORS = {
    apsw.SQLITE_INDEX_CONSTRAINT_EQ: "=",
    apsw.SQLITE_INDEX_CONSTRAINT_GT: ">",
    apsw.SQLITE_INDEX_CONSTRAINT_GE: ">=",
    apsw.SQLITE_INDEX_CONSTRAINT_LT: "<",
    apsw.SQLITE_INDEX_CONSTRAINT_LE: "<=",
}


class _Plan(msgspec.Struct):
    """How SQLite reads a relation: the columns used, (column, operator) of its conditions, and the order."""

    used: list[int]
    conditions: list[tuple[int, str]]
    reverse: bool


class Module:
    """`apsw.VTModule` of one relation."""

    def __init__(self, relation: Relation, fetch: Fetch, sql: Callable[[str], str]) -> None:
        self.relation, self.fetch, self.sql = relation, fetch, sql

    def Create(self, connection: apsw.Connection, *_: Any) -> tuple[str, _Table]:
        return self.relation.declaration, _Table(self)

    Connect = Create


class _Table:
    def __init__(self, module: Module) -> None:
        self._module = module

    def BestIndexObject(self, info: apsw.IndexInfo) -> bool:
        relation = self._module.relation
        conditions: list[tuple[int, str]] = []
        for n in range(info.nConstraint):
            column, operator = info.get_aConstraint_iColumn(n), _OPERATORS.get(info.get_aConstraint_op(n))
            if operator is None or not info.get_aConstraint_usable(n) or not _can_find(relation, column, operator):
                continue
            if relation.columns[column].kind != "integer" and info.get_aConstraint_collation(n) != "BINARY":
                continue
            conditions.append((column, operator))
            info.set_aConstraintUsage_argvIndex(n, len(conditions))
        equal = {column for column, operator in conditions if operator == "="}
        reverse = _ordered(info, relation, equal)
        info.orderByConsumed = reverse is not None
        used = [column for column in range(len(relation.columns)) if column in info.colUsed]
        info.idxStr = msgspec.json.encode(_Plan(used, conditions, bool(reverse))).decode()
        info.estimatedRows = rows = _estimate(relation, equal, bounded=len(conditions) > len(equal))
        info.estimatedCost = _TRIP + rows
        return True

    def Open(self) -> _Cursor:
        return _Cursor(self._module)

    def Disconnect(self) -> None: ...

    Destroy = Disconnect


def _can_find(relation: Relation, column: int, operator: str) -> bool:
    """Texts that are not packed are in another order in the database."""
    if column < 0:
        return False
    _, kind, found = relation.columns[column]
    return bool(found) and (operator == "=" or kind != "text")


def _ordered(info: apsw.IndexInfo, relation: Relation, equal: set[int]) -> bool | None:
    """Whether the key's order is the one wanted, and then whether it is wanted backwards."""
    wanted = [info.get_aOrderBy_iColumn(n) for n in range(info.nOrderBy)]
    ways = {info.get_aOrderBy_desc(n) for n in range(info.nOrderBy)}
    key = [column for column in range(relation.key) if column not in equal]
    rest = [column for column in wanted if column not in equal]
    return ways == {True} if rest == key[: len(rest)] and len(ways) <= 1 else None


def _estimate(relation: Relation, equal: set[int], *, bounded: bool) -> int:
    key = [column for column in range(relation.key) if column not in equal]
    if not key:
        return 1
    if any(relation.columns[column].found == "index" for column in equal):
        return 10
    part: int = 10 ** (relation.key - len(key)) * (4 if bounded else 1)
    return 1_000_000 // part


class _Cursor:
    def __init__(self, module: Module) -> None:
        self._module = module
        self._relation = module.relation
        self._page: Sequence[Any] = ()
        self._at = self._passed = 0

    def Filter(self, _: int, plan: str | None, values: tuple[Any, ...] | None) -> None:
        asked = msgspec.json.decode(plan or "", type=_Plan)
        key = range(self._relation.key)
        self._reverse = asked.reverse
        self._places = {column: n for n, column in enumerate(dict.fromkeys((*key, *asked.used)))}
        self._where: list[str] = []
        self._arguments: list[Any] = []
        self._few = False
        for (column, operator), value in zip(asked.conditions, values or (), strict=True):
            self._narrow(self._relation.columns[column], operator, value)
        self._at = self._passed = 0
        self._read(FIRST_ROWS, None)

    def _narrow(self, column: Column, operator: str, value: Any) -> None:
        found = _converted(column, value)
        if found is not None:
            self._where.append(f"r.{column.name} {operator} {self._bind(found)}")
            self._few = self._few or column.found == "index"

    def _bind(self, value: Any) -> str:
        self._arguments.append(value)
        return f"${len(self._arguments)}"

    def _read(self, rows: int, last: Any) -> None:
        names = [f"r.{column.name}" for column in self._relation.columns]
        key, where, given = names[: self._relation.key], list(self._where), len(self._arguments)
        if last is not None:
            after = ", ".join(self._bind(last[n]) for n in range(len(key)))
            where.append(f"({', '.join(key)}) {'<' if self._reverse else '>'} ({after})")
        # An order that no index has keeps the database from walking along the key in search of them.
        order = [f"{name} + 0" for name in key] if self._few else key
        direction = " DESC" if self._reverse else ""
        statement = (
            f"SELECT {', '.join(names[column] for column in self._places)} FROM {self._relation.source}"
            f"{' WHERE ' if where else ''}{' AND '.join(where)}"
            f" ORDER BY {', '.join(f'{name}{direction}' for name in order)} LIMIT {self._bind(rows)}"
        )
        self._passed += self._at
        self._page = self._module.fetch(self._module.sql(statement), self._arguments)
        del self._arguments[given:]
        self._asked, self._at = rows, 0

    def Eof(self) -> bool:
        return self._at >= len(self._page)

    def Next(self) -> None:
        self._at += 1
        if self._at == len(self._page) == self._asked:
            size = sum(len(value) for row in self._page for value in row if isinstance(value, bytes | str))
            fitting = self._asked * PAGE_BYTES // max(size, 1)
            self._read(max(1, min(self._asked * 4, MOST_ROWS, fitting)), self._page[-1])

    def Column(self, column: int) -> Any:
        if column < 0:
            return self.Rowid()
        value = self._page[self._at][self._places[column]]
        match self._relation.columns[column].kind:
            case "partition":
                return value.decode()
            case "sort":
                return unpack_part(value)
        return value

    def Rowid(self) -> int:
        return self._passed + self._at

    def Close(self) -> None:
        self._page = ()


def _converted(column: Column, value: Any) -> Any:
    """The value as the database knows it; None when it can't be asked for."""
    match column.kind, value:
        case "integer", int() if -(1 << 63) <= value < 1 << 63:
            return value
        case "text", str() if "\0" not in value:
            return value
        case "partition", str():
            return value.encode()
        case "sort", int() | str():
            part: KeyPart = value
            return pack_part(part)
    return None
