"""Comparing objects with their bytes, for `headwater doctor`.

The records are walked first, then the blobs: a blob without a record may be one whose record came later, so that only
old ones count; a record without a blob is looked at once more, since it may have been overwritten meanwhile.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

import msgspec

from headwater.blobs import BlobStore, time_of_blob
from headwater.buckets import BY_BLOB
from headwater.engine import Engine, Query
from headwater.errors import UnknownResource
from headwater.runtime.garbage import GRACE_MS, blob_tables

PAGE = 1000


class Inventory(msgspec.Struct, frozen=True):
    """`missing`: objects whose bytes are gone, which is damage. `unreferenced`: blobs that the server will collect."""

    missing: list[str]
    unreferenced: int


async def take_inventory(engine: Engine, blobs: BlobStore) -> Inventory:
    """Compare every record that refers to a blob with what is there; remembers an id for each blob meanwhile."""
    tables = await blob_tables(engine)
    wanted = {blob for table in tables async for blob in _blobs_of(engine, table)}
    old, unreferenced, after = await engine.now_ms() - GRACE_MS, 0, ""
    found: set[str] = set()
    while ids := await blobs.ids(after, PAGE):
        after = ids[-1]
        found.update(wanted.intersection(ids))
        unreferenced += sum(_is_older(id, old) for id in ids if id not in wanted)
    missing = [line for blob in sorted(wanted - found) for line in await _confirmed(engine, blobs, tables, blob)]
    return Inventory(missing, unreferenced)


async def _blobs_of(engine: Engine, table: str) -> AsyncGenerator[str]:
    after = None
    while True:
        page = await engine.query(Query(table=table, limit=PAGE, after=after))
        for record in page.records:
            yield msgspec.json.decode(record.body, type=_Stored).blob
        after = page.next
        if after is None:
            return


async def _confirmed(engine: Engine, blobs: BlobStore, tables: list[str], blob: str) -> list[str]:
    """The objects that still refer to a blob which still cannot be read."""
    try:
        await (await blobs.read(blob, 0, 0)).aclose()
    except UnknownResource:
        pages = [(name, await engine.query(Query(table=name, index=BY_BLOB, partition=blob))) for name in tables]
        return [
            f"{name} {msgspec.json.decode(record.body, type=_Stored).key!r}: its bytes are missing (blob {blob})"
            for name, page in pages
            for record in page.records
        ]
    return []


class _Stored(msgspec.Struct):
    key: str
    blob: str


def _is_older(id: str, than_ms: int) -> bool:
    begun_ms = time_of_blob(id)
    return begun_ms is not None and begun_ms < than_ms
