"""What a crash of the database takes back that nobody waited for: claims, and numbers of sequences."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from headwater.engines.postgres.engine import PostgresEngine
from headwater.errors import LeaseLost
from headwater.unit import new_commit
from tests.conformance.workbench import data
from tests.postgres.server import Server
from tests.postgres.shop import JOBS, ack, add, balance, catalog, commit, hurry, opened, send, soon, until

pytestmark = pytest.mark.anyio
BLOCKS = 100
AHEAD = BLOCKS * 32768
TAKE_UNFLUSHED = f"""DO $$ BEGIN
    SET LOCAL synchronous_commit = off;
    PERFORM nextval('headwater.block') FROM generate_series(1, {BLOCKS});
END $$"""
StartPostgres = Callable[..., Server]


@pytest.fixture
def server(start_postgres: StartPostgres, monkeypatch: pytest.MonkeyPatch) -> Server:
    hurry(monkeypatch)
    return start_postgres(wal_writer_delay="10s", wal_writer_flush_after="1GB", autovacuum="off")


async def crash(server: Server) -> None:
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)


async def test_a_lease_that_a_crash_took_back_is_none(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both claims get the same number of the sequence."""
    monkeypatch.setattr("headwater.engines.postgres.beats.BEAT_S", 1000.0)
    async with opened(server.url, install=catalog(visibility_ms=60_000)) as one, opened(server.url) as other:
        await commit(one, lambda made: send(made, JOBS, "job"))
        (lost,) = await soon(one.receive(JOBS, 1))
        await crash(server)
        (delivery,) = await soon(other.receive(JOBS, 1))
        assert (data(lost), lost.receives) == (data(delivery), delivery.receives), "the crash took the claim back"
        with pytest.raises(LeaseLost):
            await soon(one.commit(add(ack(new_commit(), lost), "late")))
        await soon(other.commit(add(ack(new_commit(), delivery), "done")))
        assert [await balance(one, name) for name in ("late", "done")] == [0, 1]


async def test_positions_that_are_given_again_are_looked_at(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim has looked at them already, and nobody tells this process of the crash. Beats flush what was taken."""
    monkeypatch.setattr("headwater.engines.postgres.beats.BEAT_S", 2.0)
    async with opened(f"{server.url}?listen=off", install=catalog()) as engine:
        await commit(engine, lambda made: send(made, JOBS, 0))
        await soon(go_through(engine))
        server.execute(TAKE_UNFLUSHED)
        receiving = asyncio.ensure_future(go_through(engine))

        def passed() -> bool:
            engine.stir(engine._lines)
            return engine._lines[engine.state.ids[JOBS]].position >= AHEAD

        await until(passed, "claims know them as empty")
        await crash(server)
        await commit(engine, lambda made: send(made, JOBS, 1))
        assert server.execute("SELECT last_value FROM headwater.block")[0][0] * 32768 < AHEAD, "it is given again"
        await soon(receiving)


async def go_through(engine: PostgresEngine) -> None:
    (delivery,) = await engine.receive(JOBS, 1)
    await engine.commit(ack(new_commit(), delivery))
