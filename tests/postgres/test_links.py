"""Links that are slow, or fall silent without a word."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from headwater.clock import SystemClock
from headwater.engines.postgres import listening
from headwater.engines.postgres.engine import PostgresEngine
from tests.postgres.load import Load
from tests.postgres.machines import address_of, through
from tests.postgres.proxy import Direction, Link, Proxy
from tests.postgres.shop import JOBS, catalog, commit, hurry, opened, send, soon, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def proxy(postgres_url: str) -> Iterator[Proxy]:
    with Proxy(address_of(postgres_url)) as proxy:
        yield proxy


@pytest.fixture
async def engine(postgres_url: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PostgresEngine]:
    hurry(monkeypatch, statement_s=5.0)
    monkeypatch.setattr(listening, "CONNECT_S", 0.5)
    async with opened(through(postgres_url, proxy.port), install=catalog()) as engine:
        yield engine


class Sighting:
    """Counts the requests with a text; the link of the first one is held."""

    def __init__(self, proxy: Proxy, text: str, *held: Direction) -> None:
        self.text, self.held, self.count = text.encode(), held, 0
        self.link: Link | None = None
        proxy.watch = self._watch

    def _watch(self, link: Link, direction: Direction, data: bytes) -> None:
        if direction == "request" and self.text in data:
            self.count += 1
            if self.link is None:
                self.link = link
                link.hold(*self.held)


async def test_effects_are_exact_on_slow_links(engine: PostgresEngine, proxy: Proxy, postgres_url: str) -> None:
    proxy.slow_down(0.05)
    async with opened(postgres_url) as near:
        load = Load([engine, near])
        async with load.running():
            await load.progress(200)
        assert await load.faults(near) == []


async def test_a_listener_that_was_cut_off_without_a_word_listens_again(
    postgres_url: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    monkeypatch.setattr(listening, "CONNECT_S", 0.5)
    sighting = Sighting(proxy, "LISTEN ")
    async with opened(through(postgres_url, proxy.port), install=catalog()) as engine:
        await until(lambda: sighting.link, "it listens")
        assert sighting.link is not None
        sighting.link.hold("request", "reply")
        await until(lambda: sighting.count == 2, "it listens again")
        monkeypatch.setattr(listening, "POLL_S", 1000.0)
        async with opened(postgres_url) as other:
            receiving = asyncio.ensure_future(engine.receive(JOBS, 1))
            await commit(other, lambda made: send(made, JOBS, "job"))
            await soon(receiving)


async def test_the_time_is_right_when_it_was_asked_for_again_and_again(
    postgres_url: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch, statement_s=0.3)
    clock = SystemClock()
    async with opened(through(postgres_url, proxy.port), install=catalog()) as engine:
        await asyncio.to_thread(proxy.hold, "reply")
        for _ in range(20):
            await clock.sleep(0.1)
        proxy.heal()
        for _ in range(20):
            await commit(engine, lambda made: send(made, JOBS, "job"))
            assert abs(await engine.now_ms() - clock.wall_ms()) < 1000
            await clock.sleep(0.05)
