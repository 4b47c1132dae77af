"""What the OpenAPI document says of an exposed bucket."""

from __future__ import annotations

from typing import Any

from headwater.http.declarations import ObjectExposure
from headwater.http.listing import DEFAULT_LIMIT, MAX_LIMIT
from headwater.http.object_forms import FORM
from headwater.http.object_headers import OCTETS
from headwater.http.route_documents import Part, document_route, json_response, parameter

_TEXT = {"type": "string"}
_OBJECT: Part = {
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
_VERSIONED = {
    **_OBJECT,
    "required": [*_OBJECT["required"], "version"],
    "properties": {**_OBJECT["properties"], "version": _TEXT},
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
        self._versions = exposure.bucket.keeps_versions
        self._object = _VERSIONED if self._versions else _OBJECT

    def list_objects(self) -> Part:
        items = {"type": "array", "items": self._ref()}
        fields = {"items": items, "prefixes": {"type": "array", "items": _TEXT}, "cursor": {"type": ["string", "null"]}}
        page = {"type": "object", "required": list(fields), "properties": fields}
        parameters = [
            parameter("query", "prefix", _TEXT, "Only keys that begin with it."),
            parameter("query", "delimiter", _TEXT, "What separates the levels of keys, such as a slash."),
            parameter(
                "query", "limit", {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}
            ),
            parameter("query", "cursor", _TEXT, "Where the page before ended."),
            *self._version("versions", "The older versions of this object instead, newest first."),
        ]
        return self._route("list", {200: json_response("A page", page)}, parameters)

    def read(self) -> Part:
        parameters = [
            _key(),
            *self._version("version", "This version of the object."),
            parameter("header", "Range", _TEXT, "One range of bytes."),
            parameter("header", "If-Range", _TEXT, "The range only if the object has this ETag, else all of it."),
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
            parameter("header", "Repr-Digest", _TEXT, "The SHA-256 that the content must have (RFC 9530)."),
        ]
        responses = {
            200: json_response("Replaced", self._ref(), _ETAG),
            201: json_response("Created", self._ref(), _ETAG),
        }
        any_type = {"*/*": {"schema": {"type": "string", "format": "binary"}}}
        return self._route("put", responses, parameters, any_type)

    def post(self) -> Part:
        file = {"type": "string", "format": "binary"}
        form = {"type": "object", "required": ["file"], "properties": {"key": _TEXT, "file": file}}
        responses = {201: json_response("Created", self._ref(), _ETAG), 403: {"description": "Forbidden"}}
        return self._route("upload", responses, [_key()], {FORM: {"schema": form}}, status_code=201)

    def delete(self) -> Part:
        parameters = [_key(), *_conditions("If-Match", "If-None-Match")]
        return self._route("delete", {204: {"description": "Deleted"}}, parameters, status_code=204)

    def _route(
        self, verb: str, responses: Part, parameters: list[Part], content: Part | None = None, **more: Any
    ) -> Part:
        return document_route(
            verb,
            self._name,
            _DESCRIPTIONS[verb],
            parameters=parameters,
            content=content,
            responses=responses,
            schemas={self._title: self._object},
            **more,
        )

    def _version(self, name: str, description: str) -> list[Part]:
        return [parameter("query", name, _TEXT, description)] if self._versions else []

    def _ref(self) -> Part:
        return {"$ref": f"#/components/schemas/{self._title}"}


def _key() -> Part:
    schema = {"type": "string", "minLength": 1, "maxLength": 1024}
    return {"name": "key", "in": "path", "required": True, "schema": schema}


def _conditions(*names: str) -> list[Part]:
    return [parameter("header", name, _TEXT, "ETags, as in RFC 9110.") for name in names]
