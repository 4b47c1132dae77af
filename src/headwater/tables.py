"""Tables: keyed records with conditions, indexes, expiry and a change stream."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from headwater.catalog import TableSpec
from headwater.codec import (
    INT64,
    Codec,
    attribute_of,
    check_json,
    codec_for,
    decode_json,
    encode_field,
    field_names,
)
from headwater.decoding import Decode, Upgrade, event_decoder, upgraded
from headwater.durations import Duration, to_ms
from headwater.engine import Missing, Query, Record, RecordPage
from headwater.erasures import Also, Erasure, erasures, forget
from headwater.errors import ConditionFailed, DeclarationError, InvalidValue, TooLarge, Unsupported
from headwater.events import Change, Delivery, Inserted, Key, KeyPart, Modified, Removed
from headwater.loads import Documents, LoadOptions, LoadSummary, load, summaries
from headwater.pages import overlay, read_cursor, write_cursor
from headwater.patterns import compile_pattern, explain
from headwater.permits import Guarded, guard
from headwater.sources import Pattern, Source
from headwater.unit import MAX_DOCUMENT, Merge, Write
from headwater.work import UnitOfWork, alone, current

if TYPE_CHECKING:
    from headwater.app import App
    from headwater.messaging import Queue

T = TypeVar("T")
E = TypeVar("E")
R = TypeVar("R")
MAX_KEY = 1024
MAX_PAGE = 1000


class Stored(msgspec.Struct, Generic[T], frozen=True):
    """A row with its version, which is opaque, unique per write, and compared for equality only."""

    value: T
    version: str


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Rows of a query; `cursor` is None on the last page, else it is given to the next call."""

    items: list[T]
    cursor: str | None = None


class ChangeSource(Source[E], Generic[E]):
    """Some or all kinds of a table's changes. Ordered by key."""

    ordered_by = "$subject"

    def __init__(self, table: Table[Any], types: tuple[str, ...]) -> None:
        self.name = table.name
        self.app = table.app
        self.types = types
        self.table = table

    def decoder(self) -> Decode[E]:
        return self.table.decoder()  # type: ignore[return-value]

    def check_images(self, patterns: Mapping[str, Pattern]) -> None:
        self.table.check_images(patterns)


