"""What the OpenAPI documents of exposed tables and buckets have in common."""

from __future__ import annotations

from typing import Any

from headwater.http.direct import JSON

Part = dict[Any, Any]


def document_route(
    verb: str, name: str, description: str, *, parameters: list[Part], content: Part | None = None, **more: Any
) -> Part:
    """The arguments of a route that FastAPI documents it by; `content` is the request's, by media type."""
    extra: Part = {"parameters": parameters} if parameters else {}
    if content:
        extra["requestBody"] = {"required": True, "content": content}
    return {
        "name": f"{verb}_{name}",
        "summary": f"{verb.capitalize()} {name}",
        "description": description,
        "tags": [name],
        "openapi_extra": extra,
        **more,
    }


def parameter(place: str, name: str, schema: Part, description: str = "") -> Part:
    described = {"description": description} if description else {}
    return {"name": name, "in": place, "required": False, "schema": schema, **described}


def json_response(description: str, schema: Part, headers: Part | None = None) -> Part:
    told: Part = {"description": description, "content": {JSON: {"schema": schema}}}
    return told | ({"headers": headers} if headers else {})
