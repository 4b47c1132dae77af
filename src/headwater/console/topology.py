"""The map as a graph: what feeds what, from the declared routes and from what was seen; a pure function of answers.

Nodes are entries (what comes from outside of an app), sources, routes that ask for something, queues and handlers. A
queue has the figures of one moment. Rates are measured at queues: that of an edge which is not alone at its queue is
shared out as events were seen to flow, and so an estimate.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from headwater.console.pattern_words import route_words

Kind = Literal["entry", "table", "bucket", "topic", "schedule", "route", "queue", "handler"]
Level = Literal["", "warn", "bad"]
OLD_MS, VERY_OLD_MS = 60_000, 600_000
_FULL = 5
"""A queue is drawn as full with 10 to this power messages, or at its own maximum."""
_OWN = "headwater"


class Figures(NamedTuple):
    """A queue at one moment; None where nothing is known. Rates are a second."""

    depth: float | None = None
    in_flight: float | None = None
    delayed: float | None = None
    dead: float | None = None
    oldest_ms: float | None = None
    sent: float | None = None
    settled: float | None = None
    retried: float | None = None
    failed: float | None = None


class Node(NamedTuple):
    id: str
    kind: Kind
    name: str
    note: str = ""
    href: str = ""
    level: Level = ""
    reason: str = ""
    paused: bool = False
    fill: float = 0.0
    figures: Figures | None = None

    @property
    def app(self) -> str:
        return self.name.partition("/")[0]


class Link(NamedTuple):
    """From node to node. `seen` is what no declaration tells: events do."""

    source: str
    target: str
    rate: float = 0.0
    level: Level = ""
    seen: bool = False
    estimated: bool = False


class Topology(NamedTuple):
    nodes: list[Node]
    links: list[Link]
    apart: list[str]
    """Tables and buckets that nothing was seen to flow through."""


class Answers(NamedTuple):
    """The answers that a map is made of: of `resources` and `topology`, figures by queue, alarms by resource."""

    resources: Mapping[str, Any]
    topology: Mapping[str, Any]
    figures: Mapping[str, Figures]
    alarms: Mapping[str, str] = {}


def live_figures(queue: Mapping[str, Any]) -> Figures:
    """Of a queue as the operation `queues` tells it."""
    rates = queue["rates"] or {}
    return Figures(
        queue["depth"],
        queue["in_flight"],
        queue["delayed"],
        queue["dead"],
        queue["oldest_age_ms"] if queue["depth"] else 0,
        *(rates.get(name) for name in ("sent", "settled", "retried", "failed")),
    )


def make_topology(answers: Answers, app: str = "") -> Topology:
    """The whole map, or what belongs to an app with its neighbours; the server's own app only when it is asked for."""
    links = list(_links(answers))
    nodes = _nodes(answers, links)
    wanted = {id for id, node in nodes.items() if (node.app == app if app else node.app != _OWN)}
    wanted |= {link.source for link in links if link.target in wanted and nodes[link.source].kind == "topic"}
    if app:
        wanted |= {end for link in links for end in (link.source, link.target) if _touches(link, wanted)}
    kept = [link for link in links if link.source in wanted and link.target in wanted]
    linked = {end for link in kept for end in (link.source, link.target)}
    shown = [node for id, node in nodes.items() if id in wanted and (id in linked or node.kind != "table")]
    apart = [node.name for id, node in nodes.items() if id in wanted and id not in linked and node.kind == "table"]
    return Topology(shown, kept, sorted(apart))


def _touches(link: Link, wanted: set[str]) -> bool:
    return link.source in wanted or link.target in wanted


# Nodes


def _nodes(answers: Answers, links: list[Link]) -> dict[str, Node]:
    found: dict[str, Node] = {}
    resources = answers.resources
    for kind in ("tables", "buckets", "topics", "schedules"):
        for resource in resources[kind]:
            name = resource["name"]
            found[_of(name)] = Node(_of(name), kind[:-1], name, href=_href(kind, name))  # type: ignore[arg-type]
    for number, route in enumerate((*resources["routes"], *resources["subscriptions"])):
        if words := route_words(route):
            name = f"{route['target'].partition('/')[0]}/{words}"
            href = _href("topics" if route["source"] in _names(resources, "topics") else "tables", route["source"])
            found[f"route:{number}"] = Node(f"route:{number}", "route", name, _route_note(route), href)
    for queue in resources["queues"]:
        found[_of(queue["name"])] = _queue(queue, answers)
    for handler in answers.topology["handlers"]:
        found[f"handler:{handler['queue']}"] = _handler(handler, answers)
    for source in sorted({link.source for link in links} - found.keys()):
        found[source] = _unlisted(source)
    return found


def _unlisted(id: str) -> Node:
    """What comes from outside; or a source that is the server's own."""
    kind, _, name = id.partition(":")
    if kind == "entry":
        return Node(id, "entry", f"{name.partition('/')[0]}/outside", "requests, schedules and commands")
    return Node(id, "topic", name)


def _of(name: str) -> str:
    return f"of:{name}"


def _names(resources: Mapping[str, Any], kind: str) -> frozenset[str]:
    return frozenset(resource["name"] for resource in resources[kind])


def _href(kind: str, name: str) -> str:
    return f"/{kind}/{quote(name)}"


def _route_note(route: Mapping[str, Any]) -> str:
    told = [f"{route['source']} → {route['target']}"]
    if route["group"]:
        told.append(f"group {route['group']}")
    if route["delay_ms"]:
        told.append(f"delay {route['delay_ms'] / 1000:g} s")
    if route["id"]:
        told.append("subscribed at run time")
    return ", ".join(told)


