"""The stand-in's streams, read as the relay function is handed them: for tests that run the relay themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, ClassVar

from headwater.aws.changes import Record, Streamed
from headwater.clock import Clock
from headwater.engines.aws.client import session
from headwater.engines.aws.relay import Relaying

BY_SERVICE = {"type": "Service", "principalId": "dynamodb.amazonaws.com"}


class Streams:
    """Of tables by their names in DynamoDB, from their beginning; each record is read once in this process."""

    _iterators: ClassVar[dict[str, str]] = {}

    def __init__(self) -> None:
        self._tables = session().create_client("dynamodb")
        self._streams = session().create_client("dynamodbstreams")

    def read(self, table: str) -> list[Streamed]:
        """What came since it was read last."""
        iterator = self._iterators.get(table) or self._begin(table)
        found: list[Streamed] = []
        while True:
            answer = self._streams.get_records(ShardIterator=iterator)
            self._iterators[table] = iterator = answer["NextShardIterator"]
            if not answer["Records"]:
                return found
            found += [Streamed(table, record_of(record)) for record in answer["Records"]]

    def _begin(self, table: str) -> str:
        arn = self._tables.describe_table(TableName=table)["Table"]["LatestStreamArn"]
        (shard,) = self._streams.describe_stream(StreamArn=arn)["StreamDescription"]["Shards"]
        return str(
            self._streams.get_shard_iterator(StreamArn=arn, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON")[
                "ShardIterator"
            ]
        )

    def close(self) -> None:
        self._tables.close()
        self._streams.close()


def record_of(record: dict[str, Any]) -> Record:
    told = record["dynamodb"]
    return Record(
        told.get("OldImage"),
        told.get("NewImage"),
        told["SequenceNumber"],
        int(told["ApproximateCreationDateTime"].timestamp() * 1000),
        record.get("userIdentity") == BY_SERVICE,
    )


class Relay(Relaying):
    """The relay of a stack, which a test runs when it wants."""

    def __init__(self, stack: str, clock: Clock) -> None:
        super().__init__(stack, clock)
        self._prepare_addresses()
        self._streams = Streams()
        self._turn = asyncio.Lock()

    async def pump(self, tables: Iterable[str]) -> None:
        """Relay all that the streams of these tables have to tell."""
        async with self._turn:
            for table in tables:
                records = await asyncio.to_thread(self._streams.read, table)
                for _ in range(10):
                    undone = await self.relay(records) if records else None
                    if undone is None:
                        break
                    records = records[undone:]
                else:
                    raise AssertionError(f"{table}: the relay does not come to an end")

    def close(self) -> None:
        self._streams.close()
        self.clients.close()
