"""Forms for documents, built from the JSON schema of what a resource takes; and documents from what a form sends.

A field `total` of the parameter `data` is sent as `data.total:json` or `data.name:text`: the word behind the colon
tells whether the text is the value, or JSON. Empty fields are left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from headwater.errors import InvalidValue

_LONG = 200
_REF = "#/components/schemas/"


class Field(NamedTuple):
    """One field of a form. `options` are (value, label) of a choice."""

    name: str
    sent_as: str
    kind: Literal["text", "long", "number", "choice", "json"]
    required: bool = False
    value: str = ""
    hint: str = ""
    options: tuple[tuple[str, str], ...] = ()
    step: str = "any"


def fields_of(answer: Mapping[str, Any], parameter: str = "data") -> list[Field]:
    """The fields for a resource's documents, from the answer of `schema`; none when nothing is known of its fields."""
    schema = answer["schema"] or {}
    required = frozenset(schema.get("required", ()))
    return [
        _field(parameter, name, _resolved(part, answer["components"]), required=name in required)
        for name, part in schema.get("properties", {}).items()
    ]


def example_of(answer: Mapping[str, Any]) -> dict[str, Any]:
    """A document of the resource's shape, to begin with."""
    schema = answer["schema"] or {}
    parts = schema.get("properties", {})
    return {
        name: _example(_resolved(parts[name], answer["components"]))
        for name in schema.get("required", parts)
        if name in parts
    }


def gathered(form: Mapping[str, Any]) -> dict[str, Any]:
    """The form's parameters, with those that were sent field by field put together. Raises `InvalidValue`."""
    found: dict[str, Any] = {}
    for sent_as, value in form.items():
        parameter, dot, rest = sent_as.partition(".")
        name, colon, kind = rest.rpartition(":")
        if not (dot and colon and isinstance(value, str)):
            found[sent_as] = value
            continue
        document = found.setdefault(parameter, {})
        if value != "" and isinstance(document, dict):
            document[name] = value if kind == "text" else _decoded(name, value)
    return found


def _decoded(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidValue(f"{name} is no JSON: {error}", operation="form") from error


def _resolved(part: Mapping[str, Any], components: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema behind a reference, and of "something or null" the something."""
    for _ in range(10):
        if "$ref" in part:
            part = components.get(part["$ref"].removeprefix(_REF), {})
            continue
        given = [kind for kind in part.get("anyOf", ()) if kind.get("type") != "null"]
        if len(given) != 1:
            break
        part = {**{name: value for name, value in part.items() if name != "anyOf"}, **given[0]}
    return part


def _field(parameter: str, name: str, schema: Mapping[str, Any], *, required: bool) -> Field:
    kind, is_text = _kind(schema)
    default = schema.get("default")
    shown = "" if default is None else default if is_text and isinstance(default, str) else json.dumps(default)
    return Field(
        name,
        f"{parameter}.{name}:{'text' if is_text else 'json'}",
        kind,
        required,
        shown,
        _hint(schema),
        _options(schema, is_text=is_text),
        "1" if schema.get("type") == "integer" else "any",
    )


def _kind(schema: Mapping[str, Any]) -> tuple[Literal["text", "long", "number", "choice", "json"], bool]:
    """How a value is put in, and whether it is sent as text."""
    values = _values(schema)
    if values:
        return "choice", all(isinstance(value, str) for value in values)
    match schema.get("type"):
        case "string":
            return "long" if schema.get("maxLength", 0) > _LONG else "text", True
        case "integer" | "number":
            return "number", False
    return "json", False


def _values(schema: Mapping[str, Any]) -> list[Any]:
    if "const" in schema:
        return [schema["const"]]
    return [True, False] if schema.get("type") == "boolean" else list(schema.get("enum", ()))


def _options(schema: Mapping[str, Any], *, is_text: bool) -> tuple[tuple[str, str], ...]:
    texts = [value if is_text else json.dumps(value) for value in _values(schema)]
    return tuple((text, text) for text in texts)


_RULES = {
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "exclusiveMaximum": "<",
    "pattern": "matches",
    "format": "as",
    "maxLength": "length ≤",
}


def _hint(schema: Mapping[str, Any]) -> str:
    told = [f"{word} {schema[rule]}" for rule, word in _RULES.items() if rule in schema]
    if (kind := schema.get("type")) in ("array", "object"):
        told.insert(0, f"JSON {kind}")
    return ", ".join([*told, *([schema["description"]] if "description" in schema else [])])


def _example(schema: Mapping[str, Any]) -> Any:
    if values := _values(schema):
        return values[0]
    if "default" in schema:
        return schema["default"]
    match schema.get("type"):
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "array":
            return []
        case "object":
            return {}
    return "…"
