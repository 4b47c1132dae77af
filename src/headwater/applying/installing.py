"""Installing an app's part of the catalog: what is judged of it before it is written."""

from __future__ import annotations

from headwater.applying.state import State
from headwater.catalog import Catalog, QueueSpec
from headwater.errors import DeclarationError


def part_of(catalog: Catalog, app: str) -> Catalog:
    """What one app declares of a catalog: its own resources, and the routes that it wrote."""
    prefix = f"{app}/"
    return Catalog(
        apps=(app,),
        tables={name: spec for name, spec in catalog.tables.items() if name.startswith(prefix)},
        topics={name: schema for name, schema in catalog.topics.items() if name.startswith(prefix)},
        queues={name: spec for name, spec in catalog.queues.items() if name.startswith(prefix)},
        routes=tuple(route for route in catalog.routes if route.origin == app),
        renamed={old: new for old, new in catalog.renamed.items() if new.startswith(prefix)},
        consumed=tuple(name for name in catalog.consumed if name.startswith(prefix)),
    )


def check_targets(part: Catalog, state: State) -> None:
    """Refuse a route to a name that is neither a queue nor a topic of any app."""
    merged = state.merged()
    for route in part.routes:
        if route.target not in merged.queues and route.target not in merged.topics:
            raise DeclarationError(
                f"it routes to {route.target!r}, which is no queue or topic", operation="install", resource=route.source
            )


def check_keys(before: Catalog, after: Catalog) -> None:
    for name, spec in after.tables.items():
        old = before.tables.get(name)
        if old and (old.partition, old.sort) != (spec.partition, spec.sort):
            raise DeclarationError(
                f"its key changed from {old.partition!r}, {old.sort!r} to {spec.partition!r}, {spec.sort!r}",
                operation="install",
                resource=name,
                hint="a key cannot change; declare a new table and copy the rows",
            )


def orphans(state: State, app: str, part: Catalog) -> dict[str, QueueSpec]:
    """Queues that the app declares no more but that still hold messages or dead letters, or that a subscription made
    at run time feeds: they are kept."""
    before = state.apps[app].queues if app in state.apps else {}
    fed = {route.target for route in state.subscriptions.values()}
    found = {}
    for name, spec in before.items():
        counts = state.counts.get(state.ids[name])
        needed = name in fed or (counts is not None and bool(counts.depth or counts.dead))
        if needed and name not in part.queues and name not in part.renamed:
            found[name] = spec
    return found
