"""The engine on a stack that is made as it is needed, with a relay that runs with each commit.

What is deployed in earnest, `install` creates here, and a commit is answered when the relay has sent on what it caused.
So a test that knows the other engines finds the events there at once.
"""

from __future__ import annotations

import asyncio

from headwater.catalog import Catalog
from headwater.clock import Clock
from headwater.engines.aws.deliveries import _Line
from headwater.engines.aws.engine import AwsEngine
from headwater.events import Delivery
from headwater.unit import Commit, Committed
from tests.aws.provision import Provisioner
from tests.aws.streams import Relay


class ProvidedEngine(AwsEngine):
    def __init__(self, stack: str, *, clock: Clock, read_only: bool = False) -> None:
        super().__init__(stack, clock=clock, read_only=read_only)
        self._relay: Relay | None = None
        self._unsure: set[str] = set()
        """Queues that somebody waits for, and that were not asked since."""
        self._sure = asyncio.Event()

    async def open(self) -> None:
        if not self.read_only:
            await asyncio.to_thread(self._provide, None)
            self._relay = Relay(self.names.stack, self.clock)
        await super().open()

    async def close(self) -> None:
        await super().close()
        if self._relay is not None:
            await asyncio.to_thread(self._relay.close)
            self._relay = None

    def _provide(self, catalog: Catalog | None) -> None:
        provisioner = Provisioner(self.names.stack)
        if catalog is None:
            provisioner.provide_own()
        else:
            provisioner.provide(catalog)
        provisioner.close()

    def _subscribe(self, catalog: Catalog) -> None:
        provisioner = Provisioner(self.names.stack)
        provisioner.subscribe(catalog)
        provisioner.close()

    async def install(self, catalog: Catalog) -> int:
        await asyncio.to_thread(self._provide, catalog)
        revision = await super().install(catalog)
        await asyncio.to_thread(self._subscribe, self.state.merged())
        return revision

    def commit(self, commit: Commit) -> asyncio.Future[Committed]:
        return asyncio.ensure_future(self._commit_and_relay(super().commit(commit), commit))

    async def _commit_and_relay(self, committing: asyncio.Future[Committed], commit: Commit) -> Committed:
        committed = await committing
        tables = {self.names.table(write.table) for write in commit.writes}
        tables = {table for table in tables if self._has_stream(table)}
        if commit.emits or commit.redrives:
            tables.add(self.names.outbox)
        assert self._relay is not None
        await self._relay.pump(sorted(tables))
        return committed

    def _has_stream(self, table: str) -> bool:
        return any(
            spec.images != "none" and self.names.table(name) == table for name, spec in self.state.tables.items()
        )

    # `workbench.at_rest`: who waits for messages has asked for them.

    poll_s = 0

    @property
    def _tasks(self) -> set[asyncio.Task[None]]:
        return {asyncio.ensure_future(self._be_sure())} if self._unsure else set()

    async def _be_sure(self) -> None:
        await self._sure.wait()

    async def receive(self, queue: str, limit: int, *, grouped: bool = False) -> list[Delivery]:
        self._unsure.add(queue)
        self._sure.clear()
        try:
            return await super().receive(queue, limit, grouped=grouped)
        finally:
            self._asked({queue})

    async def _poll_once(self, line: _Line) -> None:
        begun = {line.queue} & self._unsure
        await super()._poll_once(line)
        self._asked(begun)

    async def _rest(self, line: _Line) -> None:
        """A paused queue is not asked."""
        self._asked({line.queue})
        await super()._rest(line)

    def _asked(self, queues: set[str]) -> None:
        self._unsure -= queues
        if not self._unsure:
            self._sure.set()
