"""Bulk loads on AWS: unseen until their flip, then moved into place row by row, each change told once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import patch

import pytest

from headwater.catalog import QueueSpec, RouteSpec, TableSpec
from headwater.clock import SystemClock
from headwater.codec import decode_json, encode_json
from headwater.engine import Differences, Query
from headwater.errors import Conflict
from headwater.events import Caller
from headwater.unit import Commit, Settle, Write, new_commit
from tests.aws.provided import ProvidedEngine
from tests.conformance.loading import documents, expand, flip, load, stage
from tests.conformance.workbench import catalog

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("aws")]
TABLE, CHANGES = "shop/rows", "shop/changes"
CATALOG = catalog(
    TableSpec(name=TABLE, partition="id"),
    QueueSpec(name=CHANGES, fifo=True),
    QueueSpec(name="shop/jobs"),
    RouteSpec(source=TABLE, target=CHANGES),
)
OLD, NEW = {name: {"n": 1} for name in "abcd"}, {"a": {"n": 1}, "b": {"n": 2}, "d": {"n": 1}, "e": {"n": 5}}
NEWS = [("b", "modified", 2), ("c", "removed", None), ("e", "inserted", 5)]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def engine(stack: str) -> AsyncIterator[ProvidedEngine]:
    engine = ProvidedEngine(stack, clock=SystemClock())
    await engine.open()
    await engine.install(CATALOG)
    await load(engine, TABLE, OLD)
    await relayed(engine)
    await changes(engine)
    yield engine
    await engine.close()


async def relayed(engine: ProvidedEngine) -> None:
    assert engine._relay is not None
    await engine._relay.pump([engine.names.table(TABLE)])


async def changes(engine: ProvidedEngine) -> list[tuple[str, str, Any]]:
    """The changes since the last call: (subject, kind, new n)."""
    await relayed(engine)
    found = []
    while next(stats for stats in await engine.stats() if stats.queue == CHANGES).depth:
        for delivery in await asyncio.wait_for(engine.receive(CHANGES, 10), 10):
            event = delivery.event
            found.append((event.subject, event.type, event.data and decode_json(event.data)["n"]))
            commit = new_commit()
            commit.settles.append(Settle(CHANGES, delivery.position, delivery.fence))
            await engine.commit(commit)
    return sorted(found, key=str)


async def seen(engine: ProvidedEngine) -> dict[str, int]:
    page = await engine.query(Query(table=TABLE, limit=1000))
    return {record.key[0]: decode_json(record.body)["n"] for record in page.records}


def numbers(rows: dict[str, Any]) -> dict[str, int]:
    return {name: row["n"] for name, row in rows.items()}


async def test_rows_move_after_the_flip_and_each_change_is_told_once(engine: ProvidedEngine) -> None:
    staging, differences, vanished = await stage(engine, TABLE, NEW)
    assert (differences, vanished) == (Differences(inserted=1, modified=1, unchanged=2), 1)
    assert await seen(engine) == numbers(OLD)
    commit = new_commit("load-1/shop/loads", Caller(subject="ann"), depth=3)
    await flip(engine, staging, commit)
    assert await seen(engine) == numbers(OLD)
    await asyncio.gather(*(expand(engine, TABLE) for _ in range(3)))
    assert await seen(engine) == numbers(NEW)
    assert await changes(engine) == NEWS
    (event,) = await engine.history(TABLE, ("e", ""), 10)
    assert (event.cause, event.caller, event.depth) == ("load-1/shop/loads", Caller(subject="ann"), 3)
    assert event.trace == commit.trace
    assert await engine.unchanged_since_load(TABLE, "")
    again, differences, _ = await stage(engine, TABLE, NEW)
    assert (again.staged, differences) == (0, Differences(unchanged=4))


async def test_what_is_written_after_the_comparison_stands(engine: ProvidedEngine) -> None:
    staging, *_ = await stage(engine, TABLE, NEW)
    await flip(engine, staging)
    commit = new_commit()
    commit.writes.append(Write(TABLE, ("b", ""), f"{commit.id}-0", encode_json({"id": "b", "n": 8})))
    await engine.commit(commit)
    await expand(engine, TABLE)
    assert await seen(engine) == {**numbers(NEW), "b": 8}
    assert not await engine.unchanged_since_load(TABLE, "")
    differences, _ = await load(engine, TABLE, NEW)
    assert differences == Differences(modified=1, unchanged=3)
    assert await seen(engine) == numbers(NEW)


async def test_a_slice_that_was_moved_and_not_noted_is_moved_once(engine: ProvidedEngine) -> None:
    staging, *_ = await stage(engine, TABLE, NEW)
    await flip(engine, staging)
    with patch.object(engine, "write_all", side_effect=ConnectionError), pytest.raises(ConnectionError):
        await engine.expand(TABLE)
    commit = new_commit()
    commit.writes.append(Write(TABLE, ("e", ""), f"{commit.id}-0", encode_json({"id": "e", "n": 9})))
    await engine.commit(commit)
    await expand(engine, TABLE)
    assert await seen(engine) == {**numbers(NEW), "e": 9}
    assert await changes(engine) == sorted([*NEWS, ("e", "modified", 9)], key=str)


async def test_the_flip_is_part_of_its_commit(engine: ProvidedEngine) -> None:
    first, *_ = await stage(engine, TABLE, NEW)
    second, *_ = await stage(engine, TABLE, {"z": {"n": 1}})
    await flip(engine, first)
    with pytest.raises(Conflict, match="not in place"):
        await flip(engine, second, writing_mine())
    await expand(engine, TABLE)
    with pytest.raises(Conflict, match="another load came first"):
        await flip(engine, second, writing_mine())
    assert await seen(engine) == numbers(NEW)


def writing_mine() -> Commit:
    commit = new_commit()
    commit.writes.append(Write(TABLE, ("mine", ""), f"{commit.id}-0", encode_json({"id": "mine", "n": 1})))
    return commit


async def test_a_load_that_is_given_up_is_swept_and_never_flipped(engine: ProvidedEngine) -> None:
    staging = await engine.begin_load(TABLE, "")
    await staging.add(documents({f"k{n}": {"n": n} for n in range(30)}))
    await staging.finish("keep", 0, 1.0)
    staging.close()
    assert await engine.sweep_loads(10) == 0, "it may still be flipped"
    engine.abandon(staging.flip.load)
    assert await engine.sweep_loads(10) == 10
    with pytest.raises(Conflict, match="given up"):
        await flip(engine, staging)
    with pytest.raises(Conflict, match="given up"):
        await engine.touch(staging.flip)
    assert await engine.sweep_loads(100) == 20
    assert await engine.sweep_loads(100) == 0
    assert await seen(engine) == numbers(OLD)


async def test_rows_that_vanish_may_expire(engine: ProvidedEngine) -> None:
    staging, _, vanished = await stage(engine, TABLE, {"a": {"n": 1}}, missing="expire", grace_ms=60_000)
    await flip(engine, staging)
    await expand(engine, TABLE)
    assert vanished == 3
    assert await seen(engine) == numbers(OLD)
    assert await changes(engine) == []
    key = {"hw_pk": {"S": "b"}}
    answer = await engine.dynamodb("get_item", TableName=engine.names.table(TABLE), Key=key)
    expires_ms = int(answer["Item"]["hw_x"]["N"])
    assert 0 < expires_ms - await engine.now_ms() <= 60_000
    assert int(answer["Item"]["hw_ttl"]["N"]) == -(-expires_ms // 1000)
