"""The map as shapes: what `templates/map.html` draws. Pure.

A queue stands together with what asks before it and the handler behind it: its routes' patterns on top, the handler at
the bottom. That keeps the map narrow, and leaves the edges to what is really somewhere else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from textwrap import wrap
from typing import NamedTuple

from headwater.console.boxes import Box, Edge, Gaps, Layout, Point
from headwater.console.filters import age, number
from headwater.console.layout import lay_out
from headwater.console.topology import Link, Node, Topology
from headwater.console.tree_layout import lay_out_tree

_SIZES = {"entry": (64, 22), "queue": (172, 44), "handler": (172, 22)}
_SOURCE = (148, 42)
_ROUTE = (172, 6)
"""Without its lines."""
_LINE = 14.0
_LETTER, _SMALL_LETTER = 6.6, 6.0
"""About the width of a letter."""
_PADDING = 16
_GAPS = Gaps(column=36, row=14, part=20, width=1040)
_TREE_GAPS = Gaps(column=22, row=17, part=26)
_MARGIN = 8
_SPEEDS = (0.1, 1, 10)


class Shape(NamedTuple):
    """A node at its place. `label` fits into it, `title` tells all."""

    node: Node
    x: float
    y: float
    width: float
    height: float
    label: list[str]
    note: str
    title: str
    filled: float


class Line(NamedTuple):
    """An edge: its path, where its rate stands, how fast it flows (0: not at all)."""

    link: Link
    path: str
    rate: str
    x: float
    y: float
    speed: int


class Drawing(NamedTuple):
    width: float
    height: float
    shapes: list[Shape]
    lines: list[Line]
    crossings: int


_laid_out = lru_cache(maxsize=16)(lay_out)
"""Figures change all the time, what is connected hardly ever."""
_laid_out_tree = lru_cache(maxsize=16)(lay_out_tree)


def draw(topology: Topology) -> Drawing:
    """From left to right."""
    stacks, edges = _stacks(topology), _edges(topology)
    layout = _laid_out(_boxes(stacks), edges, _GAPS)
    if stacks != (sorted_stacks := _with_routes_sorted(stacks, edges, layout)):
        stacks, layout = sorted_stacks, _laid_out(_boxes(sorted_stacks), edges, _GAPS)
    return _drawn(topology, stacks, layout, _between)


def draw_tree(topology: Topology) -> Drawing:
    """From top to bottom, for narrow screens; without what comes from outside."""
    inner = frozenset(node.id for node in topology.nodes if node.kind != "entry")
    links = [link for link in topology.links if link.source in inner]
    topology = topology._replace(nodes=[node for node in topology.nodes if node.id in inner], links=links)
    stacks = _stacks(topology)
    layout = _laid_out_tree(_boxes(stacks), _edges(topology), _TREE_GAPS)
    return _drawn(topology, stacks, layout, _above)


Stack = tuple[Node, ...]
"""Nodes that stand on top of each other; the one that names the box is in it."""


def _stacks(topology: Topology) -> dict[str, Stack]:
    """By the id of what the routes lead to, or of a node alone."""
    nodes = {node.id: node for node in topology.nodes}
    above, below = defaultdict[str, list[Node]](list), dict[str, Node]()
    for link in topology.links:
        if nodes[link.source].kind == "route":
            above[link.target].append(nodes[link.source])
        elif nodes[link.target].kind == "handler":
            below[link.source] = nodes[link.target]
    inside = {node.id for routes in above.values() for node in routes} | {node.id for node in below.values()}
    return {
        id: (*above[id], node, *([below[id]] if id in below else [])) for id, node in nodes.items() if id not in inside
    }


def _edges(topology: Topology) -> tuple[Edge, ...]:
    """Between stacks, and from the handler of one back to its queue."""
    kinds = {node.id: node.kind for node in topology.nodes}
    return tuple(
        (link.source, link.target)
        for link in topology.links
        if kinds[link.source] != "route" and kinds[link.target] != "handler"
    )


def _boxes(stacks: Mapping[str, Stack]) -> tuple[Box, ...]:
    boxes = []
    for id, stack in stacks.items():
        pieces, height = [], 0.0
        for node in stack:
            below = height + _size(node)[1] / 2
            pieces.append((node.id, below))
            height += _size(node)[1]
        boxes.append(Box(id, max(_size(node)[0] for node in stack), height, tuple(pieces)))
    return tuple(boxes)


def _size(node: Node) -> tuple[float, float]:
    if node.kind == "route":
        width, height = _ROUTE
        return width, height + _LINE * len(_pattern(node))
    return _SIZES.get(node.kind, _SOURCE)


def _pattern(node: Node) -> list[str]:
    """What a route asks for, in two lines at most."""
    words = node.name.partition("/")[2]
    return wrap(words, int((_ROUTE[0] - _PADDING) / _LETTER), max_lines=2, placeholder="…") or [words]


def _with_routes_sorted(stacks: Mapping[str, Stack], edges: Iterable[Edge], layout: Layout) -> dict[str, Stack]:
    """Routes into the same queue as high as what they come from, so that their edges do not cross."""
    heights = {target: layout.ways[source, target][0][1] for source, target in edges}

    def height(node: Node) -> float:
        return heights.get(node.id, 0.0)

    return {
        id: (*sorted((n for n in stack if n.kind == "route"), key=height), *(n for n in stack if n.kind != "route"))
        for id, stack in stacks.items()
    }


_Labelling = Callable[[Sequence[Point], str, float], Point]
"""Where the rate of an edge stands: by its way, its text, and the top of the box that it leads to."""


def _between(way: Sequence[Point], rate: str, top: float) -> Point:
    """In the middle of the longest piece, of the last one of those."""
    (x1, y1), (x2, y2) = max(reversed([*pairwise(way)]), key=lambda piece: abs(piece[1][0] - piece[0][0]))
    return (x1 + x2) / 2, (y1 + y2) / 2 - 5


def _above(way: Sequence[Point], rate: str, top: float) -> Point:
    """Beside the trunk, above the box that it leads to."""
    return way[0][0] + 6 + len(rate) * _LETTER / 2, top - 4


def _drawn(topology: Topology, stacks: Mapping[str, Stack], layout: Layout, label: _Labelling) -> Drawing:
    shapes = []
    boxes = {node.id: id for id, stack in stacks.items() for node in stack}
    for id, stack in stacks.items():
        x, y = layout.corners[id]
        for node in stack:
            shapes.append(_shape(node, (x + _MARGIN, y + _MARGIN)))
            y += _size(node)[1]
    lines = [
        _line(link, layout.ways[edge], layout.corners[boxes[link.target]][1], label)
        for link in _merged(topology.links)
        if (edge := (link.source, link.target)) in layout.ways
    ]
    return Drawing(layout.width + 2 * _MARGIN, layout.height + 2 * _MARGIN, shapes, lines, layout.crossings)


def _merged(links: Sequence[Link]) -> Iterable[Link]:
    """One edge for all links between the same nodes."""
    found: dict[tuple[str, str], Link] = {}
    for link in links:
        before = found.get((link.source, link.target))
        found[link.source, link.target] = link if before is None else before._replace(rate=before.rate + link.rate)
    return found.values()


def _shape(node: Node, corner: Point) -> Shape:
    width, height = _size(node)
    label = node.name.partition("/")[2] or node.name
    if node.kind == "handler" and node.id.endswith(f"/{label}"):
        label = node.note  # it is called as its queue, above
    return Shape(
        node,
        *corner,
        width,
        height,
        _pattern(node) if node.kind == "route" else [_cut(label, (width - _PADDING) / _LETTER)],
        _cut(_note(node), (width - _PADDING) / _SMALL_LETTER),
        _title(node),
        round(width * node.fill, 1) if node.fill else 0,
    )


def _cut(text: str, most: float) -> str:
    return text if len(text) <= most else f"{text[: int(most) - 1]}…"


def _note(node: Node) -> str:
    figures = node.figures
    if node.kind in ("route", "entry"):
        return ""
    if node.kind == "handler":
        return rate_text(figures.settled) if figures else ""
    if figures is None:
        return f"{node.kind} of {node.app}"
    waiting = "- waiting" if figures.depth is None else f"{number(figures.depth)} waiting"
    oldest = " ".join(age(figures.oldest_ms).split()[:2])
    return f"{waiting} · {oldest}" if figures.depth else waiting


def _title(node: Node) -> str:
    told = [f"{node.kind} {node.name}" if node.kind not in ("route", "entry") else node.name.partition("/")[2]]
    if node.note:
        told.append(node.note)
    if node.kind == "queue" and (figures := node.figures):
        told += [f"{number(value)} {what}" for value, what in zip(figures, _WORDS, strict=False) if value is not None]
        told.append("paused" if node.paused else "")
    told.append(node.reason)
    return ", ".join(part for part in told if part)


_WORDS = ("waiting", "in flight", "delayed", "dead letters")


def _line(link: Link, way: Sequence[Point], top: float, label: _Labelling) -> Line:
    rate = rate_text(link.rate)
    told = f"≈{rate}" if rate and link.estimated else rate
    x, y = label(way, told, top)
    moved = [(x + _MARGIN, y + _MARGIN) for x, y in way]
    return Line(link, _path(moved), told, x + _MARGIN, y + _MARGIN, _speed(link.rate))


def _path(way: Sequence[Point]) -> str:
    """Curves that leave and arrive level; straight down and straight across."""
    told = [f"M{way[0][0]:.1f} {way[0][1]:.1f}"]
    for (x1, y1), (x2, y2) in pairwise(way):
        if x1 == x2 or y1 == y2:
            told.append(f"L{x2:.1f} {y2:.1f}")
        else:
            half = (x2 - x1) / 2
            told.append(f"C{x1 + half:.1f} {y1:.1f} {x2 - half:.1f} {y2:.1f} {x2:.1f} {y2:.1f}")
    return " ".join(told)


def _speed(rate: float) -> int:
    return 0 if rate <= 0 else 1 + sum(rate >= bound for bound in _SPEEDS)


def rate_text(rate: float | None) -> str:
    """ "12/s", "3/min"; empty for nothing."""
    if not rate:
        return ""
    return (
        f"{number(round(rate, 1) if rate < 10 else round(rate))}/s"
        if rate >= 1
        else f"{number(round(rate * 60, 1))}/min"
    )


def outline(values: Sequence[float], width: float, height: float) -> str:
    """The path of an area chart."""
    most = max(values, default=0) or 1
    step = width / max(len(values) - 1, 1)
    points = [f"L{n * step:.1f} {height - value / most * height:.1f}" for n, value in enumerate(values)]
    return f"M0 {height:g} {' '.join(points)} L{width:g} {height:g} Z"
