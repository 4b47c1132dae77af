"""Look at the templates of all applications with more tools than the test suite has time for.

    python tools/check_templates.py            cfn-lint of each template, parliament of each policy
    python tools/check_templates.py --checkov /path/of/checkov
    python tools/check_templates.py --terraform

checkov has requirements that clash with ours, so it lives in an environment of its own:

    python3 -m venv /tmp/checkov && /tmp/checkov/bin/pip install checkov

What it may find is in `ALLOWED`, each with the reason; all else ends the check with 1. `--terraform` runs
`terraform init` and `terraform validate`, which load the provider hashicorp/aws from its registry.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

ALLOWED = {
    "CKV_AWS_18": "who reads the buckets is their functions; CloudTrail's data events tell of others, and cost",
    "CKV_AWS_21": "each put of an object has a key of its own, so none is overwritten",
    "CKV_AWS_27": "queues are encrypted by SQS itself (SSE-SQS), which the check does not know",
    "CKV_AWS_68": "the console is static files; a web ACL costs by the month and is the owner's choice",
    "CKV_AWS_86": "the console is static files, and what is done there goes through the API, which has an access log",
    "CKV_AWS_111": "Lambda's way into a network and X-Ray know no resources; tests/deploy/rules.py lists these actions",
    "CKV_AWS_115": "`reserved` sets one; without it the queues' maximum concurrency holds, and the API's throttling",
    "CKV_AWS_116": "functions that are called asynchronously have one; queues and streams keep what failed themselves",
    "CKV_AWS_117": "a private network is a setting: `network`",
    "CKV_AWS_119": "tables are encrypted with the account's key of DynamoDB, which costs no request to KMS",
    "CKV_AWS_158": "CloudWatch Logs encrypts with a key of its own",
    "CKV_AWS_173": "Lambda encrypts variables with a key of its own; secrets come from Secrets Manager",
    "CKV_AWS_174": "CloudFront's own certificate has no setting of TLS versions; a domain of one's own has",
}
"""What checkov may find in the templates, and why."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkov", metavar="PROGRAM", help="also run this checkov")
    parser.add_argument("--terraform", action="store_true", help="also run terraform validate")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        places = list(written(Path(folder)))
        found = [*linted(places), *judged()]
        if arguments.checkov:
            found += checked(arguments.checkov, Path(folder))
        if arguments.terraform:
            found += [problem for place in places for problem in validated(place)]
    for problem in found:
        print(problem)
    print(f"{len(places)} templates, {len(found)} problems", file=sys.stderr)
    return 1 if found else 0


def written(folder: Path) -> Iterator[Path]:
    """Each template, as NAME/template.json and NAME/main.tf.json."""
    from headwater.deploy.cloudformation import to_cloudformation
    from headwater.deploy.terraform import to_terraform
    from tests.deploy.applications import ALL, stack_of

    for name in ALL:
        place = folder / name
        place.mkdir()
        (place / "template.json").write_text(json.dumps(to_cloudformation(stack_of(name)), indent=1), "utf-8")
        terraform = to_terraform(stack_of(name))
        terraform["terraform"].pop("backend", None)
        (place / "main.tf.json").write_text(json.dumps(terraform, indent=1), "utf-8")
        yield place


def linted(places: list[Path]) -> Iterator[str]:
    lint = importlib.import_module("cfnlint.api").lint
    for place in places:
        for found in lint((place / "template.json").read_text("utf-8"), regions=["eu-central-1", "us-east-1"]):
            yield f"{place.name}: {found.rule.id} {found.message}"


def judged() -> Iterator[str]:
    from tests.deploy.applications import ALL
    from tests.deploy.resolving import Resolver, policies
    from tests.deploy.test_linters import UNHEARD, findings, template_of

    for name in ALL:
        for id, document in policies(Resolver(template_of(name))):
            for finding in findings(document):
                if not finding.startswith(tuple(UNHEARD)):
                    yield f"{name}: {id} {finding}"


def checked(checkov: str, folder: Path) -> Iterator[str]:
    """What checkov finds and nobody has allowed."""
    command = [checkov, "--directory", str(folder), "--framework", "cloudformation", "--output", "json", "--quiet"]
    told = subprocess.run([*command, "--compact"], capture_output=True, text=True, check=False)
    report = json.loads(told.stdout)
    failed = report["results"]["failed_checks"]
    counted = Counter(one["check_id"] for one in failed)
    for id, reason in ALLOWED.items():
        print(f"allowed: {id} {counted[id]} times: {reason}", file=sys.stderr)
    for one in failed:
        if one["check_id"] not in ALLOWED:
            yield f"{Path(one['file_path']).parent.name}: {one['check_id']} {one['check_name']}: {one['resource']}"
    for parsing in report["results"].get("parsing_errors", ()):
        yield f"{parsing} could not be read"


def validated(place: Path) -> Iterator[str]:
    for command in (("init", "-backend=false", "-input=false"), ("validate", "-no-color")):
        told = subprocess.run(["terraform", *command], cwd=place, capture_output=True, text=True, check=False)
        if told.returncode:
            yield f"{place.name}: terraform {command[0]}: {(told.stdout + told.stderr).strip()}"
            return


if __name__ == "__main__":
    sys.exit(main())
