"""`synthesize`: from the apps' graph and an environment's settings to the stack of models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from headwater.app import App
from headwater.aws.names import is_stack
from headwater.aws.settings import Aws
from headwater.config import Config
from headwater.deploy.functions import check_environment, function_parameters, functions
from headwater.deploy.messages import followed, followed_parameters, queues, topic_outputs, topics, watch
from headwater.deploy.model import Output, Parameter, Resource, Stack, State
from headwater.deploy.network import network
from headwater.deploy.plan import SYSTEM, Plan
from headwater.deploy.roles import roles
from headwater.deploy.storage import buckets, tables
from headwater.deploy.times import schedules
from headwater.deploy.users import console, identities, user_outputs
from headwater.deploy.watching import alarm_parameters, alarms
from headwater.deploy.web import api, api_outputs
from headwater.deploy.workers import worker_parameters, workers
from headwater.errors import DeclarationError
from headwater.graph import Graph, build_graph
from headwater.system import System

PARTS: tuple[Callable[[Plan], Iterator[Resource]], ...] = (
    network,
    tables,
    buckets,
    queues,
    topics,
    followed,
    watch,
    functions,
    roles,
    api,
    schedules,
    alarms,
    workers,
    identities,
    console,
)
PARAMETERS = (function_parameters, alarm_parameters, followed_parameters, worker_parameters)
OUTPUTS = (api_outputs, topic_outputs, user_outputs)


def synthesize(graph: Graph, config: Config) -> Stack:
    """Everything that these apps need on AWS, Headwater's own app among it; the same for the same apps and settings.

    Raises `DeclarationError` for what AWS cannot do, before anything is deployed.
    """
    if SYSTEM not in {app.name for app in graph.apps}:
        graph = build_graph([*graph.apps, System().app])
    plan = Plan(graph, config)
    for app in plan.apps:
        _configure(app, plan.aws)
    if not is_stack(plan.stack):
        raise DeclarationError(
            f"{plan.stack!r} is no name for a stack",
            operation="synth",
            hint="write 2 to 32 lower-case letters, digits and dashes, a letter first: stack = under [….aws]",
        )
    check_environment(plan)
    resources = tuple(resource for part in PARTS for resource in part(plan))
    parameters = tuple(parameter for part in PARAMETERS for parameter in part(plan))
    outputs = (
        Output(id="Stack", value=plan.stack, description="The name that the store's URL has: aws:STACK"),
        *(output for part in OUTPUTS for output in part(plan)),
    )
    _check_ids([*resources, *parameters])
    apps = ", ".join(app.name for app in plan.apps)
    return Stack(
        name=plan.stack,
        environment=config.environment,
        description=f"Headwater: {apps} ({config.environment})",
        parameters=parameters,
        resources=tuple(sorted(resources, key=lambda resource: resource.id)),
        outputs=outputs,
        tags={"headwater:stack": plan.stack, **plan.aws.tags},
        secrets=dict(plan.aws.secrets),
        state=State(**msgspec.structs.asdict(plan.aws.terraform)),
    )


def _configure(app: App[Any], aws: Aws) -> None:
    """Give the app the settings that its functions will have; what a secret says nobody needs to know here."""
    prefix = app.name.upper().replace("-", "_") + "_"
    given = {**aws.env, **dict.fromkeys(aws.secrets, "(secret)")}
    if own := {name.removeprefix(prefix).lower(): value for name, value in given.items() if name.startswith(prefix)}:
        app.configure(own)


def _check_ids(found: Iterable[Resource | Parameter]) -> None:
    for id, number in Counter(one.id for one in found).items():
        if number > 1:
            raise DeclarationError(
                f"two resources become {id!r} on AWS",
                operation="synth",
                hint="rename one: only letters and digits count",
            )
