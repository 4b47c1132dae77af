"""Installing apps: their parts of the catalog are kept in the store table, under one revision.

The resources themselves are deployed (`headwater deploy aws`). What an index needs of the items that were there before
it is added to them here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from headwater.applying.installing import check_keys, check_targets, orphans, part_of
from headwater.applying.state import Counts, State
from headwater.aws.items import GONE, PK, SK, VERSION, Item, index_attributes, pack_entries, unpack
from headwater.aws.stored import APP, REVISION, catalog_item, head_item
from headwater.catalog import Catalog, TableSpec
from headwater.codec import decode_json
from headwater.engines.aws.client import Refused
from headwater.engines.aws.store import Store
from headwater.errors import StoreError

_TRIES = 10
_AT_ONCE = 32
_CANCELLED = "TransactionCanceledException"
_CHANGED = "ConditionalCheckFailedException"


class Installing(Store):
    async def catalog(self) -> Catalog:
        await self.reload()
        return self.state.merged()

    async def install(self, catalog: Catalog) -> int:
        self.writable()
        for app in catalog.apps:
            for _ in range(_TRIES):
                if await self._install(app, part_of(catalog, app)):
                    break
            else:
                raise StoreError("others install at the same time", operation="install", resource=app)
        return self.state.head.revision

    async def _install(self, app: str, part: Catalog) -> bool:
        """Judge and write the app's part; False when somebody else changed the catalog meanwhile."""
        await self.reload()
        state = self.state
        before = state.apps.get(app, Catalog(apps=(app,)))
        for name in before.queues:
            if name not in part.queues:
                state.counts[state.ids[name]] = await self._count_messages(name)
        part.queues.update(orphans(state, app, part))
        if state.apps.get(app) == part:
            return True
        check_keys(before, part)
        judged = State()
        judged.apps, judged.subscriptions = {**state.apps, app: part}, state.subscriptions
        check_targets(part, judged)
        judged.compile()
        await self._build_indexes(before, part)
        if not await self.revise([{"Put": {"Item": catalog_item(f"{APP}{app}", part)}}]):
            return False
        await self.reload()
        return True

    async def _count_messages(self, queue: str) -> Counts:
        """About what a queue holds, and its dead letters."""
        raise NotImplementedError

    async def revise(self, actions: list[dict[str, dict[str, object]]]) -> bool:
        """Change the catalog's partition, with a new revision; False when it is not what was read any more."""
        revision = self.state.head.revision
        head: dict[str, object] = {"Item": head_item(revision + 1)}
        if revision:
            head["ConditionExpression"] = f"{REVISION} = :r"
            head["ExpressionAttributeValues"] = {":r": {"N": str(revision)}}
        else:
            head["ConditionExpression"] = f"attribute_not_exists({PK})"
        for action in (*actions, changing := {"Put": head}):
            for arguments in action.values():
                arguments["TableName"] = self.names.store
        try:
            await self.dynamodb("transact_write_items", expect=(_CANCELLED,), TransactItems=[*actions, changing])
        except Refused:
            return False
        return True

    async def _build_indexes(self, before: Catalog, part: Catalog) -> None:
        for spec in part.tables.values():
            old = before.tables.get(spec.name)
            if old is not None and set(spec.indexes) - set(old.indexes):
                async for items in self._pages(spec):
                    for at in range(0, len(items), _AT_ONCE):
                        await asyncio.gather(*(self._index(spec, item) for item in items[at : at + _AT_ONCE]))

    async def _pages(self, spec: TableSpec) -> AsyncIterator[list[Item]]:
        arguments = {
            "TableName": self.names.table(spec.name),
            "FilterExpression": f"attribute_not_exists({GONE})",
            "ConsistentRead": True,
        }
        while True:
            answer = await self.dynamodb("scan", **arguments)
            yield answer["Items"]
            if "LastEvaluatedKey" not in answer:
                return
            arguments["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    async def _index(self, spec: TableSpec, item: Item) -> None:
        """Give an item the index attributes that it lacks, unless it was written meanwhile: then it has them."""
        image = unpack(item)
        assert image.body is not None
        names = [name for index in spec.indexes for name in index_attributes(index.name)]
        wanted = pack_entries(spec, image.key, decode_json(image.body))
        if {name: item[name] for name in names if name in item} == wanted:
            return
        gone = [name for name in names if name not in wanted]
        placed = {f"#{n}": name for n, name in enumerate([*wanted, *gone])}
        sets = ", ".join(f"#{n} = :{n}" for n in range(len(wanted)))
        removes = ", ".join(f"#{n}" for n in range(len(wanted), len(placed)))
        values = {f":{n}": value for n, value in enumerate(wanted.values())}
        condition = f"attribute_not_exists({VERSION})"
        if image.version:
            condition, values[":v"] = f"{VERSION} = :v", {"S": image.version}
        arguments = {
            "TableName": self.names.table(spec.name),
            "Key": {name: item[name] for name in (PK, SK) if name in item},
            "UpdateExpression": (f"SET {sets} " if sets else "") + (f"REMOVE {removes}" if removes else ""),
            "ConditionExpression": condition,
            "ExpressionAttributeNames": placed,
        }
        if values:
            arguments["ExpressionAttributeValues"] = values
        try:
            await self.dynamodb("update_item", expect=(_CHANGED,), **arguments)
        except Refused:
            """Written since it was read."""
