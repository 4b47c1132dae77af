"""Laying out a graph as a tree, from top to bottom, for narrow screens: a pure function of boxes and edges.

Each box stands below and to the right of the first that leads to it, as in a list of folders. Edges to a box that
stands there already run along the right side.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from headwater.console.boxes import Box, Edge, End, Gaps, Layout, Point, ends_of

_TRUNK = 9.0
"""So far from a box's left side the edges to its branches leave it."""


def lay_out_tree(boxes: Sequence[Box], edges: Sequence[Edge], gaps: Gaps) -> Layout:
    """`gaps.column` is how far a branch is indented. The same input gives the same layout."""
    ends = ends_of(boxes)
    kept = [e for e in dict.fromkeys(edges) if e[0] in ends and e[1] in ends and e[0] != e[1]]
    after: dict[str, list[str]] = defaultdict(list)
    for source, target in kept:
        after[ends[source].box].append(ends[target].box)
    parents = _parents([box.id for box in boxes], after)
    corners, y = dict[str, Point](), 0.0
    depths: dict[str, int] = {}
    known = {box.id: box for box in boxes}
    for id, parent in parents.items():
        depths[id] = depths[parent] + 1 if parent else 0
        y += gaps.row if parent or not corners else gaps.part
        corners[id] = (depths[id] * gaps.column, y)
        y += known[id].height
    right = max((x + known[id].width for id, (x, _) in corners.items()), default=0.0)
    ways, beside = {}, 0
    for source, target in kept:
        begin, end = ends[source], ends[target]
        if parents[end.box] == begin.box:
            ways[source, target] = _branch(begin, end, corners, known)
        else:
            beside += 1
            x = right + gaps.column / 2 * (1 + beside % 3) / 2
            ways[source, target] = _round(begin, end, corners, known, x)
    width = right + (gaps.column if beside else 0)
    return Layout(width, y, corners, ways, 0)


def _parents(ids: Sequence[str], after: dict[str, list[str]]) -> dict[str, str]:
    """The box that each stands below, in the order in which they stand; "" for those to the very left."""
    entered = {target for source, targets in after.items() for target in targets if target != source}
    parents: dict[str, str] = {}
    for root in sorted(ids, key=lambda id: (id in entered, not after[id])):
        waiting = [(root, "")]
        while waiting:
            id, parent = waiting.pop()
            if id not in parents:
                parents[id] = parent
                waiting.extend((target, id) for target in reversed(after[id]))
    return parents


def _branch(begin: End, end: End, corners: dict[str, Point], boxes: dict[str, Box]) -> list[Point]:
    """Down from the box, then into the left side of its branch."""
    (x1, y1), (x2, y2) = corners[begin.box], corners[end.box]
    return [
        (x1 + _TRUNK, y1 + boxes[begin.box].height),
        (x1 + _TRUNK, y2 + end.below),
        (x2, y2 + end.below),
    ]


def _round(begin: End, end: End, corners: dict[str, Point], boxes: dict[str, Box], x: float) -> list[Point]:
    """Along the right side of all boxes."""
    (x1, y1), (x2, y2) = corners[begin.box], corners[end.box]
    first = (x1 + boxes[begin.box].width, y1 + begin.below)
    last = (x2 + boxes[end.box].width, y2 + end.below)
    return [first, (x, first[1]), (x, last[1]), last]
