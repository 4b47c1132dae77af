"""Time-ordered identities (the layout of UUID version 7, RFC 9562 §5.7, as 32 hexadecimal digits).

48 bits of milliseconds, then inside a process a counter keeps them unique and ordered; 44 random bits tell
processes apart. They are identity and an index-friendly order of creation, never the order of commits.
"""

from __future__ import annotations

import itertools
import os
import secrets
import time


class _Generator:
    def __init__(self) -> None:
        self.reseed()

    def reseed(self) -> None:
        self._count = itertools.count(secrets.randbits(20)).__next__
        self._before = f"7{secrets.randbits(12):03x}8"
        self._after = f"{secrets.randbits(32):08x}"

    def next(self) -> str:
        ms = time.time_ns() // 1_000_000
        return f"{ms:012x}{self._before}{self._count() & 0xFFFFFFF:07x}{self._after}"


_generator = _Generator()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_generator.reseed)

new_id = _generator.next
"""A new identity: 32 lower-case hexadecimal digits, later ones sort after earlier ones of this process."""
