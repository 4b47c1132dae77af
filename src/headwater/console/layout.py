"""Laying out a graph in layers, from left to right: a pure function of boxes and edges.

The steps are Sugiyama's. Edges that would close a circle are turned round for the time being. A node's layer is the
longest way to it; an edge that spans several layers gets a bend in each between. The order in a layer is found by
sweeps in which each node moves to the barycentre of its neighbours, then by exchanging neighbours; the order with the
fewest crossings is kept. What is not connected is laid out each for itself, and packed into the width that is wanted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from headwater.console.boxes import Box, Edge, End, Gaps, Layout, Point, ends_of, pack

SWEEPS = 12
_EXCHANGES = 6
_SETTLING = 8
_BEND_HEIGHT = 8.0


class _Joint(NamedTuple):
    """An edge between neighbouring layers, as one of its nodes sees it: the other node; both ends, below the tops."""

    node: _Node
    own: float
    other: float

    @property
    def place(self) -> float:
        """Where the other end is in the order of its layer."""
        return self.node.place + self.other / (self.node.height + 1)


class _Node:
    """A box, or the bend of a long edge."""

    def __init__(self, id: str, layer: int, box: Box | None) -> None:
        self.id = id
        self.layer = layer
        self.is_bend = box is None
        self.width = box.width if box else 0.0
        self.height = box.height if box else _BEND_HEIGHT
        self.before: list[_Joint] = []
        self.after: list[_Joint] = []
        self.place = 0
        self.y = 0.0


def lay_out(boxes: Sequence[Box], edges: Sequence[Edge], gaps: Gaps = Gaps()) -> Layout:  # noqa: B008 - a tuple
    """Edges whose ends are no boxes, and loops, are left out. The same input gives the same layout."""
    ends = ends_of(boxes)
    kept = list(dict.fromkeys(e for e in edges if e[0] in ends and e[1] in ends and e[0] != e[1]))
    known = {box.id: box for box in boxes}
    parts = []
    for part in _parts(known, {(ends[source].box, ends[target].box) for source, target in kept}):
        members = frozenset(part)
        parts.append(_lay_part([known[id] for id in part], [e for e in kept if ends[e[0]].box in members], ends, gaps))
    return pack(parts, gaps)


def _parts(boxes: Mapping[str, Box], edges: Iterable[Edge]) -> list[list[str]]:
    """The connected parts, in the order of their first boxes; boxes alone come last."""
    near: dict[str, set[str]] = defaultdict(set)
    for source, target in edges:
        near[source].add(target)
        near[target].add(source)
    seen: set[str] = set()
    parts = []
    for first in boxes:
        members, waiting = set[str](), [first]
        while waiting:
            id = waiting.pop()
            if id not in seen:
                seen.add(id)
                members.add(id)
                waiting.extend(near[id])
        if members:
            parts.append([id for id in boxes if id in members])
    return sorted(parts, key=lambda part: len(part) == 1)


def _lay_part(boxes: Sequence[Box], edges: Sequence[Edge], ends: Mapping[str, End], gaps: Gaps) -> Layout:
    ids = [box.id for box in boxes]
    between = {edge: (ends[edge[0]].box, ends[edge[1]].box) for edge in edges}
    turned = _closing(ids, list(dict.fromkeys(between.values())))
    forward = {edge: edge[::-1] if between[edge] in turned else edge for edge in edges if len({*between[edge]}) > 1}
    layers_of = _layers(ids, {(ends[source].box, ends[target].box) for source, target in forward.values()})
    nodes = {box.id: _Node(box.id, layers_of[box.id], box) for box in boxes}
    chains = {edge: _chain(nodes, forward[edge], ends) for edge in forward}
    layers: list[list[_Node]] = [[] for _ in range(max(node.layer for node in nodes.values()) + 1)]
    for node in nodes.values():
        layers[node.layer].append(node)
    crossings = _order(layers)
    _settle(layers, gaps)
    return _draw(layers, chains, edges, ends, gaps)._replace(crossings=crossings)


def _closing(ids: Sequence[str], edges: Sequence[Edge]) -> set[Edge]:
    """The edges that close a circle, as a walk that begins at nodes without incoming edges meets them."""
    after: dict[str, list[str]] = defaultdict(list)
    entered = {target for _, target in edges}
    for source, target in edges:
        after[source].append(target)
    state: dict[str, int] = {}
    closing: set[Edge] = set()
    for first in sorted(ids, key=lambda id: id in entered):
        if first in state:
            continue
        state[first] = 1
        stack = [(first, iter(after[first]))]
        while stack:
            id, left = stack[-1]
            target = next(left, "")
            if not target:
                state[id] = 2
                stack.pop()
            elif state.get(target) == 1:
                closing.add((id, target))
            elif target not in state:
                state[target] = 1
                stack.append((target, iter(after[target])))
    return closing


def _layers(ids: Sequence[str], edges: set[Edge]) -> dict[str, int]:
    """The longest way from the left; what could stand further right, next to what it leads to, does."""
    before, after = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for source, target in sorted(edges):
        after[source].append(target)
        before[target].append(source)
    open_edges = {id: len(before[id]) for id in ids}
    sorted_ids, ready = [], [id for id in ids if not open_edges[id]]
    while ready:
        id = ready.pop(0)
        sorted_ids.append(id)
        for target in after[id]:
            open_edges[target] -= 1
            if not open_edges[target]:
                ready.append(target)
    layer: dict[str, int] = {}
    for id in sorted_ids:
        layer[id] = max((layer[source] + 1 for source in before[id]), default=0)
    for id in reversed(sorted_ids):
        if after[id] and not before[id]:
            layer[id] = min(layer[target] for target in after[id]) - 1
    return layer


def _chain(nodes: dict[str, _Node], edge: Edge, ends: Mapping[str, End]) -> list[_Node]:
    """The nodes that an edge passes, linked; its bends are added to `nodes`. Two turned edges may share them."""
    begin, end = ends[edge[0]], ends[edge[1]]
    source, target = nodes[begin.box], nodes[end.box]
    passed = [source]
    for layer in range(source.layer + 1, target.layer):
        id = f"{edge[0]}\0{edge[1]}\0{layer}"
        passed.append(nodes.setdefault(id, _Node(id, layer, None)))
    passed.append(target)
    for left, right in pairwise(passed):
        own = begin.below if left is source else left.height / 2
        other = end.below if right is target else right.height / 2
        if (joint := _Joint(right, own, other)) not in left.after:
            left.after.append(joint)
            right.before.append(_Joint(left, other, own))
    return passed


def _order(layers: list[list[_Node]]) -> int:
    """Find an order of each layer with few crossings; how many are left."""
    _renumber(layers)
    best, least = [list(layer) for layer in layers], _count(layers)
    for start in (layers, [layer[::-1] for layer in layers]):
        layers[:] = [list(layer) for layer in start]
        _renumber(layers)
        for sweep in range(SWEEPS):
            if not least:
                break
            rightwards = sweep % 2 == 0
            for layer in layers if rightwards else reversed(layers):
                _to_barycentres(layer, rightwards)
            _exchange_all(layers)
            crossings = _count(layers)
            if crossings < least:
                best, least = [list(layer) for layer in layers], crossings
    layers[:] = best
    _renumber(layers)
    return least


def _exchange_all(layers: Sequence[list[_Node]]) -> None:
    for _ in range(_EXCHANGES):
        if not sum(_exchange(layer) for layer in layers):
            break


def _renumber(layers: Iterable[list[_Node]]) -> None:
    for layer in layers:
        for place, node in enumerate(layer):
            node.place = place


def _to_barycentres(layer: list[_Node], rightwards: bool) -> None:
    def wanted(node: _Node) -> float:
        near = node.before if rightwards else node.after
        return sum(joint.place for joint in near) / len(near) if near else float(node.place)

    layer.sort(key=wanted)
    for place, node in enumerate(layer):
        node.place = place


def _exchange(layer: list[_Node]) -> bool:
    """Exchange neighbours whose edges cross less the other way round; whether there were any."""
    exchanged = False
    for place in range(len(layer) - 1):
        upper, lower = layer[place], layer[place + 1]
        if _crossed(upper, lower) > _crossed(lower, upper):
            layer[place : place + 2] = lower, upper
            lower.place, upper.place = place, place + 1
            exchanged = True
    return exchanged


def _crossed(upper: _Node, lower: _Node) -> int:
    """How many of their edges cross when one stands above the other."""
    return sum(
        one.place > other.place
        for ones, others in ((upper.before, lower.before), (upper.after, lower.after))
        for one in ones
        for other in others
    )


def _count(layers: Sequence[Sequence[_Node]]) -> int:
    return sum(_between(layer) for layer in layers)


def _between(layer: Sequence[_Node]) -> int:
    """How many pairs of edges cross between a layer and the next."""
    ends = [place for node in layer for _, place in sorted((joint.own, joint.place) for joint in node.after)]
    return sum(ends[i] > ends[j] for i in range(len(ends)) for j in range(i + 1, len(ends)))


def _settle(layers: Sequence[Sequence[_Node]], gaps: Gaps) -> None:
    """Give each node a y that has its edges level as far as can be, in the order of its layer."""
    for layer in layers:
        _place(layer, [0.0] * len(layer), gaps.row)
    for turn in range(_SETTLING):
        for layer in layers if turn % 2 == 0 else reversed(layers):
            _place(layer, [_level(node, turn) for node in layer], gaps.row)
    top = min(node.y for layer in layers for node in layer)
    for layer in layers:
        for node in layer:
            node.y -= top


def _level(node: _Node, turn: int) -> float:
    near = (node.before if turn % 2 == 0 else node.after) or [*node.before, *node.after]
    wanted = [joint.node.y + joint.other - joint.own for joint in near]
    return sum(wanted) / len(wanted) if wanted else node.y


def _place(layer: Sequence[_Node], wanted: Sequence[float], gap: float) -> None:
    """As near to the wanted places as the order and the gaps allow: neighbours that collide move as one block."""
    blocks: list[list[float]] = []  # (sum of wanted tops, count, height): of nodes that touch
    for node, top in zip(layer, wanted, strict=True):
        blocks.append([top, 1, node.height + gap])
        while len(blocks) > 1 and _top(blocks[-2]) + blocks[-2][2] > _top(blocks[-1]):
            total, count, height = blocks.pop()
            before = blocks[-1]
            before[0] += total - count * before[2]
            before[1] += count
            before[2] += height
    at = iter(layer)
    for block in blocks:
        y = _top(block)
        for _ in range(int(block[1])):
            node = next(at)
            node.y = y
            y += node.height + gap


def _top(block: Sequence[float]) -> float:
    return block[0] / block[1]


def _draw(
    layers: Sequence[Sequence[_Node]],
    chains: Mapping[Edge, Sequence[_Node]],
    edges: Sequence[Edge],
    ends: Mapping[str, End],
    gaps: Gaps,
) -> Layout:
    lefts, x = list[float](), 0.0
    widths = [max(node.width for node in layer) for layer in layers]
    for width in widths:
        lefts.append(x)
        x += width + gaps.column
    nodes = {node.id: node for layer in layers for node in layer if not node.is_bend}
    corners = {id: (lefts[node.layer], node.y) for id, node in nodes.items()}

    def point(id: str, *, right: bool) -> Point:
        node = nodes[ends[id].box]
        return lefts[node.layer] + (node.width if right else 0), node.y + ends[id].below

    ways = {}
    for source, target in edges:
        chain = chains.get((source, target))
        if chain is None:
            ways[source, target] = _loop(point(source, right=True), point(target, right=True), gaps.column / 2)
            continue
        onward = chain[0].id == ends[source].box
        passed = _passed(chain, point(source if onward else target, right=True), lefts, widths)
        way = [*passed, point(target if onward else source, right=False)]
        ways[source, target] = way if onward else way[::-1]
    height = max(node.y + node.height for layer in layers for node in layer)
    width = max(x - gaps.column, *(x for way in ways.values() for x, _ in way), 0)
    return Layout(width, height, corners, ways, 0)


def _passed(chain: Sequence[_Node], begin: Point, lefts: Sequence[float], widths: Sequence[float]) -> list[Point]:
    """Level through the columns that an edge passes: the rest of its first box's, and those between."""
    first, *between, _ = chain
    passed = ((bend.layer, bend.y + bend.height / 2) for bend in between)
    level = [(x, y) for layer, y in passed for x in (lefts[layer], lefts[layer] + widths[layer])]
    edge = (lefts[first.layer] + widths[first.layer], begin[1])
    return [begin, edge, *level] if edge != begin else [begin, *level]


def _loop(begin: Point, end: Point, out: float) -> list[Point]:
    x = max(begin[0], end[0]) + out
    return [begin, (x, begin[1]), (x, end[1]), end]
