"""The admin operation on the audit: who did what."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from headwater.audit import Audited
from headwater.runtime.admin_base import AdminBase, time_of
from headwater.runtime.audit import AuditLog
from headwater.runtime.operations import Limit, operation

Before = Annotated[str, msgspec.Meta(pattern=r"^(\d{4}-\d{2}-\d{2}\.[0-9a-f]{32})?$")]


class AuditOperations(AdminBase):
    @operation()
    async def audit(
        self,
        *,
        by: str = "",
        of: str = "",
        outcome: Literal["", "begun", "done", "failed"] = "",
        search: str = "",
        limit: Limit = 100,
        before: Before = "",
    ) -> dict[str, Any]:
        """Operations that were asked to write, newest first: who asked, for what, and how it ended. Kept for 30 days.

        `by` and `search` are parts of who asked and of the parameters, `of` is an operation's name. One that has
        only begun may have had its effect. Hand `next` to the following call as `before`.
        """

        def keep(row: Audited) -> bool:
            return (
                by.lower() in row.by.lower()
                and of in ("", row.operation)
                and outcome in ("", row.outcome)
                and (not search or search.lower() in msgspec.json.encode(row.parameters).decode().lower())
            )

        rows, following = await AuditLog(self.system).page(limit, before, keep=keep)
        return {"actions": [_shown(row) for row in rows], "next": following or None}


def _shown(row: Audited) -> dict[str, Any]:
    told = {name: getattr(row, name) for name in ("id", "by", "operation", "parameters", "outcome", "error", "result")}
    took_ms = row.ended_ms - row.at_ms if row.ended_ms else None
    return {**told, "at": time_of(row.at_ms), "at_ms": row.at_ms, "took_ms": took_ms}
