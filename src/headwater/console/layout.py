"""Laying out a graph in layers, from left to right: a pure function of boxes and edges.

The steps are Sugiyama's. Edges that would close a circle are turned round for the time being. A node's layer is the
longest way to it; an edge that spans several layers gets a bend in each between. The order in a layer is found by
sweeps in which each node moves to the barycentre of its neighbours; the order with the fewest crossings is kept. Parts
that are not connected are laid out each for itself, one below the other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

SWEEPS = 12
_SETTLING = 8
_BEND_HEIGHT = 8.0

Edge = tuple[str, str]
Point = tuple[float, float]


class Box(NamedTuple):
    """A node's size."""

    id: str
    width: float
    height: float


class Gaps(NamedTuple):
    """Room between columns, between the boxes of one, and between parts that are not connected."""

    column: float = 48
    row: float = 14
    part: float = 26


class Layout(NamedTuple):
    """Where boxes have their left upper corners, and the points that each edge goes through."""

    width: float
    height: float
    corners: dict[str, Point]
    ways: dict[Edge, list[Point]]
    crossings: int


class _Node:
    """A box, or the bend of a long edge."""

    def __init__(self, id: str, layer: int, box: Box | None) -> None:
        self.id = id
        self.layer = layer
        self.is_bend = box is None
        self.width = box.width if box else 0.0
        self.height = box.height if box else _BEND_HEIGHT
        self.before: list[_Node] = []
        self.after: list[_Node] = []
        self.place = 0
        self.y = 0.0


def lay_out(boxes: Sequence[Box], edges: Sequence[Edge], gaps: Gaps = Gaps()) -> Layout:  # noqa: B008 - a tuple
    """Edges whose ends are no boxes, and loops, are left out. The same input gives the same layout."""
    known = {box.id: box for box in boxes}
    kept = list(dict.fromkeys(e for e in edges if e[0] in known and e[1] in known and e[0] != e[1]))
    whole = Layout(0, 0, {}, {}, 0)
    for part in _parts(known, kept):
        members = frozenset(part)
        one = _lay_part([known[id] for id in part], [e for e in kept if e[0] in members], gaps)
        whole = _below(whole, one, gaps.part if whole.corners else 0)
    return whole


def _below(whole: Layout, one: Layout, gap: float) -> Layout:
    down = whole.height + gap
    corners = whole.corners | {id: (x, y + down) for id, (x, y) in one.corners.items()}
    ways = whole.ways | {edge: [(x, y + down) for x, y in way] for edge, way in one.ways.items()}
    return Layout(max(whole.width, one.width), down + one.height, corners, ways, whole.crossings + one.crossings)


def _parts(boxes: Mapping[str, Box], edges: Sequence[Edge]) -> list[list[str]]:
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


def _lay_part(boxes: Sequence[Box], edges: Sequence[Edge], gaps: Gaps) -> Layout:
    turned = _closing([box.id for box in boxes], edges)
    forward = {edge: (edge[1], edge[0]) if edge in turned else edge for edge in edges}
    layers_of = _layers([box.id for box in boxes], set(forward.values()))
    nodes = {box.id: _Node(box.id, layers_of[box.id], box) for box in boxes}
    chains = {edge: _chain(nodes, forward[edge]) for edge in edges}
    layers: list[list[_Node]] = [[] for _ in range(max(node.layer for node in nodes.values()) + 1)]
    for node in nodes.values():
        layers[node.layer].append(node)
    crossings = _order(layers)
    _settle(layers, gaps)
    return _draw(layers, chains, turned, gaps, crossings)


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


def _chain(nodes: dict[str, _Node], edge: Edge) -> list[_Node]:
    """The nodes that an edge passes, linked; its bends are added to `nodes`. Two turned edges may share them."""
    source, target = nodes[edge[0]], nodes[edge[1]]
    passed = [source]
    for layer in range(source.layer + 1, target.layer):
        id = f"{edge[0]}\0{edge[1]}\0{layer}"
        passed.append(nodes.setdefault(id, _Node(id, layer, None)))
    passed.append(target)
    for left, right in pairwise(passed):
        if right not in left.after:
            left.after.append(right)
            right.before.append(left)
    return passed


def _order(layers: list[list[_Node]]) -> int:
    """Find an order of each layer with few crossings; how many are left."""
    _renumber(layers)
    best, least = [list(layer) for layer in layers], _count(layers)
    for sweep in range(SWEEPS):
        if not least:
            break
        rightwards = sweep % 2 == 0
        for layer in layers if rightwards else reversed(layers):
            _to_barycentres(layer, rightwards)
        crossings = _count(layers)
        if crossings < least:
            best, least = [list(layer) for layer in layers], crossings
    layers[:] = best
    _renumber(layers)
    return least


def _renumber(layers: Iterable[list[_Node]]) -> None:
    for layer in layers:
        for place, node in enumerate(layer):
            node.place = place


def _to_barycentres(layer: list[_Node], rightwards: bool) -> None:
    def wanted(node: _Node) -> float:
        near = node.before if rightwards else node.after
        return sum(other.place for other in near) / len(near) if near else float(node.place)

    layer.sort(key=wanted)
    for place, node in enumerate(layer):
        node.place = place


def _count(layers: Sequence[Sequence[_Node]]) -> int:
    return sum(_between(layer) for layer in layers)


def _between(layer: Sequence[_Node]) -> int:
    """How many pairs of edges cross between a layer and the next."""
    ends = [after.place for node in layer for after in sorted(node.after, key=lambda other: other.place)]
    return sum(ends[i] > ends[j] for i in range(len(ends)) for j in range(i + 1, len(ends)))


def _settle(layers: Sequence[Sequence[_Node]], gaps: Gaps) -> None:
    """Give each node a y near those of its neighbours, in the order of its layer."""
    for layer in layers:
        _place(layer, [0.0] * len(layer), gaps.row)
    for turn in range(_SETTLING):
        for layer in layers if turn % 2 == 0 else reversed(layers):
            _place(layer, [_middle(node, turn) for node in layer], gaps.row)
    top = min(node.y for layer in layers for node in layer)
    for layer in layers:
        for node in layer:
            node.y -= top


def _middle(node: _Node, turn: int) -> float:
    near = (node.before if turn % 2 == 0 else node.after) or [*node.before, *node.after]
    centres = [other.y + other.height / 2 for other in near]
    return sum(centres) / len(centres) - node.height / 2 if centres else node.y


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
    turned: set[Edge],
    gaps: Gaps,
    crossings: int,
) -> Layout:
    lefts, x = list[float](), 0.0
    widths = [max(node.width for node in layer) for layer in layers]
    for width in widths:
        lefts.append(x)
        x += width + gaps.column
    corners = {node.id: (lefts[node.layer], node.y) for layer in layers for node in layer if not node.is_bend}
    ways = {}
    for edge, chain in chains.items():
        way = _way(chain, lefts, widths)
        ways[edge] = way[::-1] if edge in turned else way
    height = max(node.y + node.height for layer in layers for node in layer)
    return Layout(x - gaps.column, height, corners, ways, crossings)


def _way(chain: Sequence[_Node], lefts: Sequence[float], widths: Sequence[float]) -> list[Point]:
    """From the right side of the first box through its bends to the left side of the last one."""
    first, last = chain[0], chain[-1]
    way = [(lefts[first.layer] + first.width, first.y + first.height / 2)]
    for bend in chain[1:-1]:
        y = bend.y + bend.height / 2
        way += [(lefts[bend.layer], y), (lefts[bend.layer] + widths[bend.layer], y)]
    return [*way, (lefts[last.layer], last.y + last.height / 2)]
