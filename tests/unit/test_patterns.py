from __future__ import annotations

import fnmatch
import json
from enum import Enum, auto
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from headwater.errors import DeclarationError
from headwater.patterns import compile_pattern, explain, fields_of


class Absent(Enum):
    """No value at all, for a leaf that is not there."""

    ABSENT = auto()

    def __repr__(self) -> str:
        return "absent"


ABSENT = Absent.ABSENT

# alternatives of one field, values of it that match, values that do not
LEAVES: list[tuple[list[Any], list[Any], list[Any]]] = [
    (["a"], ["a", ["b", "a"], [["a"]]], ["b", "A", "", None, 1, True, [], {}, ["b"], {"a": "a"}, ABSENT]),
    (["a", "b"], ["a", "b"], ["ab", ABSENT]),
    ([3], [3, 3.0, [1, 3]], ["3", 3.1, True, None, ABSENT]),
    ([3.0], [3, 3.0], ["3.0"]),
    ([1], [1, 1.0], [True, "1"]),
    ([0], [0, 0.0, -0.0], [False, None, "", []]),
    ([True], [True, [False, True]], [1, 1.0, "true", False]),
    ([False], [False], [0, None, "", ABSENT]),
    ([1, True], [1, True], [0, False]),
    ([None], [None, [None]], ["", 0, False, [], {}, ABSENT]),
    ([""], ["", ["", "a"]], [None, " ", [], ABSENT]),
    ([[]], [[]], [[1], [[]], None, "", {}, ABSENT]),
    (["a", []], ["a", [], ["a"]], ["b", ["b"]]),
    ([{"prefix": "ab"}], ["ab", "abc", ["x", "abc"]], ["ABC", "a", "xab", 1, None, ABSENT]),
    ([{"prefix": {"equals-ignore-case": "aB"}}], ["ab", "ABC"], ["a", "xab", 7]),
    ([{"suffix": ".csv"}], ["a.csv", ".csv"], [".CSV", "csv", "a.csv.gz", 1]),
    ([{"suffix": {"equals-ignore-case": ".Csv"}}], ["a.csv", "A.CSV"], ["csv"]),
    ([{"equals-ignore-case": "Ab"}], ["ab", "AB"], ["abc", "", 1, None, ABSENT]),
    ([{"wildcard": "*"}], ["", "abc", "*"], [1, None]),
    ([{"wildcard": "a*b"}], ["ab", "axb", "a*b", "aXbb", "a\nb"], ["a", "aba", "xab"]),
    ([{"wildcard": "ab*ba"}], ["abba", "ab-ba"], ["aba"]),
    ([{"wildcard": "*a*bc*d"}], ["abcd", "xaxbcxd", "abbcdd"], ["abd", "bcad"]),
    ([{"wildcard": "*b*b"}], ["bb", "abab"], ["b", "ab"]),
    ([{"wildcard": "*aa*aa*"}], ["aaaa"], ["aaa"]),
    ([{"wildcard": "a\\*b"}], ["a*b"], ["axb", "a\\*b"]),
    ([{"wildcard": "a\\\\*"}], ["a\\", "a\\b"], ["a", "a*"]),
    ([{"wildcard": "a.+*"}], ["a.+", "a.+c"], ["abbb"]),
    ([{"wildcard": "plain"}], ["plain"], ["plain text", ""]),
    ([{"anything-but": "a"}], ["b", "", 1, None, True, ["a", "b"]], ["a", ["a"], [], {}, ABSENT]),
    ([{"anything-but": 1}], [2, "1", True], [1, 1.0]),
    ([{"anything-but": ["a", "b"]}], ["c", 1], ["a", "b", ["a", "b"]]),
    ([{"anything-but": [None, True]}], [1, False, "a"], [None, True, ABSENT]),
    ([{"anything-but": {"prefix": "a"}}], ["b", "", 1, None], ["a", "ab", ABSENT]),
    ([{"anything-but": {"prefix": ["a", "b"]}}], ["c"], ["a1", "b1"]),
    ([{"anything-but": {"suffix": ".tmp"}}], ["a.csv"], ["a.tmp"]),
    ([{"anything-but": {"suffix": [".tmp", "~"]}}], ["a.csv"], ["a.tmp", "b~"]),
    ([{"anything-but": {"equals-ignore-case": "No"}}], ["yes", 1], ["no", "NO"]),
    ([{"anything-but": {"equals-ignore-case": ["no", "NEVER"]}}], ["yes"], ["No", "never"]),
    ([{"anything-but": {"wildcard": "*/tmp/*"}}], ["a/b"], ["a/tmp/b"]),
    ([{"anything-but": {"wildcard": ["a*", "*z"]}}], ["mn"], ["ab", "yz"]),
    ([{"numeric": ["=", 300]}], [300, 300.0], [299, "300", None]),
    ([{"numeric": [">", 0, "<=", 5]}], [1, 5, 0.1, [9, 3]], [0, 5.1, -1, "3", True, None, ABSENT]),
    ([{"numeric": ["<", 10]}], [9.99, -(10**20)], [10, False]),
    ([{"numeric": [">=", -1.5]}], [-1.5, 10**400], [-1.6]),
    ([{"numeric": ["<=", 5, ">", 0]}], [5], [0, 6]),
    ([{"numeric": [">=", 2, "<=", 2]}], [2], [1, 3]),
    ([{"exists": True}], ["", 0, None, False, [1], [[None]]], [ABSENT, {}, {"x": 1}, [], [{}]]),
    ([{"exists": False}], [ABSENT, {}, {"x": 1}, [], [{"x": 1}]], ["", 0, None, False, [1]]),
    ([{"exists": False}, "a"], [ABSENT, "a"], ["b", None]),
    ([{"cidr": "10.0.0.0/24"}], ["10.0.0.0", "10.0.0.255"], ["10.0.1.0", "::1", "x", "", 167772160, None]),
    ([{"cidr": "10.0.0.7/24"}], ["10.0.0.1"], ["10.0.1.7"]),
    ([{"cidr": "2001:db8::/32"}], ["2001:db8::1", "2001:DB8:0:0::1"], ["2001:db9::1", "10.0.0.1"]),
    ([{"cidr": "10.0.0.1"}], ["10.0.0.1"], ["10.0.0.2"]),
    # alternatives are or, operators of one object are and
    ([{"prefix": "s/"}, {"suffix": ".csv"}], ["s/x", "x.csv", "s/x.csv"], ["x"]),
    ([{"prefix": "s/", "suffix": ".csv"}], ["s/x.csv"], ["s/x", "x.csv", ["s/x", "x.csv"]]),
    ([{"exists": True, "anything-but": "a"}], ["b"], ["a", ABSENT]),
    ([{"prefix": "a", "suffix": "d", "wildcard": "*b*", "anything-but": "abd"}], ["abcd"], ["abd", "acd"]),
    (["x", {"prefix": "a"}], ["x", "ab"], ["b", 1]),
    (["x", 1, {"prefix": "a"}, {"numeric": [">", 5]}], ["x", 1, "ab", 6], ["b", 2, True]),
]


