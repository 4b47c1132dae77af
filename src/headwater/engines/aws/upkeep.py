"""Expiry and retention: DynamoDB and SQS do it themselves, in their time; a record's end can be hastened."""

from __future__ import annotations

from typing import Any

from headwater.aws.items import EXPIRES, GONE, unpack
from headwater.engines.aws.commits import Commits
from headwater.ids import new_id
from headwater.unit import Commit, Write

_SLICE = 50


class Upkeep(Commits):
    async def expire_records(self, limit: int) -> int:
        """By looking at all of the tables whose records expire, which costs what reading them costs."""
        total = 0
        for name in sorted(self.state.tables):
            spec = self.state.tables[name]
            if (spec.ttl or spec.ttl_ms) and total < limit:
                total += await self._expire_table(name, limit - total)
        return total

    async def _expire_table(self, table: str, limit: int) -> int:
        arguments: dict[str, Any] = {
            "TableName": self.names.table(table),
            "FilterExpression": f"{EXPIRES} <= :now AND attribute_not_exists({GONE})",
            "ExpressionAttributeValues": {":now": {"N": str(self.present_ms())}},
        }
        total = 0
        while total < limit:
            answer = await self.dynamodb("scan", **arguments)
            keys = [unpack(item).key for item in answer["Items"]][: limit - total]
            for at in range(0, len(keys), _SLICE):
                commit = Commit(id=new_id())
                commit.trace = commit.id
                commit.writes = [
                    Write(table, key, f"{commit.id}-{n}", expired=True) for n, key in enumerate(keys[at : at + _SLICE])
                ]
                await self.commit(commit)
            total += len(keys)
            if "LastEvaluatedKey" not in answer:
                break
            arguments["ExclusiveStartKey"] = answer["LastEvaluatedKey"]
        return total

    async def expire_messages(self, limit: int) -> int:
        """None: SQS ends what waits for longer than its queue's retention."""
        return 0

    async def sweep(self, history_ms: int, limit: int, *, most: int | None = None) -> int:
        """Nothing: claims, markers and the history have a time to live."""
        return 0
