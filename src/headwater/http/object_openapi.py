"""What the OpenAPI document says of an exposed bucket."""

from __future__ import annotations

from typing import Any

from headwater.http.declarations import ObjectExposure
from headwater.http.direct import JSON
from headwater.http.listing import DEFAULT_LIMIT, MAX_LIMIT
from headwater.http.object_forms import FORM
from headwater.http.object_headers import OCTETS

Part = dict[Any, Any]
_TEXT = {"type": "string"}
_OBJECT = {
    "title": "Object",
    "type": "object",
    "required": ["key", "size", "etag", "sha256", "content_type", "metadata", "modified"],
    "properties": {
        "key": _TEXT,
        "size": {"type": "integer", "minimum": 0},
        "etag": _TEXT,
        "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        "content_type": _TEXT,
        "metadata": {"type": "object", "additionalProperties": _TEXT},
        "modified": {"type": "string", "format": "date-time"},
    },
}
_BYTES = {OCTETS: {"schema": {"type": "string", "format": "binary"}}}
_ETAG = {"ETag": {"description": "Changes with every put.", "schema": _TEXT}}
_DESCRIPTIONS = {
    "list": "Objects in the order of their keys. With a delimiter, those below one are shown as one prefix.",
    "read": "The bytes of an object.",
    "put": "The object under this key, new or in place of the present one. Headers X-Meta-… are its metadata.",
    "upload": "A browser's upload form. A presigned URL lets it in; of a key that ends in a slash, for keys below it.",
    "delete": "The object.",
}


class ObjectDocumentation:
    """The arguments of each route that FastAPI documents it by."""

    def __init__(self, exposure: ObjectExposure) -> None:
        self._name = exposure.bucket.name.partition("/")[2]
        self._title = f"{exposure.title}.object"

    def list_objects(self) -> Part:
        items = {"type": "array", "items": self._ref()}
        fields = {"items": items, "prefixes": {"type": "array", "items": _TEXT}, "cursor": {"type": ["string", "null"]}}
        page = {"type": "object", "required": list(fields), "properties": fields}
        parameters = [
            _parameter("query", "prefix", _TEXT, "Only keys that begin with it."),
            _parameter("query", "delimiter", _TEXT, "What separates the levels of keys, such as a slash."),
            _parameter(
                "query", "limit", {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}
            ),
            _parameter("query", "cursor", _TEXT, "Where the page before ended."),
        ]
        return self._route("list", {200: _response("A page", page)}, parameters)

    def read(self) -> Part:
        parameters = [
            _key(),
            _parameter("header", "Range", _TEXT, "One range of bytes."),
            _parameter("header", "If-Range", _TEXT, "The range only if the object has this ETag, else all of it."),
            *_conditions("If-Match", "If-None-Match"),
        ]
        responses: Part = {
            200: {"description": "The object", "headers": _ETAG, "content": _BYTES},
            206: {"description": "The range", "headers": _ETAG, "content": _BYTES},
            304: {"description": "Not Modified"},
            412: {"description": "Precondition Failed"},
            416: {"description": "Range Not Satisfiable"},
        }
        return self._route("read", responses, parameters)

    def put(self) -> Part:
        parameters = [
            _key(),
            *_conditions("If-Match", "If-None-Match"),
            _parameter("header", "Repr-Digest", _TEXT, "The SHA-256 that the content must have (RFC 9530)."),
        ]
        responses = {
            200: _response("Replaced", self._ref(), _ETAG),
            201: _response("Created", self._ref(), _ETAG),
        }
        any_type = {"*/*": {"schema": {"type": "string", "format": "binary"}}}
        return self._route("put", responses, parameters, any_type)

    def post(self) -> Part:
        file = {"type": "string", "format": "binary"}
        form = {"type": "object", "required": ["file"], "properties": {"key": _TEXT, "file": file}}
        responses = {201: _response("Created", self._ref(), _ETAG), 403: {"description": "Forbidden"}}
        return self._route("upload", responses, [_key()], {FORM: {"schema": form}}, status_code=201)

    def delete(self) -> Part:
        parameters = [_key(), *_conditions("If-Match", "If-None-Match")]
        return self._route("delete", {204: {"description": "Deleted"}}, parameters, status_code=204)

    def _route(
        self,
        verb: str,
        responses: Part,
        parameters: list[Part],
        body: Part | None = None,
        **more: Any,
    ) -> Part:
        extra: Part = {"parameters": parameters}
        if body:
            extra["requestBody"] = {"required": True, "content": body}
        return {
            "name": f"{verb}_{self._name}",
            "summary": f"{verb.capitalize()} {self._name}",
            "description": _DESCRIPTIONS[verb],
            "tags": [self._name],
            "responses": responses,
            "openapi_extra": extra,
            "schemas": {self._title: _OBJECT},
            **more,
        }

    def _ref(self) -> Part:
        return {"$ref": f"#/components/schemas/{self._title}"}


def _key() -> Part:
    schema = {"type": "string", "minLength": 1, "maxLength": 1024}
    return {"name": "key", "in": "path", "required": True, "schema": schema}


def _conditions(*names: str) -> list[Part]:
    return [_parameter("header", name, _TEXT, "ETags, as in RFC 9110.") for name in names]


def _parameter(place: str, name: str, schema: Part, description: str = "") -> Part:
    described = {"description": description} if description else {}
    return {"name": name, "in": place, "required": False, "schema": schema, **described}


def _response(description: str, schema: Part, headers: Part | None = None) -> Part:
    told: Part = {"description": description, "content": {JSON: {"schema": schema}}}
    return told | ({"headers": headers} if headers else {})
