"""The events that AWS hands to functions, as data: SQS, SNS, S3, EventBridge Scheduler, CloudWatch, DynamoDB streams.

Pure. What an event has beside the fields named here is passed over, as newer versions add to it. Raises `InvalidValue`
for what is no such event.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Literal, TypeVar
from urllib.parse import unquote_plus

import msgspec

from headwater.errors import InvalidValue

S = TypeVar("S")
SCHEDULED_TIME = "<aws.scheduler.scheduled-time>"
"""What EventBridge Scheduler replaces by the time that a schedule names."""


class _Event(msgspec.Struct, rename="camel", kw_only=True):
    """Fields of AWS in camel case."""


def _read(event: Any, kind: type[S], what: str) -> S:
    try:
        return msgspec.convert(event, kind, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidValue(f"this is no event of {what}: {error}", operation="decode") from None


# SQS


class _SqsAttributes(msgspec.Struct, kw_only=True):
    receives: int = msgspec.field(name="ApproximateReceiveCount", default=1)
    sent_ms: int = msgspec.field(name="SentTimestamp", default=0)
    group: str | None = msgspec.field(name="MessageGroupId", default=None)
    trace_header: str = msgspec.field(name="AWSTraceHeader", default="")


class _SqsAttribute(_Event, kw_only=True):
    string_value: str | None = None


class _SqsRecord(_Event, kw_only=True):
    message_id: str
    receipt_handle: str
    body: str
    attributes: _SqsAttributes
    message_attributes: dict[str, _SqsAttribute] = {}
    event_source: Literal["aws:sqs"]
    arn: str = msgspec.field(name="eventSourceARN", default="")


class _SqsEvent(msgspec.Struct):
    records: list[_SqsRecord] = msgspec.field(name="Records")


class SqsMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message as SQS handed it out. `receives` counts this time, too; `queue` is the queue's name in SQS."""

    id: str
    receipt: str
    body: str
    receives: int
    sent_ms: int
    queue: str
    group: str | None = None
    attributes: Mapping[str, str] = {}
    trace_header: str = ""


def read_sqs(event: Any) -> list[SqsMessage]:
    """The messages of a batch, in their order. What a topic delivered without raw delivery is unwrapped."""
    return [_message(record) for record in _read(event, _SqsEvent, "SQS").records]


def _message(record: _SqsRecord) -> SqsMessage:
    body, attributes = _unwrapped(record.body)
    named = {name: one.string_value for name, one in record.message_attributes.items() if one.string_value is not None}
    return SqsMessage(
        id=record.message_id,
        receipt=record.receipt_handle,
        body=body,
        receives=record.attributes.receives,
        sent_ms=record.attributes.sent_ms,
        queue=record.arn.rpartition(":")[2],
        group=record.attributes.group,
        attributes={**attributes, **named},
        trace_header=record.attributes.trace_header,
    )


class _Notification(msgspec.Struct, tag_field="Type", tag="Notification"):
    """What SNS wraps a message in where raw delivery is off."""

    message: str = msgspec.field(name="Message")
    topic: str = msgspec.field(name="TopicArn")
    attributes: dict[str, dict[str, str]] = msgspec.field(name="MessageAttributes", default_factory=dict)


def _unwrapped(body: str) -> tuple[str, dict[str, str]]:
    """(message, attributes): raw delivery, as our own subscriptions have it, leaves nothing to unwrap."""
    if '"Notification"' not in body:
        return body, {}
    try:
        found = msgspec.json.decode(body, type=_Notification)
    except msgspec.MsgspecError:
        return body, {}
    return found.message, {name: one.get("Value", "") for name, one in found.attributes.items()}


def failed_items(ids: Iterable[str]) -> dict[str, Any]:
    """The partial batch response: these are not done. SQS hands them out again, DynamoDB from the first one on."""
    return {"batchItemFailures": [{"itemIdentifier": id} for id in ids]}


# S3


class _S3Bucket(msgspec.Struct):
    name: str


