"""`AwsEngine`: opening, closing and checking. Its other methods are in the parts it extends.

Each part extends `Store` and may have a `_prepare_…` of its own, called by `open`, for what needs a running event loop.
"""

from __future__ import annotations

import asyncio

from headwater.applying.state import Counts
from headwater.aws.items import TTL
from headwater.aws.shapes import TableShape, table_shapes
from headwater.clock import Clock
from headwater.engine import Features
from headwater.engines.aws.actions import MOST_ACTIONS
from headwater.engines.aws.client import Refused
from headwater.engines.aws.history import History
from headwater.engines.aws.lacking import Lacking
from headwater.engines.aws.loads import Loads
from headwater.engines.aws.relay import Relaying
from headwater.engines.aws.upkeep import Upkeep
from headwater.errors import HeadwaterError, StoreError

_ABSENT = "ResourceNotFoundException"


class AwsEngine(History, Loads, Relaying, Upkeep, Lacking):
    """The store of one stack; any number of processes may have it open."""

    features = Features(
        engine="aws",
        max_unit_operations=MOST_ACTIONS,
        ordered_scans=False,
        peeks=False,
        keeps_time=False,
        times_messages=False,
        sweeps=False,
        whole_loads=False,
        renames_queues=False,
        erasure=False,
        sql=False,
    )

    def __init__(self, stack: str, *, clock: Clock, read_only: bool = False) -> None:
        super().__init__(stack, clock, read_only=read_only)
        self._lifecycle = asyncio.Lock()

    async def open(self) -> None:
        async with self._lifecycle:
            if self.is_open:
                raise StoreError("the store is open", operation="open", resource=self.names.stack)
            self.broken_by: asyncio.Future[HeadwaterError] = asyncio.get_running_loop().create_future()
            self._prepare_addresses()
            self._prepare_deliveries()
            self._prepare_commits()
            self._prepare_loads()
            try:
                await self.reload()
            except BaseException:
                await asyncio.to_thread(self.clients.close)
                raise
            self.is_open = True

    async def close(self) -> None:
        async with self._lifecycle:
            if not self.is_open:
                return
            await self._end_loads()
            await self._end_commits()
            await self._end_deliveries()
            self.is_open = False
            await asyncio.to_thread(self.clients.close)

    async def broken(self) -> HeadwaterError:
        """Never: AWS recovers by itself, and each failure is told to its caller."""
        return await asyncio.shield(self.broken_by)

    async def now_ms(self) -> int:
        return self.present_ms()

    async def _count_messages(self, queue: str) -> Counts:
        return Counts(depth=await self._depth(queue), dead=await self._count_dead(queue))

    async def check(self) -> list[str]:
        """Compare the tables with what the catalog needs of them."""
        await self.reload()
        found: list[str] = []
        for shape in table_shapes(self.names, self.state.merged()):
            found += [f"table {shape.name}: {problem}" for problem in await self._check_table(shape)]
        return found

    async def _check_table(self, shape: TableShape) -> list[str]:
        try:
            answer = await self.dynamodb("describe_table", expect=(_ABSENT,), TableName=shape.name)
        except Refused:
            return ["it is not there"]
        table, problems = answer["Table"], []
        if table["KeySchema"] != shape.key_schema():
            problems.append("its key is another one")
        indexes = {index["IndexName"] for index in table.get("GlobalSecondaryIndexes", ())}
        problems += [f"it lacks the index {index.name}" for index in shape.indexes if index.name not in indexes]
        if shape.stream and table.get("StreamSpecification", {}).get("StreamViewType") != shape.stream:
            problems.append(f"its stream is not {shape.stream}")
        ttl = await self.dynamodb("describe_time_to_live", TableName=shape.name)
        if ttl["TimeToLiveDescription"].get("AttributeName") != TTL:
            problems.append(f"its time to live is not {TTL}")
        return problems
