"""What the OpenAPI document says of an exposed table."""

from __future__ import annotations

from typing import Any

from headwater.http.declarations import Way
from headwater.http.direct import JSON
from headwater.http.listing import DEFAULT_LIMIT, MAX_LIMIT, ListReader
from headwater.http.route_documents import Part, document_route, json_response, parameter
from headwater.http.row_writes import MERGE_PATCH
from headwater.http.rows import ExposedRows
from headwater.http.schemas import ModelSchema

_ETAG = {"ETag": {"description": "The row's version.", "schema": {"type": "string"}}}
_LOCATION = {"Location": {"description": "The row's path.", "schema": {"type": "string"}}}
_DESCRIPTIONS = {
    "list": "Rows in the order of the key, or of the index that the filters choose.",
    "read": "One row.",
    "create": "A new row; a key that is left out is made.",
    "replace": "The whole row.",
    "patch": "Some fields of the row, as a JSON merge patch (RFC 7396).",
    "delete": "The row.",
}
_IF_MATCH = "Only if the row has one of these versions."
_IF_NONE_MATCH = "Only if the row has none of these versions; * means: if there is none."


class RestDocumentation:
    """The arguments of each route that FastAPI documents it by."""

    def __init__(self, rows: ExposedRows, name: str, row: ModelSchema) -> None:
        self._rows = rows
        self._name = name
        self._title = title = rows.exposure.title
        body = ModelSchema(rows.table.model, f"{title}.body", "validation")
        fixed = (*rows.key_fields, rows.owner)
        unset = (rows.owner, rows.made_field) if rows.shared_keys else (rows.owner,)
        made = () if rows.is_integer(rows.made_field) else (rows.made_field,)
        self._schemas = {
            f"{title}.row": row.partial(),
            f"{title}.new": body.relaxed(made, unset),
            f"{title}.replacement": body.relaxed((), fixed),
            f"{title}.patch": body.partial(*fixed),
            **row.components,
            **body.components,
        }

    def list_rows(self, lists: ListReader) -> Part:
        items = {"type": "array", "items": self._ref("row")}
        cursor = {"type": ["string", "null"]}
        page = {"type": "object", "required": ["items", "cursor"], "properties": {"items": items, "cursor": cursor}}
        limit = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}
        parameters = [
            _query("limit", limit),
            _query("cursor", {"type": "string"}, "Where the page before ended."),
            _query("order", {"enum": ["asc", "desc"], "default": "asc"}),
            self._fields(),
            *self._filters(lists),
        ]
        return self._route("list", {200: json_response("A page", page)}, parameters)

    def read_row(self) -> Part:
        parameters = [*self._path(), self._fields(), _header("If-None-Match", "Versions that need not be sent again.")]
        responses = {200: json_response("The row", self._ref("row"), _ETAG), 304: {"description": "Not Modified"}}
        return self._route("read", responses, parameters)

    def create(self) -> Part:
        responses = {201: json_response("Created", self._ref("row"), _ETAG | _LOCATION)}
        return self._route("create", responses, [], {JSON: self._ref("new")}, status_code=201)

    def replace(self) -> Part:
        responses = {
            200: json_response("Replaced", self._ref("row"), _ETAG),
            201: json_response("Created", self._ref("row"), _ETAG),
        }
        return self._route("replace", responses, self._conditional(), {JSON: self._ref("replacement")})

    def patch(self) -> Part:
        change = self._ref("patch")
        responses = {200: json_response("Changed", self._ref("row"), _ETAG)}
        return self._route("patch", responses, self._conditional(), {MERGE_PATCH: change, JSON: change})

    def delete(self) -> Part:
        return self._route("delete", {204: {"description": "Deleted"}}, self._conditional(), status_code=204)

    def _route(
        self,
        verb: str,
        responses: Part | dict[int, Part],
        parameters: list[Part],
        body: Part | None = None,
        **more: Any,
    ) -> Part:
        return document_route(
            verb,
            self._name,
            _DESCRIPTIONS[verb],
            parameters=parameters,
            content={media: {"schema": schema} for media, schema in (body or {}).items()},
            responses=responses,
            schemas=self._schemas,
            **more,
        )

    def _ref(self, kind: str) -> Part:
        return {"$ref": f"#/components/schemas/{self._title}.{kind}"}

    def _path(self) -> list[Part]:
        return [
            {"name": name, "in": "path", "required": True, "schema": _text_or_integer(self._rows.is_integer(name))}
            for name in self._rows.exposure.path_fields
        ]

    def _conditional(self) -> list[Part]:
        return [*self._path(), _header("If-Match", _IF_MATCH), _header("If-None-Match", _IF_NONE_MATCH)]

    def _fields(self) -> Part:
        return _query("fields", {"type": "string"}, "The top-level fields to answer with, separated by commas.")

    def _filters(self, lists: ListReader) -> list[Part]:
        found: dict[str, Part] = {}
        for way in self._rows.exposure.ways:
            if way.partition != self._rows.owner:
                found[way.partition] = self._filter(way.partition, way.partition, f"Rows with this {way.partition}.")
                for name in lists.partition_ranges(way):
                    found[name] = self._filter(name, way.partition, "")
            for name in lists.ranges(way):
                found.setdefault(name, self._filter(name, way.sort, self._needs(way)))
        return list(found.values())

    def _needs(self, way: Way) -> str:
        return "" if way.partition == self._rows.owner else f"Together with {way.partition}."

    def _filter(self, name: str, field: str, description: str) -> Part:
        schema = {"type": "integer"} if self._rows.is_integer(field) else {"type": "string"}
        return _query(name, schema, description)


def _text_or_integer(integer: bool) -> Part:
    return {"type": "integer", "format": "int64"} if integer else {"type": "string", "minLength": 1, "maxLength": 1024}


def _query(name: str, schema: Part, description: str = "") -> Part:
    return parameter("query", name, schema, description)


def _header(name: str, description: str) -> Part:
    return parameter("header", name, {"type": "string"}, description)
