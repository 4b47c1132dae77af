"""Short ways to load a table in the conformance, model and fault tests."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from headwater.codec import encode_json
from headwater.engine import Differences, Document, Engine, Missing, Staging
from headwater.unit import Commit, Committed, new_commit

Rows = Mapping[str, Any]


def documents(rows: Rows, key: str = "id") -> list[Document]:
    """Rows by key; each gets its key as a field."""
    bodies = {name: encode_json({key: name, **row}) for name, row in rows.items()}
    return [Document((name, ""), body, hashlib.blake2b(body, digest_size=16).digest()) for name, body in bodies.items()]


async def stage(
    engine: Engine,
    table: str,
    rows: Rows,
    *,
    scope: str = "",
    missing: Missing = "delete",
    grace_ms: int = 0,
    max_removed: float = 1.0,
) -> tuple[Staging, Differences, int]:
    """A load up to its flip; the differences found, and how many rows vanish."""
    staging = await engine.begin_load(table, scope)
    try:
        differences = await staging.add(documents(rows))
        vanished = await staging.finish(missing, grace_ms, max_removed)
    finally:
        staging.close()
    return staging, differences, vanished


async def flip(engine: Engine, staging: Staging, commit: Commit | None = None) -> Committed:
    commit = commit or new_commit()
    commit.flips.append(staging.flip)
    return await engine.commit(commit)


async def expand(engine: Engine, table: str) -> int:
    """Get all rows of the flipped load into place; how many."""
    total = 0
    while moved := await engine.expand(table):
        total += moved
    return total


async def load(engine: Engine, table: str, rows: Rows, **options: Any) -> tuple[Differences, int]:
    """A whole load, expanded."""
    staging, differences, vanished = await stage(engine, table, rows, **options)
    await flip(engine, staging)
    await expand(engine, table)
    return differences, vanished