@pytest.mark.parametrize(("alternatives", "matching", "failing"), LEAVES, ids=lambda value: repr(value)[:40])
def test_leaf(alternatives: list[Any], matching: list[Any], failing: list[Any]) -> None:
    matches = compile_pattern({"f": alternatives})
    for value in matching:
        assert matches({} if value is ABSENT else {"f": value, "g": 1}) is True, value
    for value in failing:
        assert matches({} if value is ABSENT else {"f": value, "g": 1}) is False, value


# pattern, data that match, data that do not
OBJECTS: list[tuple[dict[str, Any], list[Any], list[Any]]] = [
    ({}, [{}, {"a": 1}, [], None, "x", [{}, 1]], []),
    ({"a": [1], "b": [2]}, [{"a": 1, "b": 2, "c": 3}], [{"a": 1}, {"b": 2}, {"a": 1, "b": 3}, {}]),
    ({"a": [1], "b": [1], "c": [1]}, [{"a": 1, "b": 1, "c": 1}], [{"a": 1, "b": 1}, {"b": 1, "c": 1}]),
    ({name: [1] for name in "abcde"}, [dict.fromkeys("abcde", 1)], [dict.fromkeys("abcd", 1)]),
    (
        {"a": {"b": {"c": ["x"]}}},
        [{"a": {"b": {"c": "x"}}}],
        [{"a": {"b": "x"}}, {"a": None}, {}, {"a.b.c": "x"}],
    ),
    ({"a": {"b": [{"exists": False}]}}, [{}, {"a": 1}, {"a": {}}, {"a": []}, {"a": [1]}], [{"a": {"b": 1}}]),
    (
        {"items": {"sku": ["x"], "n": [{"numeric": [">", 1]}]}},
        [{"items": [{"sku": "y"}, {"sku": "x", "n": 2}]}, {"items": [[{"sku": "x", "n": 2}]]}],
        [{"items": [{"sku": "x", "n": 1}, {"sku": "y", "n": 2}]}, {"items": []}],
    ),
    ({"$or": [{"a": [1]}, {"b": [2]}]}, [{"a": 1}, {"b": 2}], [{"a": 2, "b": 1}, {}]),
    ({"c": [3], "$or": [{"a": [1]}, {"b": [2], "d": [4]}]}, [{"c": 3, "a": 1}], [{"a": 1}, {"c": 3, "b": 2}]),
    ({"x": {"$or": [{"a": [1]}, {"b": [2]}, {"c": [3]}]}}, [{"x": {"c": 3}}], [{"c": 3}, {"x": {"c": 1}}]),
    ({"$or": [{"$or": [{"a": [1]}, {"b": [1]}]}, {"c": [1]}]}, [{"b": 1}, {"c": 1}], [{"b": 2}]),
    ({"a": [1]}, [[{"a": 2}, {"a": 1}]], [None, "a", 5, [], [1], ["a"]]),
    ({"phone": {"prefix": ["+49"]}}, [{"phone": {"prefix": "+49"}}], [{"phone": "+4912"}]),
]


