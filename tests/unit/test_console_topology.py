"""What the map is made of: routes in words, the graph, figures of a past minute, forms of schemas."""

from __future__ import annotations

from typing import Any

import pytest

from headwater.console.drawing import draw, draw_tree, outline, rate_text
from headwater.console.forms import example_of, fields_of, gathered
from headwater.console.past import figures_at, totals
from headwater.console.pattern_words import route_words
from headwater.console.topology import Answers, Figures, Node, Topology, live_figures, make_topology
from headwater.errors import InvalidValue


def route(source: str, target: str, **more: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {"types": [], "match": {}, "old": {}, "new": {}}
    plain = {**asked, "group": "", "delay_ms": None, "origin": "shop", "id": ""}
    return {"source": source, "target": target, **plain, **more}


def queue(name: str, **more: Any) -> dict[str, Any]:
    counts = {"depth": 0, "in_flight": 0, "delayed": 0, "dead": 0, "oldest_age_ms": 0}
    policy = {"max_depth": 0, "fifo": False}
    return {"name": name, **counts, "paused": False, "rates": None, "policy": policy, "consumed": True, **more}


def handler(queue: str) -> dict[str, Any]:
    return {"queue": queue, "handler": queue.partition("/")[2], "runs": "loop", "concurrency": 16}


def topology(
    routes: list[dict[str, Any]],
    queues: list[dict[str, Any]],
    fed: list[tuple[str, str, int]] | None = None,
    made: list[tuple[str, str, int]] | None = None,
    *,
    app: str = "",
    alarms: dict[str, str] | None = None,
) -> Topology:
    resources: dict[str, Any] = {
        "tables": [{"name": "shop/orders"}, {"name": "shop/quiet"}],
        "buckets": [],
        "topics": [{"name": "shop/news"}],
        "schedules": [],
        "queues": queues,
        "routes": routes,
        "subscriptions": [],
    }
    seen = {
        "handlers": [handler(queue["name"]) for queue in queues],
        "fed": [{"source": s, "queue": q, "events": n} for s, q, n in fed or ()],
        "made": [{"queue": q, "source": s, "events": n} for q, s, n in made or ()],
    }
    figures = {queue["name"]: live_figures(queue) for queue in queues}
    return make_topology(Answers(resources, seen, figures, alarms or {}), app)


def node(found: Topology, id: str) -> Node:
    return next(node for node in found.nodes if node.id == id)


def edges(found: Topology) -> set[tuple[str, str]]:
    return {(link.source, link.target) for link in found.links}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, ""),
        ({"types": ["inserted", "modified"]}, "inserted, modified"),
        ({"old": {"consent": ["granted"]}, "new": {"consent": ["revoked"]}}, "consent: granted → revoked"),
        ({"new": {"state": ["done"]}}, "state: any → done"),
        ({"match": {"key": [{"prefix": "a/", "suffix": ".csv"}]}}, "key: a/….csv"),
        ({"match": {"a": {"b": [1, {"prefix": "x"}]}}}, "a.b: 1 or x…"),
        ({"match": {"n": [{"numeric": [">", 5]}], "m": [{"exists": False}]}}, "n: > 5, m: absent"),
        ({"match": {"s": [{"anything-but": ["x", "y"]}]}}, "s: not x or y"),
        ({"match": {"s": [{"anything-but": "x"}, None, ""]}}, 's: {"anything-but": "x"} or null or ""'),
    ],
)
def test_a_route_is_told_in_words(asked: dict[str, Any], words: str) -> None:
    assert route_words(route("shop/orders", "shop/bills", **asked)) == words


def test_a_route_that_asks_for_something_is_a_node_between_source_and_queue() -> None:
    plain, asking = route("shop/orders", "shop/bills"), route("shop/orders", "shop/rush", types=["inserted"])
    found = topology([plain, asking], [queue("shop/bills"), queue("shop/rush")])
    assert edges(found) == {
        ("of:shop/orders", "of:shop/bills"),
        ("of:shop/orders", "route:1"),
        ("route:1", "of:shop/rush"),
        ("of:shop/bills", "handler:shop/bills"),
        ("of:shop/rush", "handler:shop/rush"),
    }
    assert node(found, "route:1").href == "/tables/shop/orders"
    assert found.apart == ["shop/quiet"]


