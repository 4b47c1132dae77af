"""Pages of queries: cursors, and a unit's own writes laid over a page of committed rows. Pure."""

from __future__ import annotations

import base64
from collections.abc import Mapping

import msgspec

from headwater.catalog import TableSpec, index_entry
from headwater.codec import decode_json
from headwater.engine import Query, Record, RecordPage
from headwater.events import Key, KeyPart

Place = tuple[KeyPart, ...]
"""Where a row stands in the order of a query: its key, or its index entry and key."""


def write_cursor(after: Place | None) -> str | None:
    return None if after is None else base64.urlsafe_b64encode(msgspec.json.encode(after)).decode().rstrip("=")


def read_cursor(cursor: str) -> Place:
    """The place that a cursor stands for; () when it is none."""
    try:
        return tuple(msgspec.json.decode(base64.urlsafe_b64decode(cursor + "=="), type=list[str | int]))
    except (ValueError, msgspec.MsgspecError):
        return ()


def overlay(
    spec: TableSpec, query: Query, page: RecordPage, own: Mapping[Key, Record | None], *, ordered: bool = True
) -> RecordPage:
    """The page as a unit sees it that has written `own` (None: removed).

    Where rows come in no order, the unit's own stand on the first page, beyond its limit.
    """
    rows = [record for record in page.records if record.key not in own]
    if not ordered:
        first = own.values() if query.after is None else ()
        mine = [x for x in first if x and (place := _place(spec, query, x)) and _covers(query, place, None)]
        return RecordPage([*mine, *rows], page.next)
    placed = [(place, record) for record in rows if (place := _place(spec, query, record))]
    for record in own.values():
        if record and (place := _place(spec, query, record)) and _covers(query, place, page.next):
            placed.append((place, record))
    placed.sort(key=lambda found: _rank(found[0]), reverse=query.reverse)
    after = page.next if len(placed) <= query.limit else placed[query.limit - 1][0]
    return RecordPage([record for _, record in placed[: query.limit]], after)


def _place(spec: TableSpec, query: Query, record: Record) -> Place | None:
    """Where the record stands; None when it is not in the index."""
    if not query.index:
        return record.key
    index = next(index for index in spec.indexes if index.name == query.index)
    entry = index_entry(index, decode_json(record.body))
    return entry and (*entry, *record.key)


def _rank(place: Place) -> tuple[tuple[bool, KeyPart], ...]:
    """The order of engines: integers before strings, strings by code point."""
    return tuple((isinstance(part, str), part) for part in place)


def _covers(query: Query, place: Place, end: Place | None) -> bool:
    """Whether a page of the query that ends at `end` has this place."""
    ranged = place[0] if query.partition is None else place[1]
    if query.partition is not None and place[0] != query.partition:
        return False
    if query.prefix and not (isinstance(ranged, str) and ranged.startswith(query.prefix)):
        return False
    if query.low is not None and _rank((ranged,)) < _rank((query.low,)):
        return False
    if query.high is not None and _rank((ranged,)) > _rank((query.high,)):
        return False
    return _follows(query, place, query.after) and (end is None or place == end or _follows(query, end, place))


def _follows(query: Query, place: Place, other: Place | None) -> bool:
    """Whether the place comes after the other in the direction of reading; everything follows None."""
    if other is None:
        return True
    return _rank(place) < _rank(other) if query.reverse else _rank(place) > _rank(other)
