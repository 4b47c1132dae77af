"""Apps on a stand-in for AWS, deployed from the template that is generated for them, each function under its own role.

The package is a thin one: the stand-in's functions import Headwater and the apps from where its PYTHONPATH says.
`stand_in` is all that is changed of the template, for what ministack does otherwise than AWS.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import httpx

from headwater.config import load_config
from headwater.deploy.artifacts import Release, make_release
from headwater.deploy.cloud import Artifacts, Cloud
from headwater.deploy.rollout import Rollout
from headwater.deploy.store import install_catalog
from headwater.loading import load_app
from tests.aws.ministack import Ministack

ROOT = Path(__file__).parents[2]
ENVIRONMENT = "acceptance"
PATIENCE_S = 60.0
BATCHES = {
    "sqs:SendMessage": "sqs:SendMessageBatch",
    "sqs:DeleteMessage": "sqs:DeleteMessageBatch",
    "sqs:ChangeMessageVisibility": "sqs:ChangeMessageVisibilityBatch",
    "sns:Publish": "sns:PublishBatch",
}
"""IAM knows no such actions as those on the right, which ministack asks for: on AWS those on the left allow both."""
T = TypeVar("T")


def make_ministack(judgements: Path | None = None) -> Ministack:
    """One that judges each request by IAM, and whose functions run this checkout; it writes down what it judged."""
    options = {"PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT))), "LOG_LEVEL": "INFO"}
    if judgements is None:
        return Ministack(auth=True, **options)
    return Ministack(auth=True, module="tests.aws.judged", JUDGEMENTS=str(judgements), **options)


def stand_in(template: dict[str, Any], api: str) -> dict[str, Any]:
    """The template as ministack needs it.

    Its names for batches, no demand for TLS, no metric math, an API whose address is known before; without what it has
    no such service for: the scaling of containers, which it does not run either.
    """
    resources = template["Resources"]
    for name in [name for name, one in resources.items() if one["Type"].startswith("AWS::ApplicationAutoScaling::")]:
        del resources[name]
    for resource in resources.values():
        properties = resource["Properties"]
        for policy in (properties, *properties.get("Policies", ())):
            if document := policy.get("PolicyDocument"):
                document["Statement"] = [_judged(one) for one in document["Statement"] if not _wants_tls(one)]
        if resource["Type"] == "AWS::ApiGatewayV2::Api":
            properties["Tags"] = {**properties.get("Tags", {}), "ms-custom-id": api}
        if resource["Type"] == "AWS::CloudWatch::Alarm" and "Metrics" in properties:
            metrics = properties.pop("Metrics")
            figure = next(one["MetricStat"] for one in metrics if "MetricStat" in one)
            properties |= {**figure["Metric"], "Statistic": figure["Stat"], "Period": figure["Period"]}
    return template


def _wants_tls(statement: dict[str, Any]) -> bool:
    return statement.get("Condition") == {"Bool": {"aws:SecureTransport": "false"}}


def _judged(statement: dict[str, Any]) -> dict[str, Any]:
    return {**statement, "Action": _with_batches(statement["Action"])}


def _with_batches(actions: str | list[str]) -> list[str]:
    named = [actions] if isinstance(actions, str) else actions
    return sorted({*named, *(BATCHES[name] for name in named if name in BATCHES)})


class Interrupted(Exception):
    """What is waited for need not be waited for any more."""


class Deployed:
    """A stack that is there; `aws` are its clients as root."""

    def __init__(self, ministack: Ministack, stack: str, release: Release, url: str, aws: Cloud) -> None:
        self.ministack = ministack
        self.stack = stack
        self.release = release
        self.url = url
        self.aws = aws
        self.patience_s = PATIENCE_S
        self.interrupted: Callable[[], bool] = lambda: False
        """Asked while one waits; when it says so, the wait is over, and `Interrupted` is raised."""
        self._clients: list[httpx.Client] = []

    def client(self, app: str, **headers: str) -> httpx.Client:
        """A client of the app's HTTP API, by way of API Gateway."""
        made = httpx.Client(base_url=f"{self.url}/{app}", headers=headers, timeout=30, trust_env=False)
        self._clients.append(made)
        return made

    def close(self) -> None:
        for client in self._clients:
            client.close()

    def rows(self, table: str) -> list[dict[str, Any]]:
        """The items of a table as DynamoDB has them, those that are no tombstones."""
        name = f"{self.stack}-{table.replace('/', '-')}"
        items = self.aws.call("dynamodb", "scan", TableName=name, ConsistentRead=True)["Items"]
        return [item for item in items if "hw_gone" not in item]

    def letters(self, queue: str) -> list[dict[str, Any]]:
        """The dead letters of a queue, as items of the store table."""
        found = self.aws.call(
            "dynamodb",
            "query",
            TableName=f"{self.stack}-store",
            KeyConditionExpression="hw_pk = :queue",
            ExpressionAttributeValues={":queue": {"S": f"dead#{queue}"}},
        )
        return list(found["Items"])

    def mails(self) -> list[dict[str, Any]]:
        with httpx.Client(trust_env=False) as client:
            found = client.get(f"{self.ministack.url}/_ministack/ses/messages").json()["messages"]
        return [mail for account in found.values() for mail in account]

    def await_(self, what: Callable[[], T]) -> T:
        """Ask until there is an answer. Fails with what the functions have logged last."""
        end = time.monotonic() + self.patience_s
        while not (found := what()):
            if self.interrupted():
                raise Interrupted
            assert time.monotonic() < end, f"not within {self.patience_s} s; the functions said:\n{self.logs()}"
            time.sleep(0.1)
        return found

    def logs(self, most: int = 60) -> str:
        """The last lines of the functions that say of errors."""
        lines: list[str] = []
        for page in self.aws.pages("logs", "describe_log_groups", logGroupNamePrefix=f"/aws/lambda/{self.stack}"):
            for group in page["logGroups"]:
                events = self.aws.call("logs", "filter_log_events", logGroupName=group["logGroupName"])["events"]
                lines += [f"{group['logGroupName']}: {event['message'].strip()}" for event in events]
        bad = [line for line in lines if any(word in line for word in ('"error"', "Error", "Traceback", "exception"))]
        return "\n".join(list(dict.fromkeys(bad))[-most:]) or "nothing of errors"


