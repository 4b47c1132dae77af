"""The catalog: what is declared, as plain data that a store keeps and every committing process uses.

Apps are compiled to a `Catalog` (`graph.py`); the store merges the catalogs of all apps that were ever started on
it and numbers each change with a revision. `Router` is the pure part of a commit: from an event to the queues
that it goes to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from headwater.codec import decode_json
from headwater.errors import DeclarationError
from headwater.events import Envelope
from headwater.patterns import compile_pattern

Images = Literal["both", "new", "old", "keys", "none"]


class IndexSpec(msgspec.Struct, frozen=True):
    """A secondary index: entries are (partition, sort) of two fields; no sort field means sort "" ."""

    name: str
    partition: str
    sort: str = ""


class TableSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A table. Rows expire at the time in the field `ttl`, or `ttl_ms` after their last write.

    With `images` "none" its changes are no events: nothing can be routed from it, and the history has none. `bucket`
    marks the tables of a bucket's objects; those that refer to blobs have the index "by-blob", that of the present
    objects says how large one may be. `fields` are the names of the model's fields as they are stored, in its order;
    none are known of a dict.
    """

    name: str
    partition: str
    sort: str = ""
    indexes: tuple[IndexSpec, ...] = ()
    images: Images = "both"
    ttl: str = ""
    ttl_ms: int = 0
    schema: int = 1
    bucket: bool = False
    max_size: int = 0
    fields: tuple[str, ...] = ()


class QueueSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A queue's policy. Times are milliseconds; 0 for `max_depth` means no maximum."""

    name: str
    delay_ms: int = 0
    visibility_ms: int = 30_000
    max_receives: int = 5
    retention_ms: int = 4 * 86_400_000
    max_depth: int = 0
    fifo: bool = False
    backoff_ms: int = 1_000


class RouteSpec(msgspec.Struct, frozen=True, kw_only=True):
    """From a source to a queue or a topic.

    `types` limits to kinds of change (empty: all); `match`, `old` and `new` are patterns on data and images;
    `group` names the field of the data whose value is the FIFO group, "$subject" the event's subject.
    """

    source: str
    target: str
    types: tuple[str, ...] = ()
    match: dict[str, Any] = {}
    old: dict[str, Any] = {}
    new: dict[str, Any] = {}
    group: str = ""
    delay_ms: int | None = None
    origin: str = "declared"
    id: str = ""


class Catalog(msgspec.Struct, kw_only=True):
    """Everything that the named apps declare. Names are "app/resource"."""

    apps: tuple[str, ...]
    tables: dict[str, TableSpec] = {}
    topics: dict[str, int] = {}
    queues: dict[str, QueueSpec] = {}
    routes: tuple[RouteSpec, ...] = ()
    renamed: dict[str, str] = {}
    consumed: tuple[str, ...] = ()


class Destination(msgspec.Struct, frozen=True):
    """Where one event goes: a queue, its group there, and the delay before it may be received."""

    queue: str
    group: str | None
    delay_ms: int


Matcher = Callable[[Envelope, "_Decoded"], bool]


class _Decoded:
    """The envelope's images, decoded at most once and only when a pattern asks."""

    __slots__ = ("_data", "_event", "_old")

    def __init__(self, event: Envelope) -> None:
        self._event = event
        self._data: Any = _Decoded
        self._old: Any = _Decoded

    @property
    def data(self) -> Any:
        if self._data is _Decoded:
            raw = self._event.data
            self._data = self.old if raw is None else decode_json(raw)
        return self._data

    @property
    def new(self) -> Any:
        return None if self._event.data is None else self.data

    @property
    def old(self) -> Any:
        if self._old is _Decoded:
            raw = self._event.old
            self._old = None if raw is None else decode_json(raw)
        return self._old


_BY_SUBJECT = ("", "$subject")


class _Leg:
    """One flattened way from a source to a queue: all matchers of the routes on it must hold."""

    __slots__ = ("delay_ms", "fifo", "group", "looks", "matchers", "plain", "queue")

    def __init__(self, queue: QueueSpec, routes: tuple[RouteSpec, ...]) -> None:
        last = routes[-1]
        self.queue = queue.name
        self.fifo = queue.fifo
        self.group = next((route.group for route in reversed(routes) if route.group), "")
        self.delay_ms = queue.delay_ms if last.delay_ms is None else last.delay_ms
        self.matchers = [matcher for route in routes for matcher in _matchers(route)]
        self.looks = any(route.match or route.old or route.new for route in routes) or self.group not in _BY_SUBJECT
        self.plain = None if self.fifo or self.matchers else Destination(self.queue, None, self.delay_ms)

    def destination(self, event: Envelope, decoded: _Decoded) -> Destination | None:
        for matcher in self.matchers:
            if not matcher(event, decoded):
                return None
        return Destination(self.queue, self._group(event, decoded) if self.fifo else None, self.delay_ms)

    def _group(self, event: Envelope, decoded: _Decoded) -> str:
        if self.group in _BY_SUBJECT:
            return event.subject or event.id
        value = decoded.data.get(self.group) if isinstance(decoded.data, dict) else None
        return value if isinstance(value, str) else "" if value is None else str(value)


