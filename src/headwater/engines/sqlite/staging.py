"""Bulk loads: what a load changes is staged in slices, flipped by one commit, and moved into place in slices.

A load is a row of `load`. While it is staged (state 0), each slice is a short transaction of its own between the
batches, and nobody reads its rows. The commit that carries the `Flip` sets the state to 1, whatever the size: from
then on `Merging` in memory makes every reader look at `staged` first (`records.py`, `pending.py`). `expand` moves
staged rows to `record`, each slice one commit with its events; a row that somebody writes meanwhile is moved by that
commit. When none is left the load's row goes. A load that ends otherwise is given up (state 2) and deleted in slices.

`member` tells which rows a scope has, with the digest and version of what its last load wrote. A record that still has
this version is compared by its digest, others by their bodies. It changes with the rows, when they get into place.

Failures: a process that dies while staging leaves a load that nobody knows: all that are not flipped when a store is
opened are abandoned. A flip is refused when its load was given up, so half of a load is never flipped.

Scopes of one table share no keys (`scopes.py`).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import apsw

from headwater.applying import documents as stored
from headwater.applying.batch import entry_rows
from headwater.applying.loading import SLICE_BYTES, Brought, Member, Present, judge, leaves_ms, slices, too_many
from headwater.catalog import TableSpec
from headwater.engine import Differences, Document, Missing, Staging
from headwater.engines.sqlite.database import Row, checksum, fetch, insert_rows, select_rows, verify
from headwater.engines.sqlite.records import translated
from headwater.engines.sqlite.scopes import OtherScopes
from headwater.engines.sqlite.upkeep import Upkeep
from headwater.errors import Conflict
from headwater.events import Key
from headwater.ids import new_id
from headwater.unit import Commit, Flip, Write

SLICE_ROWS = 128
GIVEN_UP_S = 3600.0
"""How long after its last slice a load that is neither flipped nor abandoned is taken for forgotten."""
_MEMBERS = (
    "WITH k(t, c, p, s) AS (VALUES {keys}) SELECT pk, sk, digest, version"
    " FROM k CROSS JOIN member ON tbl = t AND scope = c AND pk = p AND sk = s"
)
_VERSIONS = (
    "WITH k(t, p, s) AS (VALUES {keys}) SELECT pk, sk, version, schema, expires_ms"
    " FROM k CROSS JOIN record ON tbl = t AND pk = p AND sk = s"
)
_BODIES = (
    "WITH k(t, p, s) AS (VALUES {keys}) SELECT pk, sk, body, crc"
    " FROM k CROSS JOIN record ON tbl = t AND pk = p AND sk = s"
)
MEMBERS_AFTER = "SELECT pk, sk FROM member WHERE tbl = ? AND scope = ? AND (pk, sk) > (?, ?) ORDER BY pk, sk LIMIT ?"
STAND = (
    "SELECT m.pk, m.sk, m.version IS r.version AND (r.expires_ms IS NULL OR r.expires_ms > ?) FROM member m"
    " LEFT JOIN record r ON r.tbl = m.tbl AND r.pk = m.pk AND r.sk = m.sk"
    " WHERE m.tbl = ? AND m.scope = ? AND (m.pk, m.sk) > (?, ?) ORDER BY m.pk, m.sk LIMIT ?"
)
NEXT_STAGED = "SELECT pk, sk, length(body) FROM staged WHERE load = ? ORDER BY pk, sk LIMIT ?"
_PAGE = 1000
_FIRST: tuple[str, str | int] = ("", "")


class SqliteStaging:
    """One load on its way (`engine.Staging`): compared on the event loop, written by the writer's thread."""

    def __init__(self, loads: Loads, spec: TableSpec, flip: Flip) -> None:
        self.flip = flip
        self.staged = 0
        self._loads = loads
        self._spec = spec
        self._table = loads.table_number(spec.name)
        self._resource = f"{spec.name} {flip.scope}".rstrip()
        self._uid = new_id()
        self._others = OtherScopes(loads.reader, self._table, spec.name, flip.scope)
        self._writing: asyncio.Future[Any] | None = None
        self._brought = Brought(spec.name)

    def close(self) -> None:
        self._brought.close()

    async def add(self, documents: Sequence[Document]) -> Differences:
        total = Differences()
        for at in range(0, len(documents), SLICE_ROWS):
            differences, rows = self._compare(documents[at : at + SLICE_ROWS])
            total += differences
            for slice in slices(rows):
                await self._stage(slice)
            await asyncio.sleep(0)
        return total

    @translated("load")
    def _compare(self, documents: Sequence[Document]) -> tuple[Differences, list[Row]]:
        """What differs, as rows of `staged`."""
        self._brought.add([document.key for document in documents])
        reader, now_ms = self._loads.reader, self._loads.present_ms()
        members = self._members([document.key for document in documents])
        self._others.check([document.key for document in documents if document.key not in members])
        records = self._records([document.key for document in documents])
        inserted = modified = 0
        staged: list[tuple[Document, int | None]] = []
        doubtful: list[tuple[Document, int | None]] = []
        for document in documents:
            key, expires_ms = document.key, stored.expiry(self._spec, document.body, now_ms)
            verdict = judge(document, records.get(key), members.get(key), self._spec.schema, expires_ms)
            inserted += verdict == "inserted"
            modified += verdict == "modified"
            if verdict == "doubtful":
                doubtful.append((document, expires_ms))
            elif verdict != "same":
                staged.append((document, expires_ms))
        if doubtful:
            keys = [(self._table, *document.key) for document, _ in doubtful]
            bodies = {}
            for pk, sk, body, crc in select_rows(reader, _BODIES, keys):
                verify(crc, lambda: f"{self._spec.name} {pk} {sk}", body)  # noqa: B023
                bodies[pk, sk] = body
            modified += sum(bodies.get(document.key) != document.body for document, _ in doubtful)
        rows = [self._row(document, expires_ms) for document, expires_ms in (*staged, *doubtful)]
        return Differences(inserted, modified, len(documents) - inserted - modified), rows

    def _row(self, document: Document, expires_ms: int | None) -> Row:
        body, (pk, sk) = document.body, document.key
        return (pk, sk, checksum(body), self._spec.schema, expires_ms, document.digest, body)

    def _members(self, keys: Sequence[Key]) -> dict[Key, Member]:
        places = [(self._table, self.flip.scope, *key) for key in keys]
        rows = select_rows(self._loads.reader, _MEMBERS, places)
        return {(pk, sk): Member(digest, version) for pk, sk, digest, version in rows}

    def _records(self, keys: Sequence[Key]) -> dict[Key, Present]:
        """Version, model version and expiry of those records that are there and not expired."""
        now_ms = self._loads.present_ms()
        rows = select_rows(self._loads.reader, _VERSIONS, [(self._table, *key) for key in keys])
        return {
            (pk, sk): Present(version, schema, expires_ms)
            for pk, sk, version, schema, expires_ms in rows
            if expires_ms is None or expires_ms > now_ms
        }

    async def _stage(self, rows: Sequence[Row]) -> None:
        """Have a slice written, while the next one is compared."""
        await self._written()
        if not rows:
            return
        load, state = self.flip.load, self._loads.state
        slice = []
        entries: list[Row] = []
        for pk, sk, *rest, body in rows:
            slice.append((load, pk, sk, f"{self._uid}-{self.staged:08x}", *rest, body))
            self.staged += 1
            if body is not None and self._spec.indexes:
                entries += [(load, *entry) for entry in entry_rows(self._spec, state.ids, (pk, sk), body)]

        def work(connection: apsw.Connection) -> None:
            if not fetch(connection, "SELECT 1 FROM load WHERE id = ? AND state = 0", (load,)):
                raise Conflict("the load was given up", operation="load", resource=self._spec.name)
            insert_rows(connection, "INSERT INTO staged", slice)
            insert_rows(connection, "INSERT INTO staged_entry", entries)

        self._loads.touch(load)
        self._writing = self._loads.writer.run(work)

    async def _written(self) -> None:
        if self._writing is not None:
            writing, self._writing = self._writing, None
            await asyncio.shield(writing)

    async def finish(self, missing: Missing, grace_ms: int, max_removed: float) -> int:
        vanished = 0
        after: Row | None = _FIRST
        at_ms = self._loads.present_ms() + grace_ms if missing == "expire" else None
        most = math.inf if missing == "keep" else self._count_members() * max_removed + 1e-6
        while after is not None:
            absent, after = self._look_for_missing(after)
            vanished += sum(record is not None for record in absent.values())
            if vanished > most:
                raise too_many(vanished, self._count_members(), max_removed, self._resource)
            if missing != "keep":
                await self._stage(
                    [(*key, 0, 1, leaves_ms(record, at_ms), None, None) for key, record in absent.items()]
                )
            await asyncio.sleep(0)
        await self._written()
        while await self._loads.expand(self._spec.name):
            """Another scope's load was flipped meanwhile: this one's flip would meet a conflict."""
        self._check_staged()
        return vanished

    @translated("load")
    def _check_staged(self) -> None:
        self._others.check_staged(self.flip.load)

    @translated("load")
    def _look_for_missing(self, after: Row) -> tuple[dict[Key, Present | None], Row | None]:
        """Of a page of the scope's members those that the load has not brought, with their records; the last one."""
        keys = fetch(self._loads.reader, MEMBERS_AFTER, (self._table, self.flip.scope, *after, SLICE_ROWS))
        brought = self._brought.among([(pk, sk) for pk, sk in keys])
        absent = [(pk, sk) for pk, sk in keys if (pk, sk) not in brought]
        records = self._records(absent)
        return {key: records.get(key) for key in absent}, keys[-1] if keys else None

    @translated("load")
    def _count_members(self) -> int:
        counted = fetch(
            self._loads.reader,
            "SELECT count(*) FROM member WHERE tbl = ? AND scope = ?",
            (self._table, self.flip.scope),
        )
        return int(counted[0][0])


