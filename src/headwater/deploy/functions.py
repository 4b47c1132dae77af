"""Functions of a stack: their code, logs, environment, and what calls them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from headwater.deploy.messages import LOST, WATCH, topic_id
from headwater.deploy.model import (
    EventSource,
    Function,
    LogGroup,
    Parameter,
    Permission,
    Resource,
    Subscription,
    Version,
)
from headwater.deploy.network import placed
from headwater.deploy.plan import SYSTEM, Plan, Unit
from headwater.deploy.storage import OBJECTS
from headwater.deploy.text import literal
from headwater.deploy.timing import batch_of, function_timeout_s
from headwater.errors import DeclarationError

LIVE = "live"
CODE_BUCKET = "CodeBucket"
MOST_CONCURRENT, LEAST_CONCURRENT = 1000, 2
STREAM_BATCH, STREAM_RETRIES, STREAM_AGE_S = 100, -1, 86_400
"""What a stream's function cannot deal with is tried until the stream forgets it."""
ASYNCHRONOUS = frozenset({"alarm", "tick", "objects"})
"""Kinds that SNS, schedules and S3 call: AWS gives up what has failed three times."""
_DESCRIPTIONS = {
    "relay": "From the streams of tables and of the outbox to queues and topics",
    "letters": "What SQS gave up becomes dead letters",
    "alarm": "What CloudWatch tells becomes events",
    "tick": "Ticks of schedules become events",
    "objects": "What S3 tells becomes objects",
}


def functions(plan: Plan) -> Iterator[Resource]:
    for unit in plan.functions:
        yield from _function(plan, unit)
    yield from _queue_sources(plan)
    yield from _streams(plan)
    yield from _alarms(plan)


def function_parameters(plan: Plan) -> Iterator[Parameter]:
    yield Parameter(id=CODE_BUCKET, description="The bucket that has the deployment packages")
    for unit in {_code_key(plan, unit): unit for unit in plan.functions}.values():
        served = "the HTTP functions" if unit.kind == "http" else "the functions without HTTP"
        told = f"The key there of the package of {served} for {plan.architecture_of(unit)}"
        yield Parameter(id=_code_key(plan, unit), description=told)
    if plan.config.ses is not None and plan.sends_mail:
        yield Parameter(
            id="MailIdentity",
            description="The identity of SES that mail is sent by: a domain or an address",
            default=plan.config.ses.sender.rpartition("@")[2],
        )
    for name in (stream.table for stream in streams(plan) if stream.only_if):
        yield Parameter(
            id=stream_parameter(plan, name),
            description=f"ARN of the stream of the table {plan.aws.tables[name]}; without one it has no events",
            default="",
        )


def stream_parameter(plan: Plan, table: str) -> str:
    return plan.id(table, "StreamArn")


def _function(plan: Plan, unit: Unit) -> Iterator[Resource]:
    made, settings = plan.function_id(unit), plan.settings_of(unit)
    name = plan.function_name(unit)
    yield LogGroup(id=f"{made}Logs", name=f"/aws/lambda/{name}", days=plan.aws.log_days)
    function = Function(
        id=made,
        name=name,
        description=_DESCRIPTIONS.get(unit.kind) or _described(plan, unit),
        handler=f"headwater.functions.{unit.kind}.handle",
        runtime=f"python{plan.aws.python}",
        architecture=plan.architecture_of(unit),
        memory=settings.memory or plan.aws.memory,
        timeout_s=function_timeout_s(plan, unit),
        role=f"${{{plan.role_id(unit)}.arn}}",
        log_group=f"${{{made}Logs.name}}",
        env=environment(plan, unit),
        code=(f"${{param.{CODE_BUCKET}}}", f"${{param.{_code_key(plan, unit)}}}"),
        reserved=settings.reserved,
        network=placed(plan),
        dead=f"${{{plan.id(LOST, 'Queue')}.arn}}" if unit.kind in ASYNCHRONOUS else "",
        tracing=plan.aws.tracing,
    )
    yield function
    if settings.provisioned:
        yield Version(
            id=f"{made}Version",
            function=made,
            provisioned=settings.provisioned,
            alias=LIVE,
            state=f"{function.code[1]} {hashlib.sha256(msgspec.json.encode(function)).hexdigest()[:16]}",
        )


def _code_key(plan: Plan, unit: Unit) -> str:
    """The parameter with the package's key: HTTP needs more in it, and each architecture its own."""
    architecture = plan.architecture_of(unit)
    other = "" if architecture == plan.aws.architecture else architecture.replace("_", "").capitalize()
    return f"{'Http' if unit.kind == 'http' else ''}CodeKey{other}"


def _described(plan: Plan, unit: Unit) -> str:
    return f"HTTP API of {unit.resource}" if unit.kind == "http" else f"Handler of the queue {unit.resource}"


