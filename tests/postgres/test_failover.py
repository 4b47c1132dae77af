"""The database is killed and started again, or its standby takes over: what was acknowledged is there, once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from headwater.unit import new_commit
from tests.postgres.load import Load
from tests.postgres.proxy import Proxy
from tests.postgres.server import Server
from tests.postgres.shop import add, balance, catalog, hurry, opened, soon, until

pytestmark = pytest.mark.anyio
END_WAITS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query ~ 'apply'"
StartPostgres = Callable[..., Server]


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, statement_s=1.0)


async def test_what_was_acknowledged_survives_a_kill_of_the_database(start_postgres: StartPostgres) -> None:
    server = start_postgres()
    async with opened(server.url, install=catalog()) as one, opened(server.url) as other:
        load = Load([one, other])
        async with load.running():
            for _ in range(2):
                await load.progress()
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
            await load.progress()
        assert await load.faults(one) == []


async def test_a_loss_would_be_seen(start_postgres: StartPostgres) -> None:
    """The control: commits that don't wait for the disk are acknowledged and lost."""
    server = start_postgres(synchronous_commit="off", wal_writer_delay="10s", wal_writer_flush_after="1GB")
    async with opened(f"{server.url}?durability=relaxed", install=catalog()) as engine:
        load = Load([engine])
        faults: list[str] = []
        for _ in range(6):  # one kill may come just after a page was flushed
            async with load.running():
                await load.progress()
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
                await load.progress()
            faults = [fault for fault in await load.faults(engine) if "acknowledged" in fault]
            if faults:
                break
        assert faults


class Pair:
    """A primary, and a standby on which every commit waits, each by way of a proxy; `url` names both."""

    def __init__(self, start: StartPostgres, stack: ExitStack) -> None:
        self.primary = start()
        self.to_primary = stack.enter_context(Proxy(self.primary.address))
        self.stream = stack.enter_context(Proxy(self.primary.address))
        self.standby = self.primary.standby(port=self.stream.port)
        stack.callback(self.standby.close)
        self.to_standby = stack.enter_context(Proxy(self.standby.address))
        self.primary.configure(synchronous_standby_names="standby")
        hosts = f"127.0.0.1:{self.to_primary.port},127.0.0.1:{self.to_standby.port}"
        login = self.primary.url.partition("://")[2].rpartition("@")[0]
        self.url = f"postgresql://{login}@{hosts}/postgres?target_session_attrs=read-write"


@pytest.fixture
def pair(start_postgres: StartPostgres) -> Iterator[Pair]:
    with ExitStack() as stack:
        yield Pair(start_postgres, stack)


@pytest.mark.parametrize("gone", ["killed", "cut off"])
async def test_what_was_acknowledged_survives_a_failover(pair: Pair, gone: str) -> None:
    """Killed, its host says so to who connects; cut off, it says nothing, and takes what is sent no further."""
    async with opened(pair.url, install=catalog()) as one, opened(pair.url) as other:
        load = Load([one, other])
        async with load.running():
            await load.progress()
            if gone == "killed":
                await asyncio.to_thread(pair.primary.kill)
            else:
                pair.to_primary.hold()
                pair.stream.hold()
            await asyncio.to_thread(pair.standby.promote)
            await load.progress()
        assert await load.faults(one) == []


async def test_a_commit_that_the_standby_lacks_is_not_acknowledged(pair: Pair) -> None:
    """Its wait for the standby is broken off, as at the end of a server: so it is there, and would be lost."""
    async with opened(pair.url, install=catalog()) as engine:
        pair.stream.hold()
        committing = engine.commit(add(new_commit(), "a"))
        await until(lambda: pair.primary.execute(END_WAITS), "the wait is broken off")
        assert pair.primary.execute("SELECT count(*) FROM headwater.record")[0][0] == 1
        await asyncio.wait([committing], timeout=2.0)
        assert not committing.done()
        await asyncio.to_thread(pair.primary.kill)
        await asyncio.to_thread(pair.standby.promote)
        await soon(committing)
        assert await balance(engine, "a") == 1
