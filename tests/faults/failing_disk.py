"""Disks that fail on demand: a VFS that is full from a given size on or fails to write and flush; a small disk."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import apsw
import pytest

if TYPE_CHECKING:
    from typing_extensions import Buffer

Fault = Literal["", "full", "write", "flush"]


class FailingVFS(apsw.VFS):
    """The unix VFS below `root`; `fault` says what fails at present, and `failed` how often it did.

    "full" refuses each write that would make a file grow, as a full disk does.
    """

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.fault: Fault = ""
        self.failed = 0
        self._root = root.resolve()
        super().__init__(name, "unix")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        path = Path(name.filename() if isinstance(name, apsw.URIFilename) else name or "")
        if name is None or not path.is_relative_to(self._root):
            return apsw.VFSFile("unix", name, flags)
        return _FailingFile(name, flags, self)

    def fail(self, error: type[apsw.Error]) -> None:
        self.failed += 1
        raise error("injected")


class _FailingFile(apsw.VFSFile):
    def __init__(self, name: str | apsw.URIFilename, flags: list[int], vfs: FailingVFS) -> None:
        super().__init__("unix", name, flags)
        self._vfs = vfs
        self._wal = bool(flags[0] & apsw.SQLITE_OPEN_WAL)

    def xWrite(self, data: Buffer, offset: int) -> None:
        if self._vfs.fault == "full" and offset + len(bytes(data)) > self.xFileSize():
            self._vfs.fail(apsw.FullError)
        if self._vfs.fault == "write" and self._wal:
            self._vfs.fail(apsw.IOError)
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        if self._vfs.fault == "flush":
            self._vfs.fail(apsw.IOError)
        super().xSync(flags)


@contextmanager
def small_disk(place: Path, mebibytes: int) -> Iterator[None]:
    """A file system of this size, until the block ends; skips the test where none can be mounted."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a small file system can be mounted by root only")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
