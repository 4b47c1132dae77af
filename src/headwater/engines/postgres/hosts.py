"""Connecting to the first of several hosts that answers.

asyncpg gives all hosts of a URL one time together, and does not go on after one that is starting or stopping: a host
that is gone without a word, or that comes back, would keep a process from the standby that has taken over.
"""

from __future__ import annotations

from collections import deque
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg


class Hosts:
    """The hosts of a URL "postgresql://USER@HOST:PORT,HOST:PORT/DATABASE", the last that answered first."""

    def __init__(self, dsn: str) -> None:
        parts = urlsplit(dsn)
        login, at, hosts = parts.netloc.rpartition("@")
        self._dsns = deque(urlunsplit(parts._replace(netloc=f"{login}{at}{host}")) for host in hosts.split(","))

    def __len__(self) -> int:
        return len(self._dsns)

    async def connect(self, *_: object, **options: Any) -> asyncpg.Connection:
        """As `asyncpg.connect`, whose `timeout` is for each host."""
        for left in reversed(range(len(self._dsns))):
            dsn = self._dsns[0]
            try:
                return await asyncpg.connect(dsn, **options)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
                if self._dsns[0] == dsn:
                    self._dsns.rotate(-1)
                if not left:
                    raise
        raise AssertionError("a URL has a host")
