"""What SNS's documentation says of filter policies on a message's body, written down once more, and no more than that.

Where it says nothing (nested arrays, objects in arrays, null, rounded numbers) an answer of `MAYBE` stands for both.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

YES, NO, MAYBE = "yes", "no", "maybe"
_ABSENT: Any = object()


def lets_through(policy: dict[str, Any], body: Any) -> str:
    return _all([_field(spec, body.get(name, _ABSENT)) for name, spec in policy.items()])


def key_count(policy: dict[str, Any]) -> int:
    return sum(key_count(spec) if isinstance(spec, dict) else 1 for spec in policy.values())


def combinations(policy: dict[str, Any], depth: int = 1) -> int:
    product = 1
    for spec in policy.values():
        product *= combinations(spec, depth + 1) if isinstance(spec, dict) else depth * len(spec)
    return product


def _all(answers: list[str]) -> str:
    return NO if NO in answers else MAYBE if MAYBE in answers else YES


def _any(answers: list[str]) -> str:
    return YES if YES in answers else MAYBE if MAYBE in answers else NO


def _field(spec: Any, value: Any) -> str:
    if isinstance(spec, dict):
        if isinstance(value, dict):
            return lets_through(spec, value)
        return MAYBE if isinstance(value, list) or value is _ABSENT else _absent_below(spec)
    if value is _ABSENT:
        return YES if {"exists": False} in spec else NO
    if isinstance(value, dict) or value in (None, [], ""):
        return MAYBE
    if isinstance(value, list):
        excluding = [one for one in spec if isinstance(one, dict) and "anything-but" in one]
        others = [one for one in spec if one not in excluding]
        odds = [isinstance(element, list | dict) or element is None for element in value]
        answers = [MAYBE if odd else _leaf(others, element) for odd, element in zip(odds, value, strict=True)]
        return _any([*answers, MAYBE] if excluding else answers)
    return _leaf(spec, value)


def _absent_below(spec: dict[str, Any]) -> str:
    return MAYBE if any(isinstance(one, dict) or {"exists": False} in one for one in spec.values()) else NO


def _leaf(spec: list[Any], value: Any) -> str:
    return _any([_one(alternative, value) for alternative in spec])


def _one(alternative: Any, value: Any) -> str:
    if not isinstance(alternative, dict):
        return YES if type(alternative) is type(value) and alternative == value else NO
    ((name, argument),) = alternative.items()
    match name:
        case "exists":
            return YES if argument else NO
        case "anything-but" if isinstance(argument, dict):
            return _not(_one(argument, value)) if isinstance(value, str) else MAYBE
        case "anything-but":
            same = all(isinstance(one, str) == isinstance(value, str) for one in argument)
            same = same and not isinstance(value, bool)
            return _not(_any([_equal(one, value) for one in argument])) if same else MAYBE
        case "numeric":
            return _numeric(argument, value)
    if not isinstance(value, str):
        return NO
    if not (value.isascii() and argument.isascii()) and name == "equals-ignore-case":
        return MAYBE
    match name:
        case "prefix":
            return YES if value.startswith(argument) else NO
        case "suffix":
            return YES if value.endswith(argument) else NO
        case "equals-ignore-case":
            return YES if value.lower() == argument.lower() else NO
    return YES if _in_network(value, argument) else NO


def _not(answer: str) -> str:
    return {YES: NO, NO: YES, MAYBE: MAYBE}[answer]


def _equal(one: Any, value: Any) -> str:
    return _numeric(["=", one], value) if not isinstance(one, str) else YES if one == value else NO


def _numeric(argument: list[Any], value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return NO
    if abs(value) > 10**9 or round(value, 5) != value:
        return MAYBE
    holds = {
        "=": lambda a, b: a == b,
        "<": lambda a, b: a < b,
        "<=": lambda a, b: a <= b,
        ">": lambda a, b: a > b,
        ">=": lambda a, b: a >= b,
    }
    pairs = zip(argument[::2], argument[1::2], strict=True)
    return YES if all(holds[sign](value, bound) for sign, bound in pairs) else NO


def _in_network(value: str, argument: str) -> bool:
    try:
        return ip_address(value) in ip_network(argument)
    except ValueError:
        return False
