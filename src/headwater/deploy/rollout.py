"""A stack's way to AWS: a change set is made, looked at, executed, followed to its end; and the stack's way back.

States, and what they mean to us: REVIEW_IN_PROGRESS is a stack that has only had change sets, so it is created yet;
ROLLBACK_COMPLETE is one whose creation failed, which AWS lets nobody update, so it is deleted first: there is nothing
in it (`RetainExceptOnCreate`). A change set without changes is a failed one, with words for a reason.
Tables and buckets outlive their stack; a later deployment finds them by their names and takes them in again, for which
AWS wants their names to be spelt out (`settle`).
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from headwater.deploy.changes import Change, read_changes
from headwater.deploy.cloud import Artifacts, Cloud, CloudRefused
from headwater.errors import HeadwaterError

INLINE_BYTES = 51_200
"""The longest template that a request may carry."""
_NO_CHANGES = ("didn't contain changes", "No updates are to be performed")
_CANCELLED = ("Resource creation cancelled", "Resource update cancelled", "The following resource(s) failed")


class RolledBack(HeadwaterError):
    """AWS undid the deployment; the message names the resource that failed first."""


class StackEvent(msgspec.Struct, frozen=True):
    id: str
    at: datetime
    resource: str
    type: str
    status: str
    reason: str = ""

    @property
    def failed(self) -> bool:
        return self.status.endswith("_FAILED") and not self.reason.startswith(_CANCELLED)

    def line(self) -> str:
        reason = f"  {self.reason}" if self.reason else ""
        return f"{self.at:%H:%M:%S} {self.status.ljust(28)} {self.resource} ({self.type}){reason}"


class Planned(msgspec.Struct, frozen=True):
    """A change set that waits to be executed; without changes there is none."""

    stack: str
    change_set: str
    creates: bool
    changes: tuple[Change, ...]


class Rollout:
    """One stack of one account and region. `poll_s` is how often AWS is asked."""

    def __init__(self, cloud: Cloud, artifacts: Artifacts, stack: str, *, poll_s: float = 2.0) -> None:
        self._cloud = cloud
        self._artifacts = artifacts
        self._stack = stack
        self._poll_s = poll_s

    def plan(self, template: str, parameters: Mapping[str, str], tags: Mapping[str, str]) -> Planned:
        """Have AWS work out what would change. Parameters that are not given stay what they are."""
        present = self.describe()
        creates = present is None or present["StackStatus"] == "REVIEW_IN_PROGRESS"
        if present is not None and present["StackStatus"] == "ROLLBACK_COMPLETE":
            self.delete(lambda event: None)
            present, creates = None, True
        template = settle(template, self._cloud.account, self._cloud.region)
        made = self._call(
            "create_change_set",
            ChangeSetName=f"headwater-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}",
            ChangeSetType="CREATE" if creates else "UPDATE",
            Capabilities=["CAPABILITY_NAMED_IAM"],
            Parameters=_parameters(template, parameters, present),
            Tags=[{"Key": name, "Value": value} for name, value in sorted(tags.items())],
            ImportExistingResources=True,
            **self._template(template),
        )
        return self._await_plan(str(made["Id"]), creates)

    def _template(self, template: str) -> dict[str, str]:
        if len(template.encode()) <= INLINE_BYTES:
            return {"TemplateBody": template}
        digest = hashlib.sha256(template.encode()).hexdigest()[:16]
        return {"TemplateURL": self._artifacts.put_text(template, f"{self._stack}/{digest}.template.json")}

    def _await_plan(self, change_set: str, creates: bool) -> Planned:
        while True:
            pages = [self._describe_change_set(change_set)]
            while token := pages[-1].get("NextToken"):
                pages.append(self._describe_change_set(change_set, NextToken=token))
            status, reason = pages[0]["Status"], pages[0].get("StatusReason", "")
            if status == "CREATE_COMPLETE":
                changes = read_changes(change for page in pages for change in page["Changes"])
                return Planned(self._stack, change_set, creates, tuple(changes))
            if status == "FAILED":
                self.discard(Planned(self._stack, change_set, creates, ()))
                if any(words in reason for words in _NO_CHANGES):
                    return Planned(self._stack, "", creates, ())
                raise CloudRefused(reason, operation="plan", resource=self._stack)
            time.sleep(self._poll_s)

    def _describe_change_set(self, change_set: str, **more: str) -> dict[str, Any]:
        return dict(self._cloud.call("cloudformation", "describe_change_set", ChangeSetName=change_set, **more))

    def discard(self, planned: Planned) -> None:
        """Forget a plan, and the empty stack that AWS made for it."""
        if planned.creates:
            self._call("delete_stack")
        elif planned.change_set:
            self._cloud.call("cloudformation", "delete_change_set", ChangeSetName=planned.change_set)

    def execute(self, planned: Planned, tell: Callable[[StackEvent], None]) -> dict[str, str]:
        """Do it, telling each event; the stack's outputs. Raises `RolledBack` when AWS had to undo it."""
        after = self._newest()
        parameters = {"RetainExceptOnCreate": True} if planned.creates else {}
        self._cloud.call("cloudformation", "execute_change_set", ChangeSetName=planned.change_set, **parameters)
        first_failure = tell_each(self._follow(after), tell)
        status = str((self.describe() or {}).get("StackStatus", "DELETE_COMPLETE"))
        if status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE", "IMPORT_COMPLETE"):
            raise _rolled_back(self._stack, status, self._explained(first_failure))
        return self.outputs()

    def _explained(self, failure: StackEvent | None) -> StackEvent | None:
        """What was refused before it began is told by another request, which names the resource."""
        if failure is None or "DescribeEvents" not in failure.reason:
            return failure
        answer = self._call("describe_events", Filters={"FailedEvents": True})
        refused = [one for one in answer["OperationEvents"] if one.get("ValidationStatusReason")]
        if not refused:
            return failure
        first, reason = refused[0], refused[0]["ValidationStatusReason"]
        return msgspec.structs.replace(
            failure, resource=first["LogicalResourceId"], type=first["ResourceType"], reason=reason
        )

    def delete(self, tell: Callable[[StackEvent], None]) -> None:
        """Delete the stack; what it keeps is kept. Raises `RolledBack` when something of it cannot be deleted."""
        present = self.describe()
        if present is None:
            return
        after = self._newest()
        self._call("delete_stack")
        first_failure = tell_each(self._follow(after, str(present["StackId"])), tell)
        if self.describe() is not None:
            raise _rolled_back(self._stack, "DELETE_FAILED", first_failure)

    def _follow(self, after: str, stack: str = "") -> Iterator[StackEvent]:
        """The stack's events after that one, in their order, until the operation has ended."""
        while True:
            present = self._find(stack or self._stack)
            status = str(present["StackStatus"]) if present else "DELETE_COMPLETE"
            for event in self._events(stack or self._stack, after):
                after = event.id
                yield event
            if not status.endswith("_IN_PROGRESS"):
                return
            time.sleep(self._poll_s)

    def _newest(self) -> str:
        pages = self._cloud.pages("cloudformation", "describe_stack_events", StackName=self._stack)
        return next((str(event["EventId"]) for page in pages for event in page["StackEvents"]), "")

    def _events(self, stack: str, after: str) -> list[StackEvent]:
        found: list[StackEvent] = []
        for page in self._cloud.pages("cloudformation", "describe_stack_events", StackName=stack):
            for event in page["StackEvents"]:
                if event["EventId"] == after:
                    return found[::-1]
                found.append(_read_event(event))
        return found[::-1]

    def describe(self) -> dict[str, Any] | None:
        """The stack as AWS has it; None when there is none."""
        found = self._find(self._stack)
        return None if found is None or found["StackStatus"] == "DELETE_COMPLETE" else found

    def _find(self, stack: str) -> dict[str, Any] | None:
        try:
            return dict(self._cloud.call("cloudformation", "describe_stacks", StackName=stack)["Stacks"][0])
        except CloudRefused as refused:
            if "does not exist" in refused.message:
                return None
            raise

    def outputs(self) -> dict[str, str]:
        present = self.describe() or {}
        return {one["OutputKey"]: one["OutputValue"] for one in present.get("Outputs", ())}

    def resources(self, *types: str) -> list[tuple[str, str]]:
        """(type, physical name) of the stack's resources of these types."""
        found = []
        for page in self._cloud.pages("cloudformation", "list_stack_resources", StackName=self._stack):
            found += [(one["ResourceType"], one["PhysicalResourceId"]) for one in page["StackResourceSummaries"]]
        return [(type_, name) for type_, name in found if type_ in types]

    def _call(self, operation: str, **parameters: Any) -> Any:
        return self._cloud.call("cloudformation", operation, StackName=self._stack, **parameters)


