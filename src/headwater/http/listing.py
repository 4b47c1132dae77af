"""The parameters of a list as a query: filters on the key's and the indexes' fields, order, and cursor."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import parse_qsl

import msgspec

from headwater.codec import INT64, field_names
from headwater.engine import Query
from headwater.errors import InvalidValue
from headwater.events import KeyPart
from headwater.http.declarations import RESERVED, Exposure, Way
from headwater.http.direct import invalid
from headwater.pages import read_cursor

DEFAULT_LIMIT = 100
MAX_LIMIT = 500
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}", re.ASCII)
_RANGES = ("", ".from", ".to", ".prefix")
Parameters = dict[str, str]


class Listing(msgspec.Struct, frozen=True):
    """What a list asks for; `fields` empty means whole rows."""

    query: Query
    fields: tuple[str, ...]


class ListReader:
    """Reads the parameters of one exposed table. `is_integer` tells the fields whose values are integers."""

    def __init__(self, exposure: Exposure, is_integer: Callable[[str], bool]) -> None:
        self._table = exposure.table
        self._owner = exposure.owner
        self._ways = exposure.ways
        self._is_integer = is_integer
        self._fields = field_names(exposure.table.model)
        self.filters = {name for way in self._ways for name in (*self._partition(way), *self.ranges(way))}

    def _partition(self, way: Way) -> tuple[str, ...]:
        return () if way.partition == self._owner else (way.partition,)

    def ranges(self, way: Way) -> tuple[str, ...]:
        """The parameters on the sort field: a value, the ends of a range, and of text a prefix."""
        kinds = _RANGES[:-1] if self._is_integer(way.sort) else _RANGES
        return tuple(way.sort + kind for kind in kinds) if way.sort else ()

    def read(self, query_string: bytes, owner: str) -> Listing:
        """Raises `InvalidValue` naming the parameters that are unknown, repeated, contradictory or malformed."""
        given = read_parameters(query_string, RESERVED | self.filters)
        way = self._choose(given)
        partition: KeyPart | None = None
        if way is not None:
            named = self._partition(way)
            partition = self._value(way.partition, way.partition, given) if named else owner
        low, high, prefix = self._range(way, given)
        order = given.get("order", "asc")
        if order not in ("asc", "desc"):
            raise invalid("enum", "order is asc or desc", "query", "order")
        index = way.index if way else ""
        query = Query(
            table=self._table.name,
            index=index,
            partition=partition,
            low=low,
            high=high,
            prefix=prefix,
            limit=read_limit(given),
            after=_after(given, partition, 4 if index else 2),
            reverse=order == "desc",
        )
        return Listing(query, self.fields(given))

    def fields(self, given: Parameters) -> tuple[str, ...]:
        """The top-level fields that are asked for."""
        if "fields" not in given:
            return ()
        names = tuple(dict.fromkeys(given["fields"].split(",")))
        unknown = [name for name in names if not name or (self._fields is not None and name not in self._fields)]
        if unknown:
            raise invalid("value_error", f"there is no field {unknown[0]!r}", "query", "fields")
        return names

    def _choose(self, given: Parameters) -> Way | None:
        """The first order that all filters fit; None is the whole table in the order of its key."""
        filters = {name for name in given if name not in RESERVED}
        if not filters:
            return self._ways[0] if self._owner else None
        for way in self._ways:
            named = set(self._partition(way))
            if named <= filters <= named | set(self.ranges(way)):
                return way
        names = sorted(filters)
        error = InvalidValue(f"no index serves the parameters {', '.join(names)} together", operation="request")
        error.errors = [{"type": "value_error", "loc": ["query", name], "msg": error.message} for name in names]
        raise error

    def _range(self, way: Way | None, given: Parameters) -> tuple[KeyPart | None, KeyPart | None, str]:
        if way is None or not way.sort:
            return None, None, ""
        exact, start, end, prefix = (way.sort + kind for kind in _RANGES)
        if exact not in given:
            low, high = self._value(start, way.sort, given), self._value(end, way.sort, given)
            return low, high, given.get(prefix, "")
        if both := [name for name in (start, end, prefix) if name in given]:
            raise invalid("value_error", f"{both[0]} contradicts {exact}", "query", both[0])
        value = self._value(exact, way.sort, given)
        return value, value, ""

    def _value(self, parameter: str, field: str, given: Parameters) -> KeyPart | None:
        text = given.get(parameter)
        if text is None or not self._is_integer(field):
            return text
        return read_integer(text, "query", parameter)


def read_parameters(query_string: bytes, known: frozenset[str] | set[str]) -> Parameters:
    """The parameters, each known and given once; raises `InvalidValue` naming those that are not."""
    if not query_string:
        return {}
    try:
        pairs = parse_qsl(query_string.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=100)
    except ValueError as error:
        raise invalid("value_error", "the query string is no UTF-8 text, or too long", "query") from error
    given: Parameters = {}
    for name, value in pairs:
        if name not in known:
            raise invalid("extra_forbidden", f"there is no parameter {name!r}", "query", name)
        if name in given:
            raise invalid("value_error", f"the parameter {name!r} is given twice", "query", name)
        given[name] = value
    return given


def read_integer(text: str, *place: str) -> int:
    """A 64-bit integer in its one decimal form."""
    if not _INTEGER.fullmatch(text) or int(text) not in INT64:
        raise invalid("int_parsing", f"{place[-1]} is an integer of 64 bits", *place)
    return int(text)


def read_limit(given: Parameters) -> int:
    if "limit" not in given:
        return DEFAULT_LIMIT
    limit = read_integer(given["limit"], "query", "limit")
    if not 1 <= limit <= MAX_LIMIT:
        raise invalid("value_error", f"limit is 1 to {MAX_LIMIT}", "query", "limit")
    return limit


def _after(given: Parameters, partition: KeyPart | None, parts: int) -> tuple[KeyPart, ...] | None:
    """The place that a cursor stands for: one of this query's partition."""
    if "cursor" not in given:
        return None
    after = read_cursor(given["cursor"])
    fits = len(after) == parts and (partition is None or after[0] == partition)
    if not fits or any(isinstance(part, int) and part not in INT64 for part in after):
        raise invalid("value_error", "the cursor is not one of this list's", "query", "cursor")
    return after
