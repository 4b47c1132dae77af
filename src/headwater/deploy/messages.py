"""Queues and topics of a stack, and the subscriptions between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from headwater.aws.shapes import QueueShape, queue_shape
from headwater.catalog import QueueSpec
from headwater.deploy.model import (
    EncryptionKey,
    Output,
    Parameter,
    Queue,
    QueuePolicy,
    Resource,
    Statement,
    StoredParameter,
    Subscription,
    Topic,
    TopicPolicy,
)
from headwater.deploy.plan import SYSTEM, Plan, Unit
from headwater.deploy.storage import tls_only
from headwater.deploy.timing import function_timeout_s

MOST_RECEIVES = 1000
"""SQS's own limit."""
VISIBILITY_FACTOR = 6
"""https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html"""
WATCH = f"{SYSTEM}/watch"
"""The topic that CloudWatch tells of alarms."""
LOST = f"{SYSTEM}/lost"
"""The queue of what AWS has given up: places in streams, and events that a function has failed for."""
_TOPIC_ACTIONS = (
    "sns:AddPermission",
    "sns:DeleteTopic",
    "sns:GetTopicAttributes",
    "sns:ListSubscriptionsByTopic",
    "sns:Publish",
    "sns:RemovePermission",
    "sns:SetTopicAttributes",
    "sns:Subscribe",
)
"""SNS knows no "sns:*" in the policies of topics."""


def queues(plan: Plan) -> Iterator[Resource]:
    for name in sorted(plan.queues):
        spec = plan.catalog.queues[name]
        shape = queue_shape(plan.names, spec)
        made, dead = plan.id(name, "Queue"), plan.id(name, "DeadQueue")
        yield Queue(
            id=dead,
            name=shape.dead_name,
            fifo=spec.fifo,
            retention_s=int(shape.dead_attributes["MessageRetentionPeriod"]),
            visibility_s=VISIBILITY_FACTOR * function_timeout_s(plan, Unit(SYSTEM, "letters")),
        )
        yield _queue(plan, made, dead, spec, shape)
        senders = [plan.topic_arn(leg.topic) for leg in plan.ways.legs if leg.queue == name]
        yield _policy(made, plan.queue_arn(name), senders)
        yield _policy(dead, plan.queue_arn(name, dead=True))
    yield Queue(id=plan.id(LOST, "Queue"), name=lost_name(plan))
    yield _policy(plan.id(LOST, "Queue"), plan.arn("sqs", lost_name(plan)))


def lost_name(plan: Plan) -> str:
    return plan.names.queue(LOST, fifo=False)


def _queue(plan: Plan, id: str, dead: str, spec: QueueSpec, shape: QueueShape) -> Queue:
    given_s = int(shape.attributes["VisibilityTimeout"])
    unit = Unit(spec.name, "queue")
    run_s = function_timeout_s(plan, unit) if unit in plan.functions else 0
    return Queue(
        id=id,
        name=shape.name,
        fifo=spec.fifo,
        visibility_s=max(given_s, VISIBILITY_FACTOR * run_s),
        retention_s=int(shape.attributes["MessageRetentionPeriod"]),
        delay_s=int(shape.attributes["DelaySeconds"]),
        dead=dead,
        max_receives=shape.max_receives,
    )


def _policy(queue: str, arn: str, topics: Sequence[str] = ()) -> QueuePolicy:
    """TLS only; topics may send what they have to pass on."""
    statements = [tls_only("sqs:*", (arn,))]
    if topics:
        statements.append(
            Statement(
                sid="FromTopics",
                principal=("Service", ("sns.amazonaws.com",)),
                actions=("sqs:SendMessage",),
                resources=(arn,),
                conditions={"ArnEquals": {"aws:SourceArn": tuple(sorted(topics))}},
            )
        )
    return QueuePolicy(id=f"{queue}Policy", queue=queue, statements=tuple(statements))


# Topics


def topic_id(plan: Plan, topic: str) -> str:
    return plan.id(topic, "Topic")


def topics(plan: Plan) -> Iterator[Resource]:
    """Those that pass something on: to queues here, or to other stacks."""
    for name in plan.topics:
        made = topic_id(plan, name)
        yield Topic(id=made, name=plan.names.topic(name))
        statements = [_topic_tls(plan.topic_arn(name))]
        if name in plan.aws.exports and plan.aws.accounts:
            accounts = tuple(f"arn:${{partition}}:iam::{account}:root" for account in sorted(plan.aws.accounts))
            statements.append(
                Statement(
                    sid="Followers",
                    principal=("AWS", accounts),
                    actions=("sns:Subscribe",),
                    resources=(plan.topic_arn(name),),
                    conditions={"StringEquals": {"sns:Protocol": "sqs"}},
                )
            )
        yield TopicPolicy(id=f"{made}Policy", topic=made, statements=tuple(statements))
    for leg in plan.ways.legs:
        yield Subscription(
            id=plan.id(f"{leg.topic}/{leg.queue}", "Subscription"),
            topic=f"${{{topic_id(plan, leg.topic)}.arn}}",
            protocol="sqs",
            endpoint=f"${{{plan.id(leg.queue, 'Queue')}.arn}}",
            filter=leg.policy or {},
            after=(f"{plan.id(leg.queue, 'Queue')}Policy",),
        )
    for name in sorted(plan.aws.exports):
        yield StoredParameter(
            id=plan.id(name, "TopicParameter"),
            name=stored_topic(plan.stack, name),
            value=f"${{{topic_id(plan, name)}.arn}}",
            description=f"ARN of the topic {name}",
        )