class Table(Source[Change[T]], Guarded, Generic[T]):
    """Declared by `app.table`. Every call is a commit of its own, or part of the current unit of work.

    Reads see committed rows and the unit's own writes; rows past their time to live are absent. All calls raise
    `InvalidValue` for a bad key or value and `DeclarationError` when the app is not running.
    """

    kind = "table"
    ordered_by = "$subject"

    def __init__(self, app: App[Any], spec: TableSpec, model: type[T], upgrade: Upgrade) -> None:
        self.app = app
        self.name = spec.name
        self.spec = spec
        self.model = model
        self.upgrade = upgrade
        self.codec: Codec[T] = codec_for(model)
        self._fields = field_names(model)
        self._attributes = {name: attribute_of(model, name) for name in (spec.partition, spec.sort)}
        self.inserted: Source[Inserted[T]] = ChangeSource(self, ("inserted",))
        self.modified: Source[Modified[T]] = ChangeSource(self, ("modified",))
        self.removed: Source[Removed[T]] = ChangeSource(self, ("removed",))

    def decoder(self) -> Decode[Change[T]]:
        return event_decoder(self.codec, self.spec.schema, self.upgrade)

    def check_images(self, patterns: Mapping[str, Pattern]) -> None:
        images = self.spec.images
        if images == "none":
            raise DeclarationError(
                'nothing can be routed from a table with images="none": its changes are no events',
                operation="route",
                resource=self.name,
            )
        wanted = {"match": images == "keys", "old": images in ("new", "keys"), "new": images in ("old", "keys")}
        for place, missing in wanted.items():
            if patterns[place] and missing:
                raise DeclarationError(
                    f"the pattern {place}= needs an image that images={images!r} leaves out",
                    operation="route",
                    resource=self.name,
                    hint='declare the table with images="both"',
                )

    def _run(self, work: Callable[[UnitOfWork], Awaitable[R]]) -> Awaitable[R]:
        binding = self.app.binding
        return alone(binding.engine, work)

    def check_fields(self) -> None:
        """Refuse a declaration that names fields which the model does not have."""
        spec = self.spec
        named = [
            spec.partition,
            spec.sort,
            spec.ttl,
            *(f for index in spec.indexes for f in (index.partition, index.sort)),
        ]
        for name in named:
            if name and self._fields is not None and name not in self._fields:
                raise DeclarationError(
                    f"{self.model.__name__} has no field {name!r}",
                    operation="declare table",
                    resource=self.name,
                    hint=f"its fields are {', '.join(sorted(self._fields))}",
                )

    # Keys and values

    def key(self, *parts: KeyPart) -> Key:
        """The key of these parts, checked."""
        expected = 2 if self.spec.sort else 1
        if len(parts) != expected:
            raise self._invalid(f"a key has {expected} part(s), got {len(parts)}: {parts!r}")
        if not isinstance(parts[0], str):
            raise self._invalid(f"the partition key {parts[0]!r} is not a string")
        for part in parts:
            self._check_part(part)
        return parts[0], parts[1] if expected == 2 else ""

    def _check_part(self, part: object) -> None:
        if type(part) is str and 0 < len(part) <= MAX_KEY and part.isascii():
            return
        match part:
            case bool() | None:
                raise self._invalid(f"{part!r} is no key")
            case int():
                if part not in INT64:
                    raise self._invalid(f"the key {part} is beyond 64 bits")
            case str():
                try:
                    size = len(part.encode())
                except UnicodeEncodeError:
                    raise self._invalid("a key is no valid Unicode text") from None
                if not 0 < size <= MAX_KEY:
                    raise self._invalid(f"a key of {size} bytes; 1 to {MAX_KEY} are allowed")
            case _:
                raise self._invalid(f"a key of the type {type(part).__name__}; strings and integers are allowed")

    def _invalid(self, message: str) -> InvalidValue:
        return InvalidValue(message, operation="key", resource=self.name)

    def key_of(self, value: T) -> Key:
        """The key fields of a row."""
        if not self.spec.sort and not isinstance(value, dict):
            return self.key(getattr(value, self._attributes[self.spec.partition]))
        names = (self.spec.partition, self.spec.sort) if self.spec.sort else (self.spec.partition,)
        if isinstance(value, dict):
            missing = [name for name in names if name not in value]
            if missing:
                raise self._invalid(f"the row has no field {missing[0]!r}, which is part of the key")
            return self.key(*(value[name] for name in names))
        return self.key(*(getattr(value, self._attributes[name]) for name in names))

    def encode(self, value: T) -> bytes:
        """The row's canonical JSON. Raises `InvalidValue` and `TooLarge`."""
        try:
            body = self.codec.encode(value)
        except InvalidValue as error:
            error.operation, error.resource = "put", self.name
            raise
        self.check_size(body)
        return body

    def check_size(self, body: bytes) -> None:
        if len(body) > MAX_DOCUMENT:
            raise TooLarge(
                f"the document has {len(body)} bytes, {MAX_DOCUMENT} are allowed",
                operation="put",
                resource=self.name,
                hint="split it into several rows, or keep large content in a bucket",
            )

    def _decode(self, record: Record) -> T:
        return self.codec.decode(self.body_of(record))

    # Point reads and writes

    async def get(self, *key: KeyPart, validate: bool = True) -> T | None:
        """The row, or None. In a unit that writes, a stale read re-runs it, unless `validate` is False."""
        guard(self, "get")
        found = await self._read(self.key(*key), validate=validate)
        return None if found is None else self._decode(found)

    async def read(self, *key: KeyPart) -> Stored[T] | None:
        """The row with its version, or None."""
        guard(self, "get")
        found = await self._read(self.key(*key))
        return None if found is None else Stored(self._decode(found), found.version)

    async def read_record(self, key: Key) -> Record | None:
        """The row as it is stored, for callers that pass it on undecoded; see `body_of`."""
        return await self._read(key)

    def body_of(self, record: Record) -> bytes:
        """The row's canonical JSON, in the present model version."""
        return upgraded(record.body, record.schema, self.spec.schema, self.upgrade)

    async def _read(self, key: Key, *, validate: bool = True) -> Record | None:
        unit = current.get()
        if unit is None:
            return await self.app.binding.engine.read(self.name, key)
        return self._with_schema(unit, key, await unit.read(self.name, key, validate=validate))

    def _with_schema(self, unit: UnitOfWork, key: Key, record: Record | None) -> Record | None:
        """What the unit wrote itself has the present model version."""
        if record is not None and unit.wrote(self.name, key):
            return msgspec.structs.replace(record, schema=self.spec.schema)
        return record

    async def put(
        self,
        value: T,
        *,
        if_version: str | None = None,
        if_absent: bool = False,
        where: Pattern | None = None,
    ) -> str:
        """Insert or replace the row with this key; its new version.

        `if_version` takes a version (or an ETag's text of it; "*" means any present row), `if_absent` demands
        that there is none, `where` is a pattern on the present row. Raises `ConditionFailed`. A row equal to the
        present one gets a new version and makes no change event.
        """
        guard(self, "put")
        body, key = self.encode(value), self.key_of(value)
        if if_version is None and not if_absent and where is None:
            outer = current.get()
            unit = outer or UnitOfWork(self.app.binding.engine)
            version = unit.write(Write(self.name, key, unit.next_id(), body))
            if outer is None:
                await unit.commit()
            return version

        async def work(unit: UnitOfWork) -> str:
            present = await unit.read(self.name, key)
            self._check(present, key, if_version, if_absent, where)
            return unit.write(Write(self.name, key, unit.next_id(), body))

        return await self._run(work)

    def _check(
        self, present: Record | None, key: Key, if_version: str | None, if_absent: bool, where: Pattern | None
    ) -> None:
        problem: str | None = None
        if if_absent and present is not None:
            problem = "the row exists already"
        elif if_version is not None:
            wanted = named_versions(if_version)
            if present is None:
                problem = "the row is absent"
            elif wanted != ["*"] and present.version not in wanted:
                problem = f"the row has the version {present.version}, not {' or '.join(wanted)}"
        if problem is None and where is not None:
            compile_pattern(where, place="where")
            row = {} if present is None else decode_json(present.body)
            problem = explain(where, row)
        if problem is not None:
            raise ConditionFailed(problem, operation="write", resource=f"{self.name} {key[0]}")

    async def update(
        self,
        *key: KeyPart,
        set: Mapping[str, Any] | None = None,
        add: Mapping[str, int | float] | None = None,
        append: Mapping[str, Sequence[Any]] | None = None,
        unset: Sequence[str] = (),
        where: Pattern | None = None,
        if_version: str | None = None,
    ) -> str:
        """Change some fields of a row, of an absent one too (it starts from its key); the row's new version.

        Without a condition it never conflicts: it is merged into the row at commit. `set` replaces fields, `add`
        adds to numbers (absent: 0), `append` adds items to lists (absent: empty), `unset` removes fields.
        Raises `ConditionFailed` when `where` or `if_version` is false.
        """
        guard(self, "update")
        checked = self.key(*key)
        merge = self._merge(set or {}, add or {}, append or {}, tuple(unset))
        merge.set.update(zip((self.spec.partition, self.spec.sort), checked[: len(key)], strict=False))

        async def work(unit: UnitOfWork) -> str:
            if where is not None or if_version is not None:
                self._check(await unit.read(self.name, checked), checked, if_version, False, where)
            if self.upgrade:
                await self._upgrade_in_place(unit, checked)
            return unit.merge(self.name, checked, merge)

        return await self._run(work)

    async def _upgrade_in_place(self, unit: UnitOfWork, key: Key) -> None:
        """A merge needs the present model version: an older record is rewritten in the same commit."""
        present = self._with_schema(unit, key, await unit.read(self.name, key))
        if present is not None and present.schema < self.spec.schema:
            unit.write(Write(self.name, key, unit.next_id(), self.body_of(present)))

    def _merge(
        self,
        set: Mapping[str, Any],
        add: Mapping[str, int | float],
        append: Mapping[str, Sequence[Any]],
        unset: tuple[str, ...],
    ) -> Merge:
        for name in (*set, *add, *append, *unset):
            if self._fields is not None and name not in self._fields:
                raise InvalidValue(
                    f"{self.model.__name__} has no field {name!r}", operation="update", resource=self.name
                )
            if name in (self.spec.partition, self.spec.sort):
                raise InvalidValue(f"{name!r} is part of the key", operation="update", resource=self.name)
        plain = {name: self._field(name, value) for name, value in set.items()}
        items = {name: msgspec.to_builtins(_dumped(list(values)), str_keys=True) for name, values in append.items()}
        for value in (plain, dict(add), items):
            check_json(value)
        return Merge(plain, dict(add), items, unset)

    def _field(self, name: str, value: Any) -> Any:
        if isinstance(value, float):
            check_json(value, name)
        try:
            return encode_field(self.model, name, value)
        except InvalidValue as error:
            error.operation, error.resource = "update", self.name
            raise

    async def delete(self, *key: KeyPart, if_version: str | None = None, where: Pattern | None = None) -> None:
        """Remove the row; removing an absent one does nothing. Raises `ConditionFailed`."""
        guard(self, "delete")
        checked = self.key(*key)

        async def work(unit: UnitOfWork) -> None:
            if if_version is not None or where is not None:
                self._check(await unit.read(self.name, checked), checked, if_version, False, where)
            unit.write(Write(self.name, checked, unit.next_id()))

        await self._run(work)

    # Queries

    async def query(
        self,
        *prefix: KeyPart,
        index: str = "",
        between: tuple[KeyPart, KeyPart] | None = None,
        limit: int = 100,
        cursor: str | None = None,
        reverse: bool = False,
    ) -> Page[T]:
        """A page of rows, in key order, or in the order of an index.

        `prefix` is nothing (all rows), the partition, or the partition and a prefix of a string sort key; with
        `index` the partition and prefix are the index's. `between` bounds the next part, both ends included.
        `limit` is at most 1,000. `cursor` is opaque and belongs to the same query. A unit sees its own writes. On AWS
        rows of several partitions come in no order.
        """
        guard(self, "query")
        query = self.query_of(prefix, index=index, between=between, limit=limit, cursor=cursor, reverse=reverse)
        return await self.page_of(query)

    async def page_of(self, query: Query) -> Page[T]:
        """A page of rows, for those of Headwater's own that have checked the call."""
        page = await self.query_records(query)
        return Page([self._decode(record) for record in page.records], write_cursor(page.next))

    async def query_records(self, query: Query) -> RecordPage:
        """A page of rows as they are stored; see `read_record`."""
        if query.reverse and not self._is_ordered(query):
            message = "the rows of a whole table have no order in this store"
            raise Unsupported(message, operation="query", resource=self.name, hint="name a partition")
        page = await self.app.binding.engine.query(query)
        unit = current.get()
        if unit is not None:
            unit.check_open()
            page = await self._overlaid(unit, query, page)
        return page

    def query_of(
        self,
        prefix: tuple[KeyPart, ...],
        *,
        index: str = "",
        between: tuple[KeyPart, KeyPart] | None = None,
        limit: int,
        cursor: str | None,
        reverse: bool = False,
    ) -> Query:
        """What `query` asks the store for. Raises `InvalidValue`."""
        if not 0 < limit <= MAX_PAGE:
            raise self._invalid(f"limit is {limit}; 1 to {MAX_PAGE} are allowed")
        if len(prefix) > 2 or (len(prefix) == 2 and not isinstance(prefix[1], str)):
            raise self._invalid("a query takes the partition and at most a prefix of a string sort key")
        if index and index not in {declared.name for declared in self.spec.indexes}:
            raise InvalidValue(f"no index {index!r} is declared", operation="query", resource=self.name)
        low, high = between or (None, None)
        return Query(
            table=self.name,
            index=index,
            partition=prefix[0] if prefix else None,
            prefix=str(prefix[1]) if len(prefix) == 2 else "",
            low=low,
            high=high,
            limit=limit,
            after=self._after(cursor, 4 if index else 2),
            reverse=reverse,
        )

    def _after(self, cursor: str | None, parts: int) -> tuple[KeyPart, ...] | None:
        found = None if cursor is None else read_cursor(cursor)
        if found is not None and len(found) != parts:
            raise InvalidValue("the cursor is not one of this query's", operation="query", resource=self.name)
        return found

    async def _overlaid(self, unit: UnitOfWork, query: Query, page: RecordPage) -> RecordPage:
        """The page with the unit's own writes in their places."""
        own = {
            key: self._with_schema(unit, key, await unit.read(self.name, key, validate=False))
            for key in unit.own_writes(self.name)
        }
        return overlay(self.spec, query, page, own, ordered=self._is_ordered(query)) if own else page

    def _is_ordered(self, query: Query) -> bool:
        return query.partition is not None or self.app.binding.engine.features.ordered_scans

    # Datasets

    async def load(
        self,
        rows: Iterable[T] | AsyncIterable[T] | Documents[T],
        *,
        scope: str = "",
        missing: Missing = "keep",
        grace: Duration = 0,
        max_removed: float = 1.0,
        source: str = "",
        source_sha256: str = "",
    ) -> LoadSummary:
        """Bring the scope's rows to these: insert, replace, and deal with those that are `missing`, as a whole.

        What differs is staged in slices that block nobody; the commit of the handler, request or transaction makes
        all of it visible at once, and readers see the old rows or the new ones. Change events follow, for rows that
        really changed. A unit can load a table once, and does not see what it has loaded. Scopes of a table share
        no keys; rows that no load of the scope has brought are left alone.

        `missing` rows are kept, deleted, or expire after `grace`, unless they come back before. A load that
        would remove more than the share `max_removed` of its scope raises `LoadRefused`, with an alarm. `source`
        names where the rows are from; with `source_sha256` the source of the scope's last load is recognised, and
        not read again if nobody has changed its rows. Raises `InvalidValue` for a wrong row, for a key that comes
        twice, and for one that belongs to another scope.
        """
        guard(self, "load")
        options = LoadOptions(
            scope=scope,
            missing=missing,
            grace_ms=to_ms(grace, place="grace"),
            max_removed=max_removed,
            source=source,
            sha256=source_sha256,
        )
        return await load(self, rows, options)

    async def loads(self, scope: str | None = None, *, limit: int = 20) -> list[LoadSummary]:
        """The summaries of this table's loads, of one scope or of all, newest first."""
        guard(self, "loads")
        return await summaries(self, scope, limit)

    # Forgetting

    async def forget(self, *key: KeyPart, also: Sequence[Also] = ()) -> str:
        """Remove the row, if it is there, and all that the store keeps of its key; the id of the erasure.

        The row goes with the unit's commit, as a `removed` change without its old image. What the history, dead
        letters, stored answers, mails, spans and loads still have is redacted afterwards, in slices that block nobody,
        also after a crash; of other events those that name the key and belong to a trace in which it was changed.
        Messages that wait are delivered first, for a day at most. In the end the bytes are gone from the store's files.
        `also` are tables whose row of the same key goes too (or all rows of the partition, of a table with a sort key
        that the key lacks), tracked operations of the same subject, and (table, index) for the rows of that partition.
        The key can be used again at once. `headwater forget show` tells how far it is.
        """
        guard(self, "forget")
        return await forget(self, self.key(*key), also)

    async def erasures(self, *, limit: int = 20) -> list[Erasure]:
        """The erasures of this table's keys, newest first."""
        guard(self, "erasures")
        return await erasures(self.app.binding.engine, self.name, limit)

    async def replay(self, queue: Queue[Any]) -> int:
        """Put each present row into the queue as an `Inserted` change, for a late subscriber; how many.

        Rows written meanwhile may come twice: by the replay and as their change. Not part of a unit of work.
        """
        guard(self, "replay")
        guard(queue, "send")
        return await self.app.binding.engine.replay(self.name, queue.name)

    async def history(self, *key: KeyPart, limit: int = 100) -> list[Change[T]]:
        """The changes of a row that the history still holds, newest first."""
        guard(self, "history")
        decode = self.decoder()
        envelopes = await self.app.binding.engine.history(self.name, self.key(*key), limit)
        return [decode(Delivery(queue="", position=0, fence=0, receives=0, event=envelope)) for envelope in envelopes]


def named_versions(condition: str) -> list[str]:
    """The versions that a condition names: one, or ETags as in HTTP."""
    return [tag.strip().removeprefix("W/").strip('"') for tag in condition.split(",")]


def _dumped(value: Any) -> Any:
    """Pydantic models inside values of an update as JSON types."""
    if isinstance(value, dict):
        return {name: _dumped(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_dumped(item) for item in value]
    return value.model_dump(mode="json", by_alias=True) if hasattr(value, "model_dump") else value