def _queue(queue: Mapping[str, Any], answers: Answers) -> Node:
    name = queue["name"]
    figures = answers.figures.get(name, Figures())
    level, reason = _state(figures, answers.alarms.get(name, ""))
    most = queue["policy"]["max_depth"] if queue["policy"] else 0
    if not queue["consumed"] and figures.depth:
        level, reason = level or "warn", reason or "nothing consumes it"
    return Node(
        _of(name),
        "queue",
        name,
        "FIFO" if queue["policy"] and queue["policy"]["fifo"] else "",
        _href("queues", name),
        level,
        reason,
        paused=queue["paused"],
        fill=_fill(figures.depth or 0, most),
        figures=figures,
    )


def _state(figures: Figures, alarm: str) -> tuple[Level, str]:
    """The worst that there is to say of a queue."""
    oldest_ms = figures.oldest_ms or 0
    if alarm:
        return "bad", f"alarm: {alarm}"
    if figures.dead:
        return "bad", "1 dead letter" if figures.dead == 1 else f"{figures.dead:.0f} dead letters"
    if oldest_ms >= VERY_OLD_MS:
        return "bad", "the oldest message is older than 10 minutes"
    if oldest_ms >= OLD_MS:
        return "warn", "the oldest message is older than a minute"
    return ("warn", "attempts are retried") if figures.retried else ("", "")


def _fill(depth: float, most: float) -> float:
    return min(1.0, depth / most if most else math.log10(1 + depth) / _FULL)


def _handler(handler: Mapping[str, Any], answers: Answers) -> Node:
    queue = handler["queue"]
    figures = answers.figures.get(queue, Figures())
    level: Level = "bad" if figures.failed else "warn" if figures.retried else ""
    reason = "attempts fail" if figures.failed else "attempts are retried" if figures.retried else ""
    note = f"{handler['runs']} x{handler['concurrency']}"
    name = f"{queue.partition('/')[0]}/{handler['handler']}"
    return Node(f"handler:{queue}", "handler", name, note, _href("queues", queue), level, reason, figures=figures)


# Links


def _links(answers: Answers) -> Iterator[Link]:
    inward: dict[str, list[tuple[str, str]]] = defaultdict(list)  # queue: (source, the node before the queue)
    resources, topology = answers.resources, answers.topology
    queues = _names(resources, "queues")
    for number, route in enumerate((*resources["routes"], *resources["subscriptions"])):
        source, target = _of(route["source"]), _of(route["target"])
        last = f"route:{number}" if route_words(route) else source
        if route["target"] in queues:
            inward[route["target"]].append((route["source"], last))
        else:
            yield Link(last, target)
            if last != source:
                yield Link(source, last)
    seen = _seen(topology, queues)
    for queue, before in seen:
        inward[queue].append((queue, before))
    for queue in sorted(queues):
        yield from _into(queue, inward[queue], answers, frozenset(before for of, before in seen if of == queue))
    for handler in topology["handlers"]:
        figures = answers.figures.get(handler["queue"], Figures())
        level: Level = "bad" if figures.failed else ""
        yield Link(_of(handler["queue"]), f"handler:{handler['queue']}", figures.settled or 0, level)
    yield from _made(answers, queues)


def _seen(topology: Mapping[str, Any], queues: frozenset[str]) -> list[tuple[str, str]]:
    """(queue, who sends straight to it), as far as it was seen."""
    return [
        (one["source"], f"handler:{one['queue']}" if one["queue"] else _entry(one["source"]))
        for one in topology["made"]
        if one["source"] in queues
    ]


def _entry(resource: str) -> str:
    """One for each resource: edges of one for many would cross all others."""
    return f"entry:{resource}"


def _into(queue: str, ways: list[tuple[str, str]], answers: Answers, direct: frozenset[str]) -> Iterator[Link]:
    """The last pieces before a queue, with their shares of its rate; and those from the source to a route's node."""
    rate = answers.figures.get(queue, Figures()).sent or 0.0
    weights = _weights(queue, ways, answers.topology)
    for (source, before), weight in zip(ways, weights, strict=True):
        estimated = len(ways) > 1
        seen = before in direct and source == queue
        yield Link(before, _of(queue), rate * weight, seen=seen, estimated=estimated)
        if before.startswith("route:"):
            yield Link(_of(source), before, rate * weight, estimated=estimated)


def _weights(queue: str, ways: list[tuple[str, str]], topology: Mapping[str, Any]) -> list[float]:
    fed = {one["source"]: one["events"] for one in topology["fed"] if one["queue"] == queue}
    sources = [source for source, _ in ways]
    parts = [fed.get(source, 0) / sources.count(source) for source in sources]
    whole = sum(parts)
    return [part / whole if whole else 1 / len(ways) for part in parts]


def _made(answers: Answers, queues: frozenset[str]) -> Iterator[Link]:
    """What handlers, and what comes from outside, were seen to write and publish."""
    taken: dict[str, int] = defaultdict(int)
    for one in answers.topology["fed"]:
        taken[one["queue"]] += one["events"]
    scheduled = _names(answers.resources, "schedules")
    for one in answers.topology["made"]:
        source, queue = one["source"], one["queue"]
        if source in queues or source in scheduled:
            continue
        if not queue:
            yield Link(_entry(source), _of(source), seen=True)
            continue
        settled = answers.figures.get(queue, Figures()).settled or 0.0
        rate = settled * one["events"] / taken[queue] if taken[queue] else 0.0
        yield Link(f"handler:{queue}", _of(source), rate, seen=True, estimated=True)
