"""The board: a small memory-mapped file beside the store that survives the process's death without any flush.

Layout, little endian: magic (8 bytes), the store's id (32), the number of the last flushed commit (8), then one
slot of 16 bytes for each delivery that runs now: number of the queue (0: free) and position.

The kernel writes the pages back when it likes, so after a power loss the board may be older than the store. It is
never newer: the number is set only after the commit it names was flushed. So a board that is ahead of the store
proves that acknowledged commits are missing from it.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

_MAGIC = b"HWBOARD1"
_COMMIT = struct.Struct("<Q")
_SLOT = struct.Struct("<QQ")
_STORE_AT, _COMMIT_AT, _SLOTS_AT = 8, 40, 64
SLOTS = 8192
_SIZE = _SLOTS_AT + SLOTS * _SLOT.size


class Board:
    """Open one with `Board(path)`; `begin` and `end` belong to the event loop, `flushed` to the writer."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(descriptor, _SIZE)
            self._map = mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)
        self._free = list(range(SLOTS - 1, -1, -1))
        self._slots: dict[tuple[int, int], int] = {}

    def read(self) -> tuple[str, int, list[tuple[int, int]]]:
        """(id of the store, last flushed commit, running deliveries) as the last process left them."""
        if self._map[: len(_MAGIC)] != _MAGIC:
            return "", 0, []
        store = self._map[_STORE_AT:_COMMIT_AT].rstrip(b"\0").decode("ascii", "replace")
        (commit,) = _COMMIT.unpack_from(self._map, _COMMIT_AT)
        slots = (_SLOT.unpack_from(self._map, _SLOTS_AT + n * _SLOT.size) for n in range(SLOTS))
        return store, commit, [slot for slot in slots if slot[0]]

    def reset(self, store: str, commit: int) -> None:
        self._map[:] = bytes(_SIZE)
        self._map[_STORE_AT : _STORE_AT + len(store)] = store.encode("ascii")
        _COMMIT.pack_into(self._map, _COMMIT_AT, commit)
        self._map[: len(_MAGIC)] = _MAGIC

    def flushed(self, commit: int) -> None:
        _COMMIT.pack_into(self._map, _COMMIT_AT, commit)

    def begin(self, queue: int, position: int) -> None:
        if self._free:
            slot = self._slots[queue, position] = self._free.pop()
            _SLOT.pack_into(self._map, _SLOTS_AT + slot * _SLOT.size, queue, position)

    def end(self, queue: int, position: int) -> None:
        slot = self._slots.pop((queue, position), None)
        if slot is not None:
            _SLOT.pack_into(self._map, _SLOTS_AT + slot * _SLOT.size, 0, 0)
            self._free.append(slot)

    def close(self) -> None:
        self._map.close()
