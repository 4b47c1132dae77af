"""`python -m tests.aws.permissions [shop desk …] [--report FILE]`: is each permission needed, and is each one enough?

An app's story is told on a stack whose stand-in writes down what it judged. What the story has used is then taken away,
one action on one resource of one role at a time, with the role's function started anew: each time the story must meet a
refusal. What it has not used is taken away all at once, and the story must still be told: those are listed with the
reason that is known, for the others somebody has to say one.

It takes minutes, so it is no part of the test suite. It ends with 1 when taking one away that is used meets no refusal.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.aws import stories
from tests.aws.deployed import BATCHES, Deployed, Interrupted, deployed, make_ministack

PATIENCE_S = 60.0
BY_AWS = {
    "sqs:ReceiveMessage": "the event source mapping receives, with the function's role",
    "sqs:DeleteMessage": "the event source mapping deletes, with the function's role",
    "sqs:GetQueueAttributes": "the event source mapping asks, with the function's role",
    "dynamodb:GetRecords": "the event source mapping reads the stream, with the function's role",
    "dynamodb:GetShardIterator": "the event source mapping reads the stream, with the function's role",
    "dynamodb:DescribeStream": "the event source mapping reads the stream, with the function's role",
    "dynamodb:ListStreams": "the event source mapping reads the stream, with the function's role",
    "logs:CreateLogStream": "Lambda writes the function's logs, with its role",
    "logs:PutLogEvents": "Lambda writes the function's logs, with its role",
    "xray:PutTraceSegments": "Lambda writes the traces, with the function's role",
    "xray:PutTelemetryRecords": "Lambda writes the traces, with the function's role",
    "iam:PassRole": "the scheduler's service asks for it, which the stand-in does not",
}
"""What AWS does itself under a role, and the stand-in does without asking."""
Story = Callable[[Deployed], None]
STACKS: dict[str, tuple[str, tuple[Story, ...]]] = {
    "shop": (stories.SHOP, (stories.sell,)),
    "desk": (stories.DESK, (stories.take_in, stories.spoil)),
    "office": (stories.OFFICE, (stories.revoke,)),
    "studio": (stories.STUDIO, (stories.upload,)),
    "house": (stories.HOUSE, (stories.drop_staff,)),
}


class Permission(NamedTuple):
    role: str
    action: str
    resource: str


class Judgements:
    """What the stand-in has judged, as it writes it down."""

    def __init__(self, file: Path) -> None:
        self._file = file

    @property
    def end(self) -> int:
        return self._file.stat().st_size

    def since(self, position: int) -> Iterator[dict[str, Any]]:
        with self._file.open("rb") as lines:
            lines.seek(position)
            for line in lines:
                if line.endswith(b"\n"):
                    yield json.loads(line)

    def used(self, position: int) -> set[Permission]:
        return {_read(one) for one in self.since(position) if one["role"] and one["allowed"]}

    def refused(self, position: int, role: str) -> bool:
        return any(one.role == role for one in self.refusals(position))

    def refusals(self, position: int) -> set[Permission]:
        return {_read(one) for one in self.since(position) if one["role"] and not one["allowed"]}


def _read(judged: dict[str, Any]) -> Permission:
    singles = {batch: single for single, batch in BATCHES.items()}
    return Permission(judged["role"], singles.get(judged["action"], judged["action"]), judged["resource"])


class Roles:
    """The roles of a stack's functions, and their policies, which can be changed while the stack lives."""

    def __init__(self, made: Deployed) -> None:
        self._call = made.aws.call
        self.functions: dict[str, tuple[str, int]] = {}
        self.policies: dict[str, tuple[str, dict[str, Any]]] = {}
        for page in made.aws.pages("lambda", "list_functions"):
            for function in page["Functions"]:
                if function["FunctionName"].startswith(f"{made.stack}-"):
                    role = function["Role"].rpartition("/")[2]
                    self.functions[role] = (function["FunctionName"], function["Timeout"])
        for role in self.functions:
            (name,) = self._call("iam", "list_role_policies", RoleName=role)["PolicyNames"]
            document = self._call("iam", "get_role_policy", RoleName=role, PolicyName=name)["PolicyDocument"]
            self.policies[role] = (name, document)

    def permissions(self) -> list[Permission]:
        """Each action on each resource, once; the stand-in's names of batches are the action's own."""
        found = set()
        for role, (_, document) in self.policies.items():
            for statement in document["Statement"]:
                for action in set(_many(statement["Action"])) - set(BATCHES.values()):
                    found |= {Permission(role, action, resource) for resource in _many(statement["Resource"])}
        return sorted(found)

    @contextmanager
    def without(self, *gone: Permission) -> Iterator[None]:
        """As long as it lasts the roles lack these permissions; their functions start anew before and after."""
        roles = {permission.role for permission in gone}
        for role in roles:
            self._put(role, _narrowed(self.policies[role][1], [one for one in gone if one.role == role]))
        try:
            yield
        finally:
            for role in roles:
                self._put(role, self.policies[role][1])

    def _put(self, role: str, document: dict[str, Any]) -> None:
        name = self.policies[role][0]
        if document["Statement"]:
            self._call("iam", "put_role_policy", RoleName=role, PolicyName=name, PolicyDocument=json.dumps(document))
        else:
            self._call("iam", "delete_role_policy", RoleName=role, PolicyName=name)
        function, timeout = self.functions[role]
        self._call("lambda", "update_function_configuration", FunctionName=function, Timeout=timeout)


