"""Blobs as files of a folder.

`<folder>/<2 hex digits>/<id>` is a whole blob, `<folder>/tmp/<id>` one that is being written. A write: the bytes into
the temporary file, fsync it, rename it into its place, fsync that folder. A rename replaces or adds a name at once,
so a reader never sees half a blob; without the first fsync a power cut could leave the name with no bytes, without the
second the bytes without the name. A new folder's own name is flushed in its parent too.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

from headwater.blobs import CHUNK, Blob
from headwater.errors import HeadwaterError, StoreError, StoreFull, UnknownResource
from headwater.ids import new_id
from headwater.objects import Measure, foreign_owner, gather_chunks, shard_of

R = TypeVar("R")
THREADS = 8
OWNER, TEMPORARY = "owner", "tmp"
_OLD_S = 86_400
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class Disk:
    """The port for what is changed on the disk; tests bring one that records or fails."""

    def create(self, path: Path) -> BinaryIO:
        return path.open("xb", buffering=0)

    def write(self, file: BinaryIO, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]

    def flush(self, file: BinaryIO) -> None:
        os.fsync(file.fileno())

    def rename(self, old: Path, new: Path) -> None:
        old.rename(new)

    def make_folder(self, path: Path) -> None:
        path.mkdir()

    def flush_folder(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)


class LocalBlobs:
    """`BlobStore` in a folder, which is made when it is first needed."""

    def __init__(self, folder: Path, disk: Disk | None = None, *, shared: bool = False) -> None:
        self.folder = folder
        self._shared = shared
        self._disk = disk or Disk()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="headwater-blobs")

    async def open(self, owner: str) -> None:
        await self._run("open", lambda: self._open(owner))

    def _open(self, owner: str) -> None:
        self._ensure(self.folder / TEMPORARY)
        mark = self.folder / OWNER
        if not mark.exists():
            self._put_file(new_id(), owner.encode(), mark)
        self._check(owner)
        for left in (self.folder / TEMPORARY).iterdir():
            if not self._shared or _is_old(left):
                self._disk.remove(left)

    async def check(self, owner: str) -> None:
        await self._run("open", lambda: self._check(owner))

    def _check(self, owner: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            if (found := (self.folder / OWNER).read_text()) != owner:
                raise foreign_owner(found, str(self.folder))

    def _put_file(self, name: str, content: bytes, place: Path) -> None:
        temporary = self.folder / TEMPORARY / name
        self._disk.remove(temporary)
        with self._disk.create(temporary) as file:
            self._disk.write(file, content)
            self._disk.flush(file)
        self._move(temporary, place)

    def _move(self, temporary: Path, place: Path) -> None:
        self._ensure(place.parent)
        self._disk.rename(temporary, place)
        self._disk.flush_folder(place.parent)

    def _ensure(self, folder: Path) -> None:
        """Make the folder and those above it; each new name is flushed in the folder that has it."""
        if folder.is_dir():
            return
        self._ensure(folder.parent)
        with contextlib.suppress(FileExistsError):
            self._disk.make_folder(folder)
        self._disk.flush_folder(folder.parent)

    async def write(self, id: str, data: AsyncIterator[bytes], *, limit: int, sha256: str = "") -> Blob:
        measure = Measure(limit, sha256)
        temporary = self.folder / TEMPORARY / id
        file: BinaryIO | None = None
        try:
            file = await self._run("put", partial(self._begin, temporary))
            async for chunk in gather_chunks(data):
                await self._run("put", partial(self._add, file, measure, chunk))
            return await self._run("put", partial(self._finish, file, measure, id))
        except BaseException:
            with contextlib.suppress(StoreError):
                await self._run("put", partial(self._give_up, file, temporary))
            raise

    def _begin(self, temporary: Path) -> BinaryIO:
        self._ensure(temporary.parent)
        return self._disk.create(temporary)

    def _add(self, file: BinaryIO, measure: Measure, chunk: bytes) -> None:
        measure.add(chunk)
        self._disk.write(file, chunk)

    def _finish(self, file: BinaryIO, measure: Measure, id: str) -> Blob:
        blob = measure.finish(id)
        self._disk.flush(file)
        file.close()
        self._move(self.folder / TEMPORARY / id, self._place(id))
        return blob

    def _give_up(self, file: BinaryIO | None, temporary: Path) -> None:
        if file is not None:
            file.close()
        self._disk.remove(temporary)

    async def read(self, id: str, start: int, end: int) -> AsyncGenerator[bytes]:
        file = await self._run("get", lambda: self._open_at(id, start))
        chunks = self._chunks(file, end - start)
        await anext(chunks)  # begun, so that closing it closes the file
        return chunks

    def _open_at(self, id: str, start: int) -> BinaryIO:
        try:
            file = self._place(id).open("rb", buffering=0)
        except FileNotFoundError:
            raise UnknownResource("there is no such blob", operation="get", resource=id) from None
        file.seek(start)
        return file

    async def _chunks(self, file: BinaryIO, left: int) -> AsyncGenerator[bytes]:
        with file:
            yield b""
            while left > 0:
                wanted = min(CHUNK, left)
                chunk = await self._run("get", partial(file.read, wanted))
                if not chunk:
                    raise StoreError("a blob is shorter than it was", operation="get", resource=str(file.name))
                left -= len(chunk)
                yield chunk

    async def delete(self, id: str) -> None:
        await self._run("delete", lambda: self._disk.remove(self._place(id)))

    async def ids(self, after: str, limit: int) -> list[str]:
        return await self._run("ids", lambda: self._ids(after, limit))

    def _ids(self, after: str, limit: int) -> list[str]:
        found: list[str] = []
        first = shard_of(after) if after else ""
        shards = (name for name in _names(self.folder) if len(name) == 2 and name >= first)
        for shard in shards:
            floor = after if shard == first else ""
            found.extend(id for id in _names(self.folder / shard) if id > floor)
            if len(found) >= limit:
                break
        return found[:limit]

    async def close(self) -> None:
        self._threads.shutdown(wait=False)

    def _place(self, id: str) -> Path:
        return self.folder / shard_of(id) / id

    async def _run(self, operation: str, work: Callable[[], R]) -> R:
        """In a thread, to its end also when the caller is cancelled: files are never closed under a write."""
        running = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])
            raise
        except OSError as error:
            raise self._translated(error, operation) from error

    def _translated(self, error: OSError, operation: str) -> HeadwaterError:
        if error.errno in _NO_ROOM:
            return StoreFull("there is no room left for objects", operation=operation, resource=str(self.folder))
        return StoreError(
            error.strerror or str(error), operation=operation, resource=str(error.filename or self.folder)
        )


def _is_old(path: Path) -> bool:
    """Whether no other process can still write the file."""
    with contextlib.suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime > _OLD_S
    return False


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
