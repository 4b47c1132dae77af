"""The rows of an exposed table as one caller may see them."""

from __future__ import annotations

from starlette.types import Scope

from headwater.codec import attribute_of, decode_json
from headwater.engine import Record
from headwater.errors import UnknownResource
from headwater.events import Caller, Key, KeyPart
from headwater.http.declarations import Exposure
from headwater.http.listing import read_integer
from headwater.http.schemas import ModelSchema


class ExposedRows:
    """Finds rows by the key parts of a path. With an owner, another's row is as good as missing, everywhere."""

    def __init__(self, exposure: Exposure, schema: ModelSchema) -> None:
        spec = exposure.table.spec
        self.exposure = exposure
        self.table = exposure.table
        self.owner = exposure.owner
        self.key_fields = (spec.partition, spec.sort) if spec.sort else (spec.partition,)
        self.made_field = self.key_fields[-1]
        self.is_integer = schema.is_integer
        names = (*self.key_fields, self.owner)
        self._attributes = {name: attribute_of(self.table.model, name) for name in names if name}

    @property
    def shared_keys(self) -> bool:
        """Whether callers that must not learn of each other share one key space."""
        return bool(self.owner) and not self.exposure.owns_partition

    def missing(self) -> UnknownResource:
        return UnknownResource("there is no such row", operation="request", resource=self.table.name)

    def key_of(self, scope: Scope, caller: Caller) -> Key:
        """The key that a path names; raises `InvalidValue`, and `UnknownResource` where it can't be the caller's."""
        parts: list[KeyPart] = [
            read_integer(text, "path", name) if self.is_integer(name) else text
            for name, text in scope["path_params"].items()
        ]
        if self.exposure.owns_partition:
            if not caller.subject:
                raise self.missing()
            if len(parts) < len(self.key_fields):
                parts.insert(0, caller.subject)
            elif parts[0] != caller.subject:
                raise self.missing()
        key: Key = self.table.key(*parts)
        return key

    async def find(self, key: Key, caller: Caller) -> Record | None:
        """The caller's row of this key; None when there is none, or it is another's."""
        record: Record | None = await self.table.read_record(key)
        return record if record is not None and self.owns(record, caller) else None

    def owns(self, record: Record, caller: Caller) -> bool:
        if not self.owner:
            return True
        if self.exposure.owns_partition:
            return bool(caller.subject) and record.key[0] == caller.subject
        return bool(caller.subject) and decode_json(self.table.body_of(record)).get(self.owner) == caller.subject

    def value_of(self, row: object, field: str) -> object:
        """A key or owner field of a decoded row."""
        return row.get(field) if isinstance(row, dict) else getattr(row, self._attributes[field])

    def path_parts(self, key: Key) -> tuple[KeyPart, ...]:
        """The key parts that a path names."""
        parts = key[: len(self.key_fields)]
        return parts[-len(self.exposure.path_fields) :]
