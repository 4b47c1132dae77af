"""What each verb needs from IAM: the engine's own calls for it, on exactly the resources that they go to.

`NEEDS` maps (kind, verb) of a grant to what is called where. A place is the resource of the grant, or one that belongs
to it or to the stack. Actions are never patterns. `CHECKS` are needed besides by a unit that writes: what it has read
is a condition of its commit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, TypeAlias

from headwater.deploy.model import Statement

Place: TypeAlias = Literal[
    "table",
    "indexes",
    "gone",
    "versions",
    "ledger",
    "ledger-indexes",
    "outbox",
    "journal",
    "depth",
    "bytes",
    "objects",
    "mail",
    "loads",
    "loads-index",
    "staging",
]


class Need(NamedTuple):
    """`keys` are patterns of partition keys, if it is for some items alone; "{}" in them is the resource's name."""

    place: Place
    actions: tuple[str, ...]
    keys: tuple[str, ...] = ()


Needs: TypeAlias = tuple[Need, ...]
READING = frozenset({"get", "query", "list", "history", "loads", "erasures", "call", "receive"})
"""Verbs without an effect in the store."""

_GET = "dynamodb:GetItem"
_PUT = "dynamodb:PutItem"
_LOOK = "dynamodb:BatchGetItem"
_READ = Need("table", (_GET,))
_MERGE = Need("table", (_LOOK, _GET, _PUT))
_PAGES = ("dynamodb:Query", "dynamodb:Scan")
_QUERY = (Need("table", _PAGES), Need("indexes", _PAGES))
_EMIT = Need("outbox", (_PUT,))
_SEND = (_EMIT, Need("depth", ("sqs:GetQueueAttributes", "sqs:GetQueueUrl")))
_LEDGER = Need("ledger", (_LOOK, "dynamodb:ConditionCheckItem", _GET, _PUT))
_LEDGER_PAGES = (Need("ledger", _PAGES), Need("ledger-indexes", _PAGES))

_BYTES = (Need("bytes", ("s3:GetObject",)), Need("objects", ("s3:ListBucket",)))
"""Without ListBucket S3 says of an object that is not there that it is forbidden."""
STAGING = {
    "dynamodb:BatchGetItem": ("owner#{}#*",),
    "dynamodb:BatchWriteItem": ("loads#{}", "member#{}#*", "owner#{}#*", "staged#*"),
    "dynamodb:DeleteItem": ("loads#{}",),
    "dynamodb:GetItem": ("loads#{}",),
    "dynamodb:PutItem": ("loads#{}",),
    "dynamodb:Query": ("loads#{}", "member#{}#*", "staged#*"),
}
"""Of the store table, what a bulk load stages there (`aws.staged`)."""
NEEDS: Mapping[tuple[str, str], Needs] = {
    ("table", "get"): (_READ,),
    ("table", "query"): _QUERY,
    ("table", "put"): (Need("table", (_GET, _PUT)),),
    ("table", "update"): (_MERGE,),
    ("table", "delete"): (_MERGE,),
    ("table", "history"): (Need("journal", ("dynamodb:Query",)),),
    ("table", "load"): (
        Need("table", (_LOOK, _GET, _PUT, "dynamodb:UpdateItem")),
        Need("loads", ("dynamodb:Query", _PUT)),
        _EMIT,
        *(Need("staging", (action,), keys) for action, keys in STAGING.items()),
    ),
    ("table", "loads"): (Need("loads", ("dynamodb:Query",)), Need("loads-index", ("dynamodb:Query",))),
    ("table", "replay"): (Need("table", ("dynamodb:Scan",)), _EMIT),
    ("topic", "publish"): (_EMIT,),
    ("queue", "send"): _SEND,
    ("queue", "receive"): (),
    ("bucket", "get"): (_READ, Need("versions", (_GET,)), *_BYTES),
    ("bucket", "list"): (*_QUERY, Need("versions", ("dynamodb:Query",))),
    ("bucket", "put"): (
        Need("table", (_GET, _PUT)),
        Need("gone", (_GET, "dynamodb:ConditionCheckItem")),
        Need("versions", (_PUT,)),
        Need("bytes", ("s3:AbortMultipartUpload", "s3:DeleteObject", "s3:PutObject")),
    ),
    ("bucket", "delete"): (_MERGE, Need("gone", (_PUT,)), Need("versions", (_LOOK, _GET, _PUT))),
    ("bucket", "presign"): (),
    ("schedule", "run"): (_EMIT,),
    ("operation", "request"): (_LEDGER, _EMIT),
    ("operation", "cancel"): (_LEDGER, *_LEDGER_PAGES, _EMIT),
    ("operation", "poll"): (_LEDGER, *_LEDGER_PAGES, _EMIT),
    ("operation", "get"): (Need("ledger", (_GET,)), *_LEDGER_PAGES),
    ("operation", "query"): _LEDGER_PAGES,
    ("service", "call"): (),
    ("mail", "send"): (Need("mail", (_LOOK, "dynamodb:ConditionCheckItem", _GET, _PUT)), _EMIT),
    ("webhook", "send"): (),
}
NOT_HERE = frozenset({("table", "forget"), ("table", "erasures"), ("operation", "forget"), ("topic", "subscribe")})
"""Verbs that need nothing because the engine on AWS refuses them."""
CHECKS: Mapping[str, Needs] = {
    "table": (Need("table", ("dynamodb:ConditionCheckItem",)),),
    "bucket": (Need("table", ("dynamodb:ConditionCheckItem",)),),
    "operation": (Need("ledger", ("dynamodb:ConditionCheckItem",)),),
}


class Access(NamedTuple):
    """An action on an ARN; `keys` are patterns of the partition keys, if it is for some items of a table alone."""

    action: str
    arn: str
    keys: tuple[str, ...] = ()


def statements_of(accesses: Iterable[Access]) -> tuple[Statement, ...]:
    """As few statements as say exactly this: those resources together that have the same actions."""
    accesses = set(accesses)
    unbounded = {(access.action, access.arn) for access in accesses if not access.keys}
    keys: dict[tuple[str, str], set[str]] = defaultdict(set)
    for access in accesses:
        if (access.action, access.arn) not in unbounded:
            keys[access.action, access.arn].update(access.keys)
    actions: dict[tuple[str, tuple[str, ...]], set[str]] = defaultdict(set)
    for action, arn in unbounded:
        actions[arn, ()].add(action)
    for (action, arn), own in keys.items():
        actions[arn, tuple(sorted(own))].add(action)
    return tuple(_together(actions))


def _together(actions: Mapping[tuple[str, tuple[str, ...]], set[str]]) -> Iterable[Statement]:
    resources: dict[tuple[tuple[str, ...], tuple[str, ...]], set[str]] = defaultdict(set)
    for (arn, keys), allowed in actions.items():
        resources[tuple(sorted(allowed)), keys].add(arn)
    for (together, keys), arns in sorted(resources.items()):
        yield Statement(
            actions=together,
            resources=tuple(sorted(arns)),
            conditions={"ForAllValues:StringLike": {"dynamodb:LeadingKeys": keys}} if keys else {},
        )
