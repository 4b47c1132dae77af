"""Routing as a pure function: patterns, images, groups, delays, and each queue at most once."""

from __future__ import annotations

from typing import Any

from headwater.catalog import IndexSpec, QueueSpec, Router, RouteSpec, index_entry
from headwater.codec import encode_json
from headwater.events import Envelope


def event(source: str = "a/t", type: str = "message", data: Any = None, old: Any = None, **more: Any) -> Envelope:
    body = None if data is None else encode_json(data)
    before = None if old is None else encode_json(old)
    return Envelope(id="1", source=source, type=type, data=body, old=before, **more)


def queues(*names: str, **options: Any) -> dict[str, QueueSpec]:
    return {name: QueueSpec(name=name, **options) for name in names}


def test_routes_without_patterns_go_everywhere() -> None:
    router = Router(queues("q", "r"), (RouteSpec(source="a/t", target="q"), RouteSpec(source="a/t", target="r")))
    assert [found.queue for found in router.destinations(event(data={}))] == ["q", "r"]
    assert router.destinations(event("a/other")) == ()


def test_all_patterns_on_the_way_must_hold() -> None:
    routes = (
        RouteSpec(source="a/t", target="a/topic", match={"x": [1]}),
        RouteSpec(source="a/topic", target="q", match={"y": [2]}),
    )
    router = Router(queues("q"), routes)
    assert len(router.destinations(event(data={"x": 1, "y": 2}))) == 1
    assert router.destinations(event(data={"x": 1, "y": 3})) == ()
    assert router.destinations(event(data={"x": 0, "y": 2})) == ()


def test_a_queue_gets_an_event_once() -> None:
    routes = (
        RouteSpec(source="a/t", target="q", match={"x": [1]}, delay_ms=5),
        RouteSpec(source="a/t", target="a/topic"),
        RouteSpec(source="a/topic", target="q", delay_ms=9),
    )
    router = Router(queues("q"), routes)
    assert [found.delay_ms for found in router.destinations(event(data={"x": 1}))] == [5]
    assert [found.delay_ms for found in router.destinations(event(data={"x": 2}))] == [9]


def test_images_and_kinds_of_change() -> None:
    def router(**route: Any) -> Router:
        return Router(queues("q"), (RouteSpec(source="a/t", target="q", **route),))

    inserted = event(type="inserted", data={"n": 1})
    modified = event(type="modified", data={"n": 1}, old={"n": 0})
    removed = event(type="removed", old={"n": 1})

    def reached(router: Router) -> list[bool]:
        return [bool(router.destinations(each)) for each in (inserted, modified, removed)]

    assert reached(router(types=("modified", "removed"))) == [False, True, True]
    assert reached(router(old={"n": [1]})) == [False, False, True]
    assert reached(router(new={"n": [1]})) == [True, True, False]
    assert reached(router(match={"n": [1]})) == [True, True, True]
    assert reached(router(old={"n": [0]}, new={"n": [1]})) == [False, True, False]


def test_groups_of_fifo_queues() -> None:
    def group(route: RouteSpec, sent: Envelope) -> str | None:
        (found,) = Router(queues("q", fifo=True), (route,)).destinations(sent)
        return found.group

    by_field = RouteSpec(source="a/t", target="q", group="id")
    assert group(by_field, event(data={"id": "x"})) == "x"
    assert group(by_field, event(data={"id": 7})) == "7"
    assert group(by_field, event(data={})) == ""
    assert group(RouteSpec(source="a/t", target="q", group="$subject"), event(data={}, subject="s")) == "s"
    assert group(RouteSpec(source="a/t", target="q"), event(data={})) == "1"
    (plain,) = Router(queues("q"), (by_field,)).destinations(event(data={"id": "x"}))
    assert plain.group is None


def test_index_entries() -> None:
    spec = IndexSpec("i", "a", "b")
    assert index_entry(spec, {"a": "x", "b": 1}) == ("x", 1)
    for document in (
        {"a": "x"},
        {"b": 1},
        {"a": "", "b": 1},
        {"a": None, "b": 1},
        {"a": True, "b": 1},
        {"a": "x", "b": []},
    ):
        assert index_entry(spec, document) is None
    assert index_entry(IndexSpec("i", "a"), {"a": 5}) == (5, "")
