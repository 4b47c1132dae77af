"""Events of AWS as functions are handed them: in the forms that AWS documents and `sam local generate-event` prints."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.errors import InvalidValue
from headwater.functions.decoding import (
    SCHEDULED_TIME,
    failed_items,
    is_later,
    read_alarms,
    read_ring,
    read_s3,
    read_sqs,
    read_stream,
    ring_input,
)

# SQS


def sqs_record(**more: Any) -> dict[str, Any]:
    return {
        "messageId": "19dd0b57-b21e-4ac1-bd88-01bbb068cb78",
        "receiptHandle": "MessageReceiptHandle",
        "body": "Hello from SQS!",
        "attributes": {
            "ApproximateReceiveCount": "2",
            "SentTimestamp": "1523232000000",
            "SenderId": "123456789012",
            "ApproximateFirstReceiveTimestamp": "1523232000001",
        },
        "messageAttributes": {},
        "md5OfBody": "7b270e59b47ff90a553787216d55d91d",
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:MyQueue",
        "awsRegion": "us-east-1",
        **more,
    }


def test_a_message_of_sqs() -> None:
    (message,) = read_sqs({"Records": [sqs_record()]})
    assert (message.id, message.receipt) == ("19dd0b57-b21e-4ac1-bd88-01bbb068cb78", "MessageReceiptHandle")
    assert (message.body, message.receives, message.sent_ms) == ("Hello from SQS!", 2, 1523232000000)
    assert (message.queue, message.group) == ("MyQueue", None)


def test_a_message_of_a_fifo_queue_has_its_group_and_trace() -> None:
    record = sqs_record()
    record["attributes"] |= {
        "SequenceNumber": "18849496460467696128",
        "MessageGroupId": "g",
        "MessageDeduplicationId": "1",
        "AWSTraceHeader": "Root=1-5759e988-bd862e3fe1be46a994272793",
    }
    (message,) = read_sqs({"Records": [record]})
    assert (message.group, message.trace_header) == ("g", "Root=1-5759e988-bd862e3fe1be46a994272793")


def test_attributes_of_raw_delivery_are_those_of_the_message() -> None:
    attribute = {"stringValue": "1", "stringListValues": [], "binaryListValues": [], "dataType": "Number"}
    binary = {"binaryValue": "AAEC", "dataType": "Binary"}
    (message,) = read_sqs({"Records": [sqs_record(messageAttributes={"n": attribute, "b": binary})]})
    assert message.attributes == {"n": "1"}


def test_what_sns_wraps_is_unwrapped() -> None:
    body = {
        "Type": "Notification",
        "MessageId": "95df01b4-ee98-5cb9-9903-4c221d41eb5e",
        "TopicArn": "arn:aws:sns:us-east-1:123456789012:MyTopic",
        "Message": '{"id":"a"}',
        "MessageAttributes": {"kind": {"Type": "String", "Value": "order"}},
    }
    (message,) = read_sqs({"Records": [sqs_record(body=json.dumps(body))]})
    assert (message.body, message.attributes) == ('{"id":"a"}', {"kind": "order"})


@pytest.mark.parametrize("body", ['{"Type":"Notification"}', 'a "Notification" in a text', '{"Type":"Other"}'])
def test_a_body_that_only_looks_like_a_notification_stays(body: str) -> None:
    (message,) = read_sqs({"Records": [sqs_record(body=body)]})
    assert message.body == body


@pytest.mark.parametrize(
    "event", [{}, {"Records": [{}]}, [], None, {"Records": [{**sqs_record(), "eventSource": "x"}]}]
)
def test_what_is_no_event_of_sqs_is_refused(event: Any) -> None:
    with pytest.raises(InvalidValue, match="no event of SQS"):
        read_sqs(event)


def test_the_partial_batch_response() -> None:
    assert failed_items(["a", "b"]) == {"batchItemFailures": [{"itemIdentifier": "a"}, {"itemIdentifier": "b"}]}


# S3


def s3_event(name: str = "ObjectCreated:Put", version: str = "2.1", **found: Any) -> dict[str, Any]:
    entity = {
        "s3SchemaVersion": "1.0",
        "configurationId": "testConfigRule",
        "bucket": {
            "name": "example-bucket",
            "ownerIdentity": {"principalId": "E"},
            "arn": "arn:aws:s3:::example-bucket",
        },
        "object": {
            "key": "test%2Fkey",
            "size": 1024,
            "eTag": "0123456789abcdef0123456789abcdef",
            "sequencer": "0A1B2C3D4E5F678901",
            **found,
        },
    }
    return {
        "Records": [
            {
                "eventVersion": version,
                "eventSource": "aws:s3",
                "awsRegion": "us-east-1",
                "eventTime": "1970-01-01T00:00:00.000Z",
                "eventName": name,
                "userIdentity": {"principalId": "EXAMPLE"},
                "requestParameters": {"sourceIPAddress": "127.0.0.1"},
                "responseElements": {"x-amz-request-id": "EXAMPLE123456789"},
                "s3": entity,
            }
        ]
    }


@pytest.mark.parametrize("version", ["2.0", "2.1", "2.2", "2.3", "2.6"])
def test_a_put_by_any_2x_record(version: str) -> None:
    (notice,) = read_s3(s3_event(version=version, versionId="v1"))
    assert (notice.kind, notice.bucket, notice.key) == ("created", "example-bucket", "test/key")
    assert (notice.size, notice.version, notice.sequencer) == (1024, "v1", "0A1B2C3D4E5F678901")
    assert notice.etag == "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("sent", "key"),
    [
        ("red+flower.jpg", "red flower.jpg"),
        ("a%2Bb.csv", "a+b.csv"),
        ("100%25.txt", "100%.txt"),
        ("b%C3%BCcher/%2e%2e/x", "bücher/../x"),
        ("%252F", "%2F"),
    ],
)
def test_keys_are_decoded(sent: str, key: str) -> None:
    (notice,) = read_s3(s3_event(key=sent))
    assert notice.key == key


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ObjectCreated:CompleteMultipartUpload", "created"),
        ("s3:ObjectCreated:Copy", "created"),
        ("ObjectRemoved:Delete", "removed"),
        ("ObjectRemoved:DeleteMarkerCreated", "removed"),
        ("LifecycleExpiration:Delete", "removed"),
    ],
)
def test_kinds_of_notices(name: str, kind: str) -> None:
    assert [notice.kind for notice in read_s3(s3_event(name))] == [kind]


@pytest.mark.parametrize("name", ["ObjectTagging:Put", "ObjectRestore:Completed", "ReducedRedundancyLostObject"])
def test_what_is_neither_a_put_nor_a_removal_is_passed_over(name: str) -> None:
    assert read_s3(s3_event(name)) == []


def test_a_test_event_is_passed_over() -> None:
    told = {"Service": "Amazon S3", "Event": "s3:TestEvent", "Time": "2026-01-01T00:00:00.000Z", "Bucket": "b"}
    assert read_s3(told) == []


def test_records_of_another_version_are_refused() -> None:
    with pytest.raises(InvalidValue, match=r"3\.0"):
        read_s3(s3_event(version="3.0"))


@pytest.mark.parametrize(
    ("one", "than", "later"),
    [
        ("0055AED6DCD90281E6", "0055AED6DCD90281E5", True),
        ("0055AED6DCD90281E5", "0055AED6DCD90281E5", False),
        ("0055aed6dcd90281e6", "0055AED6DCD90281E5", True),
        ("0056", "0055AED6DCD90281E5", True),
        ("0055", "0055AED6DCD90281E5", False),
        ("0055AED6", "0055AED60000", False),
        ("", "00", False),
    ],
)
def test_which_sequencer_is_later(one: str, than: str, later: bool) -> None:
    assert is_later(one, than) is later


_SEQUENCERS = st.text("0123456789ABCDEF", max_size=20)


@given(_SEQUENCERS, _SEQUENCERS)
def test_of_two_sequencers_at_most_one_is_later(one: str, other: str) -> None:
    assert not (is_later(one, other) and is_later(other, one))
    equal = one.ljust(20, "0") == other.ljust(20, "0")
    assert equal is not (is_later(one, other) or is_later(other, one))


# EventBridge Scheduler


def test_a_ring_is_what_the_schedules_input_becomes() -> None:
    sent = json.dumps(ring_input("shop/hourly")).replace(SCHEDULED_TIME, "2022-03-22T18:59:43Z")
    ring = read_ring(json.loads(sent))
    assert (ring.schedule, ring.nominal) == ("shop/hourly", datetime(2022, 3, 22, 18, 59, 43, tzinfo=UTC))
    assert ring.nominal_ms == 1647975583000


@pytest.mark.parametrize("event", [{}, {"schedule": "a", "nominal": SCHEDULED_TIME}])
def test_what_is_no_ring_is_refused(event: Any) -> None:
    with pytest.raises(InvalidValue, match="EventBridge Scheduler"):
        read_ring(event)


# CloudWatch over SNS


def alarm_event(**more: Any) -> dict[str, Any]:
    message = {
        "AlarmName": "shop-orders-dead-letters",
        "AlarmDescription": "headwater:dead-letters:shop/orders: it has dead letters",
        "AWSAccountId": "123456789012",
        "NewStateValue": "ALARM",
        "NewStateReason": "Threshold Crossed: 1 datapoint [1.0] was greater than the threshold (0.0).",
        "StateChangeTime": "2026-11-21T07:10:31.123+0000",
        "Region": "EU (Frankfurt)",
        "OldStateValue": "INSUFFICIENT_DATA",
        "Trigger": {
            "MetricName": "ApproximateNumberOfMessagesVisible",
            "Namespace": "AWS/SQS",
            "StatisticType": "Statistic",
            "Dimensions": [{"value": "shop-orders-dead", "name": "QueueName"}],
            "Period": 60,
        },
        **more,
    }
    sns = {
        "Type": "Notification",
        "MessageId": "95df01b4-ee98-5cb9-9903-4c221d41eb5e",
        "TopicArn": "arn:aws:sns:us-east-1:123456789012:watch",
        "Subject": "ALARM",
        "Message": json.dumps(message),
        "Timestamp": "1970-01-01T00:00:00.000Z",
        "MessageAttributes": {},
    }
    return {"Records": [{"EventVersion": "1.0", "EventSubscriptionArn": "arn:x", "EventSource": "aws:sns", "Sns": sns}]}


def test_an_alarm_of_cloudwatch() -> None:
    (alarm,) = read_alarms(alarm_event())
    assert (alarm.id, alarm.name) == ("95df01b4-ee98-5cb9-9903-4c221d41eb5e", "shop-orders-dead-letters")
    assert (alarm.state, alarm.before) == ("alarm", "insufficient")
    assert (alarm.metric, alarm.dimensions) == (
        "ApproximateNumberOfMessagesVisible",
        {"QueueName": "shop-orders-dead"},
    )
    assert alarm.changed == datetime(2026, 11, 21, 7, 10, 31, 123000, tzinfo=UTC)


def test_an_alarm_of_metric_math_has_no_metric_or_description() -> None:
    (alarm,) = read_alarms(alarm_event(AlarmDescription=None, Trigger={"Metrics": []}, StateChangeTime="?"))
    assert (alarm.description, alarm.metric, alarm.dimensions, alarm.changed) == ("", "", {}, None)


def test_a_message_that_is_no_alarm_is_refused() -> None:
    event = alarm_event()
    event["Records"][0]["Sns"]["Message"] = "hello"
    with pytest.raises(InvalidValue, match="no alarm of CloudWatch"):
        read_alarms(event)


# DynamoDB streams


def stream_record(name: str, **more: Any) -> dict[str, Any]:
    return {
        "eventID": "1",
        "eventVersion": "1.0",
        "eventName": name,
        "dynamodb": {
            "Keys": {"Id": {"N": "101"}},
            "NewImage": {"Message": {"S": "New item!"}, "Id": {"N": "101"}},
            "ApproximateCreationDateTime": 1428537600.5,
            "StreamViewType": "NEW_AND_OLD_IMAGES",
            "SequenceNumber": "111",
            "SizeBytes": 26,
        },
        "awsRegion": "us-east-1",
        "eventSource": "aws:dynamodb",
        "eventSourceARN": "arn:aws:dynamodb:us-east-1:123456789012:table/Example/stream/2015-06-27T00:48:05.899",
        **more,
    }


def test_a_change_of_an_item() -> None:
    (change,) = read_stream({"Records": [stream_record("INSERT")]})
    assert (change.kind, change.table, change.sequence, change.made_ms) == ("INSERT", "Example", "111", 1428537600500)
    assert (change.keys, change.old) == ({"Id": {"N": "101"}}, None)
    assert change.new == {"Message": {"S": "New item!"}, "Id": {"N": "101"}}
    assert not change.by_service


def test_what_time_to_live_removes_is_told_apart() -> None:
    service = {"type": "Service", "principalId": "dynamodb.amazonaws.com"}
    (by_service,) = read_stream({"Records": [stream_record("REMOVE", userIdentity=service)]})
    (by_hand,) = read_stream({"Records": [stream_record("REMOVE", userIdentity=None)]})
    assert (by_service.by_service, by_hand.by_service) == (True, False)
