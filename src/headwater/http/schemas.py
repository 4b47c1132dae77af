"""JSON schemas of models, for the OpenAPI document and to tell integers from text in paths and parameters."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

import msgspec
from pydantic import BaseModel, TypeAdapter
from pydantic.errors import PydanticUserError

Schema = dict[str, Any]
_REF = "#/components/schemas/"


class ModelSchema:
    """A model's schema, with the schemas that it refers to under `prefix`.<name> in `components`."""

    def __init__(self, model: type[Any], prefix: str, mode: Literal["validation", "serialization"]) -> None:
        self.root, self.components = _generate(model, prefix, mode)
        self.root = dict(self._resolved(self.root))

    def _resolved(self, schema: Schema) -> Schema:
        found: Schema = self.components.get(schema.get("$ref", "").removeprefix(_REF), schema)
        return found

    @property
    def fields(self) -> Schema:
        found: Schema = self.root.get("properties", {})
        return found

    def is_integer(self, field: str) -> bool:
        """Whether all values of a field are integers (or null). Of dicts nothing is known: text."""
        schema = self._resolved(self.fields.get(field, {}))
        kinds = {self._resolved(kind).get("type") for kind in schema.get("anyOf", [schema])}
        return kinds - {"null"} == {"integer"}

    def partial(self, *left_out: str) -> Schema:
        """The schema with no field required, and without the fields that are left out."""
        kept = {name: part for name, part in self.root.items() if name != "required"}
        if left_out and self.fields:
            kept["properties"] = {name: part for name, part in self.fields.items() if name not in left_out}
        return kept

    def relaxed(self, optional: Collection[str], left_out: Collection[str] = ()) -> Schema:
        """The schema with some fields optional, and some left out."""
        gone = {*optional, *left_out}
        required = [name for name in self.root.get("required", ()) if name not in gone]
        return self.partial(*left_out) | ({"required": required} if required else {})


def _generate(model: type[Any], prefix: str, mode: Literal["validation", "serialization"]) -> tuple[Schema, Schema]:
    try:
        if issubclass(model, BaseModel):
            template = f"{_REF}{prefix}.{{model}}"
            root = TypeAdapter(model).json_schema(mode=mode, ref_template=template)
            components = root.pop("$defs", {})
        elif issubclass(model, dict):
            return {"type": "object"}, {}
        else:
            template = f"{_REF}{prefix}.{{name}}"
            (root,), components = msgspec.json.schema_components([model], ref_template=template)
    except (PydanticUserError, TypeError):  # types without a JSON schema
        return {"type": "object", "title": model.__name__}, {}
    return root, {f"{prefix}.{name}": schema for name, schema in components.items()}
