"""Containers of a stack: `headwater worker` for each queue whose handler runs in a process of its own.

A Fargate service on spot capacity, scaled by the queue's depth: at once up, one cool-down late down, between `min` and
`max` of the handler's `Scale`. The figure is all that waits or is being handled, so that nothing is stopped that works.
"""

from __future__ import annotations

from collections.abc import Iterator

from headwater.deploy.functions import environment
from headwater.deploy.model import (
    Cluster,
    LogGroup,
    Parameter,
    Resource,
    Role,
    Scaling,
    Service,
    Statement,
    Task,
)
from headwater.deploy.network import placed
from headwater.deploy.plan import SYSTEM, Plan, Unit
from headwater.deploy.trust import trusts
from headwater.scaling import Scale

IMAGE = "WorkerImage"
SUBNETS, GROUPS = "WorkerSubnets", "WorkerGroups"
_SERVICE = "ecs-tasks.amazonaws.com"


def workers(plan: Plan) -> Iterator[Resource]:
    if not plan.containers:
        return
    yield Cluster(id=plan.id(SYSTEM, "Cluster"), name=plan.stack)
    yield _starter(plan)
    for unit in plan.containers:
        yield from _worker(plan, unit)


def worker_parameters(plan: Plan) -> Iterator[Parameter]:
    if not plan.containers:
        return
    yield Parameter(id=IMAGE, description="The container image of the workers, with its digest, in this account's ECR")
    if plan.aws.network is None:
        yield Parameter(id=SUBNETS, description="Subnets for the workers, with commas", many=True)
        yield Parameter(id=GROUPS, description="Security groups for the workers, with commas", many=True)


def _starter(plan: Plan) -> Role:
    """What ECS itself needs to start a container: its image, its log and its secrets."""
    why = "GetAuthorizationToken knows no resources"
    logs = tuple(f"{plan.arn('logs', f'log-group:{_log(plan, unit)}')}:*" for unit in plan.containers)
    statements = [
        Statement(actions=("ecr:GetAuthorizationToken",), resources=("*",), why=why),
        Statement(
            actions=("ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"),
            resources=(plan.arn("ecr", f"repository/{plan.stack}"),),
        ),
        Statement(actions=("logs:CreateLogStream", "logs:PutLogEvents"), resources=logs),
    ]
    if plan.secret_arns:
        statements.append(Statement(actions=("secretsmanager:GetSecretValue",), resources=plan.secret_arns))
    return Role(
        id=plan.id(SYSTEM, "StarterRole"),
        name=plan.names.role(SYSTEM, "starter"),
        trust=(trusts(plan, _SERVICE),),
        statements=tuple(statements),
    )


def _log(plan: Plan, unit: Unit) -> str:
    return f"/aws/ecs/{plan.function_name(unit)}"


def _worker(plan: Plan, unit: Unit) -> Iterator[Resource]:
    settings, defaults = plan.settings_of(unit), plan.aws.workers
    name = plan.function_name(unit)
    made = plan.id(unit.resource, "Worker")
    yield LogGroup(id=f"{made}Logs", name=_log(plan, unit), days=plan.aws.log_days)
    variables = environment(plan, unit)
    secrets = {name: plan.secret_reference(name) for name in plan.aws.secrets}
    yield Task(
        id=f"{made}Task",
        name=name,
        image=f"${{param.{IMAGE}}}",
        command=("headwater", "worker", "--queue", unit.resource),
        cpu=defaults.cpu,
        memory=settings.memory or defaults.memory,
        architecture=plan.architecture_of(unit),
        role=f"${{{plan.role_id(unit)}.arn}}",
        starter=f"${{{plan.id(SYSTEM, 'StarterRole')}.arn}}",
        log_group=f"${{{made}Logs.name}}",
        env={name: value for name, value in variables.items() if name not in secrets},
        secrets=secrets,
    )
    inside = placed(plan)
    cluster = f"${{{plan.id(SYSTEM, 'Cluster')}.name}}"
    yield Service(
        id=f"{made}Service",
        name=name,
        cluster=cluster,
        task=f"${{{made}Task.arn}}",
        subnets=inside[0] if inside else (f"${{param.{SUBNETS}}}",),
        groups=(inside[1],) if inside else (f"${{param.{GROUPS}}}",),
        spot=defaults.spot,
        public_address=inside is None,
    )
    yield _scaling(plan, unit, made, cluster)


def _scaling(plan: Plan, unit: Unit, made: str, cluster: str) -> Scaling:
    handler = plan.handled[unit.resource]
    scale = (handler.scale if handler else None) or Scale(min=0, max=plan.config.workers or 1)
    queue = plan.names.queue(unit.resource, fifo=plan.catalog.queues[unit.resource].fifo)
    return Scaling(
        id=f"{made}Scaling",
        name=plan.function_name(unit),
        cluster=cluster,
        service=f"${{{made}Service.name}}",
        least=scale.min,
        most=scale.max,
        queue=queue,
        steps=steps_of(scale),
        cooldown_s=max(60, -(-scale.cooldown_ms // 1000)),
    )


def steps_of(scale: Scale) -> tuple[tuple[int, int], ...]:
    """(from how many messages, how many tasks), at most 20: as AWS takes them.

    Without a number of messages for each worker it is one worker for each message that waits: how long a message
    takes, which the age that is aimed at needs, CloudWatch doesn't know.
    """
    per_worker = scale.backlog_per_worker or 1
    counts = list(range(1, scale.max + 1))
    if len(counts) > 20:
        counts = sorted({max(1, round(scale.max * n / 20)) for n in range(1, 21)})
    before = [0, *counts[:-1]]
    return tuple((least * per_worker + 1, count) for least, count in zip(before, counts, strict=True))
