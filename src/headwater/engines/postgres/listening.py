"""Waking consumers of other processes: notifications, on a connection of their own, with polling when there is none.

A process that has made messages ready tells the numbers of their queues, in a transaction of its own after the commit:
notifying inside of it would make all commits of the database wait for each other. What is to be told while a
notification is on its way goes into the next one. A process that is alone tells nobody.
"""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg

from headwater.clock import Timer
from headwater.engines.postgres.beats import Beats
from headwater.engines.postgres.database import CONNECT_S, UNREACHABLE, Pauses
from headwater.engines.postgres.hosts import Hosts
from headwater.errors import HeadwaterError

POLL_S = 0.25
_MOST = 500
_HELLO, _RESCAN, _REVISED, _ALL = "hello", "rescan", "revised", "*"
_TELL = "SELECT @tell($1, $2)"
READY = (
    "SELECT q FROM unnest($1::int[]) q WHERE EXISTS (SELECT FROM @message m WHERE m.queue = q AND m.ready_ms = 0"
    " AND NOT m.blocked AND m.fence = 0) OR EXISTS (SELECT FROM @message m WHERE m.queue = q AND m.ready_ms > 0"
    " AND m.ready_ms <= $2 AND NOT m.blocked AND m.fence = 0)"
)


class Listening(Beats):
    def _prepare_listening(self) -> None:
        self._listening = False
        self._news: set[str] = set()
        self._telling = False
        self._poll_timer: Timer | None = None
        self._listener: asyncio.Future[Any] | None = None
        self._ear: asyncpg.Connection | None = None

    @property
    def _channel(self) -> str:
        return f"headwater_{self.address.schema}"

    def _start_listening(self) -> None:
        if self.address.listen != "off":
            self._listener = self._begin(self._listen())
        self._poll_later()
        self.tell_others(_HELLO)

    async def _stop_listening(self) -> None:
        if self._poll_timer is not None:
            self._poll_timer.cancel()
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)

    async def _listen(self) -> None:
        """Keep a connection that listens, for as long as the store is open."""
        pauses, hosts = Pauses(), Hosts(self.address.listen)
        while True:
            try:
                connection = await hosts.connect(timeout=CONNECT_S)
                ended = asyncio.Event()
                connection.add_termination_listener(lambda _, ended=ended: ended.set())
                self._ear = connection
                try:
                    await connection.add_listener(self._channel, self._heard)
                    self._listening, pauses = True, Pauses()
                    self.rescan()
                    await ended.wait()
                finally:
                    self._listening, self._ear = False, None
                    connection.terminate()
            except (asyncpg.PostgresError, *UNREACHABLE):
                """Polling goes on meanwhile."""
            await pauses.wait()

    async def _beat(self) -> None:
        await super()._beat()
        if (ear := self._ear) is not None:
            try:
                await ear.fetchval("SELECT 1", timeout=CONNECT_S)
            except (asyncpg.PostgresError, *UNREACHABLE):
                ear.terminate()  # it was cut off without a word, and would hear nothing any more

    def _heard(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        sender, _, news = str(payload).partition(":")
        if sender == str(self.process):
            return
        self.others = True
        if news == _RESCAN:
            self.rescan()
        elif news == _REVISED:
            self._start(self._follow_revision())
        elif news == _ALL:
            self.stir(self._lines)
        elif news != _HELLO:
            self.stir(int(number) for number in news.split(","))

    async def _follow_revision(self) -> None:
        await self.reload()
        self.stir(self._lines)

    def announce(self, numbers: set[int]) -> None:
        self.stir(numbers)
        if self.others and numbers:
            self.tell_others(*map(str, numbers))

    def revised(self) -> None:
        self._start(self._follow_revision())
        self.tell_others(_REVISED)

    def tell_others(self, *news: str) -> None:
        self._news.update(news)
        if not self._telling and not self._closing:
            self._telling = True
            self._start(self._tell())

    async def _tell(self) -> None:
        try:
            while self._news:
                news, self._news = self._news, set()
                words = [word for word in news if not word.isdigit()]
                numbers = [word for word in news if word.isdigit()]
                told = [*words, _ALL if len(numbers) > _MOST else ",".join(numbers)]
                for word in filter(None, told):
                    await self.database.fetch(_TELL, self._channel, f"{self.process}:{word}")
        except HeadwaterError:
            """Those who were to be told look again at their next beat."""
        finally:
            self._telling = False

    def _poll_later(self) -> None:
        self._poll_timer = self.clock.call_later(POLL_S, self._poll)

    def _poll(self) -> None:
        if not self._closing:
            self._start(self._look_again())

    async def _look_again(self) -> None:
        try:
            if not self._listening and self.others:
                await self._look()
        finally:
            if not self._closing:
                self._poll_later()

    async def _look(self) -> None:
        """Ask which of the queues that somebody waits for have something, without notifications."""
        waiting = [line.number for line in self._lines.values() if line.waiters]
        if waiting:
            try:
                self.stir([number for (number,) in await self.database.fetch(READY, waiting, self.present_ms())])
            except HeadwaterError:
                """The next look tries again."""
