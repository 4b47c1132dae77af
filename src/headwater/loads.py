"""Bulk loads: a table's rows compared with a dataset, what differs staged, flipped by the unit's own commit.

`load` reads the rows in batches, encodes them, and hands them to the engine's staging, which compares and writes in
slices. What it gives the unit of work is small, whatever the size: the flip, one message that has the changes expanded
into events (`system.py` handles it), and the summary. Until that commit nobody sees anything of the load; a unit that
fails abandons it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, runtime_checkable

import msgspec

from headwater.codec import encode_json
from headwater.engine import Differences, Document, Missing, Query, Staging
from headwater.errors import DeclarationError, InvalidValue, LoadRefused, TooManyRejected
from headwater.events import Key
from headwater.ids import new_id
from headwater.unit import Write
from headwater.work import UnitOfWork, current

if TYPE_CHECKING:
    from headwater.tables import Table

T = TypeVar("T")
P = TypeVar("P")
LOADS, EXPANSIONS, ALARMS = "headwater/loads", "headwater/expansions", "headwater/alarms"
DIGEST_BYTES = 16
_BATCH = 256
_LOOKED_THROUGH = 50


class Encoded(Protocol):
    """A row as its reader hands it over: the values of its key, its canonical JSON, and a digest (`digest_of`)."""

    @property
    def key(self) -> tuple[Any, ...]: ...

    @property
    def body(self) -> bytes: ...

    @property
    def digest(self) -> bytes: ...


@runtime_checkable
class Documents(Protocol[T]):
    """Rows of a model that their reader encodes, such as those of `headwater.datasets`."""

    model: type[T]

    def documents(self, *key: str) -> AsyncGenerator[Sequence[Encoded], None]:
        """Batches of rows with the values of the fields `key`."""
        ...


class LoadSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What a load did. `state`: loaded, unchanged (nothing differed), or refused (nothing was done; see `detail`).

    `vanished` counts the rows of the scope that the load did not bring, whatever became of them; `generation` is the
    number of the dataset that readers see since, and 0 when it did not change.
    """

    id: str
    dataset: str
    table: str
    scope: str
    state: Literal["loaded", "unchanged", "refused"]
    missing: Missing
    inserted: int = 0
    modified: int = 0
    unchanged: int = 0
    vanished: int = 0
    rejected: int = 0
    seconds: float = 0.0
    generation: int = 0
    source: str = ""
    sha256: str = ""
    schema: int = 1
    loaded_ms: int = 0
    detail: str = ""


class Expansion(msgspec.Struct, kw_only=True):
    """The message of a flip: the changes of this table's load are to become events."""

    table: str


class LoadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `Table.load`, read."""

    scope: str
    missing: Missing
    grace_ms: int
    max_removed: float
    source: str
    sha256: str

    def check(self, table: str) -> None:
        problem = ""
        if self.missing not in ("keep", "delete", "expire"):
            problem = f'missing is {self.missing!r}; "keep", "delete" and "expire" are allowed'
        elif (self.missing == "expire") != (self.grace_ms > 0):
            problem = 'grace and missing="expire" belong together: it is how long vanished rows stay'
        elif not 0 <= self.max_removed <= 1:
            problem = f"max_removed is {self.max_removed}; it is a share, from 0 to 1"
        elif len(self.scope) > 256:
            problem = "the scope has more than 256 characters"
        if problem:
            raise InvalidValue(problem, operation="load", resource=table)


def digest_of(body: bytes) -> bytes:
    """The digest by which a load tells equal documents."""
    return hashlib.blake2b(body, digest_size=DIGEST_BYTES).digest()


def dataset_of(table: str, scope: str) -> str:
    """The partition of a scope's summaries: no name of a table has a #."""
    return f"{table}#{scope}"


async def load(table: Table[Any], rows: object, options: LoadOptions) -> LoadSummary:
    """Load in the current unit of work, or as a commit of its own (see `Table.load`)."""
    options.check(table.name)
    outer = current.get()
    unit = outer or UnitOfWork(table.app.binding.engine)
    unit.check_open()
    if unit.flips(table.name):
        raise DeclarationError(
            "this unit of work loads the table already",
            operation="load",
            resource=table.name,
            hint="one handler run, request or transaction loads a table once",
        )
    summary = await _Load(table, options, unit).run(rows)
    if outer is None:
        await unit.commit()
    return summary


async def summaries(table: Table[Any], scope: str | None, limit: int) -> list[LoadSummary]:
    """The last loads of a scope, or of all of the table's, newest first."""
    engine = table.app.binding.engine
    if scope is None:
        query = Query(table=LOADS, index="by-table", partition=table.name, limit=limit, reverse=True)
    else:
        query = Query(table=LOADS, partition=dataset_of(table.name, scope), limit=limit, reverse=True)
    page = await engine.query(query)
    return [msgspec.json.decode(record.body, type=LoadSummary) for record in page.records]


