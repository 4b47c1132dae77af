"""What others say of the templates: cfn-lint of each resource, parliament of each policy."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest

from headwater.deploy.cloudformation import to_cloudformation
from tests.deploy.applications import ALL, stack_of
from tests.deploy.resolving import Resolver, many, policies

cfnlint = pytest.importorskip("cfnlint.api", reason="cfn-lint is in the group of packages for development")
LINTED = ("assorted", "private")
"""Together they have every kind of resource; of all templates `tools/check_templates.py` takes minutes."""
UNHEARD = {"RESOURCE_STAR: ['ec2:AssignPrivateIpAddresses', ": "Lambda asks for these itself, to enter a network"}
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
"""parliament leaves its files open."""


@cache
def template_of(name: str) -> dict[str, Any]:
    return to_cloudformation(stack_of(name))


def lint(template: dict[str, Any]) -> list[str]:
    found = cfnlint.lint(json.dumps(template), regions=["eu-central-1"])
    return [f"{one.rule.id} {one.message}" for one in found]


@pytest.mark.parametrize("name", LINTED)
def test_cfn_lint_finds_nothing(name: str) -> None:
    assert lint(template_of(name)) == []


def test_cfn_lint_looks() -> None:
    template = json.loads(json.dumps(template_of("private")))
    template["Resources"]["HeadwaterRelayFunction"]["Properties"]["Timeout"] = 901
    assert any("901" in problem for problem in lint(template))


@cache
def parliament() -> Any:
    """It asks setuptools, which is not there, where its own files are."""
    places = ModuleType("pkg_resources")
    places.resource_filename = lambda package, name: str(files(package) / name)  # type: ignore[attr-defined]
    with patch.dict(sys.modules, {"pkg_resources": places}):
        return importlib.import_module("parliament")


def findings(document: dict[str, Any]) -> list[str]:
    found = parliament().analyze_policy_string(json.dumps(document)).findings
    return [f"{one.issue}: {one.detail}" for one in found]


def kinds_of_statements() -> Iterator[tuple[str, dict[str, Any]]]:
    """(id of a role, statement) for each set of actions with each kind of resources; parliament takes its time."""
    seen = set()
    for name in ALL:
        for id, document in policies(Resolver(template_of(name))):
            for statement in document["Statement"]:
                kinds = {re.sub(r"(?<=[:/])shop-[a-z0-9-]+", "x", one): one for one in many(statement["Resource"])}
                place = (tuple(many(statement["Action"])), tuple(sorted(kinds)), str(statement.get("Condition")))
                if place not in seen:
                    seen.add(place)
                    yield f"{name} {id}", {**statement, "Resource": list(kinds.values())}


def test_parliament_finds_nothing_in_the_policies() -> None:
    found = {
        f"{where}: {finding}"
        for where, statement in kinds_of_statements()
        for finding in findings({"Version": "2012-10-17", "Statement": [statement]})
        if not any(finding.startswith(known) for known in UNHEARD)
    }
    assert found == set()


def test_parliament_looks() -> None:
    statement = {"Effect": "Allow", "Action": "sqs:SendMessage", "Resource": "arn:aws:s3:::bucket/*"}
    assert findings({"Version": "2012-10-17", "Statement": [statement]})
