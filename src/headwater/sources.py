"""Declarations: sources, the feeds that handlers consume, targets, and the routes between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from headwater.catalog import RouteSpec
from headwater.durations import Duration, to_ms
from headwater.errors import DeclarationError
from headwater.patterns import compile_pattern

if TYPE_CHECKING:
    from headwater.app import App
    from headwater.decoding import Decode

E = TypeVar("E")
T = TypeVar("T")
Pattern = Mapping[str, Any]


class Target:
    """Where a route ends: a queue or a topic."""

    name: str


class Feed(Generic[E]):
    """What `app.on` accepts: a source, or a queue."""

    name: str
    app: App[Any]

    def decoder(self) -> Decode[E]:
        """How a delivery of this feed becomes the event that its handler receives."""
        raise NotImplementedError


class Source(Feed[E]):
    """Emits events; `types` narrows a table to some kinds of change."""

    types: tuple[str, ...] = ()
    ordered_by = ""

    def to(
        self,
        target: Target,
        *,
        match: Pattern | None = None,
        old: Pattern | None = None,
        new: Pattern | None = None,
        group: str = "",
        delay: Duration | None = None,
    ) -> None:
        """Route this source's events to a queue or topic.

        `match` looks at the event's data, `old` and `new` at a change's images (the language of EventBridge
        patterns, `headwater.patterns`). `group` names the field of the data that is the message's FIFO group;
        changes of a table are grouped by their key anyway. `delay` replaces the queue's own delay. Raises
        `DeclarationError` for an invalid pattern.
        """
        route = self.route(target.name, match=match, old=old, new=new, group=group, delay=delay)
        self.app.add_route(route, target)

    def route(
        self,
        target: str,
        *,
        match: Pattern | None,
        old: Pattern | None,
        new: Pattern | None,
        group: str = "",
        delay: Duration | None = None,
    ) -> RouteSpec:
        """The route as data, its patterns checked."""
        patterns = {"match": match or {}, "old": old or {}, "new": new or {}}
        for place, pattern in patterns.items():
            if pattern:
                compile_pattern(pattern, place=place)
        self.check_images(patterns)
        return RouteSpec(
            source=self.name,
            target=target,
            types=self.types,
            match=dict(patterns["match"]),
            old=dict(patterns["old"]),
            new=dict(patterns["new"]),
            group=group or self.ordered_by,
            delay_ms=None if delay is None else to_ms(delay),
        )

    def check_images(self, patterns: Mapping[str, Pattern]) -> None:
        """Refuse patterns on images that the source's events do not have."""
        if patterns["old"] or patterns["new"]:
            raise DeclarationError(
                "only the changes of a table have an old and a new image",
                operation="route",
                resource=self.name,
                hint="use match=, which looks at the event's data",
            )