@contextmanager
def deployed(ministack: Ministack, stack: str, settings: str, **variables: str) -> Iterator[Deployed]:
    """The apps of these settings, TOML below [acceptance], as a stack; it is left to the process's end.

    `variables` are those of all functions.
    """
    api = hashlib.sha256(stack.encode()).hexdigest()[:8]
    url = f"{ministack.url}/_aws/execute-api/{api}/$default"
    plain = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    with (
        patch.dict(os.environ, {**plain, **ministack.environment, **variables}, clear=True),
        tempfile.TemporaryDirectory(dir=ministack.folder) as place,
    ):
        folder = Path(place)
        text = f'[{ENVIRONMENT}]\npublic_url = "{url}"\n{settings}\n[{ENVIRONMENT}.aws]\nstack = "{stack}"\n'
        text += f"[{ENVIRONMENT}.aws.env]\n" + "".join(f'{name} = "{value}"\n' for name, value in variables.items())
        (folder / "headwater.toml").write_text(text, "utf-8")
        config = load_config(folder, environment=ENVIRONMENT)
        release = make_release([load_app(name, ROOT) for name in config.apps], config, folder)
        cloud = Cloud()
        artifacts = Artifacts(cloud)
        artifacts.prepare()
        _deploy(Rollout(cloud, artifacts, stack, poll_s=0.02), artifacts, release, api)
        install_catalog(release.graph, stack)
        made = Deployed(ministack, stack, release, url, cloud)
        try:
            yield made
        finally:
            made.close()
            cloud.close()


def _deploy(rollout: Rollout, artifacts: Artifacts, release: Release, api: str) -> None:
    assert release.settings is not None
    package = release.settings.with_name("thin.zip")
    with zipfile.ZipFile(package, "w") as thin:
        thin.write(release.settings, release.settings.name)
    key = f"{release.stack.name}/thin.zip"
    artifacts.upload(package, key)
    template = stand_in(json.loads(release.template), api)
    code = {kind.key: key for kind in release.kinds()} | {kind.bucket: artifacts.name for kind in release.kinds()}
    wanted = (name for name, spec in template.get("Parameters", {}).items() if "Default" not in spec)
    planned = rollout.plan(json.dumps(template), {name: code.get(name, "none") for name in wanted}, {})
    rollout.execute(planned, lambda event: None)