class _S3Object(_Event, kw_only=True):
    key: str
    size: int = 0
    e_tag: str = ""
    version_id: str = ""
    sequencer: str = ""


class _S3Entity(msgspec.Struct):
    bucket: _S3Bucket
    object: _S3Object


class _S3Record(_Event, kw_only=True):
    event_version: str
    event_name: str
    s3: _S3Entity


class _S3Event(msgspec.Struct):
    records: list[_S3Record] = msgspec.field(name="Records")


class ObjectNotice(msgspec.Struct, frozen=True, kw_only=True):
    """An object was put into a bucket of S3, or is gone from it. The key is as it was given to S3."""

    kind: Literal["created", "removed"]
    bucket: str
    key: str
    size: int
    etag: str
    version: str
    sequencer: str


def read_s3(event: Any) -> list[ObjectNotice]:
    """What happened to objects, by any 2.x record; test events and what is neither a put nor a removal are passed over.

    Keys come encoded as in forms: "+" is a space, "%2B" a plus.
    """
    if isinstance(event, dict) and event.get("Event") == "s3:TestEvent":
        return []
    return [notice for record in _read(event, _S3Event, "S3").records if (notice := _notice(record)) is not None]


def _notice(record: _S3Record) -> ObjectNotice | None:
    if record.event_version.partition(".")[0] != "2":
        raise InvalidValue(f"records of version {record.event_version} of S3 are not known", operation="decode")
    name = record.event_name.removeprefix("s3:")
    created, removed = name.startswith("ObjectCreated:"), name.startswith(("ObjectRemoved:", "LifecycleExpiration:"))
    if not created and not removed:
        return None
    found = record.s3.object
    return ObjectNotice(
        kind="created" if created else "removed",
        bucket=record.s3.bucket.name,
        key=unquote_plus(found.key),
        size=found.size,
        etag=found.e_tag.strip('"'),
        version=found.version_id,
        sequencer=found.sequencer,
    )


def is_later(sequencer: str, than: str) -> bool:
    """Whether an event of a key came after another: hexadecimal texts, of which the shorter one is filled up with
    zeros on the right (Amazon S3 User Guide, "Event message structure")."""
    length = max(len(sequencer), len(than))
    return sequencer.upper().ljust(length, "0") > than.upper().ljust(length, "0")


# EventBridge Scheduler


class Ring(msgspec.Struct, frozen=True):
    """The time that a schedule ("app/name") names has come."""

    schedule: str
    nominal: datetime

    @property
    def nominal_ms(self) -> int:
        return round(self.nominal.timestamp() * 1000)


def ring_input(schedule: str) -> dict[str, str]:
    """The input of a schedule's target, as `read_ring` reads it."""
    return {"schedule": schedule, "nominal": SCHEDULED_TIME}


def read_ring(event: Any) -> Ring:
    return _read(event, Ring, "EventBridge Scheduler")


# SNS to a function


class _Sns(msgspec.Struct):
    id: str = msgspec.field(name="MessageId")
    message: str = msgspec.field(name="Message")


class _SnsRecord(msgspec.Struct):
    sns: _Sns = msgspec.field(name="Sns")


class _SnsEvent(msgspec.Struct):
    records: list[_SnsRecord] = msgspec.field(name="Records")


class _Trigger(msgspec.Struct):
    metric: str = msgspec.field(name="MetricName", default="")
    dimensions: list[dict[str, str]] = msgspec.field(name="Dimensions", default_factory=list)


class _CloudWatchAlarm(msgspec.Struct, kw_only=True):
    name: str = msgspec.field(name="AlarmName")
    description: str | None = msgspec.field(name="AlarmDescription", default=None)
    state: Literal["OK", "ALARM", "INSUFFICIENT_DATA"] = msgspec.field(name="NewStateValue")
    before: str = msgspec.field(name="OldStateValue", default="")
    reason: str = msgspec.field(name="NewStateReason", default="")
    changed: str = msgspec.field(name="StateChangeTime", default="")
    trigger: _Trigger = msgspec.field(name="Trigger", default_factory=_Trigger)


