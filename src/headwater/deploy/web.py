"""The HTTP API of a stack: one address, under which each app is served below its name, as by `headwater run`."""

from __future__ import annotations

import json
from collections.abc import Iterator

from headwater.deploy.model import Api, CorsRule, Integration, LogGroup, Output, Permission, Resource, Route, Stage
from headwater.deploy.plan import SYSTEM, Plan, Unit
from headwater.http.front import EXPOSED

DEFAULT = "$default"
LOGGED = {
    "requestId": "$context.requestId",
    "time": "$context.requestTimeEpoch",
    "address": "$context.identity.sourceIp",
    "method": "$context.httpMethod",
    "path": "$context.path",
    "route": "$context.routeKey",
    "status": "$context.status",
    "length": "$context.responseLength",
    "latency": "$context.responseLatency",
    "error": "$context.integrationErrorMessage",
}
"""A line of the access log, without what may be secret (queries, headers)."""


def api(plan: Plan) -> Iterator[Resource]:
    """With one app all goes to its function, with several what is below its name; the first answers the rest."""
    served = [app for app in plan.apps if app.serves_http]
    if not served:
        return
    made = plan.id(SYSTEM, "Api")
    yield _api(plan, made)
    for number, app in enumerate(served):
        unit = Unit(app.name, "http")
        integration = plan.id(app.name, "Integration")
        yield Integration(id=integration, api=f"${{{made}.id}}", target=plan.target_of(unit))
        yield Permission(
            id=plan.id(app.name, "ApiPermission"),
            function=plan.target_of(unit),
            service="apigateway.amazonaws.com",
            source=f"arn:${{partition}}:execute-api:${{region}}:${{account}}:${{{made}.id}}/*",
        )
        keys = [f"ANY /{app.name}", f"ANY /{app.name}/{{proxy+}}"] if len(served) > 1 else []
        for key in ([DEFAULT] if number == 0 else []) + keys:
            ending = {"$": "DefaultRoute", "A": "ItsRoute"}[key[0]] if "{" not in key else "AllRoutes"
            yield Route(
                id=plan.id(app.name, ending), api=f"${{{made}.id}}", key=key, integration=f"${{{integration}.id}}"
            )
    yield LogGroup(id=f"{made}Logs", name=f"/aws/apigateway/{plan.stack}", days=plan.aws.log_days)
    yield Stage(
        id=f"{made}Stage",
        api=f"${{{made}.id}}",
        log_group=f"${{{made}Logs.arn}}",
        log_format=json.dumps(LOGGED, separators=(",", ":")),
        rate=plan.aws.throttle.rate,
        burst=plan.aws.throttle.burst,
    )


def _api(plan: Plan, id: str) -> Api:
    cors = plan.config.cors
    rule = CorsRule(cors.origins, cors.methods, cors.headers, EXPOSED, cors.max_age_s) if cors.origins else None
    apps = ", ".join(app.name for app in plan.apps if app.serves_http)
    return Api(id=id, name=plan.stack, description=f"HTTP APIs of {apps}", cors=rule, credentials=cors.credentials)


def api_outputs(plan: Plan) -> Iterator[Output]:
    if plan.serves_http:
        url = f"${{{plan.id(SYSTEM, 'Api')}.url}}"
        yield Output(id="Url", value=url, description="The address of the HTTP APIs")