class Loads(Upkeep):
    """Part of the engine (`engine.Loads`). `_staging`: when each load that is not flipped was last touched."""

    def _prepare_loads(self, connection: apsw.Connection) -> None:
        """All that is not flipped when the store is opened is abandoned."""
        self._staging = {load: -math.inf for (load,) in fetch(connection, "SELECT id FROM load WHERE state != 1")}

    def touch(self, load: int) -> None:
        """The load is going on; one that was abandoned stays so."""
        if self._staging.get(load, -math.inf) > -math.inf:
            self._staging[load] = self.clock.monotonic()

    async def begin_load(self, table: str, scope: str) -> Staging:
        number = self.table_number(table)
        # The generation first: a load of the scope that is flipped after this makes this one's flip a conflict.
        last = fetch(self.reader, "SELECT load FROM generation WHERE tbl = ? AND scope = ?", (number, scope))
        while await self.expand(table):
            pass

        def work(connection: apsw.Connection) -> int:
            ((load,),) = fetch(
                connection, "INSERT INTO load (tbl, scope, state) VALUES (?, ?, 0) RETURNING id", (number, scope)
            )
            return int(load)

        load = await self.writer.run(work)
        self._staging[load] = self.clock.monotonic()
        return SqliteStaging(self, self.state.tables[table], Flip(table, scope, load, last[0][0] if last else 0))

    async def unchanged_since_load(self, table: str, scope: str) -> bool:
        place, after = (self.table_number(table), scope), _FIRST
        while await self.expand(table):
            pass
        while rows := fetch(self.reader, STAND, (self.present_ms(), *place, *after, _PAGE)):
            if not all(stands for _, _, stands in rows):
                return False
            after = rows[-1][:2]
            await asyncio.sleep(0)
        return True

    async def expand(self, table: str) -> int:
        merging = self.state.merging.get(self.table_number(table))
        if merging is None:
            return 0
        commit = Commit(id=new_id())
        commit.trace, size = merging.origin.trace, 0
        for pk, sk, length in fetch(self.reader, NEXT_STAGED, (merging.load, SLICE_ROWS)):
            size += length or 0
            if commit.writes and size > SLICE_BYTES:
                break
            commit.writes.append(Write(table, (pk, sk), "", staged=True))
        if commit.writes:
            await self.writer.submit(commit)
        else:
            await self._end_load(merging.load)
        return len(commit.writes)

    async def _end_load(self, load: int) -> None:
        """All rows are in place: those of a flipped load only become fewer."""

        def work(connection: apsw.Connection) -> None:
            connection.execute("DELETE FROM staged_entry WHERE load = ?", (load,))
            connection.execute("DELETE FROM load WHERE id = ?", (load,))

        def adopt(_: None) -> None:
            self.state.merging = {tbl: x for tbl, x in self.state.merging.items() if x.load != load}

        await self.writer.run(work, adopt)

    def abandon(self, load: int) -> None:
        if load in self._staging:
            self._staging[load] = -math.inf

    async def sweep_loads(self, limit: int) -> int:
        oldest = self.clock.monotonic() - GIVEN_UP_S
        given_up = next((load for load, touched in self._staging.items() if touched < oldest), None)
        if given_up is None:
            return 0
        swept, more = await self.writer.run(lambda connection: _sweep(connection, given_up, limit))
        if not more:
            del self._staging[given_up]
        return int(swept)


def _sweep(connection: apsw.Connection, load: int, limit: int) -> tuple[int, bool]:
    """Give a load up, unless it was flipped, and delete a slice of what it staged; (how much, is there more)."""
    connection.execute("UPDATE load SET state = 2 WHERE id = ? AND state != 1", (load,))
    if not connection.changes():
        return 0, False
    total = 0
    for table, columns in (("staged", "load, pk, sk"), ("staged_entry", "load, idx, partition, sort, pk, sk")):
        connection.execute(
            f"DELETE FROM {table} WHERE ({columns}) IN (SELECT {columns} FROM {table} WHERE load = ? LIMIT ?)",
            (load, limit - total),
        )
        total += connection.changes()
    if total < limit:
        connection.execute("DELETE FROM load WHERE id = ?", (load,))
    return total, total == limit
