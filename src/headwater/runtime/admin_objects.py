"""Admin operations on the objects of buckets, and the two that stream: `put_object` and `open_object`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, TypeVar

import msgspec

from headwater.buckets import BY_BLOB, MAX_SIZE, Bucket, ObjectReader
from headwater.errors import DeclarationError, InvalidValue, UnknownResource
from headwater.http.objects import described
from headwater.object_listing import BINARY, ObjectInfo
from headwater.runtime.admin_base import AdminBase, event_json
from headwater.runtime.operations import Limit, Name, Slice, operation

Options = TypeVar("Options")
_HINT = "names are app/bucket; `headwater ls` lists them"


class PutOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What goes with the bytes of an object."""

    bucket: str
    key: str
    content_type: str = BINARY
    metadata: dict[str, str] = {}
    if_match: str | None = None
    if_absent: bool = False
    sha256: str = ""


class GetOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    bucket: str
    key: str
    version: str = ""


class ObjectOperations(AdminBase):
    @operation()
    async def bucket_list(
        self, *, bucket: Name, prefix: str = "", delimiter: str = "", limit: Limit = 100, cursor: str | None = None
    ) -> dict[str, Any]:
        """A page of objects in the order of their keys; with a delimiter, what is below one is shown as a prefix."""
        found = await self.bucket_of(bucket)
        page = await found.list(prefix, delimiter=delimiter, limit=limit, cursor=cursor)
        items = [_shown(found, info) for info in page.items]
        return {"items": items, "prefixes": page.prefixes, "cursor": page.cursor}

    @operation()
    async def bucket_versions(
        self, *, bucket: Name, key: Name, limit: Limit = 100, cursor: str | None = None
    ) -> dict[str, Any]:
        """A page of the older versions of an object, newest first."""
        found = await self.bucket_of(bucket)
        page = await found.versions(key, limit=limit, cursor=cursor)
        return {"items": [_shown(found, info) for info in page.items], "cursor": page.cursor}

    @operation()
    async def bucket_head(self, *, bucket: Name, key: Name, version: str = "") -> dict[str, Any]:
        """An object without its bytes, or the version of it that is named."""
        found = await self.bucket_of(bucket)
        info = await found.head(key, version=version)
        if info is None:
            raise _missing("head", bucket, key)
        return _shown(found, info)

    @operation()
    async def bucket_history(self, *, bucket: Name, key: Name, limit: Limit = 100) -> dict[str, Any]:
        """The puts and deletions of an object that the history still holds, newest first."""
        found = await self.bucket_of(bucket)
        events = await self.engine.history(found.name, found.table.key(key), limit)
        return {"changes": [event_json(event) for event in events]}

    @operation(writes=True)
    async def bucket_delete(
        self, *, bucket: Name, key: Name, if_match: str | None = None, version: str = ""
    ) -> dict[str, Any]:
        """Remove an object, or the version of it that is named; what is absent already is not found.

        `if_match` is the etag that the object must have.
        """
        found = await self.bucket_of(bucket)
        info = await found.delete(key, if_match=if_match, version=version)
        if info is None:
            raise _missing("delete", bucket, key)
        return _shown(found, info)

    @operation(writes=True)
    async def bucket_clear(self, *, bucket: Name, prefix: str = "", limit: Slice = 500) -> dict[str, Any]:
        """Remove the first objects whose keys begin with the prefix, each in a commit of its own.

        Call it again until nothing is `removed`.
        """
        found = await self.bucket_of(bucket)
        page = await found.list(prefix, limit=limit)
        await asyncio.gather(*(found.delete(info.key) for info in page.items))
        return {"removed": len(page.items)}

    @operation()
    async def bucket_presign(
        self,
        *,
        bucket: Name,
        method: Literal["GET", "PUT", "POST"],
        key: Name,
        expires: str = "15m",
        size: int = 0,
        sha256: str = "",
        content_type: str = "",
        once: bool = False,
    ) -> dict[str, Any]:
        """A URL that does this one thing without credentials; of a server that exposes the bucket over HTTP."""
        if self.supervisor is None:
            raise DeclarationError(
                "only a running server knows where the bucket is served",
                operation="presign",
                resource=bucket,
                hint="start it with `headwater run`",
            )
        found = await self.bucket_of(bucket)
        url = found.presign(
            method, key, expires=expires, size=size, sha256=sha256, content_type=content_type, once=once
        )
        return {"url": self.about.address + url if url.startswith("/") and self.about else url}

    async def put_object(self, parameters: Mapping[str, Any], data: AsyncIterator[bytes]) -> dict[str, Any]:
        """Store an object from its bytes; for the parameters see `PutOptions`."""
        options = read_options(parameters, PutOptions, "put")
        bucket = await self.bucket_of(options.bucket)
        info = await bucket.put(
            options.key,
            data,
            content_type=options.content_type,
            metadata=options.metadata,
            if_match=options.if_match,
            if_absent=options.if_absent,
            sha256=options.sha256,
        )
        return _shown(bucket, info)

    async def open_object(self, parameters: Mapping[str, Any]) -> AbstractAsyncContextManager[ObjectReader]:
        """The bytes of the object of a bucket and key; entering it raises `UnknownResource` when there is none."""
        options = read_options(parameters, GetOptions, "get")
        return (await self.bucket_of(options.bucket)).open(options.key, version=options.version)

    async def bucket_of(self, name: str) -> Bucket:
        """The bucket as its app declares it here, or a stand-in by what the catalog knows."""
        app = self._declared_app(name)
        if app is not None and name in app.buckets:
            return app.buckets[name]
        tables = (await self.engine.catalog()).tables
        spec = tables.get(name)
        if spec is None or not spec.bucket or spec.sort or BY_BLOB not in {index.name for index in spec.indexes}:
            raise UnknownResource("the store has no bucket of this name", resource=name, hint=_HINT)
        versions = f"{name}.versions" in tables
        most = spec.max_size or MAX_SIZE
        return Bucket(self.stand_in, name, max_size=most, versions=versions, expire_ms=spec.ttl_ms)


def _shown(bucket: Bucket, info: ObjectInfo) -> dict[str, Any]:
    return described(info, version=bucket.keeps_versions)


def read_options(parameters: Mapping[str, Any], kind: type[Options], operation: str) -> Options:
    try:
        return msgspec.convert(dict(parameters), kind)
    except msgspec.ValidationError as error:
        raise InvalidValue(str(error), operation=operation) from error


def _missing(operation: str, bucket: str, key: str) -> UnknownResource:
    return UnknownResource("there is no object of this key", operation=operation, resource=f"{bucket} {key}")
