"""Buckets: objects under keys, their bytes in a blob store, each change an event.

Identities: an object is found by its key; what was put under it at one time by its etag (unique per put) or, in a
bucket with versions, by its sequencer; its bytes by the id of a blob, new for every put. A bucket is a table of
`ObjectInfo` beside a blob store. The bytes are made durable first, then one commit has the record and its event. So
whoever sees a record can read its bytes, and a crash leaves at most bytes without a record, which are collected
(`runtime/garbage.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from weakref import WeakValueDictionary

import msgspec

from headwater.blobs import CHUNK, Blob, BlobStore, blob_id
from headwater.catalog import IndexSpec, TableSpec
from headwater.durations import Duration, to_ms
from headwater.errors import (
    ConditionFailed,
    Conflict,
    DeclarationError,
    InvalidValue,
    StoreFull,
    TooLarge,
    UnknownResource,
)
from headwater.events import Event, Key, Removed
from headwater.late import Late
from headwater.object_listing import BINARY, Listing, ObjectInfo, ObjectPage
from headwater.pages import read_cursor, write_cursor
from headwater.permits import Guarded, guard
from headwater.sources import Source
from headwater.tables import MAX_PAGE, ChangeSource, Table, named_versions
from headwater.unit import Write
from headwater.work import UnitOfWork, alone, current

if TYPE_CHECKING:
    from headwater.app import App

R = TypeVar("R")
MAX_SIZE = 5 * 1024**3
MAX_GET = 64 * 1024**2
MAX_METADATA = 2048
BY_BLOB = "by-blob"
_GONE_KEPT_MS = 86_400_000
_HEX = frozenset("0123456789abcdefABCDEF")


class _Gone(msgspec.Struct, frozen=True):
    """Remembers for a day where the sequencers of a deleted key ended."""

    key: str
    sequencer: str


class Watch(msgspec.Struct, frozen=True):
    """A folder whose complete files become objects; see `Bucket.watch`."""

    directory: str | Path | Late[Any]
    prefix: str
    settle_ms: int
    delete: bool


class ObjectReader(AsyncIterator[bytes]):
    """The bytes of one object from `start` to `end`, in chunks; `info` is the object that they belong to."""

    def __init__(self, info: ObjectInfo, start: int, end: int, chunks: AsyncIterator[bytes]) -> None:
        self.info = info
        self.start = start
        self.end = end
        self._chunks = chunks

    async def __anext__(self) -> bytes:
        return await anext(self._chunks)


class Bucket(Guarded):
    """Declared by `app.bucket`. Every call is a commit of its own, or part of the current unit of work.

    `created` emits every put, with the new object as its data; `deleted` every deletion and expiry, with the old
    one. Both are ordered by key. Keys are 1 to 1,024 bytes of Unicode text and nothing but data: "..", "/" and
    NUL have no meaning. All calls raise `InvalidValue` for a bad key or value.
    """

    kind = "bucket"

    def __init__(self, app: App[Any], name: str, *, max_size: int, versions: bool, expire_ms: int) -> None:
        if not 0 < max_size <= MAX_SIZE:
            raise DeclarationError(f"max_size is 1 to {MAX_SIZE} bytes", operation="declare bucket", resource=name)
        self.app = app
        self.name = name
        self.max_size = max_size
        self.table = _table(app, name, ObjectInfo, ttl_ms=expire_ms, blobs=True, max_size=max_size)
        self.created: Source[Event[ObjectInfo]] = ChangeSource(self.table, ("inserted", "modified"))
        self.deleted: Source[Removed[ObjectInfo]] = ChangeSource(self.table, ("removed",))
        self._gone = _table(app, f"{name}.gone", _Gone, ttl_ms=_GONE_KEPT_MS, images="none")
        self._older: Table[ObjectInfo] | None = None
        if versions:
            self._older = _table(
                app, f"{name}.versions", ObjectInfo, sort="sequencer", ttl_ms=expire_ms, images="none", blobs=True
            )
        self.watches: list[Watch] = []
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def keeps_versions(self) -> bool:
        return self._older is not None

    @property
    def tables(self) -> list[Table[Any]]:
        """The tables that keep the bucket's records."""
        return [self.table, self._gone, *([self._older] if self._older else [])]

    @property
    def _blobs(self) -> BlobStore:
        return self.app.binding.blobs

    # Writing

    async def put(
        self,
        key: str,
        data: bytes | AsyncIterator[bytes] | Path,
        *,
        content_type: str = BINARY,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
        sha256: str = "",
    ) -> ObjectInfo:
        """Store an object: its bytes are durable when this returns, its record and event with the commit.

        A file or an iterator is read in constant memory. `if_match` takes an etag ("*" means any present object),
        `if_absent` demands that there is none; they are checked before the first byte is taken and again when all
        are there. `sha256` (hexadecimal) is what the bytes must have. Raises `ConditionFailed`, `TooLarge` beyond
        `max_size`, `InvalidValue`, and `StoreFull`; then there is no new object.
        """
        guard(self, "put")
        draft = self.draft(key, content_type, metadata or {}, sha256)
        unit = current.get()
        if unit is not None:
            unit.check_open()
        if if_match is not None or if_absent:
            self._check(await self._present(unit, self.table.key(key)), key, if_match, if_absent)
        own = _Upload()
        try:
            blob = await self.write_blob(unit or own, _chunks_of(data), sha256=sha256)
            try:
                return await self.put_blob(draft, blob, if_match=if_match, if_absent=if_absent)
            except (ConditionFailed, Conflict, StoreFull):
                if unit is None:
                    await self._blobs.delete(blob.id)
                raise
        finally:
            own.closed = True

    async def write_blob(self, holder: object, data: AsyncIterator[bytes], *, limit: int = 0, sha256: str = "") -> Blob:
        """Make bytes durable: the first half of `put`. They are not collected while `holder` may commit them.

        That is as long as it lives and, if it has an attribute `closed`, this is false.
        """
        id = blob_id(self.app.binding.clock.wall_ms())
        self.app.binding.uncommitted.hold(holder, id)
        return await self._blobs.write(id, data, limit=limit or self.max_size, sha256=sha256)

    async def put_blob(
        self, draft: ObjectInfo, blob: Blob, *, if_match: str | None = None, if_absent: bool = False
    ) -> ObjectInfo:
        """Commit an object with bytes of `write_blob`: the second half of `put`, which may be run again."""
        place = self.table.key(draft.key)
        known = msgspec.structs.replace(draft, blob=blob.id, size=blob.size, sha256=blob.sha256)

        async def work(unit: UnitOfWork) -> ObjectInfo:
            self.app.binding.uncommitted.hold(unit, blob.id)
            present = await self._present(unit, place)
            self._check(present, draft.key, if_match, if_absent)
            return await self._record(unit, place, present, known)

        return await self._in_turn(draft.key, work)

    def draft(self, key: str, content_type: str, metadata: Mapping[str, str], sha256: str = "") -> ObjectInfo:
        """The object as far as it is known before its bytes are read; refuses what is no valid attribute."""
        self.table.key(key)
        if not 0 < len(content_type) <= 255 or not (content_type.isascii() and content_type.isprintable()):
            raise self._invalid(f"{content_type!r} is no content type")
        if sha256 and (len(sha256) != 64 or not _HEX.issuperset(sha256)):
            raise self._invalid(f"{sha256!r} is no SHA-256 in hexadecimal digits")
        try:
            checked = msgspec.convert(metadata, dict[str, str])
            size = sum(len(name.encode()) + len(value.encode()) for name, value in checked.items())
        except (msgspec.ValidationError, UnicodeEncodeError) as error:
            raise self._invalid(f"metadata are texts by name: {error}") from None
        if size > MAX_METADATA:
            raise TooLarge(
                f"the metadata have {size} bytes, {MAX_METADATA} are allowed", operation="put", resource=self.name
            )
        return ObjectInfo(
            key=key,
            size=0,
            sha256="",
            etag="",
            content_type=content_type,
            metadata=dict(checked),
            blob="",
            sequencer="",
            modified_ms=0,
        )

    async def _record(self, unit: UnitOfWork, place: Key, present: ObjectInfo | None, draft: ObjectInfo) -> ObjectInfo:
        """Write the object's record in the unit, after everything that the key had before."""
        now_ms = await unit.engine.now_ms()
        etag = unit.next_id()
        info = msgspec.structs.replace(
            draft,
            etag=etag,
            sequencer=await self._next_sequencer(unit, place, present, now_ms),
            modified_ms=now_ms,
        )
        if present is not None:
            self._keep_version(unit, present)
        unit.write(Write(self.table.name, place, etag, self.table.codec.encode(info)))
        return info

    async def _next_sequencer(self, unit: UnitOfWork, place: Key, present: ObjectInfo | None, now_ms: int) -> str:
        """Above the present one, and above that of the last deletion; both reads are validated by the commit.

        The time is in front, so that a deletion has to be remembered only for as long as a unit of work may last.
        """
        record = await unit.read(self._gone.name, place)
        last = present.sequencer if present else ""
        if record is not None:
            last = max(last, self._gone.codec.decode(record.body).sequencer)
        return f"{max(now_ms << 16, int(last, 16) + 1 if last else 0):016x}"

    def _keep_version(self, unit: UnitOfWork, info: ObjectInfo) -> None:
        if self._older is not None:
            key = (info.key, info.sequencer)
            unit.write(Write(self._older.name, key, unit.next_id(), self._older.codec.encode(info)))

    async def delete(self, key: str, *, if_match: str | None = None, version: str = "") -> ObjectInfo | None:
        """Remove an object; what was removed, None when there was none. `if_match` as in `put`.

        With versions the object stays readable as an older version. `version` (a sequencer) removes this older one.
        """
        guard(self, "delete")
        place = self.table.key(key)

        async def work(unit: UnitOfWork) -> ObjectInfo | None:
            present = await self._present(unit, place)
            self._check(present, key, if_match, False)
            if version and (present is None or version != present.sequencer):
                return await self._delete_version(unit, place, version)
            if present is not None:
                unit.write(Write(self.table.name, place, unit.next_id()))
                gone = _Gone(key, present.sequencer)
                unit.write(Write(self._gone.name, place, unit.next_id(), self._gone.codec.encode(gone)))
                if not version:
                    self._keep_version(unit, present)
            return present

        return await self._in_turn(key, work)

    async def _delete_version(self, unit: UnitOfWork, place: Key, version: str) -> ObjectInfo | None:
        older = self._versions_table()
        slot = (place[0], version)
        record = await unit.read(older.name, slot)
        if record is None:
            return None
        unit.write(Write(older.name, slot, unit.next_id()))
        return older.codec.decode(record.body)

    async def _in_turn(self, key: str, work: Callable[[UnitOfWork], Awaitable[R]]) -> R:
        """In the current unit; else as a commit of its own, which calls for the same key make one after the other.

        Only so can many puts of one key at once all succeed: each must know the sequencer before its own.
        """
        if current.get() is not None:
            return await alone(self.app.binding.engine, work)
        turn = self._turns.setdefault(key, asyncio.Lock())
        async with turn:
            return await alone(self.app.binding.engine, work)

    def _check(self, present: ObjectInfo | None, key: str, if_match: str | None, if_absent: bool) -> None:
        problem = ""
        if if_absent and present is not None:
            problem = "the object exists already"
        elif if_match is not None:
            wanted = named_versions(if_match)
            if present is None:
                problem = "there is no such object"
            elif wanted != ["*"] and present.etag not in wanted:
                problem = f"the object has the etag {present.etag}, not {' or '.join(wanted)}"
        if problem:
            raise ConditionFailed(problem, operation="write", resource=self._resource(key))

    # Reading

    async def head(self, key: str, *, version: str = "") -> ObjectInfo | None:
        """The object without its bytes, or None; with `version` (a sequencer) that version of it."""
        guard(self, "get")
        info = await self._present(current.get(), self.table.key(key))
        if version and (info is None or info.sequencer != version):
            older = self._versions_table()
            record = await older.read_record(older.key(key, version))
            return None if record is None else older.codec.decode(older.body_of(record))
        return info

    async def _present(self, unit: UnitOfWork | None, place: Key) -> ObjectInfo | None:
        if unit is None:
            record = await self.app.binding.engine.read(self.table.name, place)
        else:
            record = await unit.read(self.table.name, place)
        return None if record is None else self.table.codec.decode(record.body)

    async def get(self, key: str | ObjectInfo, *, version: str = "") -> bytes:
        """The bytes of an object of at most 64 MiB. Raises as `open` does, and `TooLarge`."""
        guard(self, "get")
        async with self._opened(key, 0, None, version) as body:
            if body.info.size > MAX_GET:
                raise TooLarge(
                    f"the object has {body.info.size} bytes, get() reads {MAX_GET} at the most",
                    operation="get",
                    resource=self._resource(body.info.key),
                    hint="read it in chunks: async with bucket.open(key) as chunks",
                )
            return b"".join([chunk async for chunk in body])

    def open(
        self, key: str | ObjectInfo, *, start: int = 0, end: int | None = None, version: str = ""
    ) -> AbstractAsyncContextManager[ObjectReader]:
        """Read an object in chunks, in constant memory: `async with bucket.open(key) as chunks: async for …`.

        `start` and `end` (exclusive) are clipped to its size. An `ObjectInfo` in place of the key opens exactly that
        object, even if it was overwritten lately; `version` (a sequencer) opens that version. What is
        open stays readable while it is overwritten or deleted. Raises `UnknownResource` when there is no such object.
        """
        guard(self, "get")
        if start < 0 or (end is not None and end < start):
            raise self._invalid(f"the range {start} to {end} is none")
        return self._opened(key, start, end, version)

    @asynccontextmanager
    async def _opened(
        self, key: str | ObjectInfo, start: int, end: int | None, version: str
    ) -> AsyncIterator[ObjectReader]:
        if isinstance(key, ObjectInfo):
            info, chunks = key, await self.read_blob(key, start, end)
        else:
            info = await self._find(key, version)
            try:
                chunks = await self.read_blob(info, start, end)
            except UnknownResource:  # overwritten and collected between the two reads
                info = await self._find(key, version)
                chunks = await self.read_blob(info, start, end)
        first, last = _clip(info, start, end)
        try:
            yield ObjectReader(info, first, last, chunks)
        finally:
            await chunks.aclose()

    async def read_blob(self, info: ObjectInfo, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes]:
        """The bytes of exactly this object; close the generator. Raises `UnknownResource` when they are collected."""
        first, last = _clip(info, start, end)
        try:
            return await self._blobs.read(info.blob, first, last)
        except UnknownResource:
            raise self._unknown(info.key, "its bytes are gone: it was overwritten or deleted") from None

    async def _find(self, key: str, version: str) -> ObjectInfo:
        info = await self.head(key, version=version)
        if info is None:
            raise self._unknown(key, "there is no such object")
        return info

    async def versions(self, key: str, *, limit: int = 100, cursor: str | None = None) -> ObjectPage:
        """The older versions of an object, newest first; the present one is not among them."""
        guard(self, "list")
        older = self._versions_table()
        page = await older.page_of(older.query_of((key,), limit=limit, cursor=cursor, reverse=True))
        return ObjectPage(page.items, [], page.cursor)

    async def list(
        self, prefix: str = "", *, delimiter: str = "", limit: int = 100, cursor: str | None = None
    ) -> ObjectPage:
        """A page of the objects whose keys begin with `prefix`, in key order.

        With a delimiter, all keys that have it after the prefix are shown as one entry of `prefixes`, up to and with
        it. `limit` counts both and is at most 1,000. `cursor` is opaque and belongs to the same listing.
        """
        guard(self, "list")
        if not 0 < limit <= MAX_PAGE:
            raise self._invalid(f"limit is {limit}; 1 to {MAX_PAGE} are allowed")
        listing = Listing(self.table, prefix, delimiter, limit)
        await listing.run(self._place_of(cursor))
        return ObjectPage(listing.items, listing.prefixes, write_cursor(listing.place))

    def _place_of(self, cursor: str | None) -> tuple[str, str]:
        if cursor is None:
            return "", ""
        match read_cursor(cursor):
            case (str() as after, str() as low):
                return after, low
        raise InvalidValue("the cursor is not one of this listing's", operation="list", resource=self.name)

    # Other ways in and out

    def presign(
        self,
        method: Literal["GET", "PUT", "POST"],
        key: str,
        *,
        expires: Duration = "15m",
        size: int = 0,
        sha256: str = "",
        content_type: str = "",
        once: bool = False,
    ) -> str:
        """A URL that lets whoever has it do this one thing, without other credentials, for 7 days at the most.

        The bucket must be exposed (`app.expose`). POST takes a browser's upload form; with a key that ends in "/" for
        every key below it. Uploads can be bound to a size at the most, to their SHA-256 (hexadecimal) and to a content
        type; with `once` the first success is the last. The URL begins with the setting `public_url`, or with "/".
        """
        guard(self, "presign")
        return self.app.binding.presigner.presign(
            self, method, key, expires, size=size, sha256=sha256, content_type=content_type, once=once
        )

    def watch(
        self, directory: str | Path | Late[Any], *, prefix: str = "", settle: Duration = "2s", delete: bool = False
    ) -> None:
        """While the server runs, put each file of a folder that is complete under `prefix` and its path in the folder.

        A file is complete when its size and time of change have stood still for `settle`. Names that begin with "."
        or end in ".tmp" or ".part" are passed over, links out of the folder refused. A file is put once, again when it
        has changed; with `delete` it is removed then. A missing folder is made.
        """
        self.watches.append(Watch(directory, prefix, to_ms(settle), delete))

    def _versions_table(self) -> Table[ObjectInfo]:
        if self._older is None:
            raise DeclarationError(
                "the bucket keeps no versions",
                operation="read",
                resource=self.name,
                hint="declare it with versions=True",
            )
        return self._older

    def _resource(self, key: str) -> str:
        return f"{self.name} {key}"

    def _unknown(self, key: str, message: str) -> UnknownResource:
        return UnknownResource(message, operation="get", resource=self._resource(key))

    def _invalid(self, message: str) -> InvalidValue:
        return InvalidValue(message, operation="object", resource=self.name)


