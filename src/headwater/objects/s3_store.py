"""Blobs as objects of an S3-compatible service, through obstore.

`<prefix>/<2 hex digits>/<id>` is a blob, `<prefix>/owner` says whose they are. Blobs are uploaded in parts, of which
nothing is visible until the last one is there. An upload that is cut off is aborted; parts that a killed process left
are for the service to remove (a lifecycle rule for incomplete uploads). Region, endpoint and credentials come
from the environment or the machine's role (AWS_REGION, AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and so on).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from datetime import timedelta
from typing import TypeVar
from urllib.parse import urlsplit

from headwater.blobs import CHUNK, Blob
from headwater.errors import DeclarationError, HeadwaterError, StoreError, UnknownResource
from headwater.objects import Measure, foreign_owner, gather_chunks, shard_of

try:
    import obstore
    from obstore import exceptions
    from obstore.store import S3Store
except ImportError as error:
    raise DeclarationError(
        "objects in S3 need the package obstore", operation="open", hint="install headwater[s3]"
    ) from error

R = TypeVar("R")
PART = 8 * 1024 * 1024
PARTS_AT_ONCE = 4
OWNER = "owner"
PATIENCE = timedelta(seconds=20)
"""How long a request that the service could not answer is tried again."""
_FAILURES = (exceptions.BaseError, OSError)


class S3Blobs:
    """`BlobStore` below a prefix of a bucket: "s3://bucket/prefix"."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.url = url
        insecure = {"allow_http": "true"} if _endpoint().startswith("http://") else {}
        self._store = S3Store(
            parts.netloc,
            prefix=parts.path.strip("/") or None,
            client_options=insecure,  # type: ignore[arg-type]
            retry_config={"max_retries": 4, "retry_timeout": PATIENCE},
        )

    async def open(self, owner: str) -> None:
        try:
            await obstore.put_async(self._store, OWNER, owner.encode(), mode="create")
        except exceptions.AlreadyExistsError:
            await self.check(owner)
        except _FAILURES as error:
            raise self._translated(error, "open") from error

    async def check(self, owner: str) -> None:
        with contextlib.suppress(UnknownResource):
            content = await self._run("open", obstore.get_async(self._store, OWNER))
            found = bytes(await self._run("open", content.bytes_async())).decode()
            if found != owner:
                raise foreign_owner(found, self.url)

    async def write(self, id: str, data: AsyncIterator[bytes], *, limit: int, sha256: str = "") -> Blob:
        upload = _Upload(data, Measure(limit, sha256), id)
        try:
            await self._upload(_path(id), upload.parts())
        except Exception as error:
            if upload.failure is not None:
                raise upload.failure from None
            if isinstance(error, _FAILURES):
                raise self._translated(error, "put") from error
            raise
        return upload.blob

    async def _upload(self, path: str, parts: AsyncIterator[bytes]) -> None:
        """One request for what fits into one part; else in parts."""
        first, second = await anext(parts, b""), await anext(parts, b"")
        if not second:
            await obstore.put_async(self._store, path, first, use_multipart=False)
            return

        async def all_parts() -> AsyncIterator[bytes]:
            yield first
            yield second
            async for part in parts:
                yield part

        await obstore.put_async(
            self._store, path, all_parts(), use_multipart=True, chunk_size=PART, max_concurrency=PARTS_AT_ONCE
        )

    async def read(self, id: str, start: int, end: int) -> AsyncGenerator[bytes]:
        if start >= end:
            await self._run("get", obstore.head_async(self._store, _path(id)), id)
            return self._pieces(id, b"", start, end)
        first = await self._piece(id, start, end)
        return self._pieces(id, first, start, end)

    async def _pieces(self, id: str, piece: bytes, start: int, end: int) -> AsyncGenerator[bytes]:
        """Ranges of some megabytes, each asked for when it is needed: a slow reader keeps no connection open."""
        while piece:
            for at in range(0, len(piece), CHUNK):
                yield piece[at : at + CHUNK]
            start += len(piece)
            piece = await self._piece(id, start, end) if start < end else b""

    async def _piece(self, id: str, start: int, end: int) -> bytes:
        asked = obstore.get_range_async(self._store, _path(id), start=start, end=min(start + PART, end))
        return bytes(await self._run("get", asked, id))

    async def delete(self, id: str) -> None:
        with contextlib.suppress(UnknownResource):
            await self._run("delete", obstore.delete_async(self._store, _path(id)), id)

    async def ids(self, after: str, limit: int) -> list[str]:
        found: list[str] = []
        stream = obstore.list(self._store, offset=_path(after) if after else None, chunk_size=limit)
        while len(found) < limit:
            try:
                page = await self._run("ids", anext(stream))
            except StopAsyncIteration:
                break
            found.extend(id for meta in page if "/" in meta["path"] and (id := meta["path"].rpartition("/")[2]))
        return found[:limit]

    async def close(self) -> None:
        """Nothing is kept open."""

    async def _run(self, operation: str, work: Awaitable[R], id: str = "") -> R:
        try:
            return await work
        except (exceptions.NotFoundError, FileNotFoundError):
            raise UnknownResource("there is no such blob", operation=operation, resource=id) from None
        except _FAILURES as error:
            raise self._translated(error, operation) from error

    def _translated(self, error: Exception, operation: str) -> HeadwaterError:
        return StoreError(str(error).splitlines()[0], operation=operation, resource=self.url)


class _Upload:
    """What passes to the service, measured; keeps why it broke off: the client tells it in its own words."""

    blob: Blob

    def __init__(self, data: AsyncIterator[bytes], measure: Measure, id: str) -> None:
        self.failure: Exception | None = None
        self._data = data
        self._measure = measure
        self._id = id

    async def parts(self) -> AsyncGenerator[bytes]:
        try:
            async for chunk in gather_chunks(self._data, PART):
                await asyncio.to_thread(self._measure.add, chunk)
                yield chunk
            self.blob = self._measure.finish(self._id)
        except Exception as error:
            self.failure = error
            raise


def _path(id: str) -> str:
    return f"{shard_of(id)}/{id}"


def _endpoint() -> str:
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    return next((url for name in names if (url := os.environ.get(name))), "")
