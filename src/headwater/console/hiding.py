"""Fields that nobody is to see in the console: by their names, in every document, before a page gets hold of it.

`MARK` stands in their place. A row that is edited keeps what is hidden: the mark is replaced by what is stored at the
same place. Nothing else that has a mark is written. Keys of rows and texts (mails, tracebacks) are not looked into.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from headwater.console.house import House
from headwater.errors import Forbidden, InvalidValue, UnknownResource
from headwater.runtime.masking import MARK, masked
from headwater.system import HIDDEN_FIELDS

__all__ = ["MARK", "Hiding"]

_DOCUMENTS = ("data", "old", "value", "items")
"""The members of answers that are documents, or lists of them."""
_SEARCHING = frozenset({"traces", "dead-letters", "dead-letter-groups", "redrive", "discard"})
"""Operations that look for a text: that something was found must not tell what is hidden."""
_LISTINGS = ("bucket-list", "bucket-versions")
"""Their `items` are objects of buckets, told by us."""


class Hiding:
    """A `House` that shows less of another one."""

    def __init__(self, house: House, fields: Collection[str]) -> None:
        self._house = house
        self._fields = frozenset(fields)
        self._writing = {operation["operation"]: operation["writes"] for operation in house.describe()}

    def describe(self) -> list[dict[str, Any]]:
        return self._house.describe()

    async def call(self, operation: str, parameters: Mapping[str, Any], by: str = "") -> Any:
        if operation == "sql" and self._fields:
            raise Forbidden("statements could show fields that are hidden here", operation="sql")
        if self._writing.get(operation) and _has_mark(parameters):
            parameters = await self._restored(operation, parameters)
        if self._fields and operation in _SEARCHING and parameters.get("search"):
            parameters = {**parameters, "hide": sorted(self._fields)}
        answer = await self._house.call(operation, parameters, by)
        fields = self._fields | _of_table(parameters.get("table"))
        return answer if operation in _LISTINGS else _shown(answer, fields)

    async def _restored(self, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters of `table-put` with what is stored where there are marks."""
        if operation != "table-put":
            raise InvalidValue(f"{MARK!r} stands for a hidden value, and cannot be written", operation=operation)
        table, value = str(parameters.get("table")), parameters.get("value")
        tables = (await self._house.call("resources", {}))["tables"]
        fields = next((found["key"] for found in tables if found["name"] == table), ())
        key = [value.get(field) for field in fields] if isinstance(value, dict) else []
        try:
            stored = (await self._house.call("table-get", {"table": table, "key": key}))["value"]
        except UnknownResource:
            stored = None
        return {**parameters, "value": _filled(value, stored)}

    async def put_object(
        self, parameters: Mapping[str, Any], data: AsyncIterator[bytes], by: str = ""
    ) -> dict[str, Any]:
        return await self._house.put_object(parameters, data, by)

    async def open_object(self, parameters: Mapping[str, Any]) -> AbstractAsyncContextManager[Any]:
        return await self._house.open_object(parameters)


def _of_table(table: object) -> frozenset[str]:
    return frozenset(HIDDEN_FIELDS.get(table, ()) if isinstance(table, str) else ())


def _shown(answer: Any, fields: frozenset[str]) -> Any:
    """An answer, with the fields of its documents hidden."""
    if isinstance(answer, list):
        return [_shown(item, fields) for item in answer]
    if not isinstance(answer, dict):
        return answer
    hidden = fields | _of_table(answer.get("source"))
    return {
        name: masked(value, hidden) if name in _DOCUMENTS else _shown(value, fields) for name, value in answer.items()
    }


def _has_mark(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_has_mark(member) for member in value.values())
    return any(_has_mark(item) for item in value) if isinstance(value, list) else value == MARK


def _filled(value: Any, stored: Any) -> Any:
    """The value with the stored one at each mark. Raises `InvalidValue` where nothing is stored."""
    if isinstance(value, dict):
        known = stored if isinstance(stored, dict) else {}
        return {name: _filled(member, known.get(name, MARK)) for name, member in value.items()}
    if isinstance(value, list):
        items = stored if isinstance(stored, list) and len(stored) == len(value) else [MARK] * len(value)
        return [_filled(item, of) for item, of in zip(value, items, strict=True)]
    if value == MARK and stored == MARK:
        raise InvalidValue(f"{MARK!r} stands for a hidden value, and none is stored here", operation="write")
    return stored if value == MARK else value
