"""What the parts of the engine share: AWS, the stack's names, what is known of its catalog, and the store's time.

What is in `state` is read from the store table, and anew when it is older than `FRESH_S`: nothing is compared at a
commit, since it is the relay that routes.
"""

from __future__ import annotations

import asyncio
from typing import Any

from headwater.applying.state import State
from headwater.aws.items import PK, Item
from headwater.aws.names import Names
from headwater.aws.outbox import Orders
from headwater.aws.stored import CATALOG, read_catalog
from headwater.catalog import Catalog, TableSpec
from headwater.clock import Clock
from headwater.engines.aws.client import Clients
from headwater.errors import StoreError, UnknownResource

FRESH_S = 5.0


class Store:
    def __init__(self, stack: str, clock: Clock, *, read_only: bool = False) -> None:
        self.names = Names(stack)
        self.clock = clock
        self.read_only = read_only
        self.clients = Clients()
        self.state = State()
        self.orders = Orders(Catalog(apps=()))
        self.is_open = False
        self._latest_ms = 0
        self._read_s = 0.0
        self._reloading = asyncio.Lock()

    def present_ms(self) -> int:
        """The store's time, which never steps back in this process."""
        self._latest_ms = max(self._latest_ms, self.clock.wall_ms())
        return self._latest_ms

    def writable(self) -> None:
        if self.read_only:
            raise StoreError("the store is open for reading only", operation="write", resource=self.names.stack)

    async def dynamodb(self, operation: str, **arguments: Any) -> dict[str, Any]:
        return await self.clients.call("dynamodb", operation, **arguments)

    async def store_items(self, partition: str, **arguments: Any) -> list[Item]:
        """All items of a partition of the store table, in the order of their sort keys."""
        return await self.query_all(
            TableName=self.names.store,
            KeyConditionExpression=f"{PK} = :p",
            ExpressionAttributeValues={":p": {"S": partition}},
            ConsistentRead=True,
            **arguments,
        )

    async def query_all(self, **arguments: Any) -> list[Item]:
        found: list[Item] = []
        while True:
            answer = await self.dynamodb("query", **arguments)
            found += answer["Items"]
            if "LastEvaluatedKey" not in answer:
                return found
            arguments["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    async def fresh(self) -> None:
        """Have the catalog read again when that was long ago."""
        if self.clock.monotonic() - self._read_s >= FRESH_S and not self._reloading.locked():
            await self.reload()

    async def reload(self) -> None:
        """Read the catalog anew."""
        async with self._reloading:
            begin = self.clock.monotonic()
            items = await self.store_items(CATALOG)
            stored = read_catalog(items)
            state = self.state
            state.head.revision = stored.revision
            state.apps, state.subscriptions = stored.apps, stored.subscriptions
            self._number(state.merged())
            state.compile()
            state.paused = {state.ids[queue] for queue in stored.paused if queue in state.ids}
            self.orders = Orders(state.merged())
            self._read_s = begin

    def _number(self, catalog: Catalog) -> None:
        """Numbers stay what they are while the process lives; they mean nothing to others."""
        ids = self.state.ids
        for name in (*catalog.tables, *catalog.topics, *catalog.queues):
            if name not in ids:
                ids[name] = len(ids) + 1
                self.state.names[ids[name]] = name

    def table_spec(self, table: str) -> TableSpec:
        spec = self.state.tables.get(table)
        if spec is None:
            raise self._unknown(table, "table")
        return spec

    def queue_number(self, queue: str) -> int:
        if queue not in self.state.queues:
            raise self._unknown(queue, "queue")
        return self.state.ids[queue]

    def _unknown(self, name: str, kind: str) -> UnknownResource:
        return UnknownResource(
            f"the store has no {kind} of this name",
            resource=name,
            hint="names are app/resource; `headwater ls` lists them",
        )
