from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from headwater.aws.filters import MAX_COMBINATIONS, MAX_KEYS, filter_policy
from headwater.aws.ways import Leg, Ways, imported
from headwater.catalog import Catalog, QueueSpec, Router, RouteSpec, TableSpec
from headwater.codec import encode_json
from headwater.events import Envelope
from tests.aws.sns_rules import NO, combinations, key_count, lets_through

TOPIC, QUEUE = "shop/topic", "shop/jobs"

names = st.sampled_from(["a", "b", "c", "d", "odd name", "prefix", "x.y"])
texts = st.sampled_from(["a", "A", "ab", "abc", "b.csv", "ß", "SS", "10.0.0.7", "10.0.1.7", "", "true", "K"])
numbers = st.sampled_from([0, 1, 1.0, 2, -3, 2.5, 0.123456, 10**10, 5, -1.00001])
scalars = texts | numbers | st.booleans() | st.none()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=6
)
documents = st.dictionaries(names, values, max_size=5)
bounds = st.sampled_from([-2, 0, 1, 1.5, 2, 0.1234567, 10**12])


def _ranges(pair: tuple[Any, Any, bool]) -> list[Any]:
    low, high = sorted(pair[:2])
    lower, upper = [">=", low], ["<=", high]
    return upper + lower if pair[2] else lower + upper


operators = st.one_of(
    st.tuples(st.sampled_from(["prefix", "suffix", "equals-ignore-case", "wildcard"]), texts).map(
        lambda x: {x[0]: x[1]}
    ),
    st.just({"prefix": {"equals-ignore-case": "A"}}),
    st.sampled_from(["10.0.0.0/24", "10.0.0.7/24", "2001:db8::/32"]).map(lambda x: {"cidr": x}),
    st.lists(scalars, min_size=1, max_size=3).map(lambda x: {"anything-but": x}),
    texts.map(lambda x: {"anything-but": {"prefix": x}}),
    st.lists(texts, min_size=1, max_size=2).map(lambda x: {"anything-but": {"suffix": x}}),
    st.tuples(st.sampled_from(["=", "<", "<=", ">", ">="]), bounds).map(lambda x: {"numeric": list(x)}),
    st.tuples(bounds, bounds, st.booleans()).map(_ranges).map(lambda x: {"numeric": x}),
    st.booleans().map(lambda x: {"exists": x}),
    st.tuples(texts, texts).map(lambda x: {"prefix": x[0], "anything-but": [x[1]], "exists": True}),
)
alternatives: st.SearchStrategy[list[Any]] = st.lists(scalars | st.just([]) | operators, min_size=1, max_size=4)
patterns = st.recursive(
    st.dictionaries(names, alternatives, min_size=1, max_size=6),
    lambda inner: st.dictionaries(names, inner | alternatives, min_size=1, max_size=3),
    max_leaves=6,
)
branches = st.lists(patterns, min_size=2, max_size=2).map(lambda x: {"$or": x})


def _candidate(alternative: Any) -> Any:
    """A value that the alternative, or one of its operators, often holds for."""
    if not isinstance(alternative, dict):
        return alternative
    name, argument = next(iter(alternative.items()))
    match name, argument:
        case "prefix", str():
            return argument + "z"
        case "suffix" | "wildcard", str():
            return "z" + argument.replace("*", "z")
        case "equals-ignore-case", str():
            return argument.upper()
        case "cidr", _:
            return "10.0.0.9"
        case "numeric", _:
            return argument[-1]
    return "zz"