def _matchers(route: RouteSpec) -> list[Matcher]:
    found: list[Matcher] = []
    if route.types:
        types = frozenset(route.types)
        found.append(lambda event, _: event.type in types)
    if route.match:
        on_data = compile_pattern(route.match, place="match")
        found.append(lambda _, decoded: on_data(decoded.data))
    if route.old:
        on_old = compile_pattern(route.old, place="old")
        found.append(lambda _, decoded: decoded.old is not None and on_old(decoded.old))
    if route.new:
        on_new = compile_pattern(route.new, place="new")
        found.append(lambda _, decoded: decoded.new is not None and on_new(decoded.new))
    return found


_NOWHERE: tuple[list[_Leg], bool] = ([], False)
_UNREAD = _Decoded(Envelope(id="", source="", type=""))
"""Handed to legs of which none looks at an image."""


class Router:
    """Routes of a catalog, flattened through topics and compiled. Immutable: build a new one for new routes."""

    def __init__(self, queues: dict[str, QueueSpec], routes: tuple[RouteSpec, ...]) -> None:
        by_source: dict[str, list[RouteSpec]] = defaultdict(list)
        for route in routes:
            by_source[route.source].append(route)
        ways = {
            source: [_Leg(queues[path[-1].target], path) for path in _paths(source, by_source, queues, ())]
            for source in by_source
        }
        self._legs = {source: (legs, any(leg.looks for leg in legs)) for source, legs in ways.items()}
        self._plain = {
            source: tuple({leg.queue: leg.plain for leg in reversed(legs) if leg.plain}.values())[::-1]
            for source, legs in ways.items()
            if all(leg.plain for leg in legs)
        }

    def destinations(self, event: Envelope) -> tuple[Destination, ...]:
        """The queues that the event goes to, each at most once (the first matching way wins)."""
        plain = self._plain.get(event.source)
        if plain is not None:
            return plain
        legs, source_looks = self._legs.get(event.source, _NOWHERE)
        if not legs:
            return ()
        decoded = _Decoded(event) if source_looks else _UNREAD
        if len(legs) == 1:
            only = legs[0].destination(event, decoded)
            return () if only is None else (only,)
        found: dict[str, Destination] = {}
        for leg in legs:
            if leg.queue not in found:
                destination = leg.destination(event, decoded)
                if destination is not None:
                    found[leg.queue] = destination
        return tuple(found.values())


def ways_from(source: str, queues: dict[str, QueueSpec], routes: tuple[RouteSpec, ...]) -> list[tuple[RouteSpec, ...]]:
    """All ways of a source's events to queues, each as its routes, in the order in which they are looked at."""
    by_source: dict[str, list[RouteSpec]] = defaultdict(list)
    for route in routes:
        by_source[route.source].append(route)
    return _paths(source, by_source, queues, ())


def _paths(
    source: str,
    by_source: dict[str, list[RouteSpec]],
    queues: dict[str, QueueSpec],
    seen: tuple[str, ...],
) -> list[tuple[RouteSpec, ...]]:
    if source in seen:
        cycle = " → ".join((*seen, source))
        raise DeclarationError(f"routes form a cycle: {cycle}", hint="remove one of the routes")
    paths: list[tuple[RouteSpec, ...]] = []
    for route in by_source.get(source, ()):
        if route.target in queues:
            paths.append((route,))
        else:
            rest = _paths(route.target, by_source, queues, (*seen, source))
            paths.extend((route, *path) for path in rest)
    return paths


def index_entry(spec: IndexSpec, document: dict[str, Any]) -> tuple[str | int, str | int] | None:
    """The (partition, sort) entry of a document in an index; None when a field is absent, null or empty."""
    partition = document.get(spec.partition)
    if not isinstance(partition, str | int) or isinstance(partition, bool) or partition == "":
        return None
    if not spec.sort:
        return partition, ""
    sort = document.get(spec.sort)
    if not isinstance(sort, str | int) or isinstance(sort, bool) or sort == "":
        return None
    return partition, sort
