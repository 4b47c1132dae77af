"""A VFS whose disk fails on demand: it is full from a given size on, or its writes and flushes fail."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import apsw

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
