"""Drop folders: the files of a folder become objects of a bucket, each once it is complete (`Bucket.watch`).

A file is identified by its path in the folder, its state by size and time of change. States of a file: changing →
settled (its state stood still) → put (an object has its state in its metadata) → left, changed again, or deleted.
Guarantee: each state that settles is put once as long as its object is there to tell so, also over restarts; a file
that changes while it is read is not put in that state. Of servers that watch one folder one puts it: the others find
that the object is not the one they saw. Failures: what cannot be read or stored is logged and tried
again; a file is deleted only when it still is what was put.

The system tells of changes; looking from time to time finds what it did not tell. Files are opened component by
component without following links, so that none is put that lies outside of the folder, whatever happens meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import mimetypes
import os
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import structlog

from headwater.app import App
from headwater.buckets import Bucket, Watch
from headwater.clock import Clock
from headwater.errors import ConditionFailed, HeadwaterError
from headwater.late import resolve
from headwater.object_listing import BINARY

LOOK_S = 5.0
"""How long a change may stay unseen that the system did not tell of, and until what failed is tried again."""
STATE = "file-state"
"""The name of the metadata that has the state of the file that was put."""
_CHUNK = 256 * 1024
_UNFINISHED = (".tmp", ".part")
log = structlog.get_logger("headwater")


class FileState(msgspec.Struct, frozen=True):
    """What changes when a file does."""

    size: int
    modified_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> FileState:
        return cls(found.st_size, found.st_mtime_ns)

    def __str__(self) -> str:
        return f"{self.size}-{self.modified_ns}"


class Seen(msgspec.Struct):
    """A file as it was seen: since when it has its state, whether it was put, and when to try again."""

    state: FileState
    since: float
    done: bool = False
    retry_at: float = 0.0
    told: str = ""


class FileChanged(Exception):
    """The file is not what it was when it had settled."""


class DropFolder:
    """One watched folder. `start`, then `stop`; `look` does once what is due and tells when to look again."""

    def __init__(self, bucket: Bucket, watch: Watch, folder: Path, clock: Clock) -> None:
        self.folder = folder
        self._bucket = bucket
        self._watch = watch
        self._clock = clock
        self._settle_s = watch.settle_ms / 1000
        self._seen: dict[str, Seen] = {}
        self._problems: dict[str, str] = {}
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._run(), name=f"drop folder {self.folder}"),
            asyncio.create_task(self._listen(), name=f"changes of {self.folder}"),
        ]

    async def stop(self) -> None:
        """End at once; what is being put is not."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            timer = self._clock.call_later(await self.look(), self._changed.set)
            try:
                await self._changed.wait()
            finally:
                timer.cancel()

    async def _listen(self) -> None:
        """Wake up at changes; where the system cannot tell of them, looking from time to time has to do."""
        from watchfiles import awatch

        while True:
            with contextlib.suppress(OSError, RuntimeError):
                async for _ in awatch(self.folder, watch_filter=None, recursive=True):
                    self._changed.set()
            await self._clock.sleep(LOOK_S)

    async def look(self) -> float:
        """Put what has settled; how long nothing else can be due."""
        found, problems = await asyncio.to_thread(_scan, self.folder)
        for path, why in problems.items():
            if self._problems.get(path) != why:
                self._warn(path, why)
        self._problems = problems
        now = self._clock.monotonic()
        self._seen = {path: self._look_at(path, state, now) for path, state in found.items()}
        due = LOOK_S
        for path, seen in sorted(self._seen.items()):
            if seen.done:
                continue
            left_s = max(seen.since + self._settle_s, seen.retry_at) - now
            if left_s <= 0:
                await self._put(path, seen)
            else:
                due = min(due, left_s)
        return due

    def _look_at(self, path: str, state: FileState, now: float) -> Seen:
        before = self._seen.get(path)
        return before if before is not None and before.state == state else Seen(state, now)

    async def _put(self, path: str, seen: Seen) -> None:
        """Put one file; failures are logged once for each reason, and tried again."""
        try:
            await self._put_once(path, seen.state)
            seen.done = True
        except (FileChanged, FileNotFoundError, ConditionFailed):
            seen.since = self._clock.monotonic()
        except (OSError, HeadwaterError, UnicodeEncodeError) as error:
            seen.retry_at = self._clock.monotonic() + LOOK_S
            why = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
            if why != seen.told:
                seen.told = why
                self._warn(path, why)

    async def _put_once(self, path: str, state: FileState) -> None:
        key = self._watch.prefix + path
        present = await self._bucket.head(key)
        if present is None or present.metadata.get(STATE) != str(state):
            content_type = mimetypes.guess_type(path)[0] or BINARY
            info = await self._bucket.put(
                key,
                _read(self.folder, path, state),
                content_type=content_type,
                metadata={STATE: str(state)},
                if_match=present.etag if present is not None else None,
                if_absent=present is None,
            )
            log.info("a file was put", folder=str(self.folder), file=path, bucket=self._bucket.name, size=info.size)
        if self._watch.delete:
            with contextlib.suppress(FileNotFoundError):
                await asyncio.to_thread(_remove, self.folder, path, state)

    def _warn(self, path: str, why: str) -> None:
        shown = path.encode("utf-8", "backslashreplace").decode()
        log.warning("a file cannot be put", folder=str(self.folder), file=shown, error=why)


