"""Patterns: the EventBridge content-filter language, compiled once to a closure.

A pattern names fields and, for each, a list of alternatives; it matches when every named field matches one of
its alternatives. Data is decoded JSON and is read the way EventBridge reads it: as leaves (strings, numbers,
booleans, null) at paths. An array stands for its elements, at any depth, and one of them must match; an
empty array, like an object, is no leaf, and a field that holds one is absent to `exists`. A nested pattern
must match one object of an array as a whole, never one field from one object and the next from another.

Compiling goes top down, and each step returns a closure over precomputed sets and tests:

    object ──▶ fields (and) ──▶ alternatives (or) ──▶ literals in a frozenset, operators (and)

Three things go beyond EventBridge: several operators in one object are "and", `anything-but` takes any
literals, and `[]` as an alternative matches an empty array.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from headwater.pattern_operators import (
    Matcher,
    Place,
    all_of,
    any_of,
    check_literal,
    compile_operators,
    is_stray_operator,
    literal_test,
    parse_exists,
    show,
)

Pattern: TypeAlias = Mapping[str, Any]

_OR = "$or"
_MAX_DEPTH = 32
_ABSENT: Any = object()


def compile_pattern(pattern: Pattern, *, place: str = "match") -> Matcher:
    """A pure function from decoded JSON to whether it matches `pattern`; it never raises.

    Fields are "and", alternatives in a list "or": `{"type": ["a", "b"], "price": [{"numeric": [">", 0]}]}`.
    An alternative is a literal (3 equals 3.0, true is no number), `[]` for an empty array, or an object of
    operators, all of which must hold: `{"key": [{"prefix": "staff/", "suffix": ".csv"}]}`, whereas the two
    operators in two objects are "or". Operators: prefix, suffix, equals-ignore-case, wildcard, anything-but,
    numeric, cidr, exists. `{"$or": [pattern, pattern]}` is "or" between patterns. `{}` matches everything.

    Raises `DeclarationError` for an invalid pattern; its message begins with the path from `place`, such as
    `match.detail.price[0].numeric`.
    """
    return _in_any_object(_compile_object(pattern, Place(place)))


def explain(pattern: Pattern, data: Any) -> str | None:
    """None if `data` matches, else the path and reason of the first part of `pattern` that does not.

    For people, not for the hot path: it compiles the pattern, part by part. Raises `DeclarationError` as
    `compile_pattern` does.
    """
    return None if compile_pattern(pattern)(data) else _explain_failure(pattern, data, "")


def fields_of(pattern: Pattern) -> frozenset[str]:
    """The top-level fields that `pattern` looks at, those inside `$or` included."""
    names = {name for name in pattern if name != _OR}
    return frozenset(names.union(*(fields_of(branch) for branch in pattern.get(_OR, ()))))


def _compile_object(pattern: Any, place: Place) -> Matcher:
    if not isinstance(pattern, Mapping):
        raise place.error(f"a pattern is an object, not {show(pattern)}", 'write {"field": ["value"]}')
    if place.depth > _MAX_DEPTH:
        raise place.error(f"nested more than {_MAX_DEPTH} levels deep", "match fewer levels, or use when=")
    return all_of([_compile_field(name, spec, place) for name, spec in pattern.items()])


def _compile_field(name: Any, spec: Any, place: Place) -> Matcher:
    if not isinstance(name, str):
        raise place.error(f"a field's name is a string, not {show(name)}", 'write {"field": ["value"]}')
    here = place.field(name)
    if name == _OR:
        return _compile_or(spec, here)
    if is_stray_operator(name, spec):
        raise here.error("an operator stands in a list of alternatives", f'write [{{"{name}": …}}]')
    if isinstance(spec, Mapping):
        return _compile_nested(name, spec, here)
    if not isinstance(spec, list | tuple):
        raise here.error(f"alternatives are a list, not {show(spec)}", f"write [{show(spec)}]")
    if not spec:
        raise here.error("an empty list matches nothing", "write [[]] to match an empty array")
    return _field_test(name, _parse_alternatives(spec, here))


def _compile_nested(name: str, spec: Mapping[str, Any], place: Place) -> Matcher:
    if not spec:
        raise place.error("an empty object says nothing", 'leave the field out, or write [{"exists": true}]')
    nested = _in_any_object(_compile_object(spec, place))
    return lambda data: nested(data.get(name))


def _compile_or(branches: Any, place: Place) -> Matcher:
    if not isinstance(branches, list | tuple) or len(branches) < 2:
        raise place.error("not a list of two or more patterns", 'write [{"a": [1]}, {"b": [2]}]')
    for index, branch in enumerate(branches):
        if branch == {}:
            raise place.item(index).error("an empty pattern makes $or always true", "leave $or out")
    deeper = Place(place.path, place.depth + 1)
    return any_of([_compile_object(branch, deeper.item(index)) for index, branch in enumerate(branches)])


def _in_any_object(inner: Matcher) -> Matcher:
    without_fields = inner({})

    def match(value: Any) -> bool:
        if isinstance(value, dict):
            return inner(value)
        if isinstance(value, list):
            objects = _objects_in(value)
            return any(map(inner, objects)) if objects else without_fields
        return without_fields

    return match


def _objects_in(array: list[Any]) -> list[dict[str, Any]]:
    return [element for element in _flatten(array) if isinstance(element, dict)]


def _flatten(array: list[Any]) -> Iterator[Any]:
    waiting = [iter(array)]
    while waiting:
        for element in waiting[-1]:
            if isinstance(element, list):
                waiting.append(iter(element))
                break
            yield element
        else:
            waiting.pop()


@dataclass(slots=True)
class _Alternatives:
    literals: list[Any] = field(default_factory=list)
    tests: list[Matcher] = field(default_factory=list)
    absent: bool = False
    empty_array: bool = False


def _parse_alternatives(spec: Sequence[Any], place: Place) -> _Alternatives:
    parsed = _Alternatives()
    for index, alternative in enumerate(spec):
        here = place.item(index)
        if isinstance(alternative, Mapping):
            if "exists" in alternative and parse_exists(alternative, here) is False:
                parsed.absent = True
            else:
                parsed.tests.append(compile_operators(alternative, here))
        elif isinstance(alternative, list | tuple) and not alternative:
            parsed.empty_array = True
        else:
            parsed.literals.append(check_literal(alternative, here))
    if parsed.literals:
        parsed.tests.insert(0, literal_test(parsed.literals))
    return parsed


def _field_test(name: str, alternatives: _Alternatives) -> Matcher:
    leaf = any_of(alternatives.tests)
    absent = alternatives.absent
    empty_array = absent or alternatives.empty_array

    def match_array(array: list[Any]) -> bool:
        leaves = [element for element in _flatten(array) if not isinstance(element, dict)]
        if leaves:
            return any(map(leaf, leaves))
        return absent if array else empty_array

    def match(data: dict[str, Any]) -> bool:
        value = data.get(name, _ABSENT)
        if isinstance(value, list):
            return match_array(value)
        return absent if value is _ABSENT or isinstance(value, dict) else leaf(value)

    literals = alternatives.literals
    if len(alternatives.tests) != 1 or not literals or not all(isinstance(one, str) for one in literals):
        return match
    texts = frozenset(literals)

    def match_text(data: dict[str, Any]) -> bool:  # the commonest shape, {"type": ["a", "b"]}, without a call
        value = data.get(name)
        return value in texts if isinstance(value, str) else match(data)

    return match_text


def _explain_failure(pattern: Pattern, data: Any, path: str) -> str:
    if isinstance(data, list):
        objects = _objects_in(data)
        if len(objects) > 1:
            return f"{path or 'data'}: none of its {len(objects)} objects matches {show(pattern)}"
        data = objects[0] if objects else {}
    known = data if isinstance(data, dict) else {}
    name, spec = next(item for item in pattern.items() if not compile_pattern(dict([item]))(known))
    here = f"{path}.{name}" if path else name
    if name == _OR:
        return f"{here}: none of its {len(spec)} patterns matches"
    if isinstance(spec, Mapping):
        return _explain_failure(spec, known.get(name), here)
    found = show(known[name]) if name in known else "absent"
    return f"{here}: {found}, wanted {' or '.join(map(show, spec))}"
