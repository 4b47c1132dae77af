"""Roles of a stack: one for each function and container, with what its runtime calls and what its code is granted."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import msgspec

from headwater.deploy.granted import accesses
from headwater.deploy.model import ManagedPolicy, Resource, Role, Statement
from headwater.deploy.permissions import statements_of
from headwater.deploy.plan import Plan, Unit
from headwater.deploy.policies import policy_document
from headwater.deploy.text import longest
from headwater.deploy.trust import trusts
from headwater.errors import DeclarationError

INLINE_ROOM, MANAGED_ROOM = 10_240, 6_144
"""Characters of all inline policies of a role, and of one managed policy.
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html"""
MOST_MANAGED = 10
_ENTER_NETWORK = (
    "ec2:AssignPrivateIpAddresses",
    "ec2:CreateNetworkInterface",
    "ec2:DeleteNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:UnassignPrivateIpAddresses",
)
_TRACE: tuple[str, ...] = ("xray:PutTelemetryRecords", "xray:PutTraceSegments")


def roles(plan: Plan) -> Iterator[Resource]:
    for unit in plan.functions:
        yield from _role(plan, unit, "lambda.amazonaws.com")
    for unit in plan.containers:
        yield from _role(plan, unit, "ecs-tasks.amazonaws.com")


def _role(plan: Plan, unit: Unit, service: str) -> Iterator[Resource]:
    statements = (*statements_of(accesses(plan, unit)), *_unbounded(plan))
    yield from packed(
        Role(
            id=plan.role_id(unit),
            name=plan.names.role(unit.resource, unit.kind),
            trust=(trusts(plan, service, own=service != "lambda.amazonaws.com"),),
            statements=statements,
        )
    )


def _unbounded(plan: Plan) -> Iterator[Statement]:
    """What AWS knows no narrower resource for."""
    if plan.aws.network is not None:
        yield Statement(actions=_ENTER_NETWORK, resources=("*",), why="Lambda asks for this itself to enter a network")
    if plan.aws.tracing:
        yield Statement(actions=_TRACE, resources=("*",), why="X-Ray knows no resources here")


def packed(role: Role) -> Iterator[Resource]:
    """The role, with what one inline policy cannot hold in managed policies."""
    if size_of(role.statements) <= INLINE_ROOM:
        yield role
        return
    yield Role(id=role.id, name=role.name, trust=role.trust)
    documents: list[list[Statement]] = [[]]
    for statement in (piece for whole in role.statements for piece in _pieces(whole)):
        if documents[-1] and size_of([*documents[-1], statement]) > MANAGED_ROOM:
            documents.append([])
        documents[-1].append(statement)
    if len(documents) > MOST_MANAGED:
        raise DeclarationError(
            f"its permissions fill {len(documents)} policies, a role can have {MOST_MANAGED}",
            operation="synth",
            resource=role.name,
            hint="split the app in two stacks",
        )
    for number, statements in enumerate(documents, 1):
        yield ManagedPolicy(
            id=f"{role.id}Policy{number}",
            name=f"{role.name}-{number}",
            role=f"${{{role.id}.name}}",
            statements=tuple(statements),
        )


def _pieces(statement: Statement) -> Iterator[Statement]:
    """The statement in parts that fit into a policy each."""
    waiting = [statement]
    while waiting:
        piece = waiting.pop()
        if size_of([piece]) <= MANAGED_ROOM or len(piece.resources) == 1:
            yield piece
            continue
        half = len(piece.resources) // 2
        parts = (piece.resources[half:], piece.resources[:half])
        waiting += [msgspec.structs.replace(piece, resources=part) for part in parts]


def size_of(statements: Iterable[Statement]) -> int:
    """How long the policy may be in any region, without white space, as IAM counts."""
    document = policy_document(statements)
    return len(longest(json.dumps(document, separators=(",", ":"))))