def _scan(folder: Path) -> tuple[dict[str, FileState], dict[str, str]]:
    """The files that are not named as unfinished, by their paths in the folder; and what cannot be put, and why."""
    found: dict[str, FileState] = {}
    problems: dict[str, str] = {}
    root = os.path.realpath(folder)
    folders = [""]
    while folders:
        below = folders.pop()
        with _noting(problems, below), os.scandir(os.path.join(folder, below)) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name.endswith(_UNFINISHED):
                    continue
                path = below + entry.name
                with _noting(problems, path):
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(path + "/")
                    elif entry.is_symlink() and not _is_below(os.path.realpath(entry.path), root):
                        problems[path] = "it is a link that leads out of the folder"
                    elif entry.is_file():
                        found[path] = FileState.of(entry.stat())
    return found, problems


@contextlib.contextmanager
def _noting(problems: dict[str, str], path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        problems[path] = error.strerror or str(error)


def _is_below(path: str, root: str) -> bool:
    return os.path.commonpath((path, root)) == root


@contextlib.contextmanager
def _holding(folder: Path, path: str) -> Iterator[tuple[int, str]]:
    """The file's own folder as a descriptor, reached without following links, and the file's name in it."""
    root = os.path.realpath(folder)
    real = os.path.realpath(os.path.join(root, path))
    if not _is_below(real, root) or real == root:
        raise FileChanged
    *folders, name = os.path.relpath(real, root).split("/")
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in folders:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor, name
    finally:
        os.close(descriptor)


def _open(folder: Path, path: str, state: FileState) -> Any:
    """The settled file, opened; raises `FileChanged` when it is another by now."""
    with _holding(folder, path) as (place, name):
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=place)
    file = open(descriptor, "rb", buffering=0)  # noqa: SIM115 - closed by its reader
    try:
        _check(os.fstat(descriptor), state)
    except BaseException:
        file.close()
        raise
    return file


def _check(found: os.stat_result, state: FileState) -> None:
    if not stat.S_ISREG(found.st_mode) or FileState.of(found) != state:
        raise FileChanged


async def _read(folder: Path, path: str, state: FileState) -> AsyncIterator[bytes]:
    """The file's bytes; ends only when it is unchanged at the end."""
    file = await asyncio.to_thread(_open, folder, path, state)
    try:
        while chunk := await asyncio.to_thread(file.read, _CHUNK):
            yield chunk
        _check(os.fstat(file.fileno()), state)
    finally:
        file.close()


def _remove(folder: Path, path: str, state: FileState) -> None:
    """Delete the file, or the link to it, if it is what was put."""
    full = os.path.join(folder, path)
    if os.path.islink(full):
        os.unlink(full)
        return
    with _holding(folder, path) as (place, name):
        _check(os.stat(name, dir_fd=place, follow_symlinks=False), state)
        os.unlink(name, dir_fd=place)


def drop_folders(app: App[Any], clock: Clock) -> list[DropFolder]:
    """The folders that an app's buckets watch; those that are missing are made."""
    found = []
    for bucket in app.buckets.values():
        for watch in bucket.watches:
            folder = Path(cast("str | Path", resolve(watch.directory, app))).absolute()
            folder.mkdir(parents=True, exist_ok=True)
            found.append(DropFolder(bucket, watch, folder, clock))
    return found
