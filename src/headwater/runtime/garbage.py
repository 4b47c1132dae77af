"""Garbage: blobs that no record refers to are deleted.

A blob comes before its record. So one without a record is left when the process died or the commit was refused, and
when its object was overwritten, deleted, or expired. It is deleted once it is an hour old, a whole pass over
all blobs has found it unreferenced before, and nobody in this process or its workers may still commit it. Order
matters: who may still commit is asked before the records, and a bucket's objects before its older versions, because a
record moves only from "may be committed" to the objects to the versions: looked at in this order it is never missed.

Of the processes that have a store open one collects; the others tell it of what they may still commit, by a term for
each such blob that is no longer young (`Holds`).
"""

from __future__ import annotations

from headwater.blobs import BlobStore, Uncommitted, time_of_blob
from headwater.buckets import BY_BLOB
from headwater.clock import Clock
from headwater.engine import Engine, Query
from headwater.runtime.terms import Terms

SLICE = 200
GRACE_MS = 3_600_000
PASS_MS = 600_000
TOLD_MS = GRACE_MS // 2
"""How old a blob is when its process begins to tell others of it, and for how long that holds."""


class Holds:
    """Tells the process that collects which blobs may still be committed by this one."""

    def __init__(self, terms: Terms, uncommitted: Uncommitted, clock: Clock) -> None:
        self._terms = terms
        self._uncommitted = uncommitted
        self._clock = clock

    async def tell(self) -> None:
        """To be called more often than every third of `TOLD_MS`; it writes no more often than that."""
        if self._terms.sole:
            return
        old_ms = self._clock.wall_ms() - TOLD_MS
        for id in self._uncommitted.ids():
            begun_ms = time_of_blob(id)
            if begun_ms is not None and begun_ms <= old_ms:
                await self._terms.claim(_work(id), TOLD_MS / 1000)


def _work(blob: str) -> str:
    return f"blob {blob}"


class Garbage:
    """Looks at a slice of the blobs with each `collect()`, and at all of them at most every ten minutes."""

    def __init__(self, engine: Engine, clock: Clock, blobs: BlobStore, uncommitted: Uncommitted, terms: Terms) -> None:
        self._engine = engine
        self._clock = clock
        self._blobs = blobs
        self._uncommitted = uncommitted
        self._terms = terms
        self._after = ""
        self._next_pass_ms = 0
        self._found: set[str] = set()
        self._before: set[str] = set()

    async def collect(self) -> int:
        """Look at the next slice, if this is the process that collects; how many blobs were deleted."""
        if not await self._terms.hold("garbage"):
            return 0
        now_ms = self._clock.wall_ms()
        if not self._after:
            if now_ms < self._next_pass_ms:
                return 0
            self._next_pass_ms = now_ms + PASS_MS
        tables = await blob_tables(self._engine)
        ids = await self._blobs.ids(self._after, SLICE)
        self._after = ids[-1] if len(ids) == SLICE else ""
        held, deleted = self._uncommitted.ids(), 0
        for id in ids:
            begun_ms = time_of_blob(id)
            if begun_ms is None or begun_ms > now_ms - GRACE_MS or id in held or await self._is_used(id, tables):
                continue
            if id in self._before:
                if await self._terms.is_held(_work(id)):
                    continue
                await self._blobs.delete(id)
                deleted += 1
            else:
                self._found.add(id)
        if not self._after:
            self._before, self._found = self._found, set()
        return deleted

    async def _is_used(self, id: str, tables: list[str]) -> bool:
        for table in tables:
            page = await self._engine.query(Query(table=table, index=BY_BLOB, partition=id, limit=1))
            if page.records:
                return True
        return False


async def blob_tables(engine: Engine) -> list[str]:
    """The tables that refer to blobs, also those of apps that do not run here; versions after their objects."""
    catalog = await engine.catalog()
    return sorted(
        name
        for name, spec in catalog.tables.items()
        if spec.bucket and any(index.name == BY_BLOB for index in spec.indexes)
    )