class _Upload:
    """Stands for a put outside of any unit of work while it runs."""

    closed = False


def _table(
    app: App[Any],
    name: str,
    model: type[R],
    *,
    sort: str = "",
    ttl_ms: int = 0,
    images: Any = "both",
    blobs: bool = False,
    max_size: int = 0,
) -> Table[R]:
    indexes = (IndexSpec(BY_BLOB, "blob"),) if blobs else ()
    spec = TableSpec(
        name=name,
        partition="key",
        sort=sort,
        indexes=indexes,
        images=images,
        ttl_ms=ttl_ms,
        bucket=True,
        max_size=max_size,
    )
    return Table(app, spec, model, {})


def _clip(info: ObjectInfo, start: int, end: int | None) -> tuple[int, int]:
    last = info.size if end is None else min(end, info.size)
    return min(start, last), last


async def _chunks_of(data: bytes | AsyncIterator[bytes] | Path) -> AsyncIterator[bytes]:
    if isinstance(data, Path):
        file = await asyncio.to_thread(data.open, "rb")
        with file:
            while chunk := await asyncio.to_thread(file.read, CHUNK):
                yield chunk
    elif isinstance(data, bytes | bytearray | memoryview):
        for at in range(0, len(data), CHUNK):
            yield bytes(data[at : at + CHUNK])
    else:
        async for chunk in data:
            yield chunk
