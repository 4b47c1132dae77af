"""Admin operations that forget a key, and that tell what became of it."""

from __future__ import annotations

from typing import Any

import msgspec

from headwater.codec import decode_json
from headwater.erasures import FORGETTINGS, Erasure, erase, erasure_of, erasures
from headwater.errors import UnknownResource
from headwater.runtime.admin_base import time_of
from headwater.runtime.admin_tables import KeyParts, TableOperations, typed
from headwater.runtime.operations import Limit, Name, operation
from headwater.tables import Table


class ErasureOperations(TableOperations):
    @operation(writes=True)
    async def forget(self, *, table: Name, key: KeyParts, also: list[str] = []) -> dict[str, Any]:  # noqa: B006
        """Remove a row and all that the store keeps of its key; the erasure as far as it is.

        `also` names tables whose row of the same key goes too, or as "table#index" those of this partition.
        """
        rows = await self._table(table)
        others: list[Table[Any] | tuple[Table[Any], str]] = []
        for entry in also:
            name, _, index = entry.partition("#")
            other = await self._table(name)
            others.append((other, index) if index else other)
        id = await rows.forget(*typed(rows.spec, key), also=others)
        if self.supervisor is None:
            await self._erase_now(id)
        return await self.erasure(id=id)

    async def _erase_now(self, id: str) -> None:
        """Without a server nobody handles the message: it will find nothing left to do."""
        for waiting in await self.engine.peek(FORGETTINGS, 1000):
            if waiting.event.data is not None and decode_json(waiting.event.data)["id"] == id:
                await erase(self.engine, waiting.event.id, id)

    @operation()
    async def erasures(self, *, table: str = "", limit: Limit = 20) -> dict[str, Any]:
        """The erasures, newest first; of one table when it is given."""
        if table:
            await self.table_spec(table)
        return {"erasures": [_shown(erasure) for erasure in await erasures(self.engine, table, limit)]}

    @operation()
    async def erasure(self, *, id: Name) -> dict[str, Any]:
        """One erasure: its state, and how much of each kind was removed or redacted."""
        found = await erasure_of(self.engine, id)
        if found is None:
            raise UnknownResource(
                "there is no erasure of this id", resource=id, hint="`headwater forget ls` lists them"
            )
        return _shown(found)


def _shown(erasure: Erasure) -> dict[str, Any]:
    """Without what names the key while it is being forgotten."""
    found: dict[str, Any] = msgspec.to_builtins(erasure)
    for name in ("targets", "until", "until_ms", "tries", "requested_ms", "finished_ms"):
        del found[name]
    return {
        **found,
        "requested": time_of(erasure.requested_ms),
        "finished": time_of(erasure.finished_ms) if erasure.finished_ms else None,
    }
