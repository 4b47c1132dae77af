"""What the parts of the engine share: the open store's connections, state and writer."""

from __future__ import annotations

from pathlib import Path

import apsw

from headwater.clock import Clock
from headwater.engines.sqlite.state import State
from headwater.engines.sqlite.writer import Writer
from headwater.errors import StoreError, UnknownResource


class Store:
    """`reader` belongs to the event loop's thread, the writing connection to the writer's.

    Opened read-only, a store has no writer.
    """

    reader: apsw.Connection
    state: State

    def __init__(self, folder: Path, clock: Clock, *, read_only: bool, vfs: str | None = None) -> None:
        self.folder = folder
        self.clock = clock
        self.read_only = read_only
        self._vfs = vfs
        self._writer: Writer | None = None

    @property
    def writer(self) -> Writer:
        if self._writer is None:
            raise StoreError(
                "the store is not open for writing",
                operation="write",
                resource=str(self.folder),
                hint="open it without read_only, in the process that owns it",
            )
        return self._writer

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

    def present_ms(self) -> int:
        """The store's time for reads."""
        return max(self.state.head.time_ms, self.clock.wall_ms())
