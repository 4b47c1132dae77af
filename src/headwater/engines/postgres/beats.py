"""The heartbeat of a process: it tells the others that it lives, and takes back the leases of those that don't.

Each beat measures the database's time, moves the process's row on, takes back leases that have ended, deletes the rows
of batches whose outcome nobody asks for any more, and learns whether there are others to be told of new messages.
"""

from __future__ import annotations

import os
import socket
from datetime import datetime

from headwater.clock import Timer
from headwater.engines.postgres.database import UNREACHABLE
from headwater.engines.postgres.upkeep import Upkeep
from headwater.errors import HeadwaterError, Unavailable

BEAT_S = 4.0
LIFE_MS = 15_000
_PROMPT_S = 0.5
_REMEMBERED_MS = 600_000
_CLOCK = "SELECT @clock_ms(NULL)"
_LATEST = (
    "SELECT greatest((SELECT max(time_ms) FROM @applied), (SELECT time_ms FROM @event ORDER BY seq DESC LIMIT 1), 0)"
)
_NUMBER = "SELECT nextval('@process_no')"
_BEAT = (
    "INSERT INTO @process VALUES ($1, $2, $3)"
    " ON CONFLICT (id) DO UPDATE SET until_ms = excluded.until_ms"
    " RETURNING (SELECT count(*) FROM @process WHERE id <> $1), pg_postmaster_start_time()"
)
_REVOKE = "SELECT @revoke_leases($1, $2, $3)"
_FORGET = "SELECT @forget_batches($1)"
_LEAVE = "DELETE FROM @process WHERE id = $1"
_MINE = "SELECT id, queue, positions FROM @lease WHERE process = $1 AND id <> ALL ($2)"
_DROP = "DELETE FROM @lease WHERE id = ANY ($1)"


class Beats(Upkeep):
    def _prepare_beats(self) -> None:
        self.process = 0
        self.others = False
        self._server_start: datetime | None = None
        self._beat_timer: Timer | None = None
        self._unknown_leases: set[int] = set()

    async def _first_beat(self) -> None:
        await self._measure()
        self._latest_ms = (await self.database.fetch(_LATEST))[0][0]
        self.process = (await self.database.fetch(_NUMBER))[0][0]
        await self._beat()

    def _beat_later(self) -> None:
        self._beat_timer = self.clock.call_later(BEAT_S, self._beat_soon)

    def _beat_soon(self) -> None:
        self._start(self._beat_again())

    async def _beat_again(self) -> None:
        try:
            await self._beat()
        except HeadwaterError as error:
            if not isinstance(error, Unavailable):
                self.fail(error)
        except UNREACHABLE:
            """The next beat tries again."""
        finally:
            if not self._closing:
                self._beat_later()

    async def _beat(self) -> None:
        await self._measure()
        label = f"{socket.gethostname()}/{os.getpid()}"
        rows = await self.database.fetch(_BEAT, self.process, self.present_ms() + LIFE_MS, label)
        self.others = rows[0][0] > 0
        if rows[0][1] != self._server_start:
            self._server_start = rows[0][1]
            self.rescan()  # positions that were given and lost in a crash are given again
        queues = (await self.database.fetch(_REVOKE, self.gate, self.process, self.given_ms))[0][0]
        await self._drop_unknown()
        await self.database.fetch(_FORGET, self.present_ms() - _REMEMBERED_MS)
        await self.totals.tell(self.database, self.state.counts)
        if queues:
            self.announce(set(queues))
        for line in self._lines.values():
            line.wake()

    async def _drop_unknown(self) -> None:
        """Give back what a claim leased whose answer was lost: leases that this process has not known for a beat."""
        rows = await self.database.fetch(_MINE, self.process, list(self._held))
        unknown = {row["id"]: row for row in rows if row["id"] not in self._held}
        for id in self._unknown_leases & unknown.keys():
            queue, positions = unknown[id]["queue"], unknown[id]["positions"]
            await self.give_back([queue] * len(positions), positions, [id] * len(positions))
            await self.database.fetch(_DROP, [id])
        self._unknown_leases = set(unknown)

    async def _measure(self) -> None:
        """How far the database's time is ahead of this process's clock that never steps.

        An answer that was long under way tells little.
        """
        if not self._live:
            return

        async def work() -> None:
            before = self.clock.monotonic()
            ((database_ms,),) = await self.database.once(self.database.sql(_CLOCK), ())
            after = self.clock.monotonic()
            if after - before < _PROMPT_S or not self._ahead_ms:
                self._ahead_ms = database_ms - (before + after) * 500

        await self.database.patiently("read", work)

    async def _leave(self) -> None:
        """Give all back; nobody needs to wait for this process's leases to end."""
        if self._beat_timer is not None:
            self._beat_timer.cancel()
            self._beat_timer = None
        if self.process:
            await self.release([lease.delivery for lease in self.state.leases.values()])
            await self.totals.tell(self.database, self.state.counts)
            await self.database.fetch(_LEAVE, self.process)
