"""From events and their destinations to what is sent to SQS: entries of batches, one-time schedules for long delays.

SQS holds a message back for at most 15 minutes, and those of a FIFO queue only all alike, for as long as the queue
says. So a longer delay is a schedule that sends the message when it is due. A FIFO queue's message with a delay of
its own is sent at once and held back by its consumer: a schedule cannot name a deduplication id.

A batch may fail in part. So that no message overtakes an earlier one of its group then, a batch has at most one of
each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from headwater.aws.messages import MAX_BODY, Address, body_of, deduplication_id, group_id, is_too_large
from headwater.aws.names import Names
from headwater.aws.shapes import LONGEST_DELAY_MS
from headwater.catalog import Destination, QueueSpec
from headwater.events import Envelope

MOST_ENTRIES = 10


class Send(NamedTuple):
    """One message. `at_ms`: by a schedule at that time. `stored`: its event's images are to be put into the journal."""

    queue: str
    body: str
    group: str | None
    deduplication: str
    delay_s: int = 0
    at_ms: int = 0
    stored: bool = False


def send_of(event: Envelope, destination: Destination, spec: QueueSpec, turn: str, now_ms: int) -> Send:
    """The message of an event for one queue. Its delay counts from the event's time."""
    address = Address(group=destination.group, turn=turn)
    due_ms = event.time_ms + destination.delay_ms if destination.delay_ms else 0
    wait_ms, delay_s, at_ms = max(0, due_ms - now_ms), 0, 0
    if not spec.fifo:
        delay_s = -(-wait_ms // 1000)
        if wait_ms > LONGEST_DELAY_MS:
            delay_s, at_ms = 0, due_ms
    elif destination.delay_ms != min(spec.delay_ms, LONGEST_DELAY_MS):
        address = msgspec.structs.replace(address, ready_ms=due_ms)
    body = body_of(event, address)
    if stored := is_too_large(body):
        body = body_of(event, msgspec.structs.replace(address, stored=True))
    group = None if destination.group is None else group_id(destination.group)
    deduplication = deduplication_id(event.id, destination.queue, turn)
    return Send(destination.queue, body, group, deduplication, delay_s, at_ms, stored)


def batches(sends: Sequence[Send]) -> Iterator[list[Send]]:
    """Batches of one queue each, in the order of the messages."""
    by_queue: dict[str, list[Send]] = {}
    for send in sends:
        by_queue.setdefault(send.queue, []).append(send)
    for waiting in by_queue.values():
        batch: list[Send] = []
        size = 0
        for send in waiting:
            length = len(send.body.encode())
            has_group = send.group is not None and any(other.group == send.group for other in batch)
            if batch and (len(batch) == MOST_ENTRIES or size + length > MAX_BODY or has_group):
                yield batch
                batch, size = [], 0
            batch.append(send)
            size += length
        yield batch


def fitting(bodies: Sequence[str]) -> Iterator[list[str]]:
    """Bodies in batches that SNS takes."""
    batch: list[str] = []
    size = 0
    for body in bodies:
        length = len(body.encode())
        if batch and (len(batch) == MOST_ENTRIES or size + length > MAX_BODY):
            yield batch
            batch, size = [], 0
        batch.append(body)
        size += length
    if batch:
        yield batch


def entries(batch: Sequence[Send]) -> list[dict[str, Any]]:
    """The entries of SendMessageBatch; an entry's id is its place in the batch."""
    return [{"Id": str(n), **_message(send)} for n, send in enumerate(batch)]


def _message(send: Send) -> dict[str, Any]:
    message: dict[str, Any] = {"MessageBody": send.body}
    if send.group is not None:
        message["MessageGroupId"] = send.group
        message["MessageDeduplicationId"] = send.deduplication
    if send.delay_s:
        message["DelaySeconds"] = send.delay_s
    return message


def schedule_of(send: Send, names: Names, queue_arn: str, role_arn: str) -> dict[str, Any]:
    """The arguments of CreateSchedule. Its name is the message's, so that it is made once."""
    from datetime import UTC, datetime

    due = datetime.fromtimestamp(-(-send.at_ms // 1000), UTC)
    return {
        "Name": f"later-{send.deduplication[:40]}",
        "GroupName": names.stack,
        "ScheduleExpression": f"at({due:%Y-%m-%dT%H:%M:%S})",
        "ScheduleExpressionTimezone": "UTC",
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "ActionAfterCompletion": "DELETE",
        "Target": {"Arn": queue_arn, "RoleArn": role_arn, "Input": send.body},
    }
