"""From apps to their catalog: everything declared, validated as a whole, as data for the store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec

from headwater.app import App
from headwater.catalog import Catalog, QueueSpec, Router, RouteSpec
from headwater.engine import Features
from headwater.errors import DeclarationError, UnknownResource
from headwater.handlers import HandlerSpec


class Graph(msgspec.Struct, frozen=True):
    """The apps of one server, their merged catalog, and the handlers by queue."""

    apps: tuple[App[Any], ...]
    catalog: Catalog
    handlers: dict[str, HandlerSpec]

    def add_queue(self, spec: QueueSpec, handler: HandlerSpec) -> None:
        """Declare one more queue with its handler; the catalog is to be installed again."""
        self.catalog.queues[spec.name] = spec
        self.handlers[spec.name] = handler
        self.catalog.consumed = tuple(sorted({*self.catalog.consumed, spec.name}))


def build_graph(apps: Sequence[App[Any]]) -> Graph:
    """Validate the apps together. Raises `DeclarationError`; what another app must bring is checked at start."""
    names = [app.name for app in apps]
    if twice := {name for name in names if names.count(name) > 1}:
        raise DeclarationError(f"two apps have the name {twice.pop()!r}", operation="start")
    catalog = Catalog(apps=tuple(names))
    handlers: dict[str, HandlerSpec] = {}
    for app in apps:
        catalog.tables.update({name: table.spec for name, table in app.tables.items()})
        catalog.topics.update(dict.fromkeys((*app.topics, *app.schedules), 1))
        catalog.queues.update({name: queue.spec for name, queue in app.queues.items()})
        catalog.queues.update(app.implied)
        catalog.renamed.update(app.renamed)
        catalog.routes += tuple(msgspec.structs.replace(route, origin=app.name) for route in app.routes)
        handlers.update(app.handlers)
    opened = [queue for app in apps for queue in app.openings]
    catalog.consumed = tuple(sorted([*handlers, *opened]))
    catalog.queues = _ordered_queues(catalog)
    Router(catalog.queues, catalog.routes)
    return Graph(tuple(apps), catalog, handlers)


def _ordered_queues(catalog: Catalog) -> dict[str, QueueSpec]:
    """Queues that a table's changes or a grouped route reach are FIFO, through topics too."""
    routes: dict[str, list[RouteSpec]] = defaultdict(list)
    for route in catalog.routes:
        routes[route.source].append(route)
    ordered: set[str] = set()
    waiting = [route.target for route in catalog.routes if route.group]
    while waiting:
        target = waiting.pop()
        if target not in ordered:
            ordered.add(target)
            waiting.extend(route.target for route in routes.get(target, ()))
    return {
        name: msgspec.structs.replace(spec, fifo=True) if name in ordered else spec
        for name, spec in catalog.queues.items()
    }


def check_features(graph: Graph, features: Features) -> None:
    """Raise `DeclarationError` for an app that needs what the engine cannot do; it is never silently degraded."""
    for name, spec in graph.catalog.queues.items():
        if spec.fifo and not features.ordered_groups:
            raise DeclarationError(
                f"it is ordered by group, which the engine {features.engine!r} cannot keep",
                operation="start",
                resource=name,
                hint="choose another store, or do without the order",
            )


def check_sources(graph: Graph, stored: Catalog) -> None:
    """Raise `UnknownResource` for a route from a topic that neither these apps nor the store have."""
    known = {*stored.tables, *stored.topics, *graph.catalog.tables, *graph.catalog.topics}
    for route in graph.catalog.routes:
        if route.source not in known:
            raise UnknownResource(
                f"app {route.origin!r} routes from it, but nothing of this name exists",
                operation="start",
                resource=route.source,
                hint="start the app that declares it on this store first, or correct the name",
            )
