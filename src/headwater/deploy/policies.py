"""Statements as IAM writes them, in the form that all templates share; texts keep their tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from headwater.deploy.model import Statement


def policy_document(statements: Iterable[Statement]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": [_written(statement) for statement in statements]}


def _written(statement: Statement) -> dict[str, Any]:
    found: dict[str, Any] = {"Effect": statement.effect}
    if statement.sid:
        found["Sid"] = statement.sid
    if statement.principal:
        kind, who = statement.principal
        found["Principal"] = "*" if who == ("*",) else {kind: _one_or_all(who)}
    found["Action"] = _one_or_all(statement.actions)
    if statement.resources:
        found["Resource"] = _one_or_all(statement.resources)
    if statement.conditions:
        found["Condition"] = {
            operator: {key: list(value) if isinstance(value, tuple) else value for key, value in keys.items()}
            for operator, keys in statement.conditions.items()
        }
    return found


def _one_or_all(texts: tuple[str, ...]) -> str | list[str]:
    return texts[0] if len(texts) == 1 else list(texts)
