"""Why an event went to a queue, or did not: each way of a catalog's routes, with the first part of it that is not met.

Pure: the same patterns that a commit's `Router` has compiled, explained for people.
"""

from __future__ import annotations

from typing import Any

import msgspec

from headwater.catalog import QueueSpec, RouteSpec, ways_from
from headwater.codec import decode_json
from headwater.events import Envelope
from headwater.patterns import explain


class Way(msgspec.Struct, frozen=True):
    """One way from the event's source to a queue. `failed` is the place of the route that refuses, and `reason` says
    which part of it, beginning with the part's path; both are None where all match."""

    queue: str
    routes: tuple[RouteSpec, ...]
    failed: int | None = None
    reason: str | None = None


def explain_routes(event: Envelope, queues: dict[str, QueueSpec], routes: tuple[RouteSpec, ...]) -> list[Way]:
    """Every way from the event's source, in the order in which a commit looks at them."""
    return [_explained(event, way) for way in ways_from(event.source, queues, routes)]


def _explained(event: Envelope, way: tuple[RouteSpec, ...]) -> Way:
    queue = way[-1].target
    for place, route in enumerate(way):
        reason = explain_route(event, route)
        if reason is not None:
            return Way(queue, way, place, reason)
    return Way(queue, way)


def explain_route(event: Envelope, route: RouteSpec) -> str | None:
    """None if the route takes the event, else the first part of it that does not: "old.consent: …"."""
    if route.types and event.type not in route.types:
        return f"type: {event.type!r}, wanted {' or '.join(map(repr, route.types))}"
    new = _decoded(event.data)
    old = _decoded(event.old)
    for place, pattern, image in (
        ("match", route.match, old if event.data is None else new),
        ("old", route.old, old),
        ("new", route.new, new),
    ):
        if not pattern:
            continue
        if image is None and place != "match":
            return f"{place}: the event has no {place} image"
        problem = explain(pattern, image)
        if problem is not None:
            return f"{place}.{problem}"
    return None


def _decoded(image: bytes | None) -> Any:
    return None if image is None else decode_json(image)
