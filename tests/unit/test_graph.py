"""From apps to one catalog: cycles, doubles, order, and foreign sources."""

from __future__ import annotations

from typing import Any

import pytest

from headwater import App, DeclarationError, UnknownResource
from headwater.catalog import Catalog
from headwater.engine import Features
from headwater.graph import build_graph, check_features, check_sources


async def handler(event: Any) -> None:
    """A handler."""


def test_two_apps_of_one_name_are_refused() -> None:
    with pytest.raises(DeclarationError, match="shop"):
        build_graph([App("shop"), App("shop")])


def test_cycles_are_refused_and_named() -> None:
    app = App("shop")
    a, b, c = (app.topic(name) for name in "abc")
    a.to(b)
    b.to(c)
    c.to(a)
    with pytest.raises(DeclarationError, match="shop/a → shop/b → shop/c → shop/a"):
        build_graph([app])


def test_what_a_tables_changes_reach_is_ordered_through_topics_too() -> None:
    app = App("shop")
    table, topic = app.table("rows", dict, key="id"), app.topic("changes")
    direct, behind, free = app.queue("direct"), app.queue("behind"), app.queue("free")
    table.to(direct)
    table.modified.to(topic)
    topic.to(behind)
    app.topic("news").to(free)
    queues = build_graph([app]).catalog.queues
    assert [queues[queue.name].fifo for queue in (direct, behind, free)] == [True, True, False]


def test_a_route_from_nowhere_is_refused_with_the_app_that_wrote_it() -> None:
    app, shop = App("till"), App("shop")
    app.foreign("shop/news", dict).to(app.queue("inbox"))
    graph = build_graph([app])
    with pytest.raises(UnknownResource, match=r"shop/news.*till"):
        check_sources(graph, Catalog(apps=()))
    check_sources(graph, Catalog(apps=("shop",), topics={"shop/news": 1}))
    shop.topic("news")
    check_sources(build_graph([shop, app]), Catalog(apps=()))


def test_routes_end_in_the_own_app() -> None:
    app = App("till")
    news = app.foreign("shop/news", dict)
    with pytest.raises(DeclarationError, match="own topics"):
        app.topic("mine").to(news)
    with pytest.raises(DeclarationError, match="app/topic"):
        app.foreign("news", dict)


def test_handlers_and_routes_come_with_their_app() -> None:
    shop, till = App("shop"), App("till")
    shop.on(shop.topic("news"))(handler)
    till.on(till.queue("jobs"))(handler)
    graph = build_graph([shop, till])
    assert set(graph.handlers) == {"shop/handler", "till/jobs"}
    assert graph.catalog.consumed == ("shop/handler", "till/jobs")
    assert [route.origin for route in graph.catalog.routes] == ["shop"]


def test_an_app_that_needs_order_is_refused_by_an_engine_without_it() -> None:
    app = App("shop")
    app.queue("jobs", fifo=True)
    graph = build_graph([app])
    check_features(graph, Features(engine="plain", max_unit_operations=10))
    with pytest.raises(DeclarationError, match=r"shop/jobs.*'plain'"):
        check_features(graph, Features(engine="plain", max_unit_operations=10, ordered_groups=False))