def tell_each(events: Iterable[StackEvent], tell: Callable[[StackEvent], None]) -> StackEvent | None:
    """The first of them that failed by itself: what was under way then is cancelled, and fails after it."""
    first: StackEvent | None = None
    for event in events:
        tell(event)
        if event.failed and first is None:
            first = event
    return first


def settle(template: str, account: str, region: str) -> str:
    """The template with the buckets' names spelt out, as taking in existing ones needs it."""
    data = json.loads(template)
    for resource in data["Resources"].values():
        name = resource.get("Properties", {}).get("BucketName")
        if resource["Type"] == "AWS::S3::Bucket" and isinstance(name, dict) and isinstance(name.get("Fn::Sub"), str):
            text = name["Fn::Sub"].replace("${AWS::AccountId}", account).replace("${AWS::Region}", region)
            resource["Properties"]["BucketName"] = text
    return json.dumps(data, separators=(",", ":"), sort_keys=True)


def _parameters(template: str, given: Mapping[str, str], present: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Each parameter of the template: as given, else as it is; else the template's default."""
    known = {one["ParameterKey"] for one in (present or {}).get("Parameters", ())}
    declared = json.loads(template).get("Parameters", {})
    if unknown := sorted(set(given) - set(declared)):
        raise CloudRefused(
            f"the stack has no parameter {unknown[0]!r}", operation="plan", hint=f"it has {', '.join(sorted(declared))}"
        )
    kept = [name for name in sorted(declared) if name in known and name not in given]
    for name, spec in declared.items():
        if name not in given and name not in known and "Default" not in spec:
            raise CloudRefused(f"the parameter {name} needs a value", operation="plan", hint=f"--parameter {name}=…")
    return [
        *({"ParameterKey": name, "ParameterValue": given[name]} for name in sorted(given)),
        *({"ParameterKey": name, "UsePreviousValue": True} for name in kept),
    ]


def _read_event(event: Mapping[str, Any]) -> StackEvent:
    return StackEvent(
        event["EventId"],
        event["Timestamp"],
        event["LogicalResourceId"],
        event["ResourceType"],
        event["ResourceStatus"],
        event.get("ResourceStatusReason", ""),
    )


def _rolled_back(stack: str, status: str, first: StackEvent | None) -> RolledBack:
    if first is None:
        return RolledBack(f"it ended as {status}", operation="deploy", resource=stack)
    return RolledBack(
        f"{first.resource} ({first.type}) failed first: {first.reason or first.status}; the stack is {status}",
        operation="deploy",
        resource=stack,
        hint="nothing of this deployment is left; mend it and deploy again" if "ROLLBACK" in status else "",
    )
