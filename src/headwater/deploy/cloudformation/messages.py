"""Queues, topics and subscriptions in CloudFormation."""

from __future__ import annotations

from collections.abc import Iterator

from headwater.deploy import model
from headwater.deploy.cloudformation.form import Form, Made
from headwater.deploy.policies import policy_document


def queue(form: Form, one: model.Queue) -> Iterator[Made]:
    redrive = {"deadLetterTargetArn": f"${{{one.dead}.arn}}", "maxReceiveCount": one.max_receives}
    fifo = {
        "FifoQueue": True,
        "ContentBasedDeduplication": False,
        "DeduplicationScope": "messageGroup",
        "FifoThroughputLimit": "perMessageGroupId",
    }
    yield Made(
        id=one.id,
        type="AWS::SQS::Queue",
        properties={
            "QueueName": one.name,
            **(fifo if one.fifo else {}),
            "VisibilityTimeout": one.visibility_s,
            "MessageRetentionPeriod": one.retention_s,
            "DelaySeconds": one.delay_s,
            "ReceiveMessageWaitTimeSeconds": 20,
            "SqsManagedSseEnabled": True,
            "RedrivePolicy": redrive if one.dead else None,
            "Tags": form.tags,
        },
    )


def queue_policy(form: Form, one: model.QueuePolicy) -> Iterator[Made]:
    properties = {"Queues": [f"${{{one.queue}.url}}"], "PolicyDocument": policy_document(one.statements)}
    yield Made(id=one.id, type="AWS::SQS::QueuePolicy", properties=properties)


def topic(form: Form, one: model.Topic) -> Iterator[Made]:
    properties = {"TopicName": one.name, "KmsMasterKeyId": one.key, "Tags": form.tags}
    yield Made(id=one.id, type="AWS::SNS::Topic", properties=properties)


def topic_policy(form: Form, one: model.TopicPolicy) -> Iterator[Made]:
    properties = {"Topics": [f"${{{one.topic}.arn}}"], "PolicyDocument": policy_document(one.statements)}
    yield Made(id=one.id, type="AWS::SNS::TopicPolicy", properties=properties)


def subscription(form: Form, one: model.Subscription) -> Iterator[Made]:
    yield Made(
        id=one.id,
        type="AWS::SNS::Subscription",
        properties={
            "TopicArn": one.topic,
            "Protocol": one.protocol,
            "Endpoint": one.endpoint,
            "RawMessageDelivery": True if one.protocol == "sqs" else None,
            "FilterPolicyScope": "MessageBody" if one.filter else None,
            "FilterPolicy": one.filter or None,
        },
        after=one.after,
    )
