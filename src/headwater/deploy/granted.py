"""The accesses of each unit: what its runtime calls for itself, and what the grants of its code come to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from headwater.aws import stored
from headwater.aws.journal import piece_key
from headwater.aws.shapes import index_name
from headwater.deploy.functions import ASYNCHRONOUS, streams
from headwater.deploy.messages import inbox_name, lost_name
from headwater.deploy.permissions import CHECKS, NEEDS, NOT_HERE, READING, Access, Place
from headwater.deploy.plan import SYSTEM, Plan, Unit
from headwater.deploy.storage import OBJECTS
from headwater.loads import EXPANSIONS, LOADS
from headwater.permits import Grant

_TAKE = ("sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage")
"""What Lambda asks of a role to receive for it."""
_STREAM = ("dynamodb:DescribeStream", "dynamodb:GetRecords", "dynamodb:GetShardIterator")
_QUERY, _GET, _PUT, _CHECK = (
    ("dynamodb:Query",),
    ("dynamodb:GetItem",),
    ("dynamodb:PutItem",),
    ("dynamodb:ConditionCheckItem",),
)
_CLAIMS, _CATALOG = "claim#*", stored.CATALOG
_OWN_GRANTS: dict[str, tuple[tuple[str, str, str], ...]] = {
    f"{SYSTEM}/alarm-events": (("alarm-states", "table", "get"), ("alarm-states", "table", "put")),
    f"{SYSTEM}/outgoing": (("mails", "table", "get"), ("mails", "table", "put"), ("alarms", "topic", "publish")),
    f"{SYSTEM}/digest-ends": (
        ("mails", "table", "put"),
        ("folded", "table", "get"),
        ("folded", "table", "delete"),
        ("digests", "table", "get"),
        ("digests", "table", "delete"),
        ("digest-ends", "queue", "send"),
    ),
    f"{SYSTEM}/alarm": (("alarm-states", "table", "put"), ("alarms", "topic", "publish")),
    f"{SYSTEM}/tick": (("schedules", "table", "get"), ("schedules", "table", "put"), ("alarms", "topic", "publish")),
}
"""Of Headwater's own handlers and functions, as (name, kind, verb)."""


def unit_grants(plan: Plan, unit: Unit) -> dict[str, list[Grant]]:
    """The grants of all units of code that run in a function: a queue's handler, or each endpoint of an app."""
    own = unit.resource if unit.kind == "queue" else unit.setting
    if own == EXPANSIONS:
        return {own: [Grant(table, "table", "load") for table in plan.loaded]}
    if own in _OWN_GRANTS:
        grants = [Grant(f"{SYSTEM}/{name}", kind, verb) for name, kind, verb in _OWN_GRANTS[own]]  # type: ignore[arg-type]
        return {own: grants}
    if unit.kind == "queue":
        return {unit.resource: plan.grants.get(unit.resource, [])}
    if unit.kind == "http":
        return {name: found for name, found in plan.grants.items() if name.startswith(f"{unit.resource} ")}
    return {}


def accesses(plan: Plan, unit: Unit) -> Iterator[Access]:
    """Every action of the unit, on the ARN that it goes to."""
    yield from runtime_accesses(plan, unit)
    for grants in unit_grants(plan, unit).values():
        writes = any(grant.verb not in READING for grant in grants)
        for grant in grants:
            yield from _granted(plan, grant, checked=writes)


def _granted(plan: Plan, grant: Grant, *, checked: bool) -> Iterator[Access]:
    if (grant.kind, grant.verb) in NOT_HERE:
        return
    needs = NEEDS[grant.kind, grant.verb]
    if checked and grant.verb in ("get", "query"):
        needs += CHECKS.get(grant.kind, ())
    for need in needs:
        keys = tuple(key.replace("{}", grant.resource) for key in need.keys)
        for arn in place_arns(plan, need.place, grant.resource):
            yield from _on(need.actions, arn, *keys)


def runtime_accesses(plan: Plan, unit: Unit) -> Iterator[Access]:
    """What the runtime itself calls, whatever the code does."""
    store = plan.own_table_arn(plan.names.store)
    if unit not in plan.containers:
        group = plan.arn("logs", f"log-group:/aws/lambda/{plan.function_name(unit)}:*")
        yield from _on(("logs:CreateLogStream", "logs:PutLogEvents"), group)
    yield from _on(_QUERY, store, _CATALOG)
    if plan.config.trace_sample and unit.kind != "relay":
        yield from _on((*_GET, *_PUT), plan.table_arn(f"{SYSTEM}/spans"))
    if unit.kind in ASYNCHRONOUS:
        yield Access("sqs:SendMessage", plan.arn("sqs", lost_name(plan)))
    match unit.kind:
        case "queue":
            yield from _consumer(plan, unit, store)
        case "http":
            yield from _on((*_GET, *_PUT), store, _CLAIMS)
            yield from _on(_GET, plan.table_arn(f"{SYSTEM}/keys"))
            yield from _on(("dynamodb:BatchGetItem", *_GET, *_PUT), plan.table_arn(f"{SYSTEM}/usage"))
        case "letters":
            yield from _letters(plan, store)
        case "relay":
            yield from _relay(plan, store)
        case "alarm":
            yield from _on(_PUT, store, _CLAIMS)
        case "tick":
            yield from _on(_PUT, plan.own_table_arn(plan.names.outbox))
        case "objects":
            yield from _objects(plan)