def _many(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _narrowed(document: dict[str, Any], gone: list[Permission]) -> dict[str, Any]:
    """The policy with a statement for each action and resource, but for those that are to be gone."""
    lacking = {(one.action, one.resource) for one in gone}
    lacking |= {(BATCHES[one.action], one.resource) for one in gone if one.action in BATCHES}
    statements = []
    for statement in document["Statement"]:
        for action in _many(statement["Action"]):
            kept = [resource for resource in _many(statement["Resource"]) if (action, resource) not in lacking]
            if kept:
                statements.append({**copy.deepcopy(statement), "Action": action, "Resource": kept})
    return {**document, "Statement": statements}


def examine(made: Deployed, told: tuple[Story, ...], judgements: Judgements) -> list[dict[str, str]]:
    """A row for each permission of the stack's functions: what becomes of the story without it."""
    roles = Roles(made)
    position = judgements.end
    for story in told:
        story(made)
    used = judgements.used(position)
    rows = []
    permissions = roles.permissions()
    unused = [one for one in permissions if not any(_covers(one, other) for other in used)]
    print(f"{made.stack}: {len(permissions)} permissions, {len(permissions) - len(unused)} used", flush=True)
    for one in (one for one in permissions if one not in unused):
        with roles.without(one):
            rows.append(_row(one, _tell(made, told, judgements, one.role)))
        print("  " + "  ".join(rows[-1].values()), flush=True)
    position = judgements.end
    with roles.without(*unused):
        outcome = _tell(made, told, judgements, "")
    if outcome != "nothing":
        print(f"{made.stack} without what it had not used: {outcome}; refused: {judgements.refusals(position)}")
        rows.append(_row(Permission("all", "not used", "all"), outcome))
    return rows + [_row(one, "not used", BY_AWS.get(one.action, "")) for one in unused]


def _covers(permission: Permission, used: Permission) -> bool:
    """A role's resource may end with an asterisk, which stands for anything."""
    same = (permission.role, permission.action) == (used.role, used.action)
    stem = permission.resource.rstrip("*")
    return same and (
        used.resource == permission.resource or (stem != permission.resource and used.resource.startswith(stem))
    )


def _row(permission: Permission, outcome: str, reason: str = "") -> dict[str, str]:
    return {**permission._asdict(), "outcome": outcome, "reason": reason}


def _tell(made: Deployed, told: tuple[Story, ...], judgements: Judgements, role: str) -> str:
    """What failed: "refused", or the story itself; "nothing" when it was told to its end without a refusal."""
    position = judgements.end
    made.patience_s = PATIENCE_S
    made.interrupted = lambda: bool(role) and judgements.refused(position, role)
    try:
        for story in told:
            story(made)
    except Interrupted:
        return "refused"
    except Exception as error:
        return "refused" if judgements.refused(position, role) else f"failed: {type(error).__name__}"
    return "refused" if role and judgements.refused(position, role) else "nothing"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.aws.permissions", description=__doc__)
    parser.add_argument("stacks", nargs="*", default=list(STACKS), metavar="STACK", help=f"of {', '.join(STACKS)}")
    parser.add_argument("--report", type=Path, metavar="FILE", help="where to write the rows as JSON")
    options = parser.parse_args()
    rows: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "judgements"
        with make_ministack(file) as ministack:
            for name in options.stacks:
                settings, told = STACKS[name]
                party = stories.vendor if name == "office" else stories.no_vendor
                settings = f"trace_sample = 1.0\n{settings}"  # so that each function uses what it traces with
                with party() as variables, deployed(ministack, name, settings, **variables) as made:
                    rows += examine(made, told, Judgements(file))
    if options.report is not None:
        options.report.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    for outcome, count in sorted(Counter(row["outcome"] for row in rows).items()):
        print(f"{count:5} {outcome}")
    for row in rows:
        if row["outcome"] == "not used" and not row["reason"]:
            print(f"not used: {row['role']} {row['action']} {row['resource']}")
    return 1 if any(row["outcome"] not in ("refused", "not used") for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