@st.composite
def matching(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """A pattern, and a document that often matches it."""
    pattern = draw(st.dictionaries(names, alternatives, min_size=1, max_size=2) | patterns | branches)
    document = draw(documents)
    for name, spec in pattern.items():
        if not isinstance(spec, list) or name == "$or":
            continue
        if {"exists": False} in spec and draw(st.booleans()):
            document.pop(name, None)
            continue
        good = _candidate(draw(st.sampled_from(spec)))
        document[name] = draw(st.sampled_from([good, good, [good], [[good]], ["z", good], [good, {"x": 1}]]))
    return pattern, document


def _catalog(*routes: RouteSpec, **queue: Any) -> Catalog:
    spec = QueueSpec(name=QUEUE, **queue)
    return Catalog(apps=("shop",), topics={TOPIC: 1, "shop/other": 1}, queues={QUEUE: spec}, routes=routes)


def _message(document: Any, source: str = TOPIC, type: str = "message") -> Envelope:
    return Envelope(id="e", source=source, type=type, data=encode_json(document))


@settings(max_examples=800)
@given(matching(), st.sampled_from([(), ("message",), ("message", "other")]))
def test_what_is_left_to_a_policy_passes_it(case: tuple[Any, Any], types: tuple[str, ...]) -> None:
    pattern, document = case
    route = RouteSpec(source=TOPIC, target=QUEUE, match=pattern, types=types)
    ways, router = Ways(_catalog(route)), Router({QUEUE: QueueSpec(name=QUEUE)}, (route,))
    message = _message(document)
    routed = bool(router.destinations(message))
    way = ways.way(message)
    (leg,) = ways.legs
    body = {"type": "message", "data": document}
    if way.by_topic:
        event("by the topic" + (", with a policy" if leg.policy else ""))
        assert routed
        assert not way.direct
        assert leg.policy is None or lets_through(leg.policy, body) == "yes"
    else:
        assert bool(way.direct) == routed
        event("direct" if routed else "nowhere")
    if routed and leg.policy is not None:
        assert lets_through(leg.policy, body) != NO, "a policy is never narrower than its route"
    assert ways.accepts(message, QUEUE) == routed


@settings(max_examples=200)
@given(patterns)
def test_policies_keep_to_the_limits(pattern: dict[str, Any]) -> None:
    policy = filter_policy(RouteSpec(source=TOPIC, target=QUEUE, match=pattern))
    if policy is not None:
        assert key_count(policy) <= MAX_KEYS
        assert combinations(policy) <= MAX_COMBINATIONS
        assert json.loads(json.dumps(policy)) == policy


route_lists = st.lists(
    st.builds(
        RouteSpec,
        source=st.sampled_from([TOPIC, "shop/other", "shop/rows"]),
        target=st.sampled_from([QUEUE, "shop/more", "shop/fifo", "shop/other"]),
        match=st.sampled_from([{}, {"a": ["a"]}, {"a": [{"numeric": [">", 1]}]}, {"a": {"b": [1]}}]),
        types=st.sampled_from([(), ("message",), ("inserted",)]),
        delay_ms=st.sampled_from([None, 0, 5]),
        id=st.sampled_from(["", "run-time"]),
    ),
    max_size=6,
)


@settings(max_examples=300)
@given(route_lists, documents, st.sampled_from([TOPIC, "shop/other", "shop/rows"]), st.booleans())
def test_all_ways_together_are_the_routers(
    routes: list[RouteSpec], document: dict[str, Any], source: str, outside: bool
) -> None:
    routes = [route for route in routes if not (route.source == route.target == "shop/other")]
    queues = {QUEUE: QueueSpec(name=QUEUE), "shop/more": QueueSpec(name="shop/more", delay_ms=3)}
    queues["shop/fifo"] = QueueSpec(name="shop/fifo", fifo=True)
    catalog = Catalog(
        apps=("shop",),
        tables={"shop/rows": TableSpec(name="shop/rows", partition="id")},
        topics={TOPIC: 1, "shop/other": 1},
        queues=queues,
        routes=tuple(routes),
    )
    ways, router = Ways(catalog, frozenset([TOPIC] if outside else [])), Router(queues, tuple(routes))
    message = _message(document, source, "inserted" if source == "shop/rows" else "message")
    way = ways.way(message)
    body = {"type": message.type, "data": document}
    arrived = {destination.queue: destination for destination in way.direct}
    if way.by_topic:
        for leg in ways.legs:
            passes = leg.policy is None or lets_through(leg.policy, body) != NO
            if leg.topic == source and passes and ways.accepts(message, leg.queue):
                arrived.setdefault(leg.queue, next(d for d in router.destinations(message) if d.queue == leg.queue))
    assert set(arrived.values()) == set(router.destinations(message))


@pytest.mark.parametrize(
    ("route", "queue"),
    [
        ({"group": "a"}, {}),
        ({}, {"fifo": True}),
        ({"delay_ms": 1}, {}),
        ({}, {"delay_ms": 1}),
        ({"id": "run-time"}, {}),
        ({"new": {"a": [1]}}, {}),
        ({"source": "shop/rows"}, {}),
    ],
)
def test_what_needs_more_than_a_subscription_is_sent_by_the_relay(route: dict[str, Any], queue: dict[str, Any]) -> None:
    spec = RouteSpec(**{"source": TOPIC, "target": QUEUE, **route})
    ways = Ways(_catalog(spec, **queue))
    assert ways.legs == ()
    way = ways.way(_message({"a": 1}, spec.source))
    assert (way.by_topic, way.queues) == (False, (QUEUE,))


def test_a_queue_with_two_ways_from_a_topic_gets_each_message_once() -> None:
    routes = [RouteSpec(source=TOPIC, target=QUEUE), RouteSpec(source=TOPIC, target="shop/other")]
    ways = Ways(_catalog(*routes, RouteSpec(source="shop/other", target=QUEUE)))
    assert [leg.topic for leg in ways.legs] == ["shop/other"]
    assert ways.way(_message({})).queues == (QUEUE,)
    assert not ways.way(_message({})).by_topic


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ({"a": ["x", "y"]}, {"a": ["x", "y"]}),
        ({"a": [3]}, {"a": [{"numeric": ["=", 3]}]}),
        ({"a": ["x", {"prefix": "y"}]}, {"a": ["x", {"prefix": "y"}]}),
        ({"a": [{"numeric": ["<=", 5, ">", 0]}]}, {"a": [{"numeric": [">", 0, "<=", 5]}]}),
        ({"a": [{"prefix": "s/", "suffix": ".csv"}]}, {"a": [{"prefix": "s/"}]}),
        ({"a": [{"wildcard": "*x"}]}, None),
        ({"a": ["x", None]}, None),
        ({"a": [{"exists": True}]}, None),
        ({"a": [{"exists": False}]}, {"a": [{"exists": False}]}),
        ({"a": [{"anything-but": ["x", 1]}], "b": [True]}, {"b": [True]}),
        ({"$or": [{"a": [1]}, {"b": [1]}]}, None),
        ({"a": {"b": {"c": ["x"]}}}, {"a": {"b": {"c": ["x"]}}}),
        ({"a.b": ["x"], "exists": ["x"]}, None),
    ],
)
def test_policies(pattern: dict[str, Any], said: dict[str, Any] | None) -> None:
    policy = filter_policy(RouteSpec(source=TOPIC, target=QUEUE, match=pattern))
    assert policy == (None if said is None else {"data": said})


def test_legs_name_topic_queue_and_policy() -> None:
    ways = Ways(_catalog(RouteSpec(source=TOPIC, target=QUEUE, match={"a": ["x"]}, types=("message",))))
    assert ways.legs == (Leg(TOPIC, QUEUE, {"type": ["message"], "data": {"a": ["x"]}}),)


def test_an_exported_topic_is_always_published() -> None:
    ways = Ways(_catalog(), frozenset([TOPIC]))
    assert ways.way(_message({})).by_topic
    assert not ways.way(_message({}, "shop/other")).by_topic


def test_topics_of_other_stacks_are_imported() -> None:
    assert imported(_catalog(RouteSpec(source="far/topic", target=QUEUE))) == ("far/topic",)
    assert imported(_catalog(RouteSpec(source=TOPIC, target=QUEUE))) == ()
