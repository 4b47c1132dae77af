"""Texts and values as CloudFormation writes them: `Ref`, `Fn::GetAtt` and `Fn::Sub` in place of tokens."""

from __future__ import annotations

from typing import Any

import msgspec

from headwater.deploy import model
from headwater.deploy.model import Resource, Stack
from headwater.deploy.text import Token, parse

_PSEUDO = {"region": "Region", "account": "AccountId", "partition": "Partition", "suffix": "URLSuffix"}
REF = ""
ATTRIBUTES: dict[type[Resource], dict[str, str]] = {
    model.Role: {"arn": "Arn", "name": REF},
    model.EncryptionKey: {"arn": "Arn"},
    model.Table: {"arn": "Arn", "stream": "StreamArn", "name": REF},
    model.Bucket: {"arn": "Arn", "name": REF},
    model.Queue: {"arn": "Arn", "url": REF, "name": "QueueName"},
    model.Topic: {"arn": REF},
    model.LogGroup: {"arn": "Arn", "name": REF},
    model.Function: {"arn": "Arn", "name": REF},
    model.Version: {"arn": REF},
    model.Api: {"id": REF, "url": "ApiEndpoint"},
    model.Integration: {"id": REF},
    model.Cluster: {"name": REF},
    model.Task: {"arn": REF},
    model.Service: {"name": "Name"},
    model.Vpc: {"id": "VpcId"},
    model.Subnet: {"id": "SubnetId"},
    model.RouteTable: {"id": "RouteTableId"},
    model.InternetGateway: {"id": "InternetGatewayId"},
    model.NatGateway: {"id": "NatGatewayId"},
    model.SecurityGroup: {"id": "GroupId"},
    model.IdentityPool: {"id": REF},
    model.Site: {"id": REF, "domain": "DomainName"},
}
"""What tokens may ask of each model, and its name in CloudFormation."""


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """One resource of a template; its texts still have tokens."""

    id: str
    type: str
    properties: dict[str, Any]
    after: tuple[str, ...] = ()
    keep: bool = False


class Form:
    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self._models = {resource.id: resource for resource in stack.resources}
        self._parameters = {parameter.id for parameter in stack.parameters}

    @property
    def tags(self) -> list[dict[str, str]]:
        return [{"Key": key, "Value": value} for key, value in sorted(self.stack.tags.items())]

    def model(self, id: str) -> Resource:
        return self._models[id]

    def present(self, ids: tuple[str, ...]) -> list[str]:
        return sorted(id for id in ids if id in self._models)

    def text(self, text: str) -> Any:
        """The text as it is, or with references in place of its tokens."""
        pieces = list(parse(text))
        if not any(isinstance(piece, Token) for piece in pieces):
            return "".join(str(piece) for piece in pieces)
        if len(pieces) == 1:
            return self._reference(pieces[0])  # type: ignore[arg-type]
        parts = [
            f"${{{self._inside(piece)}}}" if isinstance(piece, Token) else piece.replace("${", "${!")
            for piece in pieces
        ]
        return {"Fn::Sub": "".join(parts)}

    def _reference(self, token: Token) -> Any:
        if token.owner == "secret":
            return f"{{{{resolve:secretsmanager:{self._secret(token.name)}}}}}"
        owner, attribute = self._named(token)
        return {"Fn::GetAtt": [owner, attribute]} if attribute else {"Ref": owner}

    def _inside(self, token: Token) -> str:
        owner, attribute = self._named(token)
        return f"{owner}.{attribute}" if attribute else owner

    def _secret(self, variable: str) -> str:
        name, _, key = self.stack.secrets[variable].partition(":")
        return f"{name}:SecretString:{key}" if key else f"{name}:SecretString"

    def _named(self, token: Token) -> tuple[str, str]:
        """The id, and the attribute or "" for `Ref`. Raises `LookupError` for what is not in the stack."""
        if not token.owner:
            return f"AWS::{_PSEUDO[token.name]}", REF
        if token.owner == "param":
            if token.name not in self._parameters:
                raise LookupError(f"the stack has no parameter {token.name}")
            return token.name, REF
        found = self._models[token.owner]
        return found.id, ATTRIBUTES[type(found)][token.name]

    def filled(self, value: Any) -> Any:
        """A value with all texts in it written; what is None is left out."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {key: self.filled(one) for key, one in value.items() if one is not None}
        if isinstance(value, list | tuple):
            return [self.filled(one) for one in value if one is not None]
        return value

    def sorted(self, value: Any) -> Any:
        """Objects in the order of their keys; lists as they are."""
        if isinstance(value, dict):
            return {key: self.sorted(value[key]) for key in sorted(value)}
        return [self.sorted(one) for one in value] if isinstance(value, list) else value
