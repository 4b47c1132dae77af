"""Admin operations on tracked operations (`headwater.operations`); `kind` is the operation's name, as app/name."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from headwater.codec import decode_json, encode_json
from headwater.engine import Query
from headwater.errors import UnknownResource
from headwater.operations.ledger import Ledger, Raw
from headwater.operations.tracked import ContractChange, State, Tracked, decode_raw
from headwater.pages import read_cursor, write_cursor
from headwater.runtime.admin_base import AdminBase
from headwater.runtime.operations import Limit, Name, operation
from headwater.work import alone

Standing = Literal["open", "overdue"]


class TrackedOperations(AdminBase):
    @operation()
    async def op_kinds(self) -> dict[str, Any]:
        """The kinds of tracked operations that the store has, and how many contract changes last."""
        catalog = await self.engine.catalog()
        names = [name for name in catalog.tables if Ledger(name).calls in catalog.queues]
        kinds = []
        for name in sorted(names):
            page = await self.engine.query(Query(table=Ledger(name).contracts))
            kinds.append({"operation": name, "contract_changes": len(page.records)})
        return {"kinds": kinds}

    @operation()
    async def op_list(
        self, *, kind: Name, state: State | Standing = "open", limit: Limit = 100, cursor: str | None = None
    ) -> dict[str, Any]:
        """Operations in a state, the oldest request first; "open" are those on time, "overdue" those that are late."""
        ledger = await self._ledger(kind)
        page = await self.engine.query(
            Query(
                table=ledger.name,
                index="by-standing" if state in ("open", "overdue") else "by-state",
                partition=state,
                limit=limit,
                after=None if cursor is None else read_cursor(cursor),
            )
        )
        found = [_record_json(await ledger.present(self.engine, decode_raw(record.body))) for record in page.records]
        return {"operations": found, "cursor": write_cursor(page.next)}

    @operation()
    async def op_show(self, *, kind: Name, subject: Name) -> dict[str, Any]:
        """The subject's operations, newest first, with the contract change that its open one is affected by."""
        ledger = await self._ledger(kind)
        latest = await ledger.latest(self.engine, subject)
        if latest is None:
            raise UnknownResource("the subject has no operation", operation="show", resource=f"{kind} {subject}")
        page = await self.engine.query(Query(table=ledger.name, partition=subject, limit=20, reverse=True))
        earlier = [decode_raw(record.body) for record in page.records[1:]]
        change: ContractChange | None = None
        if latest.open:
            change = await ledger.change_of(self.engine, subject)
        return {
            "operations": [_record_json(one) for one in (latest, *earlier)],
            "contract_change": None if change is None else msgspec.to_builtins(change),
        }

    @operation(writes=True)
    async def op_poll(self, *, kind: Name, subject: str = "") -> dict[str, Any]:
        """Have the subject's operation called now; without a subject all open ones that wait. How many."""
        ledger = await self._ledger(kind)
        if not subject:
            return {"polled": await ledger.poll_due(self.engine)}
        polled = await alone(self.engine, lambda unit: ledger.poll(unit, subject))
        return {"polled": int(polled)}

    @operation(writes=True)
    async def op_cancel(self, *, kind: Name, subject: Name, force: bool = False) -> dict[str, Any]:
        """The subject's operation is no longer wanted; with `force` it ends here, whatever the third party does."""
        ledger = await self._ledger(kind)
        if not await alone(self.engine, lambda unit: ledger.cancel(unit, subject, force=force)):
            raise UnknownResource("the subject has no open operation", operation="cancel", resource=subject)
        return await self._present(ledger, subject)

    @operation(writes=True)
    async def op_retry(self, *, kind: Name, subject: Name, external_id: str = "") -> dict[str, Any]:
        """Decide on an operation in doubt: it was started with `external_id`, or without one, it is to be started.

        One that has failed or was cancelled is requested anew. Anything else is refused with 412.
        """
        ledger = await self._ledger(kind)
        await alone(self.engine, lambda unit: ledger.retry(unit, subject, external_id))
        return await self._present(ledger, subject)

    async def _present(self, ledger: Ledger, subject: str) -> dict[str, Any]:
        found = await ledger.latest(self.engine, subject)
        assert found is not None
        return {"operation": _record_json(found)}

    async def _ledger(self, name: str) -> Ledger:
        ledger = Ledger(name)
        if ledger.calls not in (await self.engine.catalog()).queues:
            hint = "names are app/operation; `headwater op ls` lists them"
            raise UnknownResource("the store has no operation of this name", resource=name, hint=hint)
        return ledger


def _record_json(record: Raw) -> dict[str, Any]:
    shown = decode_json(encode_json(record))
    return {name: shown[name] for name in Tracked.__struct_fields__}