def environment(plan: Plan, unit: Unit) -> dict[str, str]:
    """The variables of a function or a container, in the order of their names."""
    config, aws = plan.config, plan.aws
    found = {
        **{name: literal(value) for name, value in aws.env.items()},
        **{name: f"${{secret.{name}}}" for name in aws.secrets},
        "HEADWATER_STORE": f"aws:{plan.stack}",
        "HEADWATER_ENV": config.environment,
        "HEADWATER_APPS": ",".join(config.apps),
        "HEADWATER_FUNCTION": unit.kind,
        "HEADWATER_ACCOUNT": "${account}",
        "HEADWATER_LOG": "json",
    }
    if plan.has_objects:
        found["HEADWATER_OBJECTS"] = f"s3://{plan.bucket_name(OBJECTS)}"
    if plan.serves_http:
        found["HEADWATER_PUBLIC_URL"] = config.public_url or f"${{{plan.id(SYSTEM, 'Api')}.url}}"
    if aws.tables:
        found["HEADWATER_TABLES"] = literal(json.dumps(aws.tables, sort_keys=True))
    if unit.kind == "queue":
        found["HEADWATER_QUEUE"] = unit.resource
    elif unit.kind == "http":
        found["HEADWATER_APP"] = unit.resource
    elif unit.kind == "objects":
        found["HEADWATER_BUCKETS"] = json.dumps({name: plan.bucket_name(name) for name in plan.drops}, sort_keys=True)
    elif unit.kind == "relay" and aws.exports:
        found["HEADWATER_EXPORTS"] = ",".join(sorted(aws.exports))
    return dict(sorted(found.items()))


# What calls them


def _queue_sources(plan: Plan) -> Iterator[EventSource]:
    letters = Unit(SYSTEM, "letters")
    for unit in plan.functions:
        if unit.kind == "queue":
            yield _of_queue(plan, unit)
    for name in plan.queues:
        yield EventSource(
            id=plan.id(name, "DeadQueueSource"),
            source=f"${{{plan.id(name, 'DeadQueue')}.arn}}",
            function=plan.target_of(letters),
            batch=10,
        )
    for topic in sorted(plan.imports):
        yield EventSource(
            id=plan.id(topic, "InboxSource"),
            source=f"${{{plan.id(topic, 'Inbox')}.arn}}",
            function=plan.target_of(Unit(SYSTEM, "relay")),
            batch=10,
        )


def _of_queue(plan: Plan, unit: Unit) -> EventSource:
    queue = unit.resource
    handler, fifo, batch = plan.handled[queue], plan.catalog.queues[queue].fifo, batch_of(plan, queue)
    wanted = plan.settings_of(unit).concurrency or (handler.concurrency if handler else LEAST_CONCURRENT)
    return EventSource(
        id=plan.id(queue, "QueueSource"),
        source=f"${{{plan.id(queue, 'Queue')}.arn}}",
        function=plan.target_of(unit),
        batch=batch,
        window_s=1 if batch > 10 and not fifo else 0,
        concurrency=min(max(wanted, LEAST_CONCURRENT), MOST_CONCURRENT),
    )


class Stream(NamedTuple):
    """A stream that the relay reads; `granted` is what its role says, `only_if` a parameter that must be given."""

    table: str
    id: str
    arn: str
    granted: str
    only_if: str = ""


def _streams(plan: Plan) -> Iterator[EventSource]:
    for stream in streams(plan):
        yield EventSource(
            id=f"{stream.id}Source",
            source=stream.arn,
            function=plan.target_of(Unit(SYSTEM, "relay")),
            batch=STREAM_BATCH,
            start="TRIM_HORIZON",
            dead=f"${{{plan.id(LOST, 'Queue')}.arn}}",
            retries=STREAM_RETRIES,
            max_age_s=STREAM_AGE_S,
            only_if=stream.only_if,
        )


def streams(plan: Plan) -> Iterator[Stream]:
    """Of the outbox, and of each table whose changes are events."""
    followed = [name for name in plan.tables if plan.catalog.tables[name].images != "none"]
    for name in (f"{SYSTEM}/outbox", *followed):
        made = plan.id(name, "Table")
        if name in plan.aws.tables:  # its stream's name ends in the time when it was made
            given = stream_parameter(plan, name)
            yield Stream(name, f"{made}Stream", f"${{param.{given}}}", f"{plan.table_arn(name)}/stream/*", given)
        else:
            yield Stream(name, f"{made}Stream", f"${{{made}.stream}}", f"${{{made}.stream}}")


def _alarms(plan: Plan) -> Iterator[Resource]:
    unit = Unit(SYSTEM, "alarm")
    yield Permission(
        id=plan.id(WATCH, "Permission"),
        function=plan.target_of(unit),
        service="sns.amazonaws.com",
        source=plan.topic_arn(WATCH),
    )
    yield Subscription(
        id=plan.id(WATCH, "FunctionSubscription"),
        topic=f"${{{topic_id(plan, WATCH)}.arn}}",
        protocol="lambda",
        endpoint=plan.target_of(unit),
    )


def check_environment(plan: Plan) -> None:
    """Lambda takes 4 KB of variables; raises `DeclarationError` before AWS does."""
    for unit in plan.functions:
        size = sum(len(name) + len(value) for name, value in environment(plan, unit).items())
        if size > 4096:
            raise DeclarationError(
                f"its variables have {size} bytes, AWS takes 4096", operation="synth", resource=unit.setting
            )
