"""Commits whose answers are lost: each takes effect once, whatever the network did to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from headwater.engines.postgres import database, writer
from headwater.engines.postgres.engine import PostgresEngine
from headwater.engines.postgres.writer import Writer
from headwater.errors import CommitUnknown, Unavailable
from headwater.unit import Commit, new_commit
from tests.conformance.workbench import settle
from tests.postgres.machines import address_of, through
from tests.postgres.proxy import Direction, Link, Proxy
from tests.postgres.shop import ACCOUNTS, JOBS, add, balance, catalog, commit, hurry, opened, send, soon, until, waiting

pytestmark = pytest.mark.anyio
MARK = "the-mark-of-the-commit"


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, statement_s=0.5)


@pytest.fixture
def proxy(postgres_url: str) -> Iterator[Proxy]:
    with Proxy(address_of(postgres_url)) as proxy:
        yield proxy


@pytest.fixture
async def engine(postgres_url: str, proxy: Proxy) -> AsyncIterator[PostgresEngine]:
    async with opened(through(postgres_url, proxy.port), install=catalog()) as engine:
        await soon(engine.commit(new_commit()))
        yield engine
        proxy.heal()


class Trap:
    """Springs at the first request that carries the mark: holds back what goes in a direction, or cuts.

    With `away` all other links are dead from then on.
    """

    def __init__(self, proxy: Proxy, what: Direction | None, *, mark: str = MARK, away: bool = False) -> None:
        self.what = what
        self.link: Link | None = None
        self._mark, self._away = mark.encode(), away
        proxy.watch = self._watch

    def _watch(self, link: Link, direction: Direction, data: bytes) -> None:
        if self.link is not None:
            if self._away and link is not self.link:
                link.hold("request", "reply")
        elif direction == "request" and self._mark in data:
            self.link = link
            if self.what is None:
                link.cut()
            else:
                link.hold(self.what)


def marked(n: int) -> list[Commit]:
    """Commits of one batch; the last carries the mark."""
    return [add(send(new_commit(), JOBS, i), f"a{i}", mark=MARK if i == n - 1 else "") for i in range(n)]


async def effects(engine: PostgresEngine, n: int) -> tuple[list[int], list[Any]]:
    return [await balance(engine, f"a{i}") for i in range(n)], sorted(await waiting(engine, JOBS))


@pytest.mark.parametrize("n", [1, 3], ids=["one", "batch"])
@pytest.mark.parametrize("what", ["reply", "request", None], ids=["reply-lost", "request-late", "reset"])
async def test_each_takes_effect_once(engine: PostgresEngine, proxy: Proxy, what: Direction | None, n: int) -> None:
    trap = Trap(proxy, what)
    await soon(asyncio.gather(*map(engine.commit, marked(n))))
    assert trap.link is not None
    trap.link.release()
    await soon(engine.commit(add(new_commit(), "last")))
    assert await effects(engine, n) == ([1] * n, list(range(n)))


@pytest.mark.parametrize(("belief", "effect"), [(None, 2), (32768, 0)], ids=["not-written", "written"])
async def test_without_asking_for_the_outcome_effects_are_doubled_or_lost(
    engine: PostgresEngine, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, belief: int | None, effect: int
) -> None:
    """The control: what a wrong belief does would be seen."""

    async def believe(*_: object) -> int | None:
        return belief

    monkeypatch.setattr(Writer, "_resolve", believe)
    Trap(proxy, "reply" if effect else None)
    await soon(engine.commit(marked(1)[0]))
    assert await balance(engine, "a0") == effect


@pytest.mark.parametrize("what", ["reply", "request"])
async def test_the_outcome_is_unknown_when_the_database_stays_away(
    engine: PostgresEngine, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, what: Direction
) -> None:
    monkeypatch.setattr(database, "PATIENCE_S", 0.5)
    trap = Trap(proxy, what, away=True)
    outcomes = await soon(asyncio.gather(*map(engine.commit, marked(3)), return_exceptions=True))
    assert [type(outcome) for outcome in outcomes] == [CommitUnknown] * 3
    assert trap.link is not None
    proxy.watch = None
    proxy.heal()
    await goes_on(engine)
    seen, sent = await effects(engine, 3)
    assert seen in ([0] * 3, [1] * 3)
    assert sent == [i for i in range(3) if seen[i]]
    assert seen[0] or what == "request", "it had arrived"


async def goes_on(engine: PostgresEngine) -> None:
    async def commits() -> bool:
        try:
            await engine.commit(add(new_commit(), "last"))
        except Unavailable:
            return False
        return True

    await until(commits, "it commits again")
    await until(lambda: balance(engine, "last"), "it is read")


async def test_it_is_unavailable_when_nothing_was_sent(
    engine: PostgresEngine, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "PATIENCE_S", 0.5)
    proxy.refuse()
    proxy.cut()
    outcomes = await soon(asyncio.gather(*map(engine.commit, marked(3)), return_exceptions=True))
    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 3
    with pytest.raises(Unavailable):
        await engine.read(ACCOUNTS, ("a0", ""))
    proxy.heal()
    await goes_on(engine)
    assert await effects(engine, 3) == ([0] * 3, [])


async def test_a_process_that_is_cut_off_in_the_midst_of_a_transaction_stops_nobody(
    engine: PostgresEngine, proxy: Proxy, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between `apply` and the end of its transaction a batch holds locks."""
    monkeypatch.setattr(writer, "BOUND", database.BOUND.replace("5s", "1s"))
    await engine.install(catalog(visibility_ms=30_000))
    await commit(engine, lambda made: send(made, JOBS, "job"))
    (delivery,) = await soon(engine.receive(JOBS, 1))
    trap = Trap(proxy, "request", mark="COMMIT;")
    failed = add(new_commit(), "a0")
    failed.settles.append(settle(delivery, outcome="bury", reason="a failure to be recorded"))
    burying = asyncio.ensure_future(engine.commit(failed))
    await until(lambda: trap.link, "it is in the midst")
    async with opened(postgres_url) as other:
        await commit(other, lambda made: add(made, "a0"))
        await other.pause(JOBS, True)
        await soon(burying)
        assert await balance(other, "a0") == 2
        assert [letter.reason for letter in await other.dead_letters(JOBS)] == ["a failure to be recorded"]
