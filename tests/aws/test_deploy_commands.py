"""`headwater deploy aws`, `diff`, `smoke` and `destroy`, as processes, on a stand-in for AWS."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.aws.ministack import Ministack

ROOT = Path(__file__).parents[2]
APP = """
from pydantic import BaseModel
from headwater import App

class Item(BaseModel):
    id: str

app = App("shop")
items = app.table("items", Item, key="id")
jobs = app.queue("jobs", Item)
"""
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(aws: Ministack, stack: str, tmp_path: Path) -> Run:
    """Runs a command in a project of one app, whose environments are stacks of this test alone."""
    (tmp_path / "shop.py").write_text(APP, "utf-8")
    (tmp_path / "requirements.txt").write_text("tiny==1.0 --hash=sha256:aa\n", "utf-8")
    settings = '[default]\napps = ["shop"]\n'
    settings += "".join(f'[{env}.aws]\nstack = "{stack}-{env}"\n' for env in ("test", "other"))
    (tmp_path / "headwater.toml").write_text(settings, "utf-8")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "COLUMNS": "200"}

    def run(*arguments: str, module: str = "tests.aws.deploy_driver") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.run(
            command,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    return run


def tables(aws: Ministack) -> list[str]:
    import boto3

    client = boto3.client("dynamodb")
    try:
        return [name for page in client.get_paginator("list_tables").paginate() for name in page["TableNames"]]
    finally:
        client.close()


def test_environments_come_side_by_side_and_go_one_at_a_time(run: Run, aws: Ministack, stack: str) -> None:
    plan = run("diff", "--env", "test")
    assert plan.returncode == 0, plan.stderr
    assert plan.stdout.startswith(f"{stack}-test (new): ")
    assert "  + DynamoDB::Table ShopItemsTable" in plan.stdout
    assert f"{stack}-test-shop-items" not in tables(aws), "a plan has made something"

    refused = run("deploy", "aws", "--env", "test")
    assert (refused.returncode, "there is no terminal to ask on" in refused.stderr) == (2, True), refused.stderr
    for env in ("test", "other"):
        made = run("deploy", "aws", "--env", env, "--yes")
        assert made.returncode == 0, made.stderr
        assert "CREATE_COMPLETE" in made.stderr
    assert {f"{stack}-test-shop-items", f"{stack}-other-shop-items"} <= set(tables(aws))

    again = run("deploy", "aws", "--env", "test", "--yes", "--json")
    assert json.loads(again.stdout)["changed"] is False, again.stdout

    asked = run("destroy", "--env", "test")
    assert (asked.returncode, "--confirm" in asked.stderr) == (2, True)
    wrong = run("destroy", "--env", "test", "--confirm", f"{stack}-other")
    assert (wrong.returncode, "nothing was deleted" in wrong.stderr) == (2, True)
    gone = run("destroy", "--env", "test", "--confirm", f"{stack}-test")
    assert gone.returncode == 0, gone.stderr
    assert f"{stack}-test-shop-items" in tables(aws), "the data is to be kept"
    emptied = run("destroy", "--env", "other", "--data", "--confirm", f"{stack}-other")
    assert emptied.returncode == 0, emptied.stderr
    assert not [name for name in tables(aws) if name.startswith(f"{stack}-other")]


def test_a_parameter_that_is_none_is_refused(run: Run) -> None:
    for given, told in (("Naught=1", "no parameter 'Naught'"), ("Naught", "is not NAME=VALUE")):
        refused = run("diff", "--env", "test", "--parameter", given)
        assert refused.returncode != 0
        assert told in refused.stderr


def test_without_the_sdk_its_extra_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "boto3.py").write_text("raise ImportError('no boto3')\n", "utf-8")
    refused = run("destroy", "--env", "test")
    assert (refused.returncode, 'pip install "headwater[aws]"' in refused.stderr) == (1, True), refused.stderr


def test_smoke_says_what_is_wrong(run: Run, stack: str) -> None:
    assert "give a URL, --stack, or both" in run("smoke").stderr
    missing = run("smoke", "--stack", stack)
    assert (missing.returncode, f"there is no stack {stack}" in missing.stderr) == (2, True), missing.stderr
    dead = run("smoke", "http://127.0.0.1:9", "--app", "shop")
    assert dead.returncode == 1
    assert [line.split()[:3] for line in dead.stdout.splitlines()] == [
        ["FAILED", "GET", "/live"],
        ["FAILED", "GET", "/ready"],
        ["FAILED", "GET", "/shop/openapi.json"],
    ]
