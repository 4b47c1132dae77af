"""What the stack's tables and queues look like: plain data, from which they are created and templates are written."""

from __future__ import annotations

import json
from typing import Any, Literal

import msgspec

from headwater.aws.items import PK, SK, TTL, index_attributes
from headwater.aws.names import Names
from headwater.catalog import Catalog, QueueSpec, TableSpec

Stream = Literal["NEW_AND_OLD_IMAGES", "NEW_IMAGE", ""]
LONGEST_DELAY_MS = 900_000
"""SQS keeps no message back for longer."""
LONGEST_RETENTION_S = 14 * 86_400
LONGEST_VISIBILITY_S = 12 * 3_600
SPARE_RECEIVES = 5
"""So many receives more than a queue's maximum SQS allows before it moves a message itself: what it then has is what no
consumer lived to bury."""
MOST_RECEIVES = 1000
"""SQS's limit. In FIFO queues messages are received without an attempt, too: behind one of their group that fails."""
BY_TRACE, BY_DAY = "trace", "day"
"""The journal's indexes."""


class IndexShape(msgspec.Struct, frozen=True):
    """A global secondary index with all attributes."""

    name: str
    hash: str
    range: str


class TableShape(msgspec.Struct, frozen=True, kw_only=True):
    """A DynamoDB table: on-demand capacity, encrypted, with point-in-time recovery. All key attributes are strings."""

    name: str
    hash: str = PK
    range: str = ""
    indexes: tuple[IndexShape, ...] = ()
    stream: Stream = ""
    ttl: str = TTL

    def key_schema(self) -> list[dict[str, str]]:
        return _keys(self.hash, self.range)

    def attribute_definitions(self) -> list[dict[str, str]]:
        names = [self.hash, self.range, *(name for index in self.indexes for name in (index.hash, index.range))]
        return [{"AttributeName": name, "AttributeType": "S"} for name in dict.fromkeys(names) if name]

    def global_indexes(self) -> list[dict[str, Any]]:
        return [
            {
                "IndexName": index.name,
                "KeySchema": _keys(index.hash, index.range),
                "Projection": {"ProjectionType": "ALL"},
            }
            for index in self.indexes
        ]


def _keys(hash: str, range: str) -> list[dict[str, str]]:
    keys = [{"AttributeName": hash, "KeyType": "HASH"}]
    return [*keys, {"AttributeName": range, "KeyType": "RANGE"}] if range else keys


def table_shape(names: Names, spec: TableSpec) -> TableShape:
    """Of a declared table. Names of indexes are the declared ones, three characters at least as DynamoDB wants them."""
    return TableShape(
        name=names.table(spec.name),
        range=SK if spec.sort else "",
        indexes=tuple(IndexShape(index_name(index.name), *index_attributes(index.name)) for index in spec.indexes),
        stream="" if spec.images == "none" else "NEW_AND_OLD_IMAGES",
    )


def index_name(declared: str) -> str:
    return f"by-{declared}"


def store_shape(names: Names) -> TableShape:
    return TableShape(name=names.store, range=SK)


def outbox_shape(names: Names) -> TableShape:
    return TableShape(name=names.outbox, range=SK, stream="NEW_IMAGE")


def journal_shape(names: Names) -> TableShape:
    """Its indexes are by attributes of their own, `hw_trace` and `hw_day`, each ordered by `hw_at`."""
    indexes = (IndexShape(BY_TRACE, "hw_trace", "hw_at"), IndexShape(BY_DAY, "hw_day", "hw_at"))
    return TableShape(name=names.journal, range=SK, indexes=indexes)


def own_shapes(names: Names) -> tuple[TableShape, ...]:
    """The tables that every stack has."""
    return store_shape(names), outbox_shape(names), journal_shape(names)


def table_shapes(names: Names, catalog: Catalog) -> tuple[TableShape, ...]:
    """All tables of a stack with these apps."""
    declared = (table_shape(names, catalog.tables[name]) for name in sorted(catalog.tables))
    return (*own_shapes(names), *declared)


class QueueShape(msgspec.Struct, frozen=True):
    """An SQS queue with the queue that takes what was received too often."""

    name: str
    dead_name: str
    attributes: dict[str, str]
    dead_attributes: dict[str, str]
    max_receives: int

    def redrive_policy(self, dead_arn: str) -> dict[str, Any]:
        return {"deadLetterTargetArn": dead_arn, "maxReceiveCount": self.max_receives}


def queue_shape(names: Names, spec: QueueSpec) -> QueueShape:
    """The attributes are those of SQS's API, without the redrive policy, which needs an ARN."""
    fifo = {
        "FifoQueue": "true",
        "ContentBasedDeduplication": "false",
        "DeduplicationScope": "messageGroup",
        "FifoThroughputLimit": "perMessageGroupId",
    }
    common = {"SqsManagedSseEnabled": "true", **(fifo if spec.fifo else {})}
    attributes = {
        **common,
        "DelaySeconds": str(min(spec.delay_ms, LONGEST_DELAY_MS) // 1000 if spec.fifo else 0),
        "MessageRetentionPeriod": str(min(max(spec.retention_ms // 1000, 60), LONGEST_RETENTION_S)),
        "VisibilityTimeout": str(min(-(-spec.visibility_ms // 1000), LONGEST_VISIBILITY_S)),
        "ReceiveMessageWaitTimeSeconds": "20",
    }
    return QueueShape(
        names.queue(spec.name, fifo=spec.fifo),
        names.dead_queue(spec.name, fifo=spec.fifo),
        attributes,
        {**common, "MessageRetentionPeriod": str(LONGEST_RETENTION_S)},
        MOST_RECEIVES if spec.fifo else min(spec.max_receives + SPARE_RECEIVES, MOST_RECEIVES),
    )


def creation(shape: TableShape) -> dict[str, Any]:
    """The arguments of CreateTable."""
    arguments: dict[str, Any] = {
        "TableName": shape.name,
        "KeySchema": shape.key_schema(),
        "AttributeDefinitions": shape.attribute_definitions(),
        "BillingMode": "PAY_PER_REQUEST",
        "SSESpecification": {"Enabled": True},
    }
    if shape.indexes:
        arguments["GlobalSecondaryIndexes"] = shape.global_indexes()
    if shape.stream:
        arguments["StreamSpecification"] = {"StreamEnabled": True, "StreamViewType": shape.stream}
    return arguments


def queue_attributes(shape: QueueShape, dead_arn: str) -> dict[str, str]:
    """The attributes of CreateQueue, with the redrive policy."""
    return {**shape.attributes, "RedrivePolicy": json.dumps(shape.redrive_policy(dead_arn), separators=(",", ":"))}
