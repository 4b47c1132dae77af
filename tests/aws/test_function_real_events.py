"""Events as the stand-in itself makes them: what S3 and CloudWatch tell, as functions read it."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

import botocore.session
import pytest

from headwater.functions.decoding import read_alarms, read_s3

pytestmark = pytest.mark.usefixtures("aws")
PATIENCE_S = 20.0


class Inbox:
    """A queue that others tell things to."""

    def __init__(self, name: str) -> None:
        session = botocore.session.get_session()
        self._sqs = session.create_client("sqs")
        self._url = self._sqs.create_queue(QueueName=name)["QueueUrl"]
        found = self._sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=["QueueArn"])
        self.arn = str(found["Attributes"]["QueueArn"])

    def read(self, wanted: int) -> list[dict[str, Any]]:
        found, end = list[dict[str, Any]](), time.monotonic() + PATIENCE_S
        while len(found) < wanted:
            assert time.monotonic() < end, f"{len(found)} of {wanted} came: {found}"
            for message in self._sqs.receive_message(QueueUrl=self._url, WaitTimeSeconds=1).get("Messages", []):
                found.append(json.loads(message["Body"]))
                self._sqs.delete_message(QueueUrl=self._url, ReceiptHandle=message["ReceiptHandle"])
        return found


@pytest.fixture
def inbox(aws: object, stack: str) -> Inbox:
    return Inbox(f"{stack}-inbox")


def test_notices_of_s3(inbox: Inbox, stack: str) -> None:
    s3, bucket = botocore.session.get_session().create_client("s3"), f"{stack}-drop"
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    told = {"QueueArn": inbox.arn, "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]}
    s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration={"QueueConfigurations": [told]})
    key = "in box/a+b 100% ü.csv"
    etag = s3.put_object(Bucket=bucket, Key=key, Body=b"one")["ETag"].strip('"')
    s3.delete_object(Bucket=bucket, Key=key)
    events = inbox.read(3)
    assert sum(event.get("Event") == "s3:TestEvent" for event in events) == 1
    notices = sorted((notice for event in events for notice in read_s3(event)), key=lambda notice: notice.sequencer)
    assert [(notice.kind, notice.bucket, notice.key) for notice in notices] == [
        ("created", bucket, key),
        ("removed", bucket, key),
    ]
    assert (notices[0].etag, notices[0].size) == (etag, 3)
    assert notices[0].sequencer


def test_an_alarm_of_cloudwatch(inbox: Inbox, stack: str) -> None:
    session = botocore.session.get_session()
    sns, cloudwatch = session.create_client("sns"), session.create_client("cloudwatch")
    topic = sns.create_topic(Name=f"{stack}-watch")["TopicArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=inbox.arn)
    cloudwatch.put_metric_alarm(
        AlarmName=f"{stack}-alarm",
        AlarmDescription="headwater:dead-letters:shop/orders: words",
        AlarmActions=[topic],
        Namespace="AWS/SQS",
        MetricName="ApproximateNumberOfMessagesVisible",
        Dimensions=[{"Name": "QueueName", "Value": "orders-dead"}],
        Statistic="Maximum",
        Period=60,
        EvaluationPeriods=1,
        Threshold=0,
        ComparisonOperator="GreaterThanThreshold",
        TreatMissingData="notBreaching",
    )
    cloudwatch.set_alarm_state(AlarmName=f"{stack}-alarm", StateValue="ALARM", StateReason="by a test")
    told = next(one for one in inbox.read(1) if one["Type"] == "Notification")
    (alarm,) = read_alarms({"Records": [{"EventSource": "aws:sns", "Sns": told}]})
    assert (alarm.id, alarm.name, alarm.state) == (told["MessageId"], f"{stack}-alarm", "alarm")
    assert alarm.description == "headwater:dead-letters:shop/orders: words"
    assert (alarm.metric, alarm.dimensions) == ("ApproximateNumberOfMessagesVisible", {"QueueName": "orders-dead"})
    assert alarm.changed is not None
    assert abs((datetime.now(UTC) - alarm.changed).total_seconds()) < 120
