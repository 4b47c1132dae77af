"""Why an event went to a queue, or did not: always in agreement with what a commit does."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from headwater.catalog import QueueSpec, Router, RouteSpec
from headwater.events import Envelope
from headwater.why import explain_route, explain_routes

QUEUES = {name: QueueSpec(name=name) for name in ("shop/bills", "shop/mails")}
ROUTES = (
    RouteSpec(source="shop/orders", target="shop/paid", types=("modified",), old={"state": ["new"]}),
    RouteSpec(source="shop/paid", target="shop/bills", match={"amount": [{"numeric": [">", 10]}]}),
    RouteSpec(source="shop/orders", target="shop/mails", new={"customer": {"consent": [True]}}),
)


def event(type: str, old: Any = None, new: Any = None) -> Envelope:
    def encoded(image: Any) -> bytes | None:
        return None if image is None else json.dumps(image).encode()

    return Envelope(id="e", source="shop/orders", type=type, subject="1", data=encoded(new), old=encoded(old))


def test_the_first_part_that_refuses_is_named() -> None:
    paid, billed, mailed = ROUTES
    insert = event("inserted", None, {"amount": 11})
    assert explain_route(insert, paid) == "type: 'inserted', wanted 'modified'"
    assert explain_route(event("modified", {"state": "x"}, {}), paid) == 'old.state: "x", wanted "new"'
    assert explain_route(event("modified", None, {}), paid) == "old: the event has no old image"
    assert (
        explain_route(event("modified", {}, {"amount": 3}), billed) == 'match.amount: 3, wanted {"numeric": [">", 10]}'
    )
    assert explain_route(insert, mailed) == "new.customer.consent: absent, wanted true"
    assert explain_route(event("removed", {"amount": 11}, None), mailed) == "new: the event has no new image"
    assert explain_route(event("removed", {"amount": 11}, None), billed) is None  # a removal's data is its old image


def test_ways_through_topics_say_which_route_refuses() -> None:
    bills, mails = explain_routes(event("modified", {"state": "new"}, {"amount": 3}), QUEUES, ROUTES)
    assert (bills.queue, bills.failed, [route.target for route in bills.routes]) == (
        "shop/bills",
        1,
        ["shop/paid", "shop/bills"],
    )
    assert (mails.queue, mails.failed) == ("shop/mails", 0)
    (taken, _) = explain_routes(event("modified", {"state": "new"}, {"amount": 30}), QUEUES, ROUTES)
    assert (taken.failed, taken.reason) == (None, None)


IMAGES = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "state": st.sampled_from(["new", "paid", None]),
        "amount": st.sampled_from([1, 11, "11"]),
        "customer": st.sampled_from([{"consent": True}, {"consent": False}, [], "x"]),
    },
)


@given(type=st.sampled_from(["inserted", "modified", "removed"]), old=IMAGES, new=IMAGES)
def test_it_agrees_with_the_router_of_commits(type: str, old: Any, new: Any) -> None:
    happened = event(type, old, new)
    went = {destination.queue for destination in Router(QUEUES, ROUTES).destinations(happened)}
    explained = {way.queue for way in explain_routes(happened, QUEUES, ROUTES) if way.reason is None}
    assert explained == went
