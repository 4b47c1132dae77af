"""Forms as parameters of operations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from headwater.errors import InvalidValue


def parameters_of(operation: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What a form's texts mean to the operation; empty ones that need not be given are left out.

    Texts are JSON where the parameter is no text; of a list of words, words do. Raises `InvalidValue`.
    """
    known = {parameter["name"]: parameter for parameter in operation["parameters"]}
    found: dict[str, Any] = {}
    for name, value in given.items():
        parameter = known.get(name)
        if parameter is None or not isinstance(value, str):
            found[name] = value
        elif value != "" or parameter["required"]:
            found[name] = _value(operation["operation"], parameter, value)
    return found


def _value(operation: str, parameter: Mapping[str, Any], text: str) -> Any:
    schema = parameter["schema"]
    kinds = [schema, *schema.get("anyOf", ())]
    if any(_is_text(kind) for kind in kinds):
        return text
    if not text.lstrip().startswith("[") and any(_is_text(kind.get("items", {})) for kind in kinds):
        return text.split()
    return _decoded(operation, parameter["name"], text)


def _is_text(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") == "string" or "enum" in schema


def _decoded(operation: str, name: str, value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError as error:
        raise InvalidValue(f"{name} is no JSON: {error}", operation=operation) from error


def place_of(back: str) -> str:
    """Where a form leads back to: a page of ours."""
    return back if back.startswith("/") and not back.startswith(("//", "/\\")) else "/"
