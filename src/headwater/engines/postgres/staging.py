"""Bulk loads: what a load changes is staged in slices, flipped by one commit, and moved into place in slices.

A load is a row of `load`. While it is staged (state 0), each slice is one statement of its own, and nobody reads its
rows. The commit that carries the `Flip` sets the state to 1, whatever the size: from then on readers look at `staged`
first (`records.py`, `pending.py`); it raises the catalog's revision, so that no process writes without knowing of it.
`expand` moves staged rows to `record`, each slice one commit with its events; a row that somebody writes meanwhile is
moved by that commit. Whoever moves a row deletes it from `staged`: a batch that finds one gone is worked out anew, so
that each becomes one event, whatever processes expand. When none is left the load's row goes.

`member` tells which rows a scope has, with the digest and version of what its last load wrote. A record that still has
this version is compared by its digest, others by their bodies. It changes with the rows, when they get into place.

Failures: a load belongs to the process that stages it. When that is gone, or has not touched it for `GIVEN_UP_S`, any
process may give it up (state 2) and delete what it staged. Slices, flip and giving up lock the load's row and look at
its state: half of a load is never flipped, nothing is staged any more for one that was, not by a late copy either.

Scopes of one table share no keys. A load asks for the keys that are not its scope's own yet when it compares them; and
at its end for those that it has staged, when another scope's load was flipped meanwhile. One that is flipped between
that and its own flip is not seen.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

from headwater.applying import documents as stored
from headwater.applying.batch import entry_rows
from headwater.applying.loading import (
    SLICE_BYTES,
    Brought,
    Member,
    Present,
    anothers,
    judge,
    leaves_ms,
    slices,
    too_many,
)
from headwater.catalog import TableSpec
from headwater.engine import Differences, Document, Missing, Staging
from headwater.engines.postgres.database import checksum, verify
from headwater.engines.postgres.flush import columns, pack_entry
from headwater.engines.postgres.keys import pack_key, unpack_key
from headwater.engines.postgres.listening import Listening
from headwater.errors import Conflict, HeadwaterError
from headwater.events import Key
from headwater.ids import new_id
from headwater.unit import Commit, Flip, Write

COMPARED_ROWS = 1_000
SLICE_ROWS = 256
GIVEN_UP_S = 3600.0
"""How long after it last went on a load that is neither flipped nor abandoned is taken for forgotten."""
_TOUCH_S = 60.0
_GENERATIONS = "SELECT scope, load FROM @generation WHERE tbl = $1"
_BEGIN = "INSERT INTO @load (tbl, scope, state, process, touched_ms) VALUES ($1, $2, 0, $3, $4) RETURNING id"
_TOUCH = "UPDATE @load SET touched_ms = $2 WHERE id = $1 AND state = 0"
_COMPARE = "SELECT * FROM @compare_rows($1, $2, $3, $4)"
_STAGE = (
    "WITH l AS (SELECT id FROM @load WHERE id = $1 AND state = 0 FOR SHARE),"
    " s AS (INSERT INTO @staged SELECT l.id, r.* FROM l, unnest($2::bytea[], $3::bytea[], $4::text[], $5::bigint[],"
    " $6::int[], $7::bigint[], $8::bytea[], $9::bytea[]) r ON CONFLICT DO NOTHING),"
    " e AS (INSERT INTO @staged_entry SELECT l.id, r.* FROM l, unnest($10::int[], $11::bytea[], $12::bytea[],"
    " $13::bytea[], $14::bytea[]) r ON CONFLICT DO NOTHING)"
    " SELECT id FROM l"
)
_MEMBERS = "SELECT pk, sk FROM @members_after($1, $2, $3, $4, $5)"
_STAND = "SELECT pk, sk, stands FROM @members_after($1, $2, $3, $4, $5, $6)"
_PRESENT = "SELECT n, version, schema, expires_ms FROM @compare_rows($1, $2, $3, $4)"
_COUNT = "SELECT count(*) FROM @member WHERE tbl = $1 AND scope = $2"
_STAGED_OF = "SELECT pk, sk FROM @staged_member($1, $2, $3)"
_NEXT = "SELECT load, pk, sk, size FROM @next_staged($1, $2, $3, $4)"
_END = (
    "WITH gone AS (DELETE FROM @load WHERE id = $1 AND state = 1 RETURNING id),"
    " e AS (DELETE FROM @staged_entry WHERE load = $1)"
    " UPDATE @head SET revision = revision + 1 WHERE EXISTS (SELECT FROM gone)"
)
_GIVE_UP = "UPDATE @load SET state = 2 WHERE id = ANY ($1) AND state = 0"
_GIVEN_UP = (
    "UPDATE @load SET state = 2 WHERE id = (SELECT id FROM @load l WHERE state = 2 OR state = 0 AND (touched_ms < $2"
    " OR NOT EXISTS (SELECT FROM @process p WHERE p.id = l.process AND p.until_ms > $1))"
    " ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id"
)
_SWEEP = "DELETE FROM @{0} WHERE ctid = ANY (ARRAY(SELECT ctid FROM @{0} WHERE load = $1 LIMIT $2)) RETURNING 1"
_FORGET = "DELETE FROM @load WHERE id = $1"
_BEFORE_ALL = (b"", b"")
_NOWHERE = (0, b"", b"")
Row = tuple[Any, ...]


class PostgresStaging:
    """One load on its way (`engine.Staging`)."""

    def __init__(self, loads: Loads, spec: TableSpec, flip: Flip, generations: dict[str, int]) -> None:
        self.flip = flip
        self.staged = 0
        self._loads = loads
        self._spec = spec
        self._place = (loads.table_number(spec.name), flip.scope)
        self._resource = f"{spec.name} {flip.scope}".rstrip()
        self._generations = generations
        self._uid = new_id()
        self._touched = loads.clock.monotonic()
        self._writing: asyncio.Future[None] | None = None
        self._brought = Brought(spec.name)

    def close(self) -> None:
        self._brought.close()

    async def add(self, documents: Sequence[Document]) -> Differences:
        total = Differences()
        for at in range(0, len(documents), COMPARED_ROWS):
            await self._touch()
            differences, rows = await self._compare(documents[at : at + COMPARED_ROWS])
            total += differences
            for slice in slices(rows):
                await self._stage(slice)
        return total

    async def _touch(self) -> None:
        """Let the others know that the load is going on; one that was given up stays so."""
        now = self._loads.clock.monotonic()
        if now - self._touched > _TOUCH_S:
            self._touched = now
            await self._loads.database.fetch(_TOUCH, self.flip.load, self._loads.present_ms())

    async def _compare(self, documents: Sequence[Document]) -> tuple[Differences, list[Row]]:
        """What differs, as rows of `staged`."""
        keys = [document.key for document in documents]
        self._brought.add(keys)
        found = await self._loads.database.fetch(_COMPARE, *self._place, *columns([pack_key(key) for key in keys], 2))
        now_ms = self._loads.present_ms()
        counts = {"inserted": 0, "modified": 0}
        staged: list[Row] = []
        for row in found:
            document = documents[row["n"] - 1]
            if row["other"] is not None:
                raise anothers(document.key, row["other"], self._resource)
            expires_ms = stored.expiry(self._spec, document.body, now_ms)
            record, member = _present(row, now_ms), Member(row["digest"], row["written"])
            verdict = judge(document, record, member, self._spec.schema, expires_ms)
            if verdict == "same":
                continue
            if verdict == "doubtful":
                verify(row["crc"], lambda: f"{self._spec.name} {document.key}", row["body"])  # noqa: B023
                verdict = "renewed" if row["body"] == document.body else "modified"
            if verdict != "renewed":
                counts[verdict] += 1
            staged.append(self._row(document, expires_ms))
        return Differences(**counts, unchanged=len(documents) - sum(counts.values())), staged

    def _row(self, document: Document, expires_ms: int | None) -> Row:
        return document.key, checksum(document.body), self._spec.schema, expires_ms, document.digest, document.body

    async def _stage(self, rows: Sequence[Row]) -> None:
        """Have a slice written, while the next one is compared."""
        await self._written()
        if not rows:
            return
        slice, entries = [], []
        for key, *rest in rows:
            slice.append((*pack_key(key), f"{self._uid}-{self.staged:08x}", *rest))
            self.staged += 1
            if rest[-1] is not None and self._spec.indexes:
                entries += [pack_entry(entry) for entry in entry_rows(self._spec, self._loads.state.ids, key, rest[-1])]
        self._writing = self._loads.begin_slice(self._write(columns(slice, 8), columns(entries, 5)))

    async def _write(self, rows: list[list[Any]], entries: list[list[Any]]) -> None:
        if not await self._loads.database.fetch(_STAGE, self.flip.load, *rows, *entries):
            raise Conflict("the load was given up", operation="load", resource=self._spec.name)

    async def _written(self) -> None:
        if self._writing is not None:
            writing, self._writing = self._writing, None
            await asyncio.shield(writing)

    async def finish(self, missing: Missing, grace_ms: int, max_removed: float) -> int:
        loads, vanished, after = self._loads, 0, _BEFORE_ALL
        at_ms = loads.present_ms() + grace_ms if missing == "expire" else None
        present = 0 if missing == "keep" else await self._count_members()
        most = math.inf if missing == "keep" else present * max_removed + 1e-6
        while members := await loads.database.fetch(_MEMBERS, *self._place, *after, COMPARED_ROWS):
            await self._touch()
            after = (members[-1]["pk"], members[-1]["sk"])
            absent = await self._absent([unpack_key(pk, sk) for pk, sk in members])
            vanished += sum(record is not None for record in absent.values())
            if vanished > most:
                raise too_many(vanished, present, max_removed, self._resource)
            if missing != "keep":
                await self._stage([(key, 0, 1, leaves_ms(record, at_ms), None, None) for key, record in absent.items()])
        await self._written()
        while await loads.expand(self._spec.name):
            """Another scope's load was flipped meanwhile: this one's flip would meet a conflict."""
        await self._check_scopes()
        return vanished

    async def _absent(self, keys: list[Key]) -> dict[Key, Present | None]:
        """Those of the keys that the load has not brought, with their records."""
        brought = self._brought.among(keys)
        absent = [key for key in keys if key not in brought]
        if not absent:
            return {}
        now_ms = self._loads.present_ms()
        rows = await self._loads.database.fetch(_PRESENT, *self._place, *columns([pack_key(key) for key in absent], 2))
        return {absent[row["n"] - 1]: _present(row, now_ms) for row in rows}

    async def _count_members(self) -> int:
        return int((await self._loads.database.fetch(_COUNT, *self._place))[0][0])

    async def _check_scopes(self) -> None:
        """The scopes that were loaded since this load began may have what it has staged."""
        table = self._place[0]
        for other, generation in await self._loads.database.fetch(_GENERATIONS, table):
            if other != self.flip.scope and self._generations.get(other) != generation:
                for pk, sk in await self._loads.database.fetch(_STAGED_OF, table, other, self.flip.load):
                    raise anothers(unpack_key(pk, sk), other, self._resource)


def _present(row: Any, now_ms: int) -> Present | None:
    """The record, unless it has expired."""
    version, schema, expires_ms = row["version"], row["schema"], row["expires_ms"]
    if version is None or (expires_ms is not None and expires_ms <= now_ms):
        return None
    return Present(version, schema, expires_ms)


class Loads(Listening):
    """Part of the engine (`engine.Loads`)."""

    def _prepare_loads(self) -> None:
        self._abandoned: set[int] = set()
        self._moved: dict[int, tuple[int, bytes, bytes]] = {}
        """By table: the load that is expanded and the last row that was moved, so that the next slice does not pass
        over all that were deleted before."""

    async def begin_load(self, table: str, scope: str) -> Staging:
        self.writable()
        number = self.table_number(table)
        # The generations first: a load of the scope that is flipped after this makes this one's flip a conflict.
        generations = {row[0]: row[1] for row in await self.database.fetch(_GENERATIONS, number)}
        while await self.expand(table):
            pass
        ((load,),) = await self.database.fetch(_BEGIN, number, scope, self.process, self.present_ms())
        flip = Flip(table, scope, load, generations.get(scope, 0))
        return PostgresStaging(self, self.state.tables[table], flip, generations)

    def begin_slice(self, writing: Any) -> asyncio.Future[None]:
        """It ends with the engine; whoever stages looks at its outcome, unless the load fails before."""
        task = self._begin(writing)
        task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return task

    async def unchanged_since_load(self, table: str, scope: str) -> bool:
        place, after = (self.table_number(table), scope), _BEFORE_ALL
        while await self.expand(table):
            pass
        while rows := await self.database.fetch(_STAND, *place, *after, COMPARED_ROWS, self.present_ms()):
            if not all(stands for _, _, stands in rows):
                return False
            after = (rows[-1]["pk"], rows[-1]["sk"])
        return True

    async def expand(self, table: str) -> int:
        self.writable()
        number = self.table_number(table)
        while True:
            place = self._moved.pop(number, _NOWHERE)
            rows = await self.database.fetch(_NEXT, number, *place[1:], SLICE_ROWS)
            load = rows[0]["load"] if rows else None
            merging = self.state.merging.get(number)
            if (merging and merging.load) != load:
                await self.reload()
            elif load is None or merging is None:
                return 0
            elif rows[0]["pk"] is not None and place[0] in (0, load):
                return await self._move(table, merging.origin.trace, rows)
            elif place == _NOWHERE:
                await self.database.fetch(_END, load)
                await self.reload()
                return 0

    async def _move(self, table: str, trace: str, rows: Sequence[Any]) -> int:
        commit, size = Commit(id=new_id()), 0
        commit.trace = trace
        for row in rows:
            size += row["size"] or 0
            if commit.writes and size > SLICE_BYTES:
                break
            commit.writes.append(Write(table, unpack_key(row["pk"], row["sk"]), "", staged=True))
        await self.submit(commit)
        last = rows[len(commit.writes) - 1]
        self._moved[self.state.ids[table]] = (last["load"], last["pk"], last["sk"])
        return len(commit.writes)

    def abandon(self, load: int) -> None:
        self._abandoned.add(load)
        self._start(self._give_up_soon())

    async def _give_up_soon(self) -> None:
        try:
            await self._give_loads_up()
        except HeadwaterError:
            """The next sweep tries again; without this process they are given up anyhow."""

    async def _give_loads_up(self) -> None:
        if given_up := list(self._abandoned):
            await self.database.fetch(_GIVE_UP, given_up)
            self._abandoned.difference_update(given_up)

    async def sweep_loads(self, limit: int) -> int:
        self.writable()
        await self._give_loads_up()

        async def work() -> int:
            async with self.database.transaction() as connection:

                async def run(statement: str, *arguments: Any) -> list[Any]:
                    return await connection.fetch(self.database.sql(statement), *arguments)

                now_ms = self.present_ms()
                while found := await run(_GIVEN_UP, now_ms, now_ms - round(GIVEN_UP_S * 1000)):
                    load = found[0]["id"]
                    swept = len(await run(_SWEEP.format("staged"), load, limit))
                    swept += len(await run(_SWEEP.format("staged_entry"), load, limit - swept))
                    if swept:
                        return swept
                    await run(_FORGET, load)
            return 0

        return await self.database.patiently("write", work)
