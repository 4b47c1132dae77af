"""The admin operation that reads with SQL."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from headwater.engine import Question
from headwater.runtime.admin_base import AdminBase
from headwater.runtime.operations import operation
from headwater.system import HIDDEN_FIELDS

Rows = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=60)]
Statement = Annotated[str, msgspec.Meta(min_length=1, max_length=100_000)]
Scalar = str | int | float | bool | None


class SqlOperations(AdminBase):
    @operation()
    async def sql(
        self,
        *,
        statement: Statement,
        parameters: dict[str, Scalar] = {},  # noqa: B006
        limit: Rows = 1000,
        seconds: Seconds = 10.0,
    ) -> dict[str, Any]:
        """The rows of one statement in SQL that reads, on views of the tables (docs/sql.md).

        `parameters` are bound to :name. `more` tells that there are rows beyond the limit.
        """
        answer = await self.engine.ask(
            Question(statement=statement, parameters=parameters, hidden=HIDDEN_FIELDS, limit=limit, seconds=seconds)
        )
        return {"columns": answer.columns, "rows": answer.rows, "more": answer.more}
