"""What the parts of the engine share: the database, what is known of the store, and the store's time.

The store's time is the database's: each beat (`beats.py`) measures how far it is from this process's clock that never
steps. Under a clock that a test moves it is that clock's.
"""

from __future__ import annotations

import hashlib

from headwater.clock import Clock, SystemClock
from headwater.engines.postgres.database import Address, Database
from headwater.engines.postgres.state import State
from headwater.errors import StoreError, UnknownResource


class Store:
    def __init__(self, url: str, clock: Clock, *, read_only: bool = False) -> None:
        self.address = Address(url)
        self.clock = clock
        self.read_only = read_only
        self.database = Database(self.address)
        self.state = State()
        self._live = isinstance(clock, SystemClock)
        self._ahead_ms: float = 0.0
        self._latest_ms = 0

    @property
    def gate(self) -> int:
        """The advisory lock that commits share, and that is taken alone by what changes what they rely on."""
        return lock_number(self.state.head.store, "gate")

    def present_ms(self) -> int:
        """The store's time, which never steps back in this process."""
        now_ms = int(self.clock.monotonic() * 1000 + self._ahead_ms) if self._live else self.clock.wall_ms()
        self._latest_ms = max(self._latest_ms, now_ms)
        return self._latest_ms

    @property
    def given_ms(self) -> int | None:
        """The time that the database is to go by: its own, unless a test moves the clock."""
        return None if self._live else self.present_ms()

    def writable(self) -> None:
        if self.read_only:
            raise StoreError("the store is open for reading only", operation="write", resource=self.address.shown)

    async def reload(self) -> None:
        """Read the catalog anew."""

        async def work() -> None:
            fresh = State()
            async with self.database.transaction(isolation="repeatable_read", readonly=True) as connection:
                await fresh.load(connection, self.address.schema)
            if fresh.head.revision >= self.state.head.revision:  # else another reading, begun later, was faster
                fresh.counts, fresh.leases = self.state.counts, self.state.leases
                fresh.compile()
                self.state = fresh

        await self.database.patiently("read", work)

    def queue_number(self, queue: str) -> int:
        return self._number(queue, queue in self.state.queues, "queue")

    def table_number(self, table: str) -> int:
        return self._number(table, table in self.state.tables, "table")

    def _number(self, name: str, known: bool, kind: str) -> int:
        if not known:
            raise UnknownResource(
                f"the store has no {kind} of this name",
                resource=name,
                hint="names are app/resource; `headwater ls` lists them",
            )
        return self.state.ids[name]


def lock_number(*parts: object) -> int:
    """The advisory lock of a thing: stores in one database share the numbers, so the store's id is a part."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
