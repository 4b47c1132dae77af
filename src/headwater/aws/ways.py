"""Which way an event goes to a queue: sent by the relay, or by a subscription of the queue to its topic.

The router says where an event goes; how it gets there is said here. A declared route from a topic to a queue is a
*leg*: a subscription in SNS, when its messages need no order, delay or second look and the queue is reached from the
topic in no other declared way. All else is sent by the relay: changes of tables, FIFO queues, delays, routes over
several topics, routes that were made at run time. A leg's filter policy may let through too much, so the consumer of
what came by a topic asks `accepts`. An event that is not certain to pass the policy is sent by the relay, too: then it
may arrive twice, as any message may.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from headwater.aws.filters import Policy, filter_policy, surely_accepts
from headwater.catalog import Catalog, Destination, QueueSpec, Router, RouteSpec, ways_from
from headwater.codec import decode_json
from headwater.events import Envelope


class Leg(msgspec.Struct, frozen=True):
    """A queue's subscription to a topic; without a policy everything comes."""

    topic: str
    queue: str
    policy: Policy | None


class Way(msgspec.Struct, frozen=True):
    """Where one event goes: `direct` by the relay; `by_topic` says that it is to be published to its topic."""

    direct: tuple[Destination, ...]
    by_topic: bool

    @property
    def queues(self) -> tuple[str, ...]:
        return tuple(destination.queue for destination in self.direct)


class Ways:
    """The ways of a catalog's events. Immutable, as the catalog's router is.

    `exported` are the topics that queues of other stacks are subscribed to.
    """

    def __init__(self, catalog: Catalog, exported: frozenset[str] = frozenset()) -> None:
        self._exported = exported
        self._all = Router(catalog.queues, catalog.routes)
        declared = tuple(route for route in catalog.routes if not route.id)
        topics = sorted(catalog.topics)
        by_topic = {topic: _direct_routes(topic, catalog.queues, declared) for topic in topics}
        self.legs = tuple(
            Leg(topic, route.target, filter_policy(route)) for topic in topics for route in by_topic[topic]
        )
        self._legs = {(leg.topic, leg.queue): leg for leg in self.legs}
        self._by_leg = Router(catalog.queues, tuple(route for topic in topics for route in by_topic[topic]))

    def way(self, event: Envelope) -> Way:
        """How the event gets to each queue that the router says."""
        found = self._all.destinations(event)
        legs = {destination.queue for destination in self._by_leg.destinations(event)}
        certain = {queue for queue in legs if self._is_certain(event, queue)}
        direct = tuple(destination for destination in found if destination.queue not in certain)
        return Way(direct, bool(certain) or event.source in self._exported)

    def destinations(self, event: Envelope) -> tuple[Destination, ...]:
        """All that the event goes to, whichever way."""
        return self._all.destinations(event)

    def queues(self, event: Envelope) -> tuple[str, ...]:
        return tuple(destination.queue for destination in self._all.destinations(event))

    def accepts(self, event: Envelope, queue: str) -> bool:
        """Whether what a queue was sent by a topic is for it."""
        if (event.source, queue) not in self._legs:
            return True
        return any(destination.queue == queue for destination in self._by_leg.destinations(event))

    def _is_certain(self, event: Envelope, queue: str) -> bool:
        policy = self._legs[event.source, queue].policy
        if policy is None:
            return True
        data = None if event.data is None else decode_json(event.data)
        return surely_accepts(policy, {"type": event.type, "data": data})


def imported(catalog: Catalog) -> tuple[str, ...]:
    """The topics of other stacks that routes begin with."""
    known = {*catalog.tables, *catalog.topics}
    return tuple(sorted({route.source for route in catalog.routes} - known))


def _direct_routes(topic: str, queues: dict[str, QueueSpec], routes: tuple[RouteSpec, ...]) -> list[RouteSpec]:
    ways = ways_from(topic, queues, routes)
    reached = Counter(way[-1].target for way in ways)
    return [way[0] for way in ways if len(way) == 1 and reached[way[0].target] == 1 and _is_plain(way[0], queues)]


def _is_plain(route: RouteSpec, queues: dict[str, QueueSpec]) -> bool:
    queue = queues[route.target]
    delay_ms = queue.delay_ms if route.delay_ms is None else route.delay_ms
    return not (queue.fifo or delay_ms or route.group or route.old or route.new)
