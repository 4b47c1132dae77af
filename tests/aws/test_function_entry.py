"""Functions as Lambda starts them: fresh processes, with nothing but their variables and the package's files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from headwater.loading import load_app
from tests.aws.lambdas import staged

pytestmark = pytest.mark.usefixtures("aws")

PROGRAM = """
import importlib, json, sys

class Context:
    aws_request_id = "request-1"
    def get_remaining_time_in_millis(self):
        return 20_000

handle = importlib.import_module("headwater.functions." + sys.argv[1]).handle
answers = [handle(event, Context()) for event in json.loads(sys.stdin.read())]
print("ANSWERS", json.dumps(answers))
"""

APP = """
from headwater import App, Event, anyone

app = App("shop")
orders = app.queue("orders", backoff="1s")
rows = app.table("rows", dict, key="id")
app.ingest(orders, "/orders", auth=anyone())
app.expose(rows, "/rows", read=anyone())
starts = []

@app.on(orders)
async def keep(event: Event[dict]) -> None:
    if event.data["id"] == "poison":
        raise ValueError("poison")
    await rows.put({"id": event.data["id"]})
"""


class Package:
    """The files of a function, and its runs."""

    def __init__(self, folder: Path, stack: str) -> None:
        (folder / "entry_shop.py").write_text(APP)
        (folder / "headwater.toml").write_text("[default]\n[prod]\ntrace_sample = 0\n")
        self.folder = folder
        self.variables = {
            "LAMBDA_TASK_ROOT": str(folder),
            "HEADWATER_ENV": "prod",
            "HEADWATER_STORE": f"aws:{stack}",
            "HEADWATER_APPS": "entry_shop",
        }

    def run(self, kind: str, *events: Any, **variables: str) -> tuple[list[Any], list[dict[str, Any]]]:
        """(answers to the events of one environment, lines of its log)."""
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, kind],
            input=json.dumps(events),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, **self.variables, **variables},
        )
        assert done.returncode == 0, done.stderr + done.stdout
        lines = done.stdout.splitlines()
        (answers,) = [line.removeprefix("ANSWERS ") for line in lines if line.startswith("ANSWERS ")]
        return json.loads(answers), [json.loads(line) for line in lines if line.startswith("{")]


@pytest.fixture
def package(tmp_path: Path, stack: str, monkeypatch: pytest.MonkeyPatch) -> Package:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "entry_shop", raising=False)
    return Package(tmp_path, stack)


async def test_a_request_becomes_a_row_by_two_functions(package: Package, stack: str) -> None:
    app = load_app("entry_shop", package.folder)
    async with staged(stack, [app], system=["spans"]) as stage:
        asked = {
            "version": "2.0",
            "rawPath": "/shop/orders",
            "rawQueryString": "",
            "headers": {"content-type": "application/json"},
            "requestContext": {"http": {"method": "POST", "sourceIp": "192.0.2.1"}, "stage": "$default"},
            "isBase64Encoded": False,
        }
        orders = [{**asked, "body": json.dumps({"id": id})} for id in ("a", "poison")]
        trace = {"_X_AMZN_TRACE_ID": "Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=0"}
        answers, _ = package.run("http", *orders, HEADWATER_APP="shop", **trace)
        assert [answer["statusCode"] for answer in answers] == [202, 202]
        await stage.engine._relay.pump([stage.names.outbox])  # type: ignore[union-attr]
        event = stage.receive("shop/orders", 2)
        answers, lines = package.run("queue", event, event, HEADWATER_QUEUE="shop/orders")
        poison = next(one["messageId"] for one in event["Records"] if "poison" in one["body"])
        assert answers[0] == {"batchItemFailures": [{"itemIdentifier": poison}]}
        found = await app.tables["shop/rows"].query()
        assert found.items == [{"id": "a"}]
        (failed, *_) = [line for line in lines if line.get("event") == "an attempt failed"]
        assert (failed["request"], failed["level"], failed["queue"]) == ("request-1", "warning", "shop/orders")
        assert failed["trace"] == "5759e988bd862e3fe1be46a994272793"
        told = [line for line in lines if "_aws" in line]
        assert (told[0]["deliveries"], told[0]["failures"]) == (2, 1)
