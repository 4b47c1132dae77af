"""Texts and values as Terraform writes them: interpolations in place of tokens."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from headwater.deploy import model
from headwater.deploy.model import Resource, Stack, Statement
from headwater.deploy.policies import policy_document
from headwater.deploy.text import Token, parse

_PSEUDO = {
    "region": "data.aws_region.current.region",
    "account": "data.aws_caller_identity.current.account_id",
    "partition": "data.aws_partition.current.partition",
    "suffix": "data.aws_partition.current.dns_suffix",
}
ADDRESSES: dict[type[Resource], tuple[str, dict[str, str]]] = {
    model.Role: ("aws_iam_role", {"arn": "arn", "name": "name"}),
    model.ManagedPolicy: ("aws_iam_policy", {}),
    model.EncryptionKey: ("aws_kms_key", {"arn": "arn"}),
    model.Table: ("aws_dynamodb_table", {"arn": "arn", "stream": "stream_arn", "name": "name"}),
    model.Bucket: ("aws_s3_bucket", {"arn": "arn", "name": "id"}),
    model.BucketPolicy: ("aws_s3_bucket_policy", {}),
    model.StoredParameter: ("aws_ssm_parameter", {}),
    model.Queue: ("aws_sqs_queue", {"arn": "arn", "url": "id", "name": "name"}),
    model.QueuePolicy: ("aws_sqs_queue_policy", {}),
    model.Topic: ("aws_sns_topic", {"arn": "arn"}),
    model.TopicPolicy: ("aws_sns_topic_policy", {}),
    model.Subscription: ("aws_sns_topic_subscription", {}),
    model.LogGroup: ("aws_cloudwatch_log_group", {"arn": "arn", "name": "name"}),
    model.Function: ("aws_lambda_function", {"arn": "arn", "name": "function_name"}),
    model.Version: ("aws_lambda_alias", {"arn": "arn"}),
    model.EventSource: ("aws_lambda_event_source_mapping", {}),
    model.Permission: ("aws_lambda_permission", {}),
    model.ScheduleGroup: ("aws_scheduler_schedule_group", {}),
    model.Schedule: ("aws_scheduler_schedule", {}),
    model.Alarm: ("aws_cloudwatch_metric_alarm", {}),
    model.Api: ("aws_apigatewayv2_api", {"id": "id", "url": "api_endpoint"}),
    model.Integration: ("aws_apigatewayv2_integration", {"id": "id"}),
    model.Route: ("aws_apigatewayv2_route", {}),
    model.Stage: ("aws_apigatewayv2_stage", {}),
    model.IdentityPool: ("aws_cognito_identity_pool", {"id": "id"}),
    model.Site: ("aws_cloudfront_distribution", {"id": "id", "domain": "domain_name"}),
    model.Cluster: ("aws_ecs_cluster", {"name": "name"}),
    model.Task: ("aws_ecs_task_definition", {"arn": "arn"}),
    model.Service: ("aws_ecs_service", {"name": "name"}),
    model.Scaling: ("aws_appautoscaling_target", {}),
    model.Vpc: ("aws_vpc", {"id": "id"}),
    model.Subnet: ("aws_subnet", {"id": "id"}),
    model.RouteTable: ("aws_route_table", {"id": "id"}),
    model.InternetGateway: ("aws_internet_gateway", {"id": "id"}),
    model.NatGateway: ("aws_nat_gateway", {"id": "id"}),
    model.SecurityGroup: ("aws_security_group", {"id": "id"}),
    model.Endpoint: ("aws_vpc_endpoint", {}),
}
"""The resource of each model, and what tokens may ask of it."""


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """One resource of a configuration; its texts still have tokens. `after` are ids of models, `needs` addresses."""

    id: str
    type: str
    body: dict[str, Any]
    after: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    keep: bool = False


class Reference(msgspec.Struct, frozen=True):
    """An expression of Terraform's own, which is no text of a model."""

    expression: str


class Form:
    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self._models = {resource.id: resource for resource in stack.resources}
        self._parameters = {parameter.id: parameter for parameter in stack.parameters}

    def model(self, id: str) -> Resource:
        return self._models[id]

    def address(self, id: str) -> str:
        return f"{ADDRESSES[type(self._models[id])][0]}.{id}"

    def addresses(self, ids: tuple[str, ...]) -> list[str]:
        return sorted({self.address(id) for id in ids if id in self._models})

    def text(self, text: str) -> str:
        return "".join(
            f"${{{self._expression(piece)}}}" if isinstance(piece, Token) else _escaped(piece) for piece in parse(text)
        )

    def document(self, statements: tuple[Statement, ...]) -> str:
        """A policy as JSON, its tokens still in it."""
        return json.dumps(policy_document(statements), separators=(",", ":"))

    def _expression(self, token: Token) -> str:
        if not token.owner:
            return _PSEUDO[token.name]
        if token.owner == "param":
            parameter = self._parameters[token.name]
            return f"data.aws_ssm_parameter.{token.name}.value" if parameter.stored else f"var.{token.name}"
        if token.owner == "secret":
            return self._secret(token.name)
        kind, attributes = ADDRESSES[type(self._models[token.owner])]
        return f"{kind}.{token.owner}.{attributes[token.name]}"

    def _secret(self, variable: str) -> str:
        text = f"data.aws_secretsmanager_secret_version.{variable}.secret_string"
        _, _, key = self.stack.secrets[variable].partition(":")
        return f'jsondecode({text})["{key}"]' if key else text

    def filled(self, value: Any) -> Any:
        """A value with all texts in it written; what is None is left out."""
        if isinstance(value, Reference):
            return f"${{{value.expression}}}"
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {key: self.filled(one) for key, one in value.items() if one is not None}
        if isinstance(value, list | tuple):
            return [self.filled(one) for one in value if one is not None]
        return value


def _escaped(text: str) -> str:
    return text.replace("${", "$${").replace("%{", "%%{")
