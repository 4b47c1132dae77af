"""The operators of patterns: each compiles its argument to a test on one leaf of the data.

A leaf is a string, number, boolean or null. A test is pure and never raises; an argument that an operator
does not take is refused with `DeclarationError`, which names the place in the pattern.
"""

from __future__ import annotations

import itertools
import json
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any, TypeAlias

from headwater.errors import DeclarationError

Matcher: TypeAlias = Callable[[Any], bool]
_TextTest: TypeAlias = Callable[[str], bool]

_MAX_SHOWN = 160
_PLAIN_NAME = re.compile(r"[\w$-]+")
_LOWER = {">": operator.gt, ">=": operator.ge}
_UPPER = {"<": operator.lt, "<=": operator.le}


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a pattern the compiler is, as a path for messages."""

    path: str
    depth: int = 0

    def field(self, name: str) -> Place:
        step = f".{name}" if _PLAIN_NAME.fullmatch(name) else f"[{json.dumps(name)}]"
        return Place(self.path + step, self.depth + 1)

    def item(self, index: int) -> Place:
        return Place(f"{self.path}[{index}]", self.depth)

    def error(self, reason: str, hint: str) -> DeclarationError:
        return DeclarationError(f"{self.path}: {reason}", hint=hint)


def check_literal(value: Any, place: Place) -> Any:
    if _is_infinite(value):
        raise place.error(f"{value} is not a JSON number", "use a finite number")
    if value is None or isinstance(value, str | int | float):
        return value
    hint = "use a string, number, true, false, null, [] or an object of operators"
    raise place.error(f"{show(value)} is not a literal", hint)


def literal_test(literals: Iterable[Any]) -> Matcher:
    # True == 1 in Python, and in a set; so booleans have a set of their own.
    booleans = frozenset(value for value in literals if isinstance(value, bool))
    others = frozenset(value for value in literals if not isinstance(value, bool))
    return lambda leaf: leaf in (booleans if isinstance(leaf, bool) else others)


def compile_operators(operators: Mapping[str, Any], place: Place) -> Matcher:
    if not operators:
        raise place.error("an object without an operator", _KNOWN_OPERATORS)
    tests = []
    for name, argument in operators.items():
        if name not in _OPERATORS:
            raise place.error(f"unknown operator {show(name)}", _KNOWN_OPERATORS)
        tests.append(_OPERATORS[name](argument, place.field(name)))
    return all_of(tests)


def parse_exists(operators: Mapping[str, Any], place: Place) -> bool:
    exists = operators["exists"]
    if not isinstance(exists, bool):
        raise place.field("exists").error(f"true or false, not {show(exists)}", 'write {"exists": true}')
    if not exists and len(operators) > 1:
        reason = "an absent field can match no other operator"
        raise place.field("exists").error(reason, "give it an object of its own, for or")
    return exists


def _compile_text(name: str) -> Callable[[Any, Place], Matcher]:
    def compile_operator(argument: Any, place: Place) -> Matcher:
        test = _TEXT_TESTS[name](argument, place)
        return lambda leaf: isinstance(leaf, str) and test(leaf)

    return compile_operator


def _prefix_test(argument: Any, place: Place) -> _TextTest:
    if isinstance(argument, Mapping):
        folded = _parse_ignore_case(argument, place)
        return lambda text: text.casefold().startswith(folded)
    prefix = _check_text(argument, place)
    return lambda text: text.startswith(prefix)


def _suffix_test(argument: Any, place: Place) -> _TextTest:
    if isinstance(argument, Mapping):
        folded = _parse_ignore_case(argument, place)
        return lambda text: text.casefold().endswith(folded)
    suffix = _check_text(argument, place)
    return lambda text: text.endswith(suffix)


def _ignore_case_test(argument: Any, place: Place) -> _TextTest:
    folded = _check_text(argument, place).casefold()
    return lambda text: text.casefold() == folded


def _wildcard_test(argument: Any, place: Place) -> _TextTest:
    first, *rest = _split_wildcard(_check_text(argument, place), place)
    if not rest:
        return lambda text: text == first
    *middle, last = rest

    def match(text: str) -> bool:
        at, end = len(first), len(text) - len(last)
        if at > end or not text.startswith(first) or not text.endswith(last):
            return False
        for part in middle:  # the leftmost place of each part leaves most room for the next: no backtracking
            at = text.find(part, at, end)
            if at < 0:
                return False
            at += len(part)
        return True

    return match


def _split_wildcard(text: str, place: Place) -> list[str]:
    """The literal parts between the wildcards, escapes undone."""
    if re.search(r"(?<!\\)(?:\\\\)*\\(?![\\*])", text):
        raise place.error("a backslash escapes only * and \\", "double it to mean a backslash")
    tokens = re.findall(r"\\.|[^\\]", text, re.DOTALL)
    if any(pair == ("*", "*") for pair in itertools.pairwise(tokens)):
        raise place.error("** is not allowed", "one * matches any run of characters; write \\* for an asterisk")
    parts = [""]
    for token in tokens:
        if token == "*":
            parts.append("")
        else:
            parts[-1] += token[-1]
    return parts


def _parse_ignore_case(argument: Mapping[str, Any], place: Place) -> str:
    if list(argument) != ["equals-ignore-case"]:
        raise place.error(f"unknown {show(argument)}", 'write a string or {"equals-ignore-case": "text"}')
    return _check_text(argument["equals-ignore-case"], place.field("equals-ignore-case")).casefold()


def _check_text(argument: Any, place: Place) -> str:
    if not isinstance(argument, str):
        raise place.error(f"needs a string, not {show(argument)}", "write a string")
    return argument


def _compile_anything_but(argument: Any, place: Place) -> Matcher:
    if isinstance(argument, Mapping):
        return _compile_anything_but_text(argument, place)
    is_listed = literal_test([check_literal(value, here) for value, here in _each(argument, place)])
    return lambda leaf: not is_listed(leaf)


def _compile_anything_but_text(argument: Mapping[str, Any], place: Place) -> Matcher:
    if len(argument) != 1 or not set(argument) <= set(_TEXT_TESTS):
        raise place.error(f"unknown {show(argument)}", f"one of {', '.join(_TEXT_TESTS)}, or literals")
    ((name, texts),) = argument.items()
    excluded = any_of([_TEXT_TESTS[name](text, here) for text, here in _each(texts, place.field(name))])
    return lambda leaf: not (isinstance(leaf, str) and excluded(leaf))


def _each(argument: Any, place: Place) -> list[tuple[Any, Place]]:
    if not isinstance(argument, list | tuple):
        return [(argument, place)]
    if not argument:
        raise place.error("an empty list excludes nothing", 'write {"exists": true}')
    return [(value, place.item(index)) for index, value in enumerate(argument)]


def _compile_numeric(argument: Any, place: Place) -> Matcher:
    if not isinstance(argument, list | tuple) or len(argument) not in (2, 4):
        raise place.error(f"not a comparison or a range: {show(argument)}", 'write [">", 0] or [">", 0, "<=", 5]')
    sign, bound = argument[0], _check_number(argument[1], place.item(1))
    if len(argument) == 2:
        return _compare(sign, bound, place)
    other_sign, other_bound = argument[2], _check_number(argument[3], place.item(3))
    if sign in list(_UPPER):
        sign, bound, other_sign, other_bound = other_sign, other_bound, sign, bound
    if sign not in list(_LOWER) or other_sign not in list(_UPPER):
        raise place.error("a range has one lower and one upper bound", 'write [">", 0, "<=", 5]')
    if bound > other_bound or (bound == other_bound and (sign, other_sign) != (">=", "<=")):
        raise place.error("no number is in this range", "the lower bound must be below the upper")
    return all_of([_compare(sign, bound, place), _compare(other_sign, other_bound, place)])


def _compare(sign: Any, bound: float, place: Place) -> Matcher:
    signs: dict[Any, Callable[[Any, Any], bool]] = {"=": operator.eq, **_LOWER, **_UPPER}
    if sign not in list(signs):
        raise place.error(f"unknown comparison {show(sign)}", f"one of {', '.join(signs)}")
    holds = signs[sign]
    return lambda leaf: isinstance(leaf, int | float) and not isinstance(leaf, bool) and holds(leaf, bound)


def _check_number(value: Any, place: Place) -> int | float:
    if isinstance(value, int | float) and not isinstance(value, bool) and not _is_infinite(value):
        return value
    raise place.error(f"needs a finite number, not {show(value)}", 'write [">", 0, "<=", 5]')


def _is_infinite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _compile_cidr(argument: Any, place: Place) -> Matcher:
    try:
        network = ip_network(_check_text(argument, place), strict=False)
    except ValueError as error:
        raise place.error(str(error), 'write "10.0.0.0/24" or "2001:db8::/32"') from error

    def match(leaf: Any) -> bool:
        if not isinstance(leaf, str):
            return False
        try:
            return ip_address(leaf) in network
        except ValueError:
            return False

    return match


_TEXT_TESTS: dict[str, Callable[[Any, Place], _TextTest]] = {
    "prefix": _prefix_test,
    "suffix": _suffix_test,
    "equals-ignore-case": _ignore_case_test,
    "wildcard": _wildcard_test,
}
_OPERATORS: dict[str, Callable[[Any, Place], Matcher]] = {
    **{name: _compile_text(name) for name in _TEXT_TESTS},
    "anything-but": _compile_anything_but,
    "numeric": _compile_numeric,
    "cidr": _compile_cidr,
    "exists": lambda _argument, _place: lambda _leaf: True,
}
_KNOWN_OPERATORS = f"operators are {', '.join(_OPERATORS)}"


def is_stray_operator(name: str, spec: Any) -> bool:
    """Whether a field looks like an operator without its list; as a field it would silently never match."""
    if name in ("anything-but", "equals-ignore-case"):
        return True
    if name == "numeric" and isinstance(spec, list | tuple) and spec:
        return spec[0] == "=" or spec[0] in [*_LOWER, *_UPPER]
    return name in _OPERATORS and not isinstance(spec, list | tuple | Mapping)


def all_of(tests: Sequence[Matcher]) -> Matcher:
    match tests:
        case []:
            return lambda _value: True
        case [only]:
            return only
        case [first, second]:
            return lambda value: first(value) and second(value)
        case [first, second, third]:
            return lambda value: first(value) and second(value) and third(value)
    return lambda value: all(test(value) for test in tests)


def any_of(tests: Sequence[Matcher]) -> Matcher:
    match tests:
        case []:
            return lambda _value: False
        case [only]:
            return only
        case [first, second]:
            return lambda value: first(value) or second(value)
    return lambda value: any(test(value) for test in tests)


def show(value: Any) -> str:
    """`value` as JSON for a message, shortened."""
    try:
        shown = json.dumps(value, default=repr, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):  # keys that are no strings, cycles, depth
        shown = f"<{type(value).__name__}>"
    return shown if len(shown) <= _MAX_SHOWN else f"{shown[: _MAX_SHOWN - 1]}…"