@pytest.mark.parametrize(("pattern", "matching", "failing"), OBJECTS, ids=lambda value: repr(value)[:40])
def test_object(pattern: dict[str, Any], matching: list[Any], failing: list[Any]) -> None:
    matches = compile_pattern(pattern)
    for data in matching:
        assert matches(data) is True, data
    for data in failing:
        assert matches(data) is False, data


def nested(depth: int) -> dict[str, Any]:
    pattern: dict[str, Any] = {"f": [1]}
    for _ in range(depth):
        pattern = {"f": pattern}
    return pattern


INVALID: list[tuple[Any, str]] = [
    ("a", "match: a pattern is an object"),
    ({1: ["a"]}, "match: a field's name"),
    ({"a": "b"}, 'match.a: alternatives are a list, not "b"'),
    ({"a": None}, "match.a: alternatives are a list, not null"),
    ({"a": []}, "match.a: an empty list"),
    ({"a": {}}, "match.a: an empty object"),
    ({"a b": {"c": 1}}, 'match["a b"].c: alternatives'),
    ({"a": [["b"]]}, "match.a[0]: "),
    ({"a": ["x", float("nan")]}, "match.a[1]: nan"),
    ({"a": [b"x"]}, "match.a[0]: "),
    ({"a": [{}]}, "match.a[0]: an object without"),
    ({"a": [{"regex": "x"}]}, 'match.a[0]: unknown operator "regex"'),
    ({"a": [{("prefix",): "x"}]}, "match.a[0]: unknown operator"),
    ({"a": {"prefix": "x"}}, "match.a.prefix: an operator stands in a list"),
    ({"a": {"anything-but": ["x"]}}, "match.a.anything-but: an operator stands in a list"),
    ({"a": {"numeric": [">", 0]}}, "match.a.numeric: an operator stands in a list"),
    ({"a": {"exists": False}}, "match.a.exists: an operator stands in a list"),
    ({"a": [{"prefix": 1}]}, "match.a[0].prefix: needs a string"),
    ({"a": [{"prefix": {"suffix": "x"}}]}, "match.a[0].prefix: unknown"),
    ({"a": [{"suffix": {"equals-ignore-case": 1}}]}, "match.a[0].suffix.equals-ignore-case: needs a string"),
    ({"a": [{"equals-ignore-case": ["x"]}]}, "match.a[0].equals-ignore-case: needs a string"),
    ({"a": [{"wildcard": "a**b"}]}, "match.a[0].wildcard: **"),
    ({"a": [{"wildcard": "a\\n"}]}, "match.a[0].wildcard: a backslash"),
    ({"a": [{"wildcard": "a\\"}]}, "match.a[0].wildcard: a backslash"),
    ({"a": [{"wildcard": "a\\\\\\"}]}, "match.a[0].wildcard: a backslash"),
    ({"a": [{"anything-but": []}]}, "match.a[0].anything-but: an empty list"),
    ({"a": [{"anything-but": ["x", ["y"]]}]}, "match.a[0].anything-but[1]: "),
    ({"a": [{"anything-but": {"numeric": [">", 1]}}]}, "match.a[0].anything-but: unknown"),
    ({"a": [{"anything-but": {"prefix": "a", "suffix": "b"}}]}, "match.a[0].anything-but: unknown"),
    ({"a": [{"anything-but": {"prefix": ["a", 1]}}]}, "match.a[0].anything-but.prefix[1]: needs a string"),
    ({"d": {"price": [{"numeric": ["~", 1]}]}}, 'match.d.price[0].numeric: unknown comparison "~"'),
    ({"a": [{"numeric": []}]}, "match.a[0].numeric: not a comparison"),
    ({"a": [{"numeric": 5}]}, "match.a[0].numeric: not a comparison"),
    ({"a": [{"numeric": [">", "1"]}]}, "match.a[0].numeric[1]: needs a finite number"),
    ({"a": [{"numeric": [">", True]}]}, "match.a[0].numeric[1]: needs a finite number"),
    ({"a": [{"numeric": ["<", float("inf")]}]}, "match.a[0].numeric[1]: needs a finite number"),
    ({"a": [{"numeric": [">", 1, ">", 2]}]}, "match.a[0].numeric: a range has"),
    ({"a": [{"numeric": ["=", 1, "<", 2]}]}, "match.a[0].numeric: a range has"),
    ({"a": [{"numeric": [">", 5, "<", 5]}]}, "match.a[0].numeric: no number"),
    ({"a": [{"cidr": "10.0.0.0/33"}]}, "match.a[0].cidr: "),
    ({"a": [{"cidr": 5}]}, "match.a[0].cidr: needs a string"),
    ({"a": [{"exists": "yes"}]}, "match.a[0].exists: true or false"),
    ({"a": [{"exists": False, "prefix": "x"}]}, "match.a[0].exists: an absent field"),
    ({"$or": [{"a": [1]}]}, "match.$or: not a list of two or more"),
    ({"$or": {"a": [1]}}, "match.$or: not a list of two or more"),
    ({"$or": [{"a": [1]}, {}]}, "match.$or[1]: an empty pattern"),
    ({"$or": [{"a": [1]}, {"b": 2}]}, "match.$or[1].b: alternatives"),
    ({"$or": [{"a": [1]}, 5]}, "match.$or[1]: a pattern is an object"),
    (nested(5000), "match.f."),
]


