"""The layered layout: what holds of every drawing, and drawings that are known to need no crossing."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.console.boxes import Box, Edge, Gaps, Layout, ends_of
from headwater.console.layout import lay_out
from headwater.console.tree_layout import lay_out_tree

GAPS = Gaps(column=40, row=10, part=20)
NAMES = "abcdefghij"


def boxes_of(names: str) -> list[Box]:
    return [Box(name, 30 + 7 * n % 50, 20 + 11 * n % 30) for n, name in enumerate(names)]


def edges_of(text: str) -> list[Edge]:
    """ "ab bc" is a → b → c."""
    return [(pair[0], pair[1]) for pair in text.split()]


def lay(names: str, edges: str) -> Layout:
    return lay_out(boxes_of(names), edges_of(edges), GAPS)


def test_nothing_needs_no_room() -> None:
    assert lay_out([], []) == Layout(0, 0, {}, {}, 0)


def test_what_follows_stands_to_the_right_with_room_between() -> None:
    layout = lay("abc", "ab bc")
    widths = {box.id: box.width for box in boxes_of("abc")}
    for left, right in pairwise("abc"):
        assert layout.corners[right][0] == layout.corners[left][0] + widths[left] + GAPS.column


@pytest.mark.parametrize(
    "edges",
    [
        "ad bc",
        "ae bd cf ad",
        "ag bf ch df eg",
        "ab ac ad be ce de",
        "ac bd ce df ae",
        "ad ae be cf bf",
        "ab ae bf ce cf de",
        "af bg ch ai di dj ej eg",
    ],
)
def test_what_can_be_drawn_without_crossings_is(edges: str) -> None:
    layout = lay("".join(sorted(set(edges) - {" "})), edges)
    assert layout.crossings == 0
    assert drawn_crossings(layout) == 0


def test_a_complete_bipartite_graph_crosses_as_often_as_it_must() -> None:
    layout = lay("abcxyz", "ax ay az bx by bz cx cy cz")
    assert layout.crossings == drawn_crossings(layout) == 9


def test_a_circle_is_drawn_with_one_edge_turned_round() -> None:
    layout = lay("abc", "ab bc ca")
    a, b, c = (layout.corners[name][0] for name in "abc")
    assert a < b < c
    assert layout.ways["c", "a"][0][0] <= c
    assert layout.ways["c", "a"][-1][0] >= a


def test_an_edge_bends_around_what_stands_between() -> None:
    boxes = boxes_of("abc")
    layout = lay_out(boxes, edges_of("ab bc ac"), GAPS)
    x, y = layout.corners["b"]
    (_, before), (_, behind) = layout.ways["a", "c"][1:3]
    assert before == behind
    assert before < y or before > y + boxes[1].height
    assert layout.ways["a", "c"][1][0] == x


def test_parts_that_are_not_connected_stand_below_each_other_those_alone_last() -> None:
    layout = lay("zabc", "ab")
    height = {box.id: box.height for box in boxes_of("zabc")}
    assert min(layout.corners["a"][1], layout.corners["b"][1]) == 0
    assert layout.corners["z"][1] >= max(height["a"], height["b"]) + GAPS.part
    assert layout.corners["c"][1] == layout.corners["z"][1] + height["z"] + GAPS.part
    assert layout.corners["z"][0] == layout.corners["c"][0] == 0


def test_parts_stand_beside_each_other_where_there_is_room() -> None:
    boxes = [Box("wide", 70, 10), Box("low", 30, 10), Box("tall", 30, 50), Box("next", 30, 10), Box("under", 40, 10)]
    layout = lay_out(boxes, [], Gaps(part=5, width=100))
    assert layout.corners == {
        "wide": (0, 0),
        "tall": (0, 15),
        "low": (35, 15),
        "next": (70, 15),
        "under": (35, 30),
    }
    assert (layout.width, layout.height) == (100, 65)


def test_edges_meet_the_pieces_of_a_box() -> None:
    stack = Box("stack", 30, 60, (("top", 10), ("bottom", 50)))
    layout = lay_out([Box("a", 10, 10), Box("b", 10, 10), stack], [("a", "bottom"), ("b", "top")], GAPS)
    assert layout.corners["b"][1] < layout.corners["a"][1]
    top = layout.corners["stack"][1]
    ends = {edge: way[-1] for edge, way in layout.ways.items()}
    assert ends == {("a", "bottom"): (50, top + 50), ("b", "top"): (50, top + 10)}


def test_an_edge_between_pieces_of_one_box_goes_round_on_its_right() -> None:
    layout = lay_out([Box("stack", 30, 60, (("top", 10), ("bottom", 50)))], [("bottom", "top")], GAPS)
    assert layout.ways["bottom", "top"] == [(30, 50), (50, 50), (50, 10), (30, 10)]
    assert layout.width == 50


def test_what_is_fed_late_stands_next_to_what_it_feeds() -> None:
    layout = lay("abcdz", "ab bc cd zd")
    assert layout.corners["z"][0] == layout.corners["c"][0]


def test_edges_to_nothing_and_loops_are_left_out() -> None:
    layout = lay("ab", "aa ab ax ab")
    assert list(layout.ways) == [("a", "b")]


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), max_size=25))
def test_whatever_the_edges(edges: list[Edge]) -> None:
    boxes = [*boxes_of(NAMES[:-2]), Box("box", 40, 40, (("i", 10), ("j", 30)))]
    for lay_them, is_tree in ((lay_out, False), (lay_out_tree, True)):
        layout = lay_them(boxes, edges, GAPS)
        assert layout == lay_them(boxes, edges, GAPS)
        assert set(layout.corners) == {box.id for box in boxes}
        assert set(layout.ways) == {edge for edge in edges if edge[0] != edge[1]}
        for one, other in combinations(boxes, 2):
            assert apart(layout, one, other)
        for box in boxes:
            x, y = layout.corners[box.id]
            assert x >= 0
            assert y >= -0.001
            assert x + box.width <= layout.width + 0.001
            assert y + box.height <= layout.height + 0.001
        for (source, target), way in layout.ways.items():
            assert all(0 <= x <= layout.width and y >= -0.001 for x, y in way)
            assert is_tree or touches(layout, boxes, source, way[0])
            assert touches(layout, boxes, target, way[-1])


def test_a_tree_has_each_box_below_what_first_leads_to_it() -> None:
    layout = lay_out_tree(boxes_of("abcde"), edges_of("ab bc ad ce de"), GAPS)
    assert sorted("abcde", key=lambda id: layout.corners[id][1]) == list("abced")
    assert [layout.corners[id][0] / GAPS.column for id in "abcde"] == [0, 1, 2, 1, 3]
    assert len(layout.ways["d", "e"]) == 4  # along the right side
    assert len(layout.ways["c", "e"]) == 3


def touches(layout: Layout, boxes: list[Box], id: str, point: tuple[float, float]) -> bool:
    """Whether a point is in the middle of the left or right side of a box, or of one of its pieces."""
    end = ends_of(boxes)[id]
    width = next(box.width for box in boxes if box.id == end.box)
    x, y = layout.corners[end.box]
    return point[0] in (x, x + width) and point[1] == pytest.approx(y + end.below)


def apart(layout: Layout, one: Box, other: Box) -> bool:
    (x1, y1), (x2, y2) = layout.corners[one.id], layout.corners[other.id]
    beside = x1 + one.width <= x2 or x2 + other.width <= x1
    return beside or y1 + one.height <= y2 + 0.001 or y2 + other.height <= y1 + 0.001


def drawn_crossings(layout: Layout) -> int:
    """Pairs of pieces of edges that cross, between the columns in which they begin and end."""
    pieces = [(left, right) for way in layout.ways.values() for left, right in pairwise(way) if left != right]
    return sum(
        (a[1] - c[1]) * (b[1] - d[1]) < 0
        for (a, b), (c, d) in combinations(pieces, 2)
        if b[0] > a[0] and d[0] > c[0] and max(a[0], c[0]) < min(b[0], d[0])
    )