def _consumer(plan: Plan, unit: Unit, store: str) -> Iterator[Access]:
    """Of a function or a container that consumes a queue."""
    queue, arn = unit.resource, plan.queue_arn(unit.resource)
    take = _TAKE if unit in plan.functions else ("sqs:DeleteMessage", "sqs:ReceiveMessage")
    yield from _on((*take, "sqs:ChangeMessageVisibility", "sqs:GetQueueUrl"), arn)
    yield from _on((*_CHECK, *_PUT), store, *_ends(queue))
    yield from _on((*_GET, *_PUT), store, _CLAIMS)
    yield from _on(_QUERY, store, f"attempts#*/{queue}")
    yield from _on(_QUERY, plan.own_table_arn(plan.names.journal), piece_key("*"))
    if queue == f"{SYSTEM}/outgoing" and plan.config.ses is not None:
        yield Access("ses:SendEmail", plan.arn("ses", "identity/${param.MailIdentity}"))
        if plan.config.ses.configuration_set:
            yield Access("ses:SendEmail", plan.arn("ses", f"configuration-set/{plan.config.ses.configuration_set}"))


def _ends(queue: str) -> tuple[str, ...]:
    """Where the store keeps how messages of a queue ended: markers, failures, dead letters."""
    return f"done#*/{queue}", f"done#*/{queue}#*", f"attempts#*/{queue}", f"dead#{queue}"


def _letters(plan: Plan, store: str) -> Iterator[Access]:
    for queue in plan.queues:
        yield from _on(_TAKE, plan.queue_arn(queue, dead=True))
    yield from _on(_PUT, store, "done#*", "attempts#*", "dead#*")
    yield from _on(_QUERY, store, "attempts#*")
    yield from _on(_QUERY, plan.own_table_arn(plan.names.journal), piece_key("*"))


def _relay(plan: Plan, store: str) -> Iterator[Access]:
    for stream in streams(plan):
        yield from _on(_STREAM, stream.granted)
    for queue in plan.queues:
        yield from _on(("sqs:GetQueueUrl", "sqs:SendMessage"), plan.queue_arn(queue))
    for topic in plan.topics:
        yield Access("sns:Publish", plan.topic_arn(topic))
    for topic in plan.imports:
        yield from _on(_TAKE, plan.arn("sqs", inbox_name(plan, topic)))
    yield Access("sqs:SendMessage", plan.arn("sqs", lost_name(plan)))
    yield from _on(("dynamodb:BatchWriteItem",), plan.own_table_arn(plan.names.journal))
    yield from _on(_GET, store, _CATALOG)
    yield from _on(_PUT, store, "dead#*", "done#*")
    yield Access("scheduler:CreateSchedule", plan.arn("scheduler", f"schedule/{plan.stack}/later-*"))
    yield Access("iam:PassRole", f"arn:${{partition}}:iam::${{account}}:role/{plan.names.role(SYSTEM, 'delays')}")


def _objects(plan: Plan) -> Iterator[Access]:
    """What came into a bucket from outside is put as an object of ours."""
    for bucket in plan.drops:
        yield from _granted(plan, Grant(bucket, "bucket", "put"), checked=True)
        yield from _granted(plan, Grant(bucket, "bucket", "delete"), checked=True)
        yield Access("s3:GetObject", f"{plan.bucket_arn(bucket)}/*")
        yield Access("s3:ListBucket", plan.bucket_arn(bucket))
    yield from _on((*_GET, *_PUT), plan.table_arn(f"{SYSTEM}/drops"))


def _on(actions: Iterable[str], arn: str, *keys: str) -> Iterator[Access]:
    return (Access(action, arn, keys) for action in actions)


def place_arns(plan: Plan, place: Place, resource: str) -> list[str]:
    """Where a need of this resource goes."""
    if place in _OF_STACK:
        return _OF_STACK[place](plan)
    match place:
        case "indexes":
            return _indexes(plan, resource)
        case "gone" | "versions":
            table = f"{resource}.{place}"
            return [plan.table_arn(table)] if table in plan.catalog.tables else []
        case "ledger":
            return [plan.table_arn(table) for table in _ledger(resource)]
        case "ledger-indexes":
            return [arn for table in _ledger(resource) for arn in _indexes(plan, table)]
        case "depth":
            return [plan.queue_arn(resource)] if plan.catalog.queues[resource].max_depth else []
    return [plan.table_arn(resource)]


_OF_STACK: dict[str, Callable[[Plan], list[str]]] = {
    "outbox": lambda plan: [plan.own_table_arn(plan.names.outbox)],
    "journal": lambda plan: [plan.own_table_arn(plan.names.journal)],
    "staging": lambda plan: [plan.own_table_arn(plan.names.store)],
    "bytes": lambda plan: [f"{plan.bucket_arn(OBJECTS)}/*"],
    "objects": lambda plan: [plan.bucket_arn(OBJECTS)],
    "mail": lambda plan: [plan.table_arn(f"{SYSTEM}/{table}") for table in ("mails", "digests", "folded")],
    "loads": lambda plan: [plan.table_arn(LOADS)],
    "loads-index": lambda plan: _indexes(plan, LOADS),
}


def _indexes(plan: Plan, table: str) -> list[str]:
    return [f"{plan.table_arn(table)}/index/{index_name(index.name)}" for index in plan.catalog.tables[table].indexes]


def _ledger(operation: str) -> tuple[str, ...]:
    """The tables of a tracked operation (`operations.ledger`)."""
    return operation, f"{operation}-open", f"{operation}-contracts"
