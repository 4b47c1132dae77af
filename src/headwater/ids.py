"""Time-ordered identities (the layout of UUID version 7, RFC 9562 §5.7, as 32 hexadecimal digits).

Unique by (millisecond, counter) inside a process and by 60 random bits across processes. They are identity and
an index-friendly order of creation, never the order of commits.
"""

from __future__ import annotations

import os
import secrets
import threading
import time


class _Generator:
    def __init__(self) -> None:
        self._ms = 0
        self._counter = 0
        self.reseed()

    def reseed(self) -> None:
        self._lock = threading.Lock()
        self._tail = f"8{secrets.randbits(60):015x}"

    def next(self) -> str:
        with self._lock:
            ms = time.time_ns() // 1_000_000
            if ms > self._ms:
                self._ms, self._counter = ms, 0
            elif self._counter == 0xFFF:
                self._ms, self._counter = self._ms + 1, 0
            else:
                self._counter += 1
            return f"{self._ms:012x}7{self._counter:03x}{self._tail}"


_generator = _Generator()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_generator.reseed)


def new_id() -> str:
    """A new identity: 32 lower-case hexadecimal digits, later ones sort after earlier ones of this process."""
    return _generator.next()