@pytest.mark.parametrize(("pattern", "message"), INVALID, ids=[message for _, message in INVALID])
def test_an_invalid_pattern_is_refused_with_its_place_and_a_hint(pattern: Any, message: str) -> None:
    with pytest.raises(DeclarationError) as refused:
        compile_pattern(pattern)
    assert refused.value.message.startswith(message)
    assert refused.value.hint


def test_the_place_is_named_by_the_caller() -> None:
    with pytest.raises(DeclarationError, match=r"^orders\.on_paid\.new\.a: "):
        compile_pattern({"a": 1}, place="orders.on_paid.new")


def test_a_wide_pattern_and_deep_data_do_not_exhaust_the_stack() -> None:
    wide = compile_pattern({f"f{n}": [n] for n in range(5_000)})
    assert wide({f"f{n}": n for n in range(5_000)})
    deep: list[Any] = ["a"]
    for _ in range(50_000):
        deep = [deep]
    assert compile_pattern({"f": ["a"], "$or": [{"f": {"g": ["x"]}}, {"f": ["a"]}]})({"f": deep})


def test_a_wildcard_does_not_backtrack() -> None:
    assert not compile_pattern({"f": [{"wildcard": "*".join("a" * 200) + "*b"}]})({"f": "a" * 100_000})