class _Load:
    def __init__(self, table: Table[Any], options: LoadOptions, unit: UnitOfWork) -> None:
        self._table = table
        self._options = options
        self._unit = unit
        binding = table.app.binding
        self._engine, self._clock = binding.engine, binding.clock
        self._begun = self._clock.monotonic()

    async def run(self, rows: object) -> LoadSummary:
        if self._options.sha256 and (last := await self._same_source()):
            rows_then = last.inserted + last.modified + last.unchanged
            return self._note(await self._summary("unchanged", Differences(unchanged=rows_then), last.vanished, 0))
        staging = await self._engine.begin_load(self._table.name, self._options.scope)
        handed = False
        try:
            differences, vanished = await self._stage(staging, rows)
            if staging.staged:
                self._unit.flip(staging.flip)
                self._unit.send(
                    EXPANSIONS,
                    encode_json(Expansion(table=self._table.name)),
                    group=self._table.name,
                    dedup="",
                    delay_ms=None,
                    unordered=False,
                )
                handed = True
        except (LoadRefused, TooManyRejected) as refusal:
            await self._tell(refusal, rows)
            raise
        finally:
            staging.close()
            if not handed:
                self._engine.abandon(staging.flip.load)
        state: Literal["loaded", "unchanged"] = "loaded" if handed else "unchanged"
        generation = staging.flip.load if handed else 0
        return self._note(await self._summary(state, differences, vanished, generation, rows))

    async def _same_source(self) -> LoadSummary | None:
        """The last load that was not refused, when it had this source and its rows still stand as it wrote them."""
        if self._table.spec.ttl_ms:
            return None
        found = await summaries(self._table, self._options.scope, _LOOKED_THROUGH)
        last = next((summary for summary in found if summary.state != "refused"), None)
        wanted = (self._options.sha256, self._options.missing, self._table.spec.schema)
        if last is None or (last.sha256, last.missing, last.schema) != wanted:
            return None
        return last if await self._engine.unchanged_since_load(self._table.name, self._options.scope) else None

    async def _stage(self, staging: Staging, rows: object) -> tuple[Differences, int]:
        differences = Differences()
        async with contextlib.aclosing(_one_ahead(_documents(self._table, rows))) as parts:
            async for part in parts:
                differences += await staging.add(part)
        options = self._options
        return differences, await staging.finish(options.missing, options.grace_ms, options.max_removed)

    async def _summary(
        self,
        state: Literal["loaded", "unchanged", "refused"],
        differences: Differences,
        vanished: int,
        generation: int,
        rows: object = None,
        *,
        detail: str = "",
    ) -> LoadSummary:
        options, table = self._options, self._table
        return LoadSummary(
            id=new_id(),
            dataset=dataset_of(table.name, options.scope),
            table=table.name,
            scope=options.scope,
            state=state,
            missing=options.missing,
            inserted=differences.inserted,
            modified=differences.modified,
            unchanged=differences.unchanged,
            vanished=vanished,
            rejected=_rejected(rows),
            seconds=round(self._clock.monotonic() - self._begun, 3),
            generation=generation,
            source=options.source,
            sha256=options.sha256,
            schema=table.spec.schema,
            loaded_ms=await self._engine.now_ms(),
            detail=detail,
        )

    def _note(self, summary: LoadSummary, unit: UnitOfWork | None = None) -> LoadSummary:
        """Have the summary committed with the load."""
        writing = unit or self._unit
        key: Key = (summary.dataset, summary.id)
        writing.write(Write(LOADS, key, writing.next_id(), encode_json(summary)))
        return summary

    async def _tell(self, refusal: LoadRefused | TooManyRejected, rows: object) -> None:
        """Keep the refusal and raise an alarm, in a commit of their own: the unit is going to fail."""
        unit = UnitOfWork(self._engine)
        summary = await self._summary("refused", Differences(), 0, 0, rows, detail=refusal.message)
        self._note(summary, unit)
        alarm = {"name": "load-refused", "resource": summary.dataset, "detail": refusal.message, "state": "alarm"}
        once = f"load-refused {summary.dataset} {self._options.sha256}"
        unit.publish(ALARMS, encode_json(alarm), {}, dedup=once)
        await unit.commit()


def _rejected(rows: object) -> int:
    """How many rows their reader has rejected, if it counts them."""
    rejects = getattr(rows, "rejects", None)
    return int(getattr(rejects, "count", 0) or 0)


async def _one_ahead(parts: AsyncGenerator[P, None]) -> AsyncGenerator[P, None]:
    """The same parts; while one is dealt with, the next one is made."""
    coming = asyncio.ensure_future(anext(parts, None))
    try:
        while (part := await coming) is not None:
            coming = asyncio.ensure_future(anext(parts, None))
            yield part
    finally:
        coming.cancel()
        await asyncio.wait([coming])
        if not coming.cancelled():
            coming.exception()
        await parts.aclose()


async def _documents(table: Table[Any], rows: object) -> AsyncGenerator[list[Document], None]:
    """The rows as documents, in batches; from model instances, or from rows that are encoded already."""
    if isinstance(rows, Documents):
        if rows.model is not table.model:
            raise InvalidValue(
                f"these are rows of {rows.model.__name__}, the table has {table.model.__name__}",
                operation="load",
                resource=table.name,
            )
        names = (table.spec.partition, table.spec.sort) if table.spec.sort else (table.spec.partition,)
        async with contextlib.aclosing(rows.documents(*names)) as parts:
            async for part in parts:
                yield [_checked(table, row) for row in part]
        return
    batch: list[Document] = []
    async with contextlib.aclosing(_values(table, rows)) as values:
        async for value in values:
            body = table.encode(value)
            batch.append(Document(table.key_of(value), body, digest_of(body)))
            if len(batch) == _BATCH:
                yield batch
                batch = []
    if batch:
        yield batch


def _checked(table: Table[Any], row: Encoded) -> Document:
    table.check_size(row.body)
    return Document(table.key(*row.key), row.body, row.digest)


async def _values(table: Table[Any], rows: object) -> AsyncGenerator[Any, None]:
    if isinstance(rows, AsyncIterable):
        async for value in rows:
            yield value
    elif isinstance(rows, Iterable) and not isinstance(rows, str | bytes):
        for value in rows:
            yield value
    else:
        raise InvalidValue(
            f"{type(rows).__name__} has no rows",
            operation="load",
            resource=table.name,
            hint="give an iterable of the table's model, an asynchronous one, or what a reader of files gives",
        )
