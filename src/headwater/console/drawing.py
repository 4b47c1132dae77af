"""The map as shapes: what `templates/map.html` draws. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from headwater.console.filters import age, number
from headwater.console.layout import Box, Gaps, Point, lay_out
from headwater.console.topology import Link, Node, Topology

_SIZES = {"entry": (106, 30), "route": (190, 26), "queue": (184, 54), "handler": (144, 44)}
_SOURCE = (156, 44)
_LETTER = 7.0
"""About the width of a letter."""
_GAPS = Gaps(column=56, row=14, part=24)
_MARGIN = 8
_SPEEDS = (0.1, 1, 10)


class Shape(NamedTuple):
    """A node at its place. `label` fits into it, `title` tells all."""

    node: Node
    x: float
    y: float
    width: float
    height: float
    label: str
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


_laid_out = lru_cache(maxsize=16)(lay_out)
"""Figures change all the time, what is connected hardly ever."""


def draw(topology: Topology) -> Drawing:
    boxes = [Box(node.id, *_SIZES.get(node.kind, _SOURCE)) for node in topology.nodes]
    layout = _laid_out(tuple(boxes), tuple((link.source, link.target) for link in topology.links), _GAPS)
    shapes = [_shape(node, box, layout.corners[node.id]) for node, box in zip(topology.nodes, boxes, strict=True)]
    lines = [
        _line(link, layout.ways[link.source, link.target])
        for link in _merged(topology.links)
        if (link.source, link.target) in layout.ways
    ]
    return Drawing(layout.width + 2 * _MARGIN, layout.height + 2 * _MARGIN, shapes, lines)


def _merged(links: Sequence[Link]) -> Iterable[Link]:
    """One edge for all links between the same nodes."""
    found: dict[tuple[str, str], Link] = {}
    for link in links:
        before = found.get((link.source, link.target))
        found[link.source, link.target] = link if before is None else before._replace(rate=before.rate + link.rate)
    return found.values()


def _shape(node: Node, box: Box, corner: Point) -> Shape:
    x, y = corner
    label = node.name.partition("/")[2] or node.name
    return Shape(
        node,
        x + _MARGIN,
        y + _MARGIN,
        box.width,
        box.height,
        _cut(label, box.width),
        _cut(_note(node), box.width),
        _title(node),
        round(box.width * node.fill, 1) if node.fill else 0,
    )


def _cut(text: str, width: float) -> str:
    most = int((width - 20) / _LETTER)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _note(node: Node) -> str:
    figures = node.figures
    if node.kind == "route":
        return ""
    if node.kind == "handler":
        done = rate_text(figures.settled) if figures else ""
        return " · ".join(part for part in (node.note, done) if part)
    if figures is None:
        return f"{node.kind} of {node.app}" if node.kind != "entry" else ""
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


def _line(link: Link, way: Sequence[Point]) -> Line:
    moved = [(x + _MARGIN, y + _MARGIN) for x, y in way]
    (x1, y1), (x2, y2) = moved[-2], moved[-1]
    rate = rate_text(link.rate)
    told = f"≈{rate}" if rate and link.estimated else rate
    return Line(link, _path(moved), told, (x1 + x2) / 2, (y1 + y2) / 2 - 5, _speed(link.rate))


def _path(way: Sequence[Point]) -> str:
    """Curves that leave and arrive level."""
    told = [f"M{way[0][0]:.1f} {way[0][1]:.1f}"]
    for (x1, y1), (x2, y2) in pairwise(way):
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
