"""Datasets that account for themselves: all rows of one have its number, and each has rows of its own.

So a store can be judged at any moment: what a reader sees is one dataset, no older than the last one acknowledged, and
the changes of each key are a chain of images that ends at its row.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from headwater.catalog import Catalog, QueueSpec, RouteSpec, TableSpec
from headwater.codec import decode_json
from headwater.engine import Query
from headwater.engines.sqlite.database import fetch
from headwater.engines.sqlite.engine import SqliteEngine
from headwater.events import Envelope
from headwater.unit import Write, new_commit
from tests.conformance.loading import documents, expand

TABLE = "shop/rows"
CATALOG = Catalog(
    apps=("shop",),
    tables={TABLE: TableSpec(name=TABLE, partition="id")},
    queues={"shop/changes": QueueSpec(name="shop/changes", fifo=True)},
    routes=(RouteSpec(source=TABLE, target="shop/changes", group="$subject", origin="shop"),),
)
WRITTEN = "k100"
"""The key that somebody writes while a dataset is moved into place."""
Phase = Callable[[int, str], None]


def keys_of(generation: int) -> list[str]:
    """From one dataset to the next, rows vanish and come."""
    return [f"k{n:03}" for n in range(generation % 3 * 20, 400) if n % 7 != generation % 5]


async def load(engine: SqliteEngine, generation: int, enter: Phase, flipped: Callable[[int], None]) -> None:
    """Load a dataset, telling the phases that it enters and that its flip was acknowledged."""
    enter(generation, "staging")
    staging = await engine.begin_load(TABLE, "")
    await staging.add(documents({key: {"n": generation} for key in keys_of(generation)}))
    await staging.finish("delete", 0, 1.0)
    staging.close()
    commit = new_commit()
    commit.flips.append(staging.flip)
    enter(generation, "flipping")
    await engine.commit(commit)
    flipped(generation)
    enter(generation, "expanding")
    await engine.expand(TABLE)
    if WRITTEN in keys_of(generation):
        late = new_commit()
        late.writes.append(Write(TABLE, (WRITTEN, ""), f"{late.id}-0", documents({WRITTEN: {"n": generation}})[0].body))
        await engine.commit(late)
    await expand(engine, TABLE)
    enter(generation, "")


async def seen(engine: SqliteEngine) -> dict[str, int]:
    page = await engine.query(Query(table=TABLE, limit=1000))
    return {record.key[0]: decode_json(record.body)["n"] for record in page.records}


async def present(engine: SqliteEngine) -> int:
    """The number of the dataset that readers see; 0 before the first."""
    return max((await seen(engine)).values(), default=0)


async def audit(engine: SqliteEngine, acknowledged: int) -> list[str]:
    """Every broken promise that the store shows, before its load is expanded and after."""
    found = [*await _content(engine, acknowledged)]
    await expand(engine, TABLE)
    while await engine.sweep_loads(1000):
        pass
    found += await _content(engine, acknowledged)
    found += _changes(engine, await seen(engine))
    found += [f"{table} keeps rows" for table in ("staged", "load") if fetch(engine.reader, f"SELECT 1 FROM {table}")]
    return found + await engine.check()


async def _content(engine: SqliteEngine, acknowledged: int) -> list[str]:
    rows = await seen(engine)
    generations = set(rows.values())
    if len(generations) > 1:
        return [f"readers see rows of the datasets {sorted(generations)}"]
    generation = max(generations, default=0)
    if generation < acknowledged:
        return [f"dataset {acknowledged} was acknowledged, {generation} is there"]
    if generation and list(rows) != keys_of(generation):
        return [f"dataset {generation} has not the rows that it should have"]
    return []


def _changes(engine: SqliteEngine, rows: dict[str, int]) -> list[str]:
    found: list[str] = []
    last: dict[str, bytes | None] = {}
    for (body,) in fetch(engine.reader, "SELECT envelope FROM event ORDER BY seq"):
        event = msgspec.msgpack.decode(body, type=Envelope)
        if event.old == event.data:
            found.append(f"{event.subject}: an event for no change")
        if event.old != last.get(event.subject):
            found.append(f"{event.subject}: a change does not follow the one before it")
        last[event.subject] = event.data
    told = {key: decode_json(image)["n"] for key, image in last.items() if image is not None}
    if told != rows:
        found.append("the changes do not lead to the rows")
    return found
