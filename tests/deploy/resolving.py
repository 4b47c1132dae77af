"""CloudFormation templates as they are for a reader: references resolved to names and ARNs of an account of nobody."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

ACCOUNT, REGION = "000000000000", "eu-central-1"
PSEUDO = {
    "AWS::AccountId": ACCOUNT,
    "AWS::Region": REGION,
    "AWS::Partition": "aws",
    "AWS::URLSuffix": "amazonaws.com",
    "AWS::NoValue": None,
}
_NAMES = {
    "AWS::DynamoDB::Table": ("TableName", "dynamodb", "table/{}"),
    "AWS::SQS::Queue": ("QueueName", "sqs", "{}"),
    "AWS::SNS::Topic": ("TopicName", "sns", "{}"),
    "AWS::Lambda::Function": ("FunctionName", "lambda", "function:{}"),
    "AWS::Logs::LogGroup": ("LogGroupName", "logs", "log-group:{}:*"),
}
_GLOBAL = {"AWS::S3::Bucket": ("BucketName", "arn:aws:s3:::{}"), "AWS::IAM::Role": ("RoleName", "")}
_INSIDE = re.compile(r"\$\{(!?)([^}]*)\}")
Template = dict[str, Any]


class Unresolved(Exception):
    """A reference to what is not in the template."""


class Resolver:
    def __init__(self, template: Template) -> None:
        self.resources: dict[str, dict[str, Any]] = template["Resources"]
        self.parameters: dict[str, dict[str, Any]] = template.get("Parameters", {})

    def of_type(self, type_: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """(id, resolved properties) of each resource of a type."""
        for id, resource in sorted(self.resources.items()):
            if resource["Type"] == type_:
                yield id, self.resolve(resource["Properties"])

    def resolve(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.resolve(one) for one in value]
        if not isinstance(value, dict):
            return value
        match value:
            case {"Ref": str() as id}:
                return self._ref(id)
            case {"Fn::GetAtt": [id, attribute]}:
                return self._attribute(id, attribute)
            case {"Fn::Sub": str() as text}:
                return _INSIDE.sub(self._inside, text)
            case {"Fn::GetAZs": _}:
                return [f"{REGION}a", f"{REGION}b"]
            case {"Fn::Select": [index, among]}:
                return self.resolve(among)[index]
        return {key: self.resolve(one) for key, one in value.items()}

    def _inside(self, found: re.Match[str]) -> str:
        if found[1]:
            return "${" + found[2] + "}"
        id, dot, attribute = found[2].partition(".")
        return str(self._attribute(id, attribute) if dot else self._ref(id))

    def _ref(self, id: str) -> Any:
        if id in PSEUDO:
            return PSEUDO[id]
        if id in self.parameters:
            return self.parameters[id].get("Default") or f"parameter-{id.lower()}"
        type_, properties = self._resource(id)
        if type_ == "AWS::SNS::Topic":
            return self._attribute(id, "Arn")
        if type_ == "AWS::SQS::Queue":
            return f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/{properties['QueueName']}"
        if type_ == "AWS::Lambda::Alias":
            return f"{self.resolve(properties['FunctionName'])}:{properties['Name']}"
        name = (_NAMES.get(type_) or _GLOBAL.get(type_) or ("",))[0]
        return self.resolve(properties[name]) if name else id.lower()

    def _attribute(self, id: str, attribute: str) -> Any:
        type_, properties = self._resource(id)
        if attribute == "StreamArn":
            return f"{self._attribute(id, 'Arn')}/stream/2026-01-01"
        if attribute != "Arn":
            return f"{id.lower()}.{attribute.lower()}"
        if type_ in _NAMES:
            name, service, shape = _NAMES[type_]
            return f"arn:aws:{service}:{REGION}:{ACCOUNT}:{shape.format(properties[name])}"
        if type_ == "AWS::S3::Bucket":
            return f"arn:aws:s3:::{self._ref(id)}"
        if type_ == "AWS::IAM::Role":
            return f"arn:aws:iam::{ACCOUNT}:role/{properties['RoleName']}"
        return f"arn:aws:none:{REGION}:{ACCOUNT}:{id.lower()}"

    def _resource(self, id: str) -> tuple[str, dict[str, Any]]:
        if id not in self.resources:
            raise Unresolved(id)
        found = self.resources[id]
        return found["Type"], found["Properties"]


def policies(resolver: Resolver) -> Iterator[tuple[str, dict[str, Any]]]:
    """(id, document) of each policy that a role has, resolved."""
    for id, properties in resolver.of_type("AWS::IAM::Role"):
        for policy in properties.get("Policies", ()):
            yield id, policy["PolicyDocument"]
    for id, properties in resolver.of_type("AWS::IAM::ManagedPolicy"):
        yield id, properties["PolicyDocument"]


def many(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
