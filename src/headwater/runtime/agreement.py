"""Whether a store has what apps declare: asked by processes that use a store whose catalog others install."""

from __future__ import annotations

from headwater.catalog import Catalog
from headwater.errors import DeclarationError
from headwater.system import NAME


def check_agreement(ours: Catalog, stored: Catalog) -> None:
    """Raise `DeclarationError` when the store does not have what these apps declare, or has it otherwise."""
    for kind, mine, theirs in (
        ("table", ours.tables, stored.tables),
        ("topic", ours.topics, stored.topics),
        ("queue", ours.queues, stored.queues),
    ):
        for name in mine:
            if name not in theirs and not name.startswith(f"{NAME}/"):
                raise _differs(name, f"the store has no {kind} of this name")
    for name, table in ours.tables.items():
        other = stored.tables.get(name)
        if other is None:
            continue
        if (table.partition, table.sort) != (other.partition, other.sort):
            raise _differs(name, "the store has it with another key")
        if table.schema != other.schema:
            raise _differs(name, f"the store has model version {other.schema}, this worker's code {table.schema}")


def _differs(name: str, why: str) -> DeclarationError:
    return DeclarationError(
        why, operation="connect", resource=name, hint="let the server of the store run the same version of the app"
    )
