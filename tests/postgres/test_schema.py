"""The steps of the schema: their sum, running them again and side by side, and which versions go together."""

from __future__ import annotations

import asyncio

import pytest

from headwater.engines.postgres import migrations
from headwater.engines.postgres.migrations import Step, steps
from headwater.errors import StoreError, StoreTooNew
from headwater.unit import new_commit
from tests.postgres.schema import GOLDEN, describe, migrate_at
from tests.postgres.server import run_sql
from tests.postgres.shop import ACCOUNTS, add, balance, catalog, commit, opened

pytestmark = pytest.mark.anyio


def schema_of(url: str) -> str:
    return url.rpartition("schema=")[2]


def plain(url: str) -> str:
    return url.partition("?")[0]


def extra(needs: int) -> Step:
    """A step that this version does not know yet."""
    number = steps()[-1].number + 1
    return Step(number, f"{number:04}_more.sql", needs, "CREATE TABLE more (id integer PRIMARY KEY);")


def with_steps(patch: pytest.MonkeyPatch, known: list[Step]) -> None:
    patch.setattr(migrations, "steps", lambda: known)


async def test_the_steps_give_the_schema_as_it_is_written_down(postgres_url: str) -> None:
    await migrate_at(postgres_url)
    described = describe(plain(postgres_url), schema_of(postgres_url))
    assert described == GOLDEN.read_text("utf-8"), "`python -m tests.postgres.schema` writes it down anew"


async def test_each_step_runs_once(postgres_url: str) -> None:
    names = [step.name for step in steps()]
    assert await migrate_at(postgres_url) == names
    before = describe(plain(postgres_url), schema_of(postgres_url))
    assert await migrate_at(postgres_url) == []
    assert describe(plain(postgres_url), schema_of(postgres_url)) == before


async def test_processes_that_begin_together_make_one_store(postgres_url: str) -> None:
    done = await asyncio.gather(*(migrate_at(postgres_url) for _ in range(4)))
    assert sorted(done) == [[], [], [], [step.name for step in steps()]]
    async with opened(postgres_url) as one, opened(postgres_url) as other:
        assert one.state.head.store == other.state.head.store


async def test_a_step_that_fails_leaves_nothing_behind(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await migrate_at(postgres_url)
    before = describe(plain(postgres_url), schema_of(postgres_url))
    step = extra(needs=1)
    with monkeypatch.context() as patch:
        with_steps(patch, [*steps(), step, Step(step.number + 1, "wrong", 1, "SELECT nonsense")])
        with pytest.raises(StoreError):
            await migrate_at(postgres_url)
    assert describe(plain(postgres_url), schema_of(postgres_url)) == before


async def test_a_store_that_lacks_steps_is_refused(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await migrate_at(postgres_url)
    with_steps(monkeypatch, [*steps(), extra(needs=1)])
    with pytest.raises(StoreError, match="headwater migrate") as refused:
        async with opened(postgres_url):
            pass
    assert not isinstance(refused.value, StoreTooNew)


async def test_a_store_that_needs_a_newer_version_is_refused(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = extra(needs=steps()[-1].number + 1)
    with monkeypatch.context() as patch:
        with_steps(patch, [*steps(), step])
        await migrate_at(postgres_url)
    with pytest.raises(StoreTooNew, match="upgrade headwater"):
        async with opened(postgres_url):
            pass
    with pytest.raises(StoreTooNew):
        await migrate_at(postgres_url)


async def test_old_and_new_processes_run_side_by_side(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that older processes can live with, taken while one of them has the store open."""
    async with opened(postgres_url, install=catalog()) as old:
        await commit(old, lambda made: add(made, "a"))
        with monkeypatch.context() as patch:
            with_steps(patch, [*steps(), extra(needs=steps()[-1].number)])
            await migrate_at(postgres_url)
            async with opened(postgres_url) as new:
                await asyncio.gather(old.commit(add(new_commit(), "a")), new.commit(add(new_commit(), "a")))
                assert await balance(new, "a") == 3
        async with opened(postgres_url) as another_old:
            assert await balance(another_old, "a") == 3
            assert run_sql(plain(postgres_url), f"SELECT count(*) FROM {schema_of(postgres_url)}.more")[0][0] == 0
            assert ACCOUNTS in (await another_old.catalog()).tables