@pytest.mark.parametrize(
    ("pattern", "data", "reason"),
    [
        ({"a": [1]}, {"a": 1}, None),
        ({"a": ["x"], "b": ["y", None]}, {"a": "x", "b": "z"}, 'b: "z", wanted "y" or null'),
        ({"a": {"b": [{"numeric": [">", 1]}]}}, {"a": {"b": 1}}, 'a.b: 1, wanted {"numeric": [">", 1]}'),
        ({"a": {"b": ["x"]}}, {"a": 5}, 'a.b: absent, wanted "x"'),
        ({"a": {"b": ["x"]}}, {"a": [{"b": 1}]}, 'a.b: 1, wanted "x"'),
        ({"a": {"b": ["x"]}}, {"a": [{"b": 1}, {}]}, 'a: none of its 2 objects matches {"b": ["x"]}'),
        ({"a": {"$or": [{"b": [1]}, {"c": [1]}]}}, {"a": {}}, "a.$or: none of its 2 patterns matches"),
    ],
)
def test_explain(pattern: dict[str, Any], data: Any, reason: str | None) -> None:
    assert explain(pattern, data) == reason


def test_explain_refuses_an_invalid_pattern_and_shortens_long_values() -> None:
    with pytest.raises(DeclarationError):
        explain({"a": 1}, {})
    assert len(explain({"a": ["x"]}, {"a": "y" * 10_000}) or "") < 200


def test_fields_of() -> None:
    assert fields_of({}) == frozenset()
    pattern = {"a": {"b": [1]}, "$or": [{"c": [1]}, {"$or": [{"d": [1]}, {"a": [2]}]}]}
    assert fields_of(pattern) == {"a", "c", "d"}


NAMES = st.sampled_from(["a", "b", "c", "prefix", "exists", "x y"])
TEXTS = st.text(alphabet="abA*\\.ß/", max_size=5)
NUMBERS = st.integers(-5, 5) | st.floats(-5, 5) | st.sampled_from([10**400, 0.5])
LITERALS = st.none() | st.booleans() | NUMBERS | TEXTS
LEAF_DATA = LITERALS | st.sampled_from(["10.0.0.1", "::1", float("inf"), float("nan")])
JSON = st.recursive(
    LEAF_DATA,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)
WILDCARDS = st.lists(st.sampled_from(["a", "b", "\\*", "\\\\"]), max_size=3).flatmap(
    lambda parts: st.sampled_from(["".join(parts), "*".join(parts), "*" + "".join(parts), "".join(parts) + "*"])
)
FOLDED = st.fixed_dictionaries({"equals-ignore-case": TEXTS})
TEXT_OPERATORS = {"prefix": TEXTS, "suffix": TEXTS, "equals-ignore-case": TEXTS, "wildcard": WILDCARDS}
EXCLUSIONS = st.one_of(
    LITERALS,
    st.lists(LITERALS, min_size=1, max_size=3),
    *(
        st.fixed_dictionaries({name: texts | st.lists(texts, min_size=1, max_size=2)})
        for name, texts in TEXT_OPERATORS.items()
    ),
)
RANGES = st.tuples(st.integers(-5, 0), st.integers(1, 5)).map(lambda pair: [">", pair[0], "<=", pair[1]])
OPERATORS: dict[str, st.SearchStrategy[Any]] = {
    **TEXT_OPERATORS,
    "prefix": TEXTS | FOLDED,
    "suffix": TEXTS | FOLDED,
    "anything-but": EXCLUSIONS,
    "numeric": RANGES | st.tuples(st.sampled_from(["=", "<", "<=", ">", ">="]), NUMBERS).map(list),
    "cidr": st.sampled_from(["10.0.0.0/8", "::/0", "10.0.0.1"]),
    "exists": st.just(True),
}
POSITIVE = st.fixed_dictionaries({}, optional=OPERATORS).filter(bool)
ALTERNATIVES: st.SearchStrategy[list[Any]] = st.lists(
    LITERALS | POSITIVE | st.just({"exists": False}) | st.just([]), min_size=1, max_size=3
)


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    fields = st.dictionaries(NAMES, inner, min_size=1, max_size=3)
    branches = st.fixed_dictionaries({"$or": st.lists(fields, min_size=2, max_size=2)})
    return st.one_of(fields, branches, st.tuples(fields, branches).map(lambda both: {**both[0], **both[1]}))