def test_what_was_seen_is_on_the_map_too() -> None:
    found = topology(
        [route("shop/orders", "shop/bills")],
        [queue("shop/bills"), queue("shop/mails")],
        made=[("", "shop/orders", 7), ("shop/bills", "shop/news", 3), ("shop/bills", "shop/mails", 2)],
    )
    seen = {(link.source, link.target) for link in found.links if link.seen}
    assert seen == {
        ("entry:shop/orders", "of:shop/orders"),
        ("handler:shop/bills", "of:shop/news"),
        ("handler:shop/bills", "of:shop/mails"),
    }


def test_the_rate_of_a_queue_is_shared_out_as_the_newest_events_were() -> None:
    rates = {"sent": 8.0, "settled": 4.0, "retried": 0.0, "failed": 0.0}
    routes = [route("shop/orders", "shop/bills"), route("shop/news", "shop/bills")]
    fed = [("shop/orders", "shop/bills", 3), ("shop/news", "shop/bills", 1)]
    found = topology(routes, [queue("shop/bills", rates=rates)], fed, [("shop/bills", "shop/quiet", 2)])
    told = {(link.source, link.target): (link.rate, link.estimated) for link in found.links}
    assert told["of:shop/orders", "of:shop/bills"] == (6.0, True)
    assert told["of:shop/news", "of:shop/bills"] == (2.0, True)
    assert told["of:shop/bills", "handler:shop/bills"] == (4.0, False)
    assert told["handler:shop/bills", "of:shop/quiet"] == (2.0, True)


@pytest.mark.parametrize(
    ("more", "level", "reason"),
    [
        ({}, "", ""),
        ({"dead": 3}, "bad", "3 dead letters"),
        ({"depth": 1, "oldest_age_ms": 61_000}, "warn", "the oldest message is older than a minute"),
        ({"depth": 1, "oldest_age_ms": 601_000}, "bad", "the oldest message is older than 10 minutes"),
        ({"depth": 1, "consumed": False}, "warn", "nothing consumes it"),
        ({"rates": {"sent": 0, "settled": 0, "retried": 1, "failed": 0}}, "warn", "attempts are retried"),
    ],
)
def test_a_queue_has_the_colour_of_the_worst_that_is_so(more: dict[str, Any], level: str, reason: str) -> None:
    found = node(topology([], [queue("shop/bills", **more)]), "of:shop/bills")
    assert (found.level, found.reason) == (level, reason)


def test_an_alarm_and_failing_attempts_colour_too() -> None:
    rates = {"sent": 0.0, "settled": 0.0, "retried": 0.0, "failed": 1.0}
    found = topology([], [queue("shop/bills", rates=rates)], alarms={"shop/bills": "backlog"})
    assert node(found, "of:shop/bills").reason == "alarm: backlog"
    assert node(found, "handler:shop/bills").level == "bad"


def test_a_queue_is_full_at_its_maximum_or_at_very_many() -> None:
    full = node(topology([], [queue("shop/a", depth=5, policy={"max_depth": 10, "fifo": False})]), "of:shop/a")
    assert full.fill == 0.5
    fills = [node(topology([], [queue("shop/a", depth=n)]), "of:shop/a").fill for n in (0, 10, 1000, 10**5, 10**7)]
    assert fills == sorted(fills)
    assert (fills[0], round(fills[3], 3), fills[4]) == (0, 1.0, 1.0)


def test_an_app_is_shown_with_its_neighbours_and_the_servers_own_only_when_asked_for() -> None:
    routes = [route("shop/news", "report/totals"), route("report/x", "report/other")]
    queues = [queue("report/totals"), queue("report/other"), queue("shop/bills"), queue("headwater/outgoing")]
    everything = {one.id for one in topology(routes, queues).nodes}
    assert "of:headwater/outgoing" not in everything
    assert {"of:shop/bills", "of:report/other"} < everything
    shown = {one.id for one in topology(routes, queues, app="shop").nodes}
    assert "of:report/totals" in shown
    assert "of:report/other" not in shown
    assert "of:headwater/outgoing" in {one.id for one in topology(routes, queues, app="headwater").nodes}


