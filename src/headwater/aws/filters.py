"""Patterns as SNS filter policies, as far as SNS surely means the same.

A policy lets through at least all that its route matches: a field that SNS cannot say, or may read in another way, is
left out of it. Whether it lets an event through is certain only for data that the documentation speaks of
(`surely_accepts`); what is not certain is sent without SNS. So a policy saves messages and never loses one.

SNS allows five keys in a policy and 150 combinations: the product of each key's number of values and its depth
(https://docs.aws.amazon.com/sns/latest/dg/subscription-filter-policy-constraints.html). All leaves are counted as
keys, which is the stricter one of the two ways that were documented.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from headwater.catalog import RouteSpec

MAX_KEYS = 5
MAX_COMBINATIONS = 150
_LARGEST, _DIGITS = 10**9, 5
_FIELD = re.compile(r"[A-Za-z0-9_-]{1,100}")
_RESERVED = {"prefix", "suffix", "equals-ignore-case", "anything-but", "numeric", "exists", "cidr", "wildcard"}
_ABSENT: Any = object()
_UNSAYABLE: Any = object()
Policy = dict[str, Any]


def filter_policy(route: RouteSpec) -> Policy | None:
    """A policy on the body of the route's messages; None when nothing of the route can be said."""
    leaves: list[tuple[tuple[str, ...], list[Any]]] = [(("type",), list(route.types))] if route.types else []
    leaves += _leaves(route.match, ("data",))
    policy: Policy = {}
    combinations = 1
    for path, alternatives in sorted(leaves, key=lambda leaf: (_weight(*leaf), leaf[0]))[:MAX_KEYS]:
        combinations *= _weight(path, alternatives)
        if combinations > MAX_COMBINATIONS:
            break
        place = policy
        for step in path[:-1]:
            place = place.setdefault(step, {})
        place[path[-1]] = alternatives
    return policy or None


def surely_accepts(policy: Policy, body: Mapping[str, Any]) -> bool:
    """Whether SNS is documented to let the body through."""
    for name, spec in policy.items():
        value = body.get(name, _ABSENT)
        if isinstance(spec, dict):
            if not isinstance(value, dict) or not value or not surely_accepts(spec, value):
                return False
        elif not _surely_matches(spec, value):
            return False
    return True


def _leaves(pattern: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    for name, spec in pattern.items():
        if not _FIELD.fullmatch(name) or name in _RESERVED:
            continue
        here = (*path, name)
        if isinstance(spec, Mapping):
            yield from _leaves(spec, here)
            continue
        said = [_alternative(alternative) for alternative in spec]
        if _UNSAYABLE not in said:
            yield here, said


def _weight(path: tuple[str, ...], alternatives: list[Any]) -> int:
    values = 0
    for alternative in alternatives:
        excluded = alternative.get("anything-but") if isinstance(alternative, dict) else None
        values += len(excluded) if isinstance(excluded, list) else 1
    return values * len(path)


def _alternative(alternative: Any) -> Any:
    """What SNS calls it, or something wider; `_UNSAYABLE` when there is no such thing."""
    match alternative:
        case bool() | str():
            return alternative
        case int() | float():
            return {"numeric": ["=", alternative]} if _is_exact(alternative) else _UNSAYABLE
        case {"exists": False}:
            return {"exists": False}
        case Mapping():
            operators = {name: argument for name, argument in alternative.items() if name != "exists"}
            said = [_operator(name, argument) for name, argument in operators.items()]
            return next((one for one in said if one is not _UNSAYABLE), _UNSAYABLE)
    return _UNSAYABLE


def _operator(name: str, argument: Any) -> Any:
    match name, argument:
        case "prefix" | "suffix", str() if argument:
            return {name: argument}
        case "equals-ignore-case", str() if argument.isascii():
            return {name: argument}
        case "anything-but", _:
            return _anything_but(argument)
        case "numeric", [_, _]:
            return {name: list(argument)} if _is_exact(argument[1]) else _UNSAYABLE
        case "numeric", [sign, bound, other_sign, other_bound] if _is_exact(bound) and _is_exact(other_bound):
            lower, upper = [sign, bound], [other_sign, other_bound]
            return {name: lower + upper if sign.startswith(">") else upper + lower}
        case "cidr", str() if _is_network(argument):
            return {name: argument}
    return _UNSAYABLE


def _anything_but(argument: Any) -> Any:
    match argument:
        case {"prefix": str() as text} | {"suffix": str() as text} if text:
            return {"anything-but": dict(argument)}
        case Mapping():
            return _UNSAYABLE
    excluded = list(argument) if isinstance(argument, list | tuple) else [argument]
    if all(isinstance(value, str) for value in excluded) or all(map(_is_exact, excluded)):
        return {"anything-but": excluded}
    return _UNSAYABLE


def _is_exact(value: Any) -> bool:
    """Whether SNS compares the number without rounding it."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > _LARGEST:
        return False
    return round(value, _DIGITS) == value


def _is_network(text: str) -> bool:
    try:
        return str(IPv4Network(text)) == text
    except ValueError:
        return False


def _surely_matches(alternatives: list[Any], value: Any) -> bool:
    if value is _ABSENT:
        return {"exists": False} in alternatives
    if isinstance(value, list):
        plain = [one for one in alternatives if not (isinstance(one, dict) and "anything-but" in one)]
        flat = all(isinstance(element, str | int | float) for element in value)
        return flat and any(_surely_is(one, element) for one in plain for element in value)
    return any(_surely_is(one, value) for one in alternatives)


def _surely_is(alternative: Any, value: Any) -> bool:
    if not isinstance(alternative, dict):
        return type(value) is type(alternative) and value == alternative and value != ""
    ((name, argument),) = alternative.items()
    if name == "numeric":
        return _is_exact(value) and all(_holds(value, *argument[n : n + 2]) for n in range(0, len(argument), 2))
    if name == "anything-but" and not isinstance(argument, dict):
        number = _is_exact(argument[0])
        return (_is_exact(value) if number else _is_text(value)) and value not in argument
    if not _is_text(value):
        return False
    if name == "anything-but":
        ((name, text),) = argument.items()
        return not _is_text_like(name, text, value)
    return name != "exists" and _is_text_like(name, argument, value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_text_like(name: str, argument: str, value: str) -> bool:
    match name:
        case "prefix":
            return value.startswith(argument)
        case "suffix":
            return value.endswith(argument)
        case "equals-ignore-case":
            return value.isascii() and value.lower() == argument.lower()
    try:
        return IPv4Address(value) in IPv4Network(argument)
    except ValueError:
        return False


def _holds(value: float, sign: str, bound: float) -> bool:
    match sign:
        case "=":
            return value == bound
        case "<":
            return value < bound
        case "<=":
            return value <= bound
        case ">":
            return value > bound
    return value >= bound