PATTERNS: st.SearchStrategy[dict[str, Any]] = objects(st.recursive(ALTERNATIVES, objects, max_leaves=4)) | st.just({})


@given(PATTERNS, st.dictionaries(NAMES, JSON, max_size=4) | JSON)
@settings(max_examples=100, deadline=None)
def test_a_valid_pattern_answers_on_any_data_and_explain_agrees(pattern: dict[str, Any], data: Any) -> None:
    matched = compile_pattern(pattern)(data)
    reason = explain(pattern, data)
    assert matched is (reason is None)


@given(PATTERNS, JSON)
@settings(max_examples=30, deadline=None)
def test_a_pattern_survives_json(pattern: dict[str, Any], data: Any) -> None:
    assert compile_pattern(json.loads(json.dumps(pattern)))(data) is compile_pattern(pattern)(data)


@given(PATTERNS, st.dictionaries(NAMES, JSON, max_size=4))
@settings(max_examples=30, deadline=None)
def test_fields_of_is_all_that_a_pattern_reads(pattern: dict[str, Any], data: dict[str, Any]) -> None:
    read = {name: value for name, value in data.items() if name in fields_of(pattern)}
    assert compile_pattern(pattern)(read) is compile_pattern(pattern)(data)


@given(st.lists(LITERALS, min_size=1, max_size=4), LEAF_DATA)
def test_anything_but_is_the_negation_of_literals_on_scalars(literals: list[Any], leaf: Any) -> None:
    excluded = compile_pattern({"f": [{"anything-but": literals}]})({"f": leaf})
    assert excluded is not compile_pattern({"f": literals})({"f": leaf})


@given(st.sampled_from(list(TEXT_OPERATORS)), st.data(), LEAF_DATA)
def test_anything_but_is_the_negation_of_text_operators_on_scalars(name: str, draw: st.DataObject, leaf: Any) -> None:
    texts = draw.draw(st.lists(TEXT_OPERATORS[name], min_size=1, max_size=3))
    excluded = compile_pattern({"f": [{"anything-but": {name: texts}}]})({"f": leaf})
    assert excluded is not compile_pattern({"f": [{name: text} for text in texts]})({"f": leaf})


@given(LITERALS, LITERALS)
def test_a_literal_matches_what_json_calls_equal(literal: Any, leaf: Any) -> None:
    equal = literal == leaf and isinstance(literal, bool) is isinstance(leaf, bool)
    assert compile_pattern({"f": [literal]})({"f": leaf}) is equal


@given(st.lists(LITERALS | POSITIVE, min_size=1, max_size=3), st.lists(LITERALS, min_size=1, max_size=4))
@settings(deadline=None)
def test_an_array_matches_when_an_element_and_an_alternative_do(spec: list[Any], array: list[Any]) -> None:
    each = [compile_pattern({"f": [one]})({"f": leaf}) for one in spec for leaf in array]
    assert compile_pattern({"f": spec})({"f": array}) is any(each)


@given(st.lists(TEXTS, max_size=4), st.text(alphabet="abA.", max_size=8))
def test_a_wildcard_matches_as_a_shell_would(parts: list[str], text: str) -> None:
    wildcard = "*".join(part.replace("*", "").replace("\\", "") for part in parts)
    assume("**" not in wildcard)
    matches = compile_pattern({"f": [{"wildcard": wildcard}]})
    assert matches({"f": text}) is fnmatch.fnmatchcase(text, wildcard)
