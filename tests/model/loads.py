"""What a store promises of loads: in force from the flip; changes and members follow when a row gets into place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Loads:
    """`pending`: rows of the flipped load that are not in place, as (is it a change, version, row or None)."""

    documents: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    members: dict[str, str] = field(default_factory=dict)
    pending: dict[str, tuple[bool, str, dict[str, Any] | None]] = field(default_factory=dict)

    def differences(self, rows: dict[str, Any]) -> dict[str, dict[str, Any] | None]:
        """What a load of all rows has to stage; None: the row is missing."""
        staged = {key: row for key, row in rows.items() if self.documents.get(key) != (self.members.get(key), row)}
        return {**staged, **dict.fromkeys(self.members.keys() - rows.keys())}

    def flip(self, staged: dict[str, dict[str, Any] | None], versions: dict[str, str]) -> None:
        for key, row in staged.items():
            old = self.documents.pop(key, (None, None))[1]
            if row is not None:
                self.documents[key] = versions[key], row
            self.pending[key] = old != row, versions.get(key, ""), row

    def moved(self, key: str) -> tuple[str, dict[str, Any] | None] | None:
        """The change of a row that gets into place; its version is not known of a removed one."""
        if key not in self.pending:
            return None
        changed, version, row = self.pending.pop(key)
        if row is None:
            self.members.pop(key, None)
        else:
            self.members[key] = version
        return (version, row) if changed else None
