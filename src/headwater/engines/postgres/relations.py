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


class Branch(NamedTuple):
    """A table or query of the database under the alias r, and which of its rows."""

    source: str
    where: str = ""


class Relation(NamedTuple):
    """The first `key` columns are unique among the rows of all branches: these are in the order of the key."""

    name: str
    key: int
    columns: tuple[Column, ...]
    branches: tuple[Branch, ...]

    @property
    def declaration(self) -> str:
        return f"CREATE TABLE x ({', '.join(f'{c.name} {_AFFINITY[c.kind]}' for c in self.columns)})"


_RECORD_COLUMNS = (
    Column("tbl", "integer", "filter"),
    Column("pk", "partition", "filter"),
    Column("sk", "sort", "filter"),
    Column("version", "text"),
    Column("crc", "integer"),
    Column("schema", "integer"),
    Column("expires_ms", "integer"),
    Column("body", "bytes"),
)
RELATIONS = (
    Relation("record", 3, _RECORD_COLUMNS, (Branch("@record r"),)),
    Relation(
        "event",
        1,
        (
            Column("seq", "integer", "filter"),
            Column("id", "text", "index"),
            Column("trace", "text", "index"),
            Column("source", "integer", "filter"),
            Column("time_ms", "integer"),
            Column("envelope", "bytes"),
        ),
        (Branch("@event r"),),
    ),
    Relation(
        "message",
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
        (
            Branch(
                "(SELECT m.*, e.id, e.source, e.envelope, e.trace"
                " FROM @message m JOIN @event e ON e.seq = m.position) r"
            ),
        ),
    ),
    Relation(
        "dead",
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
        (Branch("@dead r"),),
    ),
    Relation(
        "attempt",
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
        (Branch("@attempt r"),),
    ),
)
_REPLACED = (
    "EXISTS (SELECT FROM @staged s WHERE s.load = {load} AND s.pk = r.pk AND s.sk = r.sk"
    " AND (s.body IS NOT NULL OR s.expires_ms IS NULL OR s.expires_ms <= {now_ms}))"
)


def merged_records(table: int, load: int, now_ms: int) -> Relation:
    """The records of a table whose load is flipped and not in place: its staged rows are over them."""
    return Relation(
        f"record_{table}",
        3,
        _RECORD_COLUMNS,
        (
            Branch("@record r", f"NOT {_REPLACED.format(load=load, now_ms=now_ms)}"),
            Branch(f"(SELECT {table} AS tbl, s.* FROM @staged s WHERE s.load = {load}) r", "r.body IS NOT NULL"),
        ),
    )


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
        self._places = {column: n for n, column in enumerate(dict.fromkeys((*key, *asked.used)))}
        self._direction = " DESC" if asked.reverse else ""
        self._where: list[str] = []
        self._arguments: list[Any] = []
        pinned: set[int] = set()
        self._few = False
        for (column, operator), value in zip(asked.conditions, values or (), strict=True):
            asked_of = self._relation.columns[column]
            if (argument := _converted(asked_of.kind, value)) is not None:
                self._where.append(f"{self._name(column)} {operator} {self._bind(argument)}")
                pinned |= {column} if operator == "=" else set()
                self._few = self._few or asked_of.found == "index"
        self._order = [column for column in key if column not in pinned]
        self._at = self._passed = 0
        self._read(FIRST_ROWS, None)

    def _name(self, column: int) -> str:
        return f"r.{self._relation.columns[column].name}"

    def _bind(self, value: Any) -> str:
        self._arguments.append(value)
        return f"${len(self._arguments)}"

    def _read(self, rows: int, last: Any) -> None:
        where, given = list(self._where), len(self._arguments)
        if last is not None:
            names = ", ".join(map(self._name, self._order))
            after = ", ".join(self._bind(last[column]) for column in self._order)
            where.append(f"({names}) {'<' if self._direction else '>'} ({after})")
        limit = f" LIMIT {self._bind(rows)}"
        columns = ", ".join(map(self._name, self._places))
        parts = []
        for source, condition in self._relation.branches:
            conditions = " AND ".join(filter(None, (condition, *where))) or "true"
            parts.append(f"(SELECT {columns} FROM {source} WHERE {conditions}{self._ordered()}{limit})")
        statement = " UNION ALL ".join(parts)
        if len(parts) > 1:
            statement = f"SELECT * FROM ({statement}) r{self._ordered()}{limit}"
        self._passed += self._at
        self._page = self._module.fetch(self._module.sql(statement), self._arguments)
        del self._arguments[given:]
        self._asked, self._at = rows, 0

    def _ordered(self) -> str:
        # An order that no index has keeps the database from walking along the key in search of them.
        name = "{} + 0" if self._few else "{}"
        terms = [f"{name.format(self._name(column))}{self._direction}" for column in self._order]
        return f" ORDER BY {', '.join(terms)}" if terms else ""

    def Eof(self) -> bool:
        return self._at >= len(self._page)

    def Next(self) -> None:
        self._at += 1
        if self._at == len(self._page) == self._asked and self._order:
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


def _converted(kind: str, value: Any) -> Any:
    """The value as the database knows it; None when it can't be asked for."""
    match kind, value:
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