def test_the_drawing_has_every_node_and_edge_and_names_rates() -> None:
    rates = {"sent": 12.0, "settled": 0.05, "retried": 0.0, "failed": 0.0}
    found = topology([route("shop/orders", "shop/bills")], [queue("shop/bills", rates=rates, depth=100)])
    for drawing in (draw(found), draw_tree(found)):
        shapes = {shape.node.id: shape for shape in drawing.shapes}
        assert shapes.keys() >= {"of:shop/orders", "of:shop/bills", "handler:shop/bills"}
        (line,) = drawing.lines
        assert (line.link.target, line.rate, line.speed) == ("of:shop/bills", "12/s", 4)
        assert shapes["handler:shop/bills"].note == "3/min"
        box = shapes["of:shop/bills"]
        assert 0 < box.filled < box.width
        assert "100 waiting" in box.title


def test_a_queue_stands_between_its_routes_and_its_handler() -> None:
    """The routes in the order of what they come from, so that no more edges cross than must."""
    routes = [
        route(source, target, types=["removed"])
        for source, target in (
            ("shop/news", "shop/bills"),
            ("shop/orders", "shop/bills"),
            ("shop/orders", "shop/other"),
            ("shop/news", "shop/other"),
        )
    ]
    drawing = draw(topology(routes, [queue("shop/bills"), queue("shop/other")]))
    places = {shape.node.id: (shape.x, shape.y) for shape in drawing.shapes}
    stack = sorted(("route:0", "route:1", "of:shop/bills", "handler:shop/bills"), key=lambda id: places[id][1])
    assert stack[2:] == ["of:shop/bills", "handler:shop/bills"]
    assert len({places[id][0] for id in stack}) == 1
    for news, orders in (("route:0", "route:1"), ("route:3", "route:2")):
        assert (places[news][1] < places[orders][1]) == (places["of:shop/news"][1] < places["of:shop/orders"][1])
    assert drawing.crossings == 1
    assert {line.link.target for line in drawing.lines} == {"route:0", "route:1", "route:2", "route:3"}


def test_a_tree_leaves_out_what_comes_from_outside() -> None:
    found = topology([route("shop/orders", "shop/bills")], [queue("shop/bills")], made=[("", "shop/orders", 7)])
    kinds = {shape.node.kind for shape in draw(found).shapes}
    assert kinds - {shape.node.kind for shape in draw_tree(found).shapes} == {"entry"}


def test_small_rates_are_told_a_minute() -> None:
    assert [rate_text(rate) for rate in (None, 0, 0.05, 1.25, 1234)] == ["", "", "3/min", "1.2/s", "1\u202f234/s"]


# The past


def point(minute: int, value: float) -> dict[str, Any]:
    return {"time": f"2026-01-01T{10 + minute // 60:02}:{minute % 60:02}:00Z", "value": value}


TEN = 29_454_360
"""The minute 2026-01-01T10:00Z."""


def series(name: str, *points: dict[str, Any], queue: str = "shop/bills") -> dict[str, Any]:
    return {"series": f'{name}{{queue="{queue}"}}', "kind": "", "points": list(points)}


def test_gauges_stay_counters_are_of_their_minute_and_what_nobody_told_is_not_known() -> None:
    told = [
        series("queue_depth", point(3, 7), point(9, 2)),
        series("queue_dead_letters", point(8, 1)),
        series("queue_due_timestamp_seconds", point(4, (TEN + 1) * 60)),
        series("queue_sent_total", point(5, 30), point(6, 60)),
        series("queue_settled_total", point(4, 30)),
        series("handler_failures_total", point(5, 6)),
    ]
    (found,) = figures_at(told, TEN + 5).values()
    assert found == Figures(
        depth=7, dead=None, in_flight=None, oldest_ms=5 * 60_000, sent=0.5, settled=0.0, retried=None, failed=0.1
    )


