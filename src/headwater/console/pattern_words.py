"""Patterns of routes in a few words, for people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any


def route_words(route: Mapping[str, Any]) -> str:
    """What a route asks of an event: "modified, consent: granted → revoked". Empty when it takes all."""
    parts = [", ".join(route["types"])] if route["types"] else []
    old, new = dict(_fields(route["old"])), dict(_fields(route["new"]))
    for name in dict.fromkeys((*old, *new)):
        parts.append(f"{name}: {old.get(name, 'any')} → {new.get(name, 'any')}")
    parts += [f"{name}: {words}" for name, words in _fields(route["match"])]
    return ", ".join(parts)


def _fields(pattern: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, wanted in pattern.items():
        if isinstance(wanted, Mapping):
            yield from _fields(wanted, f"{above}{name}.")
        elif isinstance(wanted, list):
            yield above + name, " or ".join(_value(value) for value in wanted)
        else:
            yield above + name, _told(wanted)


def _value(wanted: Any) -> str:
    """One of the values that a field may have: itself, or an operator."""
    if not isinstance(wanted, Mapping):
        return _told(wanted)
    match dict(wanted):
        case {"prefix": str(begin), "suffix": str(end)} if len(wanted) == 2:
            return f"{begin}…{end}"
        case {"prefix": str(begin)} if len(wanted) == 1:
            return f"{begin}…"
        case {"suffix": str(end)} if len(wanted) == 1:
            return f"…{end}"
        case {"exists": bool(there)} if len(wanted) == 1:
            return "there" if there else "absent"
        case {"anything-but": list(others)} if len(wanted) == 1:
            return f"not {' or '.join(_value(other) for other in others)}"
        case {"numeric": list(terms)} if len(wanted) == 1:
            return " ".join(_told(term) for term in terms)
    return _told(wanted)


def _told(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