class AlarmNotice(msgspec.Struct, frozen=True, kw_only=True):
    """An alarm of CloudWatch has changed its state. `id` is the same whenever this change is told again."""

    id: str
    name: str
    description: str
    state: Literal["ok", "alarm", "insufficient"]
    before: str
    reason: str
    metric: str
    dimensions: Mapping[str, str]
    changed: datetime | None


_STATES: dict[str, Literal["ok", "alarm", "insufficient"]] = {
    "OK": "ok",
    "ALARM": "alarm",
    "INSUFFICIENT_DATA": "insufficient",
}


def read_alarms(event: Any) -> list[AlarmNotice]:
    """The changes that SNS tells of."""
    return [_alarm(record.sns) for record in _read(event, _SnsEvent, "SNS").records]


def _alarm(sns: _Sns) -> AlarmNotice:
    try:
        found = msgspec.json.decode(sns.message, type=_CloudWatchAlarm)
    except msgspec.MsgspecError as error:
        raise InvalidValue(f"this is no alarm of CloudWatch: {error}", operation="decode") from None
    return AlarmNotice(
        id=sns.id,
        name=found.name,
        description=found.description or "",
        state=_STATES[found.state],
        before=_STATES.get(found.before, "insufficient"),
        reason=found.reason,
        metric=found.trigger.metric,
        dimensions=dict(map(_dimension, found.trigger.dimensions)),
        changed=_time(found.changed),
    )


def _dimension(told: Mapping[str, str]) -> tuple[str, str]:
    """CloudWatch writes {"name": …, "value": …} here, and everywhere else {"Name": …, "Value": …}."""
    fields = {name.lower(): value for name, value in told.items()}
    return fields.get("name", ""), fields.get("value", "")


def _time(text: str) -> datetime | None:
    """CloudWatch writes "2026-11-21T07:10:31.123+0000"."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


# DynamoDB streams


class _StreamRecord(msgspec.Struct, kw_only=True):
    keys: dict[str, Any] = msgspec.field(name="Keys", default_factory=dict)
    new: dict[str, Any] | None = msgspec.field(name="NewImage", default=None)
    old: dict[str, Any] | None = msgspec.field(name="OldImage", default=None)
    sequence: str = msgspec.field(name="SequenceNumber")
    made_s: float = msgspec.field(name="ApproximateCreationDateTime", default=0.0)


class _Identity(_Event, kw_only=True):
    type: str = ""
    principal_id: str = ""


class _DynamoRecord(_Event, kw_only=True):
    event_name: Literal["INSERT", "MODIFY", "REMOVE"]
    dynamodb: _StreamRecord
    arn: str = msgspec.field(name="eventSourceARN")
    user_identity: _Identity | None = None


class _DynamoEvent(msgspec.Struct):
    records: list[_DynamoRecord] = msgspec.field(name="Records")


class StreamChange(msgspec.Struct, frozen=True, kw_only=True):
    """A change of an item, images in DynamoDB's typed JSON. `by_service`: time to live has removed it."""

    kind: Literal["INSERT", "MODIFY", "REMOVE"]
    table: str
    keys: Mapping[str, Any]
    new: Mapping[str, Any] | None
    old: Mapping[str, Any] | None
    sequence: str
    made_ms: int
    by_service: bool


def read_stream(event: Any) -> list[StreamChange]:
    """The changes of a batch in their order; `failed_items` takes the `sequence` of the first that failed."""
    return [_change(record) for record in _read(event, _DynamoEvent, "a stream of DynamoDB").records]


def _change(record: _DynamoRecord) -> StreamChange:
    made, who = record.dynamodb, record.user_identity
    return StreamChange(
        kind=record.event_name,
        table=record.arn.partition(":table/")[2].partition("/")[0],
        keys=made.keys,
        new=made.new,
        old=made.old,
        sequence=made.sequence,
        made_ms=round(made.made_s * 1000),
        by_service=who is not None and (who.type, who.principal_id) == ("Service", "dynamodb.amazonaws.com"),
    )
