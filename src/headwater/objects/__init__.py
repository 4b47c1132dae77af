"""Where the bytes of objects are kept: `make_blobs(url)` chooses the place by its URL (see `headwater.blobs`)."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

from headwater.blobs import CHUNK, Blob, BlobStore
from headwater.errors import DeclarationError, InvalidValue, TooLarge


class Measure:
    """Counts and hashes what passes; used in a thread."""

    def __init__(self, limit: int, sha256: str) -> None:
        self._limit = limit
        self._wanted = sha256.lower()
        self._hash = hashlib.sha256()
        self.size = 0

    def add(self, chunk: bytes) -> None:
        self.size += len(chunk)
        if self.size > self._limit:
            raise TooLarge(f"more than the {self._limit} bytes that are allowed", operation="put")
        self._hash.update(chunk)

    def finish(self, id: str) -> Blob:
        found = self._hash.hexdigest()
        if self._wanted and found != self._wanted:
            raise InvalidValue(
                f"the content has the SHA-256 {found}, not {self._wanted}",
                operation="put",
                hint="it was changed or cut off on its way: send it again",
            )
        return Blob(id, self.size, found)


def foreign_owner(found: str, place: str) -> DeclarationError:
    return DeclarationError(
        f"the place keeps the objects of another store, {found}",
        operation="open",
        resource=place,
        hint="give each store a place of its own: the setting `objects`",
    )


def shard_of(id: str) -> str:
    """The folder of a blob. Ids begin with the time: by their own first digits all would fall into one."""
    return hashlib.sha256(id.encode()).hexdigest()[:2]


async def gather_chunks(data: AsyncIterator[bytes], size: int = CHUNK) -> AsyncIterator[bytes]:
    """The same bytes in chunks of about `size`."""
    waiting = bytearray()
    async for chunk in data:
        waiting += chunk
        if len(waiting) >= size:
            yield bytes(waiting)
            waiting.clear()
    if waiting:
        yield bytes(waiting)


def make_blobs(url: str, *, shared: bool = False) -> BlobStore:
    """The blob store of a URL: a folder (with or without "file:"), or "s3://bucket/prefix" (extra `[s3]`).

    `shared` tells that other processes may write there at the same time.
    """
    scheme, separator, _ = url.partition("://")
    if not separator or scheme == "file":
        from headwater.objects.local import LocalBlobs

        return LocalBlobs(Path(url.removeprefix("file://").removeprefix("file:")), shared=shared)
    if scheme == "s3":
        from headwater.objects.s3_store import S3Blobs

        return S3Blobs(url)
    raise DeclarationError(
        f"no blob store for {url!r}", operation="open", hint='write a folder, or "s3://bucket/prefix"'
    )
