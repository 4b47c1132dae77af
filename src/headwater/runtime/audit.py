"""Writing and reading the audit (`headwater.audit`)."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import msgspec

from headwater.audit import MAX_TEXT, Audited, begun, result_of
from headwater.engine import Query
from headwater.errors import HeadwaterError
from headwater.events import KeyPart
from headwater.system import System
from headwater.unit import Merge
from headwater.work import UnitOfWork

_PAGE = 200
Told = Callable[[Any], None]


class AuditLog:
    def __init__(self, system: System) -> None:
        self._system = system

    @contextlib.asynccontextmanager
    async def record(self, operation: str, parameters: Mapping[str, Any], by: str) -> AsyncIterator[Told]:
        """Around one operation; what it yields takes the answer. Raises when the row cannot be written: then nothing
        is done."""
        engine = self._system.app.binding.engine
        if self._system.audit.name not in (await engine.catalog()).tables:  # an older server made the store
            yield lambda answer: None
            return
        row = begun(operation, parameters, by, await engine.now_ms())
        answers: list[Any] = []
        await self._put(row)
        try:
            yield answers.append
        except BaseException as error:
            told = error.message if isinstance(error, HeadwaterError) else str(error)
            with contextlib.suppress(HeadwaterError):  # the row says then that it was begun
                await self._end(row, outcome="failed", error=f"{type(error).__name__}: {told}"[:MAX_TEXT])
            raise
        result = result_of(operation, answers[0]) if answers else {}
        with contextlib.suppress(HeadwaterError):
            await self._end(row, outcome="done", result=result)

    async def _put(self, row: Audited) -> None:
        await self._commit(row, msgspec.to_builtins(row))

    async def _end(self, row: Audited, **fields: Any) -> None:
        await self._commit(row, {**fields, "ended_ms": await self._system.app.binding.engine.now_ms()})

    async def _commit(self, row: Audited, fields: dict[str, Any]) -> None:
        table = self._system.audit
        unit = UnitOfWork(self._system.app.binding.engine)
        unit.merge(table.name, table.key(row.day, row.id), Merge(set=fields))
        await unit.commit()

    async def page(self, limit: int, before: str, *, keep: Callable[[Audited], bool]) -> tuple[list[Audited], str]:
        """The newest rows that are kept, and what to hand on as `before` for older ones, "" for none."""
        engine = self._system.app.binding.engine
        if self._system.audit.name not in (await engine.catalog()).tables:
            return [], ""
        found: list[Audited] = []
        async for row in self._newest(tuple(before.split(".")) if before else None):
            if keep(row):
                found.append(row)
                if len(found) == limit:
                    return found, f"{row.day}.{row.id}"
        return found, ""

    async def _newest(self, after: tuple[KeyPart, ...] | None) -> AsyncIterator[Audited]:
        table = self._system.audit
        while True:
            query = Query(table=table.name, limit=_PAGE, reverse=True, after=after)
            page = await self._system.app.binding.engine.query(query)
            for record in page.records:
                yield table.codec.decode(record.body)
            after = page.next
            if after is None:
                return
