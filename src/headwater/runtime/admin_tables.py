"""Admin operations on the rows of tables. Documents are JSON objects; the catalog's key fields and limits hold."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec

from headwater.catalog import TableSpec
from headwater.codec import decode_json
from headwater.errors import ConditionFailed, InvalidValue, UnknownResource
from headwater.events import KeyPart
from headwater.runtime.admin_base import AdminBase, event_json, key_json
from headwater.runtime.operations import Document, Limit, Name, Slice, operation
from headwater.tables import Table

Rows = Annotated[list[Document], msgspec.Meta(max_length=500)]
Prefix = Annotated[list[str | int], msgspec.Meta(max_length=2)]
KeyParts = Annotated[list[str | int], msgspec.Meta(min_length=1, max_length=2)]


class TableOperations(AdminBase):
    @operation()
    async def table_get(self, *, table: Name, key: KeyParts) -> dict[str, Any]:
        """A row with its version. `key` holds the parts of the key."""
        rows = await self._table(table)
        checked = rows.key(*typed(rows.spec, key))
        found = await self.engine.read(table, checked)
        if found is None:
            raise UnknownResource("there is no row of this key", operation="get", resource=f"{table} {_shown(key)}")
        return {"key": key_json(checked), "version": found.version, "value": decode_json(found.body)}

    @operation(writes=True)
    async def table_put(
        self, *, table: Name, value: Document, if_version: str | None = None, if_absent: bool = False
    ) -> dict[str, Any]:
        """Insert or replace the row with the key that is in `value`; refused with 412 when a condition is false."""
        rows = await self._table(table)
        self.check_model("tables", table, value)
        version = await rows.put(value, if_version=if_version, if_absent=if_absent)
        return {"key": key_json(rows.key_of(value)), "version": version}

    @operation(writes=True)
    async def table_import(self, *, table: Name, rows: Rows, if_absent: bool = False) -> dict[str, Any]:
        """Insert or replace several rows, each in a commit of its own; later ones of the same key win.

        Rows that `table-put` would refuse are told by their place in `rows`; the others are written all the same.
        """
        puts = (self.table_put(table=table, value=row, if_absent=if_absent) for row in rows)
        refused = []
        for place, outcome in enumerate(await asyncio.gather(*puts, return_exceptions=True)):
            if isinstance(outcome, InvalidValue | ConditionFailed):
                refused.append({"row": place, "detail": outcome.message})
            elif isinstance(outcome, BaseException):
                raise outcome
        return {"written": len(rows) - len(refused), "refused": refused}

    @operation(writes=True)
    async def table_delete(self, *, table: Name, key: KeyParts, if_version: str | None = None) -> dict[str, Any]:
        """Remove a row; one that is absent already is not found."""
        rows = await self._table(table)
        parts = typed(rows.spec, key)
        checked = rows.key(*parts)
        if await self.engine.read(table, checked) is None:
            raise UnknownResource("there is no row of this key", operation="delete", resource=f"{table} {_shown(key)}")
        await rows.delete(*parts, if_version=if_version)
        return {"key": key_json(checked)}

    @operation()
    async def table_query(
        self,
        *,
        table: Name,
        prefix: Prefix = [],  # noqa: B006
        index: str = "",
        low: str | int | None = None,
        high: str | int | None = None,
        limit: Limit = 100,
        cursor: str | None = None,
        reverse: bool = False,
    ) -> dict[str, Any]:
        """A page of rows in the order of the key, or of an index.

        `prefix` is empty, the partition, or the partition and a prefix of the sort part; `low` and `high` bound the
        next part, both ends included. `cursor` is the one of the page before.
        """
        rows, between = await self._table(table), _between(table, low, high)
        page = await rows.query(*prefix, index=index, between=between, limit=limit, cursor=cursor, reverse=reverse)
        return {"items": page.items, "cursor": page.cursor}

    @operation(writes=True)
    async def table_clear(
        self,
        *,
        table: Name,
        prefix: Prefix = [],  # noqa: B006
        index: str = "",
        low: str | int | None = None,
        high: str | int | None = None,
        limit: Slice = 500,
    ) -> dict[str, Any]:
        """Remove the first rows that `table-query` finds so, each in a commit of its own.

        Call it again until nothing is `removed`.
        """
        rows, between = await self._table(table), _between(table, low, high)
        page = await rows.query(*prefix, index=index, between=between, limit=limit)
        keys = [typed(rows.spec, key_json(rows.key_of(row))) for row in page.items]
        await asyncio.gather(*(rows.delete(*key) for key in keys))
        return {"removed": len(keys)}

    @operation()
    async def table_history(self, *, table: Name, key: KeyParts, limit: Limit = 100) -> dict[str, Any]:
        """The changes of a row that the history still holds, newest first."""
        rows = await self._table(table)
        checked = rows.key(*typed(rows.spec, key))
        return {"changes": [event_json(event) for event in await self.engine.history(table, checked, limit)]}

    @operation()
    async def loads(self, *, table: Name, scope: str | None = None, limit: Limit = 20) -> dict[str, Any]:
        """The bulk loads of a table, newest first; of one scope when it is given."""
        rows = await self._table(table)
        return {"loads": [msgspec.to_builtins(summary) for summary in await rows.loads(scope, limit=limit)]}

    async def _table(self, name: str) -> Table[dict[str, Any]]:
        """A stand-in for the declared table, without its model: documents are shown as they are stored."""
        spec = await self.table_spec(name)
        if spec.bucket:
            raise InvalidValue(
                "these rows are a bucket's own, and belong together with its bytes",
                operation="use rows",
                resource=name,
                hint="`headwater bucket` lists, reads, puts and removes its objects",
            )
        return Table(self.stand_in, spec, dict, dict.fromkeys(range(1, spec.schema), _as_is))


def _between(table: str, low: str | int | None, high: str | int | None) -> tuple[KeyPart, KeyPart] | None:
    if low is None and high is None:
        return None
    if low is None or high is None:
        raise InvalidValue("give both low and high", operation="query", resource=table)
    return low, high


def _as_is(document: dict[str, Any]) -> dict[str, Any]:
    return document


def typed(spec: TableSpec, key: list[str | int]) -> list[KeyPart]:
    """A partition key is always a string: 17 stands for "17"."""
    return [str(key[0]), *key[1:]]


def _shown(key: list[str | int]) -> str:
    return "/".join(str(part) for part in key)
