"""Creates what a catalog needs on the stand-in, from the same shapes that templates are written from.

Quick and without order: what is there stays, with the indexes that it lacks added.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any

from headwater.aws.names import Names
from headwater.aws.shapes import (
    QueueShape,
    TableShape,
    creation,
    own_shapes,
    queue_attributes,
    queue_shape,
    table_shape,
)
from headwater.aws.ways import Leg, Ways
from headwater.catalog import Catalog
from headwater.engines.aws.client import session


class Provisioner:
    """Of one stack, where the environment's AWS_… say."""

    def __init__(self, stack: str) -> None:
        self.names = Names(stack)
        self.dynamodb, self.sqs, self.sns = (session().create_client(name) for name in ("dynamodb", "sqs", "sns"))

    def close(self) -> None:
        for client in (self.dynamodb, self.sqs, self.sns):
            client.close()

    def provide_own(self) -> None:
        """The tables that every stack has."""
        for shape in own_shapes(self.names):
            self._table(shape)

    def provide(self, catalog: Catalog) -> None:
        for table in catalog.tables.values():
            self._table(table_shape(self.names, table))
        for queue in catalog.queues.values():
            self._queue(queue_shape(self.names, queue))
        for topic in catalog.topics:
            self.sns.create_topic(Name=self.names.topic(topic))

    def subscribe(self, catalog: Catalog) -> None:
        """Have the subscriptions of all topics be those of the catalog of all apps."""
        legs = Ways(catalog).legs
        for topic in catalog.topics:
            arn = self.sns.create_topic(Name=self.names.topic(topic))["TopicArn"]
            self._subscribe(arn, [leg for leg in legs if leg.topic == topic])

    def _subscribe(self, arn: str, legs: Sequence[Leg]) -> None:
        """Have a topic's subscriptions be these, and no others."""
        present = _all(self.sns, "list_subscriptions_by_topic", "Subscriptions", TopicArn=arn)
        for subscription in present:
            self.sns.unsubscribe(SubscriptionArn=subscription["SubscriptionArn"])
        for leg in legs:
            attributes = {"RawMessageDelivery": "true"}
            if leg.policy is not None:
                attributes |= {"FilterPolicyScope": "MessageBody", "FilterPolicy": json.dumps(leg.policy)}
            url = self.sqs.get_queue_url(QueueName=self.names.queue(leg.queue, fifo=False))["QueueUrl"]
            queue = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
            self.sns.subscribe(TopicArn=arn, Protocol="sqs", Endpoint=queue, Attributes=attributes)

    def _table(self, shape: TableShape) -> None:
        try:
            self.dynamodb.create_table(**creation(shape))
        except self.dynamodb.exceptions.ResourceInUseException:
            self._add_indexes(shape)
            return
        self.dynamodb.update_time_to_live(
            TableName=shape.name, TimeToLiveSpecification={"Enabled": True, "AttributeName": shape.ttl}
        )

    def _add_indexes(self, shape: TableShape) -> None:
        present = self.dynamodb.describe_table(TableName=shape.name)["Table"].get("GlobalSecondaryIndexes", [])
        known = {index["IndexName"] for index in present}
        for index in shape.global_indexes():
            if index["IndexName"] not in known:
                self.dynamodb.update_table(
                    TableName=shape.name,
                    AttributeDefinitions=shape.attribute_definitions(),
                    GlobalSecondaryIndexUpdates=[{"Create": index}],
                )

    def _queue(self, shape: QueueShape) -> None:
        dead = self.sqs.create_queue(QueueName=shape.dead_name, Attributes=shape.dead_attributes)["QueueUrl"]
        arn = self.sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        attributes = queue_attributes(shape, arn)
        with contextlib.suppress(self.sqs.exceptions.QueueNameExists):
            self.sqs.create_queue(QueueName=shape.name, Attributes=attributes)
            return
        url = self.sqs.get_queue_url(QueueName=shape.name)["QueueUrl"]
        unchangeable = {"FifoQueue", "ContentBasedDeduplication"}
        changed = {name: value for name, value in attributes.items() if name not in unchangeable}
        self.sqs.set_queue_attributes(QueueUrl=url, Attributes=changed)

    def remove(self) -> None:
        """All of the stack's tables, queues and topics."""
        for name in _all(self.dynamodb, "list_tables", "TableNames"):
            if name.startswith(f"{self.names.stack}-"):
                self.dynamodb.delete_table(TableName=name)
        for url in _all(self.sqs, "list_queues", "QueueUrls", QueueNamePrefix=f"{self.names.stack}-"):
            self.sqs.delete_queue(QueueUrl=url)
        for topic in _all(self.sns, "list_topics", "Topics"):
            if topic["TopicArn"].rpartition(":")[2].startswith(f"{self.names.stack}-"):
                self.sns.delete_topic(TopicArn=topic["TopicArn"])


def _all(client: Any, operation: str, field: str, **arguments: Any) -> list[Any]:
    pages = client.get_paginator(operation).paginate(**arguments)
    return [found for page in pages for found in page.get(field, [])]
