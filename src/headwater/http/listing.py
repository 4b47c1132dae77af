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
_BOUNDS = (".from", ".to", ".prefix")
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
        self.filters = {name for way in self._ways for name in (*self._parameters(way), *self.partition_ranges(way))}

    def _parameters(self, way: Way) -> tuple[str, ...]:
        return (*self._partition(way), *self.ranges(way))

    def _partition(self, way: Way) -> tuple[str, ...]:
        return () if way.partition == self._owner else (way.partition,)

    def ranges(self, way: Way) -> tuple[str, ...]:
        """The parameters on the sort field: a value, the ends of a range, and of text a prefix."""
        return (way.sort, *self._bounds(way.sort)) if way.sort else ()

    def partition_ranges(self, way: Way) -> tuple[str, ...]:
        """The parameters on the partition in place of its value: the ends of a range, and of text a prefix."""
        return tuple(name for field in self._partition(way) for name in self._bounds(field))

    def _bounds(self, field: str) -> tuple[str, ...]:
        return tuple(field + kind for kind in (_BOUNDS[:-1] if self._is_integer(field) else _BOUNDS))

    def read(self, query_string: bytes, owner: str) -> Listing:
        """Raises `InvalidValue` naming the parameters that are unknown, repeated, contradictory or malformed."""
        given = read_parameters(query_string, RESERVED | self.filters)
        way = self._choose(given)
        partition: KeyPart | None = None
        ranged = ""
        if way is not None and not self._is_ranged(way, given):
            partition = self._value(way.partition, way.partition, given) if self._partition(way) else owner
            ranged = way.sort
        elif way is not None:
            ranged = way.partition
        low, high, prefix = self._range(ranged, given)
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
            if self._is_ranged(way, given) or ({*self._partition(way)} <= filters <= {*self._parameters(way)}):
                return way
        names = sorted(filters)
        error = InvalidValue(f"no index serves the parameters {', '.join(names)} together", operation="request")
        error.errors = [{"type": "value_error", "loc": ["query", name], "msg": error.message} for name in names]
        raise error

    def _is_ranged(self, way: Way, given: Parameters) -> bool:
        """Whether all filters bound the way's partition."""
        filters = given.keys() - RESERVED
        return bool(filters) and filters <= {*self.partition_ranges(way)}

    def _range(self, exact: str, given: Parameters) -> tuple[KeyPart | None, KeyPart | None, str]:
        """What is asked of a field: the least value, the greatest, and what it begins with."""
        if not exact:
            return None, None, ""
        start, end, prefix = (exact + kind for kind in _BOUNDS)
        if exact not in given:
            return self._value(start, exact, given), self._value(end, exact, given), given.get(prefix, "")
        if both := [name for name in (start, end, prefix) if name in given]:
            raise invalid("value_error", f"{both[0]} contradicts {exact}", "query", both[0])
        value = self._value(exact, exact, given)
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
