"""The board: a small memory-mapped file beside the store that survives the process's death without any flush.

Layout, little endian: magic (8 bytes), the store's id (32), the number of the last flushed commit (8), then one
slot of 16 bytes for each delivery that runs now: number of the queue (0: free) and position.

The kernel writes the pages back when it likes, so after a power loss the board may be older than the store. It is
never newer: the number is set only after the commit it names was flushed. So a board that is ahead of the store
proves that acknowledged commits are missing from it.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
from pathlib import Path
from typing import NamedTuple

_MAGIC = b"HWBOARD1"
_COMMIT = struct.Struct("<Q")
_SLOT = struct.Struct("<QQ")
_STORE_AT, _COMMIT_AT, _SLOTS_AT = 8, 40, 64
SLOTS = 8192
_SIZE = _SLOTS_AT + SLOTS * _SLOT.size
Place = tuple[int, int]


class Standing(NamedTuple):
    """What the last process left: the store's id ("" for no board), its last flushed commit, what was running."""

    store: str
    commit: int
    running: list[Place]


def read_board(path: Path) -> Standing:
    """Read a board without opening it; one that is absent or was never finished tells nothing."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        content = b""
    if len(content) < _SIZE or not content.startswith(_MAGIC):
        return Standing("", 0, [])
    store = content[_STORE_AT:_COMMIT_AT].rstrip(b"\0").decode("ascii", "replace")
    (commit,) = _COMMIT.unpack_from(content, _COMMIT_AT)
    slots = _SLOT.iter_unpack(content[_SLOTS_AT:_SIZE])
    return Standing(store, commit, list(dict.fromkeys((queue, position) for queue, position in slots if queue)))


class Board:
    """`reset` it after opening. `begin` and `end` belong to the event loop, `flushed` to the writer."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _allocate(descriptor)
            self._map = mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)
        self._forget()

    def _forget(self) -> None:
        self._free = list(range(SLOTS - 1, -1, -1))
        self._slots: dict[Place, int] = {}
        self._overlaps: dict[Place, int] = {}

    def reset(self, store: str, commit: int) -> None:
        """Nothing runs; on stable storage when this returns."""
        self._forget()
        self._map[:] = bytes(_SIZE)
        self._map[_STORE_AT : _STORE_AT + len(store)] = store.encode("ascii")
        _COMMIT.pack_into(self._map, _COMMIT_AT, commit)
        self._map[: len(_MAGIC)] = _MAGIC
        self._map.flush()

    def flushed(self, commit: int) -> None:
        _COMMIT.pack_into(self._map, _COMMIT_AT, commit)

    def begin(self, queue: int, position: int) -> None:
        """List a delivery. An attempt that overlaps another one of its message shares the slot."""
        place = (queue, position)
        if place in self._slots:
            self._overlaps[place] = self._overlaps.get(place, 0) + 1
        elif self._free:
            slot = self._slots[place] = self._free.pop()
            _SLOT.pack_into(self._map, _SLOTS_AT + slot * _SLOT.size, queue, position)

    def end(self, queue: int, position: int) -> None:
        place = (queue, position)
        if self._overlaps and (more := self._overlaps.pop(place, 0)):
            if more > 1:
                self._overlaps[place] = more - 1
            return
        slot = self._slots.pop(place, None)
        if slot is not None:
            _SLOT.pack_into(self._map, _SLOTS_AT + slot * _SLOT.size, 0, 0)
            self._free.append(slot)

    def close(self) -> None:
        self._map.close()


def _allocate(descriptor: int) -> None:
    """Give each page its place on the disk: storing to a mapped page that finds none kills the process."""
    present = os.pread(descriptor, _SIZE, 0)
    if os.pwrite(descriptor, present + bytes(_SIZE - len(present)), 0) < _SIZE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
