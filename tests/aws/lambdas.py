"""Functions run in this process: a stack on the stand-in, and the events that Lambda would hand over."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

import botocore.session
import msgspec

from headwater import App
from headwater.aws.names import Names
from headwater.catalog import Catalog
from headwater.clock import SystemClock
from headwater.config import Config
from headwater.functions.home import Home
from headwater.functions.invocation import Invocation
from headwater.graph import build_graph
from headwater.system import System
from tests.aws.provided import ProvidedEngine

PATIENCE_S = 10.0


class Context:
    """What Lambda tells of an event."""

    def __init__(self, left_s: float = 30.0, request: str = "request-1") -> None:
        self.aws_request_id = request
        self._ends = time.monotonic() + left_s

    def get_remaining_time_in_millis(self) -> int:
        return max(0, round((self._ends - time.monotonic()) * 1000))


def invocation(left_s: float = 30.0) -> Invocation:
    return Invocation(Context(left_s))


class Stage:
    """A stack with its apps installed and bound, and its queues as Lambda sees them."""

    def __init__(self, engine: ProvidedEngine, home: Home) -> None:
        self.engine = engine
        self.home = home
        self.names: Names = engine.names
        self.sqs = botocore.session.get_session().create_client("sqs")

    def url(self, queue: str, *, dead: bool = False) -> str:
        fifo = self.home.catalog.queues[queue].fifo
        name = self.names.dead_queue(queue, fifo=fifo) if dead else self.names.queue(queue, fifo=fifo)
        return str(self.sqs.get_queue_url(QueueName=name)["QueueUrl"])

    def receive(self, queue: str, wanted: int = 1, *, dead: bool = False) -> dict[str, Any]:
        """The event of a batch of `wanted` messages; what is not there yet is waited for."""
        url, found, end = self.url(queue, dead=dead), list[dict[str, Any]](), time.monotonic() + PATIENCE_S
        while len(found) < wanted:
            assert time.monotonic() < end, f"{queue} has {len(found)} messages, not {wanted}"
            answer = self.sqs.receive_message(
                QueueUrl=url, MaxNumberOfMessages=10, MessageSystemAttributeNames=["All"], WaitTimeSeconds=1
            )
            found += answer.get("Messages", [])
        arn = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        return {"Records": [record_of(message, arn) for message in found]}

    def end(self, queue: str, event: dict[str, Any], answer: dict[str, Any], *, dead: bool = False) -> None:
        """Delete what is done, as Lambda does."""
        failed = {item["itemIdentifier"] for item in answer["batchItemFailures"]}
        url = self.url(queue, dead=dead)
        for record in event["Records"]:
            if record["messageId"] not in failed:
                self.sqs.delete_message(QueueUrl=url, ReceiptHandle=record["receiptHandle"])

    def waiting(self, queue: str, *, dead: bool = False) -> tuple[int, int]:
        """(visible, invisible)."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.sqs.get_queue_attributes(QueueUrl=self.url(queue, dead=dead), AttributeNames=names)["Attributes"]
        return int(found[names[0]]), int(found[names[1]])

    def give_up(self, queue: str, event: dict[str, Any]) -> None:
        """Move the messages to the dead-letter queue, as SQS does after too many receives."""
        for record in event["Records"]:
            grouped = {"MessageGroupId": "g", "MessageDeduplicationId": record["messageId"]}
            fifo = self.home.catalog.queues[queue].fifo
            self.sqs.send_message(
                QueueUrl=self.url(queue, dead=True), MessageBody=record["body"], **(grouped if fifo else {})
            )
            self.sqs.delete_message(QueueUrl=self.url(queue), ReceiptHandle=record["receiptHandle"])


def record_of(message: dict[str, Any], arn: str) -> dict[str, Any]:
    """A message of ReceiveMessage as Lambda hands it over."""
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": message["Attributes"],
        "messageAttributes": {},
        "md5OfBody": message["MD5OfBody"],
        "eventSource": "aws:sqs",
        "eventSourceARN": arn,
        "awsRegion": "eu-central-1",
    }


@asynccontextmanager
async def staged(
    stack: str, apps: Sequence[App[Any]], *, system: Collection[str] = (), **settings: Any
) -> AsyncIterator[Stage]:
    """The apps on a stack of their own; of Headwater's own app only what `system` names: each thing takes its time."""
    engine = ProvidedEngine(stack, clock=SystemClock())
    await engine.open()
    try:
        await engine.install(_catalog(apps, {f"headwater/{name}" for name in system}))
        home = Home(apps, Config(store=f"aws:{stack}", **settings), engine=engine)
        await home.open()
        yield Stage(engine, home)
    finally:
        for app in apps:
            app.bind(None)
        await engine.close()


def _catalog(apps: Sequence[App[Any]], wanted: set[str]) -> Catalog:
    """Of the apps, and of those of Headwater's own resources."""
    whole = build_graph([*apps, System().app]).catalog
    left_out = {name for name in (*whole.tables, *whole.queues) if name.startswith("headwater/")} - wanted
    return msgspec.structs.replace(
        whole,
        tables={name: spec for name, spec in whole.tables.items() if name not in left_out},
        queues={name: spec for name, spec in whole.queues.items() if name not in left_out},
        routes=tuple(route for route in whole.routes if route.target not in left_out),
        consumed=tuple(name for name in whole.consumed if name not in left_out),
    )