def _topic_tls(arn: str) -> Statement:
    return Statement(
        sid="TlsOnly",
        effect="Deny",
        principal=("AWS", ("*",)),
        actions=_TOPIC_ACTIONS,
        resources=(arn,),
        conditions={"Bool": {"aws:SecureTransport": "false"}},
    )


def stored_topic(stack: str, topic: str) -> str:
    """Where a stack writes the ARN of a topic that others may follow."""
    return f"/headwater/{stack}/topics/{topic}"


# Topics of other stacks: their messages come into a queue, and the relay routes them as if they were made here


def followed(plan: Plan) -> Iterator[Resource]:
    for topic in sorted(plan.imports):
        queue, arn = plan.id(topic, "Inbox"), plan.arn("sqs", inbox_name(plan, topic))
        dead_name = plan.names.dead_queue(f"{SYSTEM}/inbox-{topic}", fifo=False)
        yield Queue(id=f"{queue}Dead", name=dead_name)
        yield _policy(f"{queue}Dead", plan.arn("sqs", dead_name))
        yield Queue(
            id=queue,
            name=inbox_name(plan, topic),
            visibility_s=VISIBILITY_FACTOR * function_timeout_s(plan, Unit(SYSTEM, "relay")),
            dead=f"{queue}Dead",
            max_receives=MOST_RECEIVES,
        )
        yield _policy(queue, arn, [f"${{param.{queue}Topic}}"])
        yield Subscription(
            id=f"{queue}Subscription",
            topic=f"${{param.{queue}Topic}}",
            protocol="sqs",
            endpoint=f"${{{queue}.arn}}",
            after=(f"{queue}Policy",),
        )


def inbox_name(plan: Plan, topic: str) -> str:
    return plan.names.queue(f"{SYSTEM}/inbox-{topic}", fifo=False)


def followed_parameters(plan: Plan) -> Iterator[Parameter]:
    for topic, stack in sorted(plan.imports.items()):
        yield Parameter(
            id=f"{plan.id(topic, 'Inbox')}Topic",
            description=f"ARN of the topic {topic} of the stack {stack}",
            default=stored_topic(stack, topic),
            stored=True,
        )


def topic_outputs(plan: Plan) -> Iterator[Output]:
    for name in sorted(plan.aws.exports):
        yield Output(
            id=plan.id(name, "TopicArn"),
            value=f"${{{topic_id(plan, name)}.arn}}",
            description=f"The topic {name}, for other stacks",
            export=f"{plan.stack}:{name.replace('/', ':')}",
        )


# The topic of alarms: CloudWatch can only use a key that lets it


def watch(plan: Plan) -> Iterator[Resource]:
    key, topic = plan.id(WATCH, "Key"), topic_id(plan, WATCH)
    yield EncryptionKey(
        id=key,
        description=f"{plan.stack}: messages about alarms",
        statements=(
            Statement(
                sid="Administration",
                principal=("AWS", ("arn:${partition}:iam::${account}:root",)),
                actions=("kms:*",),
                resources=("*",),
                why="a key's policy speaks of its key alone, and one that the account cannot change is lost",
            ),
            Statement(
                sid="Alarms",
                principal=("Service", ("cloudwatch.amazonaws.com",)),
                actions=("kms:Decrypt", "kms:GenerateDataKey"),
                resources=("*",),
                conditions={"StringEquals": {"aws:SourceAccount": "${account}"}},
                why="a key's policy speaks of its key alone",
            ),
        ),
    )
    yield Topic(id=topic, name=plan.names.topic(WATCH), key=f"${{{key}.arn}}")
    arn = plan.topic_arn(WATCH)
    alarms = Statement(
        sid="Alarms",
        principal=("Service", ("cloudwatch.amazonaws.com",)),
        actions=("sns:Publish",),
        resources=(arn,),
        conditions={
            "ArnLike": {"aws:SourceArn": plan.arn("cloudwatch", f"alarm:{plan.stack}-*")},
            "StringEquals": {"aws:SourceAccount": "${account}"},
        },
    )
    yield TopicPolicy(id=f"{topic}Policy", topic=topic, statements=(_topic_tls(arn), alarms))
    yield Subscription(
        id=plan.id(WATCH, "MailSubscription"),
        topic=f"${{{topic}.arn}}",
        protocol="email",
        endpoint="${param.AlarmEmail}",
        only_if="AlarmEmail",
    )
