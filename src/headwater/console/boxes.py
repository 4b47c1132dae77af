"""What layouts of a graph are made of: boxes and their ends, where they stand, and how they share the room."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

Edge = tuple[str, str]
Point = tuple[float, float]


class Box(NamedTuple):
    """A node's size. Edges end at the middle of its sides, or at one of its `pieces`: (id, how far below the top)."""

    id: str
    width: float
    height: float
    pieces: tuple[tuple[str, float], ...] = ()


class Gaps(NamedTuple):
    """Room between columns, between the boxes of one, and between parts that are not connected.

    Parts stand beside each other as far as they fit into `width`.
    """

    column: float = 48
    row: float = 14
    part: float = 26
    width: float = 0


class Layout(NamedTuple):
    """Where boxes have their left upper corners, and the points that each edge goes through."""

    width: float
    height: float
    corners: dict[str, Point]
    ways: dict[Edge, list[Point]]
    crossings: int


class End(NamedTuple):
    """Where edges meet a box: how far below its top."""

    box: str
    below: float


def ends_of(boxes: Iterable[Box]) -> dict[str, End]:
    """The ends that edges may have, by the ids of boxes and of their pieces."""
    found = {}
    for box in boxes:
        found[box.id] = End(box.id, box.height / 2)
        found |= {piece: End(box.id, below) for piece, below in box.pieces}
    return found


def pack(parts: Sequence[Layout], gaps: Gaps) -> Layout:
    """Wide parts below each other; then the others, tall ones first: as high, then as far to the left, as may be."""
    whole = Layout(0, 0, {}, {}, 0)
    taken: list[tuple[float, float, float]] = []  # left, right, bottom: with the gaps
    wide = [part for part in parts if part.width * 2 > gaps.width]
    narrow = [part for part in parts if part.width * 2 <= gaps.width]
    for part in (*wide, *sorted(narrow, key=lambda part: -part.height)):
        lefts = {0.0, *(right for _, right, _ in taken if right + part.width <= gaps.width)}
        y, x = min((_floor(taken, left, left + part.width), left) for left in lefts)
        taken.append((x, x + part.width + gaps.part, y + part.height + gaps.part))
        whole = _with(whole, part, x, y)
    return whole


def _floor(taken: Sequence[tuple[float, float, float]], left: float, right: float) -> float:
    """How far down what is taken reaches between left and right."""
    return max((bottom for begin, end, bottom in taken if begin < right and left < end), default=0.0)


def _with(whole: Layout, part: Layout, right: float, down: float) -> Layout:
    def moved(point: Point) -> Point:
        return point[0] + right, point[1] + down

    corners = whole.corners | {id: moved(corner) for id, corner in part.corners.items()}
    ways = whole.ways | {edge: [moved(point) for point in way] for edge, way in part.ways.items()}
    width, height = max(whole.width, right + part.width), max(whole.height, down + part.height)
    return Layout(width, height, corners, ways, whole.crossings + part.crossings)
