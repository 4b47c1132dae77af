"""Admin operations on mail."""

from __future__ import annotations

from typing import Any

import msgspec

from headwater.engine import Query
from headwater.errors import UnknownResource
from headwater.mail import Mail, State
from headwater.runtime.admin_base import AdminBase, time_of
from headwater.runtime.operations import Limit, Name, operation

PAGE = 500


class MailOperations(AdminBase):
    @operation()
    async def mails(
        self, *, state: State | None = None, to: str = "", limit: Limit = 100, before: str = ""
    ) -> dict[str, Any]:
        """Mails of the last 30 days, newest first, without their texts. `before` is the `next` of the page before."""
        found: list[Mail] = []
        after: tuple[str, str] | None = (before, "") if before else None
        while len(found) < limit:
            page, after = await self._page(after)
            found += [mail for mail in page if state in (None, mail.state) and to in ("", mail.to)]
            if after is None:
                break
        shown = found[:limit]
        more = len(found) > limit or after is not None
        return {"mails": [_summary(mail) for mail in shown], "next": shown[-1].id if shown and more else None}

    @operation()
    async def mail_show(self, *, id: Name) -> dict[str, Any]:
        """One mail with its texts, and the events and traces that it tells of."""
        table = self.system.mails
        if not await self._has_mails() or (found := await self.system.read(table, id)) is None:
            raise UnknownResource("there is no mail of this id", resource=id, hint="`headwater mail ls` lists them")
        whole = msgspec.structs.asdict(found)
        return {**_summary(found), **{name: whole[name] for name in ("text", "html", "events", "traces")}}

    async def _page(self, after: tuple[str, str] | None) -> tuple[list[Mail], Any]:
        table = self.system.mails
        if not await self._has_mails():
            return [], None
        page = await self.engine.query(Query(table=table.name, limit=PAGE, reverse=True, after=after))
        return [table.codec.decode(record.body) for record in page.records], page.next

    async def _has_mails(self) -> bool:
        return self.system.mails.name in (await self.engine.catalog()).tables


def _summary(mail: Mail) -> dict[str, Any]:
    return {
        "id": mail.id,
        "queue": mail.queue,
        "to": mail.to,
        "subject": mail.subject,
        "state": mail.state,
        "created": time_of(mail.created_ms),
        "ended": time_of(mail.ended_ms) if mail.ended_ms else None,
        "attempts": mail.attempts,
        "answer": mail.answer,
    }