def test_totals_are_of_all_queues_but_the_servers_own() -> None:
    told = [
        series("queue_sent_total", point(0, 1), point(2, 2), point(30, 5)),
        series("queue_sent_total", point(2, 3), queue="shop/other"),
        series("queue_sent_total", point(2, 9), queue="headwater/outgoing"),
        series("queue_retried_total", point(2, 9)),
    ]
    assert totals(told, TEN, TEN + 3) == [1, 0, 5, 0]
    assert totals(told, TEN, TEN + 3, own=True) == [1, 0, 14, 0]


def test_an_outline_begins_and_ends_on_the_ground() -> None:
    assert outline([0, 2, 1], 100, 10) == "M0 10 L0.0 10.0 L50.0 0.0 L100.0 5.0 L100 10 Z"
    assert outline([0, 0], 100, 10) == "M0 10 L0.0 10.0 L100.0 10.0 L100 10 Z"


# Forms

SCHEMA: dict[str, Any] = {
    "resource": "shop/bills",
    "kind": "queue",
    "schema": {
        "type": "object",
        "required": ["name", "cents", "size"],
        "properties": {
            "name": {"type": "string"},
            "cents": {"type": "integer", "minimum": 5},
            "size": {"$ref": "#/components/schemas/shop/bills.Size"},
            "paid": {"type": "boolean", "default": False},
            "note": {"anyOf": [{"type": "string", "maxLength": 5000}, {"type": "null"}], "default": None},
            "lines": {"type": "array", "items": {"type": "string"}},
            "what": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        },
    },
    "components": {"shop/bills.Size": {"enum": ["S", "M"]}},
}


def test_each_field_of_a_schema_has_an_input_of_its_kind() -> None:
    told = {field.name: (field.kind, field.sent_as, field.required) for field in fields_of(SCHEMA)}
    assert told == {
        "name": ("text", "data.name:text", True),
        "cents": ("number", "data.cents:json", True),
        "size": ("choice", "data.size:text", True),
        "paid": ("choice", "data.paid:json", False),
        "note": ("long", "data.note:text", False),
        "lines": ("json", "data.lines:json", False),
        "what": ("json", "data.what:json", False),
    }
    by_name = {field.name: field for field in fields_of(SCHEMA)}
    assert [value for value, _ in by_name["size"].options] == ["S", "M"]
    assert [value for value, _ in by_name["paid"].options] == ["true", "false"]
    assert by_name["paid"].value == "false"
    assert by_name["cents"].hint == "≥ 5"
    assert by_name["cents"].step == "1"


def test_of_a_dict_there_are_no_fields() -> None:
    assert fields_of({"schema": {"type": "object"}, "components": {}}) == []
    assert fields_of({"schema": None, "components": {}}) == []
    assert example_of({"schema": None, "components": {}}) == {}


def test_an_example_has_what_is_required() -> None:
    assert example_of(SCHEMA) == {"name": "…", "cents": 5, "size": "S"}


def test_what_a_form_sends_field_by_field_is_one_document() -> None:
    sent = {
        "queue": "shop/bills",
        "data.name:text": "17",
        "data.cents:json": "5",
        "data.lines:json": '["a"]',
        "data.note:text": "",
        "data.paid:json": "true",
        "data.a.b:text": "dots belong to names",
    }
    data = {"name": "17", "cents": 5, "lines": ["a"], "paid": True, "a.b": "dots belong to names"}
    assert gathered(sent) == {"queue": "shop/bills", "data": data}


def test_other_parameters_stay_as_they_are() -> None:
    sent = {"data": '{"a": 1}', "match": "x.y", "limit": 3, "a.b": "no kind"}
    assert gathered(sent) == sent


def test_a_number_that_is_none_names_its_field() -> None:
    with pytest.raises(InvalidValue, match="cents is no JSON"):
        gathered({"data.cents:json": "five"})
