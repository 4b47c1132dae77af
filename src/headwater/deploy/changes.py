"""A change set, as people read it: what is added, changed and removed, and what is replaced and so begins empty."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

_SIGNS = {"Add": "+", "Modify": "~", "Remove": "-", "Import": "=", "Dynamic": "?", "SyncWithActual": "~"}
_WITH_DATA = frozenset({"AWS::DynamoDB::Table", "AWS::S3::Bucket"})
_ORDER = ("Remove", "Modify", "SyncWithActual", "Dynamic", "Import", "Add")


class Change(msgspec.Struct, frozen=True):
    """What happens to one resource; `replaced` is "True", "Conditional" (AWS knows when it does it) or "False"."""

    action: str
    id: str
    type: str
    replaced: str = "False"
    properties: tuple[str, ...] = ()
    policy: str = ""

    @property
    def loses_data(self) -> bool:
        """Whether rows or objects are gone afterwards, or in a resource that nothing uses any more."""
        return self.type in _WITH_DATA and (self.replaced != "False" or self.action == "Remove")

    def line(self) -> str:
        told = f"{_SIGNS.get(self.action, '?')} {self.type.removeprefix('AWS::')} {self.id}"
        if self.properties:
            told += f"  ({', '.join(self.properties)})"
        if self.replaced == "True":
            told += "  is replaced by a new one"
        elif self.replaced == "Conditional":
            told += "  may be replaced by a new one"
        if self.action == "Remove" and self.policy.startswith("Retain"):
            told += "  leaves the stack, and is kept"
        return told + ("  THE DATA STAYS BEHIND" if self.loses_data else "")


def read_changes(answer: Iterable[Mapping[str, Any]]) -> list[Change]:
    """The `Changes` of `DescribeChangeSet`, the gravest first."""
    found = [_read(one["ResourceChange"]) for one in answer if "ResourceChange" in one]
    return sorted(
        found, key=lambda change: (not change.loses_data, _ORDER.index(change.action), change.type, change.id)
    )


def _read(change: Mapping[str, Any]) -> Change:
    targets = (detail.get("Target", {}) for detail in change.get("Details", ()))
    named = {target.get("Name") or target.get("Attribute", "") for target in targets}
    return Change(
        change["Action"],
        change["LogicalResourceId"],
        change["ResourceType"],
        change.get("Replacement", "False"),
        tuple(sorted(name for name in named if name)),
        change.get("PolicyAction", ""),
    )


def summary(changes: Iterable[Change]) -> str:
    """How many are added, changed and removed."""
    counts = {"added": 0, "imported": 0, "changed": 0, "removed": 0}
    names = {"Add": "added", "Import": "imported", "Remove": "removed"}
    for change in changes:
        counts[names.get(change.action, "changed")] += 1
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "nothing changes"
