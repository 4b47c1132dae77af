"""The page at `/docs`: an app's OpenAPI document for people, made by the server, with nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse

if TYPE_CHECKING:
    from jinja2 import Template

Schema = Mapping[str, Any]
_VERBS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_NOTHING_ELSE = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_BOUNDS = {
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "exclusiveMaximum": "<",
    "multipleOf": "multiple of",
    "minLength": "length ≥",
    "maxLength": "length ≤",
    "minItems": "items ≥",
    "maxItems": "items ≤",
    "pattern": "like",
}


class Word(NamedTuple):
    """A piece of what a schema says; `of` is the schema it leads to."""

    text: str
    of: str = ""


class Field(NamedTuple):
    name: str
    place: str
    required: bool
    type: list[Word]
    description: str


class Content(NamedTuple):
    media_type: str
    type: list[Word]


class Answer(NamedTuple):
    status: str
    description: str
    contents: list[Content]


class Operation(NamedTuple):
    id: str
    method: str
    path: str
    summary: str
    description: str
    security: list[str]
    parameters: list[Field]
    body: list[Content]
    answers: list[Answer]


def add_api_page(http: FastAPI) -> None:
    """Serve the page at `/docs`."""

    async def api_page(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "").rstrip("/")
        return HTMLResponse(page_of(http.openapi(), root), headers={"Content-Security-Policy": _policy()})

    http.add_route("/docs", api_page, include_in_schema=False)


def page_of(document: Mapping[str, Any], root: str) -> str:
    """The document as HTML; `root` is where the app is mounted."""
    schemas = document.get("components", {}).get("schemas", {})
    return _template().render(
        title=document["info"]["title"],
        root=root,
        style=_style(),
        operations=list(operations_of(document)),
        schemas={name: (words_of(schema), list(_properties(schema))) for name, schema in sorted(schemas.items())},
    )


def operations_of(document: Mapping[str, Any]) -> Iterator[Operation]:
    components = document.get("components", {})
    for path, verbs in document["paths"].items():
        for verb in _VERBS:
            if operation := verbs.get(verb):
                security = operation.get("security", [])
                yield Operation(
                    id=f"{verb}-{path}",
                    method=verb.upper(),
                    path=path,
                    summary=operation.get("summary", ""),
                    description=operation.get("description", ""),
                    security=[_credential(name, roles) for way in security for name, roles in way.items()],
                    parameters=[_parameter(one) for one in operation.get("parameters", ())],
                    body=list(_contents(operation.get("requestBody", {}))),
                    answers=[
                        Answer(status, told.get("description", ""), list(_contents(told)))
                        for status, answer in sorted(operation.get("responses", {}).items())
                        for told in [_resolved(answer, components.get("responses", {}))]
                    ],
                )


def words_of(schema: Schema) -> list[Word]:
    """What a schema says, in words; those that name other schemas lead to them."""
    told = list(_words(schema))
    bounds = [f"{words} {schema[name]}" for name, words in _BOUNDS.items() if name in schema]
    if "default" in schema:
        bounds.append(f"otherwise {json.dumps(schema['default'], ensure_ascii=False)}")
    return [*told, *([Word(f" ({', '.join(bounds)})")] if bounds else [])]


def _words(schema: Schema) -> Iterator[Word]:
    if reference := schema.get("$ref"):
        name = _name_of(reference)
        yield Word(name, name)
    elif choices := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        for n, choice in enumerate(choices):
            yield from [Word(" and " if "allOf" in schema else " or ")] if n else []
            yield from words_of(choice)
    elif "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        yield Word(" or ".join(json.dumps(value, ensure_ascii=False) for value in values))
    elif schema.get("type") == "array":
        yield Word("list of ")
        yield from words_of(schema.get("items", {}))
    elif isinstance(values := schema.get("additionalProperties"), dict):
        yield Word("object of ")
        yield from words_of(values)
    else:
        kind = schema.get("type", "anything")
        kinds = " or ".join(kind) if isinstance(kind, list) else kind
        yield Word(f"{kinds} ({schema['format']})" if "format" in schema else kinds)


def _properties(schema: Schema) -> Iterator[Field]:
    for name, property in schema.get("properties", {}).items():
        required = name in schema.get("required", ())
        yield Field(name, "", required, words_of(property), property.get("description", ""))


def _parameter(parameter: Mapping[str, Any]) -> Field:
    type = words_of(parameter.get("schema", {}))
    description = parameter.get("description", "")
    return Field(parameter["name"], parameter["in"], parameter.get("required", False), type, description)


def _contents(told: Mapping[str, Any]) -> Iterator[Content]:
    for media_type, content in told.get("content", {}).items():
        yield Content(media_type, words_of(content.get("schema", {})))


def _resolved(told: Mapping[str, Any], shared: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = told.get("$ref")
    return shared.get(_name_of(reference), {}) if reference else told


def _name_of(reference: str) -> str:
    return reference.rpartition("/")[2].replace("~1", "/").replace("~0", "~")


def _credential(name: str, roles: list[str]) -> str:
    words = {"bearer": "a bearer token", "apiKey": "an API key"}.get(name, name)
    return f"{words} with the role {' or '.join(roles)}" if roles else words


@cache
def _style() -> str:
    return files("headwater.http").joinpath("api_page.css").read_text("utf-8")


@cache
def _policy() -> str:
    style = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'sha256-{style}'; {_NOTHING_ELSE}"


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(files("headwater.http").joinpath("api_page.html").read_text("utf-8"))
