"""Messages that Lambda has received from SQS become deliveries, leased like those that the engine receives itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol, cast

from headwater.aws.messages import Arrived, read_body
from headwater.aws.ways import Ways
from headwater.events import Delivery
from headwater.functions.decoding import SqsMessage
from headwater.functions.home import Home


class Adopting(Protocol):
    """What an engine offers to functions besides `engine.Engine`."""

    async def adopt(self, queue: str, messages: Sequence[Mapping[str, Any]]) -> list[Delivery]:
        """Deliveries of messages that somebody else has received, in their order, without those that are not for now.

        The messages are as ReceiveMessage answers them. Whoever has received them deletes those that are done; what is
        tried again gets its pause when that is committed, and what is released is ready at once.
        """
        ...

    async def is_paused(self, queue: str) -> bool: ...


class Arrivals:
    """The messages of one queue's events."""

    def __init__(self, home: Home, queue: str) -> None:
        self._home = home
        self._queue = queue
        self._engine = cast("Adopting", home.engine)

    async def is_paused(self) -> bool:
        return await self._engine.is_paused(self._queue)

    async def take(self, messages: Sequence[SqsMessage]) -> tuple[list[Delivery], list[SqsMessage]]:
        """(what is to be run, what is not done before that is).

        A topic may have sent what its route does not lead here: that is done. What is not for now is left, not run.
        """
        meant = [message for message in messages if self._is_meant(message)]
        return await self._engine.adopt(self._queue, [as_received(message) for message in meant]), meant

    def _is_meant(self, message: SqsMessage) -> bool:
        """A filter policy of SNS may let through more than the pattern that it stands for."""
        found: Arrived = read_body(message.body, queue=self._queue, id=message.id, sent_ms=message.sent_ms)
        return not found.address.by_topic or self._ways.accepts(found.event, self._queue)

    @cached_property
    def _ways(self) -> Ways:
        return Ways(self._home.catalog)


def as_received(message: SqsMessage) -> dict[str, Any]:
    attributes = {"ApproximateReceiveCount": str(message.receives), "SentTimestamp": str(message.sent_ms)}
    if message.group is not None:
        attributes["MessageGroupId"] = message.group
    return {
        "MessageId": message.id,
        "ReceiptHandle": message.receipt,
        "Body": message.body,
        "Attributes": attributes,
        "MessageAttributes": {
            name: {"DataType": "String", "StringValue": value} for name, value in message.attributes.items()
        },
    }
