"""Queues, topics and subscriptions in Terraform."""

from __future__ import annotations

import json
from collections.abc import Iterator

from headwater.deploy import model
from headwater.deploy.terraform.form import Form, Made
from headwater.deploy.text import literal


def queue(form: Form, one: model.Queue) -> Iterator[Made]:
    redrive = {"deadLetterTargetArn": f"${{{one.dead}.arn}}", "maxReceiveCount": one.max_receives}
    fifo = {
        "fifo_queue": True,
        "content_based_deduplication": False,
        "deduplication_scope": "messageGroup",
        "fifo_throughput_limit": "perMessageGroupId",
    }
    body = {
        "name": one.name,
        **(fifo if one.fifo else {}),
        "visibility_timeout_seconds": one.visibility_s,
        "message_retention_seconds": one.retention_s,
        "delay_seconds": one.delay_s,
        "receive_wait_time_seconds": 20,
        "sqs_managed_sse_enabled": True,
        "redrive_policy": json.dumps(redrive, separators=(",", ":")) if one.dead else None,
    }
    yield Made(id=one.id, type="aws_sqs_queue", body=body)


def queue_policy(form: Form, one: model.QueuePolicy) -> Iterator[Made]:
    body = {"queue_url": f"${{{one.queue}.url}}", "policy": form.document(one.statements)}
    yield Made(id=one.id, type="aws_sqs_queue_policy", body=body)


def topic(form: Form, one: model.Topic) -> Iterator[Made]:
    yield Made(id=one.id, type="aws_sns_topic", body={"name": one.name, "kms_master_key_id": one.key})


def topic_policy(form: Form, one: model.TopicPolicy) -> Iterator[Made]:
    body = {"arn": f"${{{one.topic}.arn}}", "policy": form.document(one.statements)}
    yield Made(id=one.id, type="aws_sns_topic_policy", body=body)


def subscription(form: Form, one: model.Subscription) -> Iterator[Made]:
    body = {
        "topic_arn": one.topic,
        "protocol": one.protocol,
        "endpoint": one.endpoint,
        "raw_message_delivery": True if one.protocol == "sqs" else None,
        "filter_policy_scope": "MessageBody" if one.filter else None,
        "filter_policy": literal(json.dumps(one.filter, separators=(",", ":"))) if one.filter else None,
    }
    yield Made(id=one.id, type="aws_sns_topic_subscription", body=body)
