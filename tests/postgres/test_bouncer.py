"""PgBouncer as the tests use it: what a session keeps is gone with its transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import asyncpg

from headwater.engine import Question
from headwater.engines import make_engine
from tests.faults import forgetful
from tests.postgres.bouncer import Bouncer, needs_pgbouncer
from tests.postgres.server import Server


@needs_pgbouncer
async def test_a_connection_is_held_for_a_transaction_only(start_postgres: Callable[..., Server]) -> None:
    with Bouncer(start_postgres(), pool=1) as bouncer:
        clients = [await asyncpg.connect(bouncer.url, statement_cache_size=0) for _ in range(2)]
        first, second = clients
        backends = {await client.fetchval("SELECT pg_backend_pid()") for client in clients}
        assert len(backends) == 1, "they share the only connection"
        async with first.transaction():
            waiting = asyncio.create_task(second.fetchval("SELECT 1"))
            await asyncio.wait([waiting], timeout=0.1)
            assert not waiting.done()
        assert await waiting == 1
        for client in clients:
            await client.close()


@needs_pgbouncer
async def test_sql_and_vacuum_need_no_session(start_postgres: Callable[..., Server]) -> None:
    with Bouncer(start_postgres(), pool=3) as bouncer:
        engine = make_engine(f"{bouncer.url}?schema=shop&prepared=off&listen=off")
        await engine.open()
        try:
            await engine.install(forgetful.CATALOG)
            await forgetful.live(engine)
            question = Question(
                statement="SELECT n FROM shop_people WHERE id = :id", parameters={"id": forgetful.OTHER}
            )
            answers = await asyncio.gather(*(engine.ask(question) for _ in range(4)))
            assert [answer.rows for answer in answers] == [[(forgetful.CHANGES - 1,)]] * 4
            assert await engine.scrub()
        finally:
            await engine.close()
