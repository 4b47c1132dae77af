"""Acknowledgements of attempts that wrote nothing, committed together.

Such an acknowledgement has no effect beside its own, so those that come up in one turn of the event loop share a
commit; one whose lease has passed on is skipped. A full disk is waited out: the messages stay leased meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from headwater.clock import Clock
from headwater.engine import Engine
from headwater.errors import StoreFull
from headwater.unit import Commit, Committed, Settle

FULL_DISK_PAUSE_S = 1.0
Ended = Callable[[list[Settle], BaseException | None], None]


class Acks:
    """`ended(settles, error)` is called once for each commit, when it is durable or has failed for good."""

    def __init__(self, engine: Engine, clock: Clock, ended: Ended) -> None:
        self._engine = engine
        self._clock = clock
        self._ended = ended
        self._waiting: list[Settle] = []
        self.resting = 0
        """How many wait for room on the disk."""

    def add(self, settle: Settle) -> None:
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        self._waiting.append(settle)

    def _flush(self) -> None:
        settles, self._waiting = self._waiting, []
        self._submit(settles)

    def _submit(self, settles: list[Settle]) -> None:
        future = self._engine.commit(Commit(id="", settles=settles, tolerant=True))
        future.add_done_callback(lambda done: self._done(done, settles))

    def _wake(self, settles: list[Settle]) -> None:
        self.resting -= len(settles)
        self._submit(settles)

    def _done(self, future: asyncio.Future[Committed], settles: list[Settle]) -> None:
        error = None if future.cancelled() else future.exception()
        if isinstance(error, StoreFull):
            self.resting += len(settles)
            self._clock.call_later(FULL_DISK_PAUSE_S, lambda: self._wake(settles))
        else:
            self._ended(settles, error)
