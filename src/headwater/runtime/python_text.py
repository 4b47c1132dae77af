"""JSON values as Python source."""

from __future__ import annotations

import json
from typing import Any

_WIDTH = 88


def literal(value: Any, indent: int = 0) -> str:
    """The value as an expression, over several lines when it is long; those but the first are indented."""
    text = _plain(value)
    if len(text) + indent <= _WIDTH or not isinstance(value, dict | list):
        return text
    pad = " " * (indent + 4)
    if isinstance(value, dict):
        items = [f"{_plain(name)}: {literal(item, indent + 4)}" for name, item in value.items()]
    else:
        items = [literal(item, indent + 4) for item in value]
    begin, end = "{}" if isinstance(value, dict) else "[]"
    return f"{begin}\n" + "".join(f"{pad}{item},\n" for item in items) + " " * indent + end


def _plain(value: Any) -> str:
    match value:
        case str():
            return json.dumps(value, ensure_ascii=False) if value.isprintable() else repr(value)
        case dict():
            return "{" + ", ".join(f"{_plain(name)}: {_plain(item)}" for name, item in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(_plain, value)) + "]"
        case tuple():
            return "(" + ", ".join(map(_plain, value)) + ("," if len(value) == 1 else "") + ")"
    return repr(value)
