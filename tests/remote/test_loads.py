"""Loads of workers: what becomes of them when the connection is lost, or the job that loads is cut off."""

from __future__ import annotations

import asyncio

import pytest

from headwater.engines.remote import wire
from headwater.errors import CommitUnknown, StoreError, Unavailable
from headwater.unit import Commit, Committed, new_commit
from tests.conformance.loading import documents, expand, stage
from tests.patience import PATIENCE_S
from tests.remote.conftest import TABLE, Shared
from tests.remote.test_leases import cut, worker

pytestmark = pytest.mark.anyio
ROWS = {f"k{n}": {"n": n} for n in range(200)}


async def swept(store: Shared) -> int:
    """How many staged rows of loads that were given up there are, in the end."""
    for _ in range(500):
        if found := await store.owned.sweep_loads(1000):
            return found
        await asyncio.sleep(0.01)
    return 0


@pytest.mark.parametrize("finished", [True, False])
async def test_a_load_is_given_up_with_its_connection(store: Shared, finished: bool) -> None:
    async with worker(store) as doomed:
        if finished:
            staging, *_ = await stage(doomed, TABLE, ROWS)
        else:
            staging = await doomed.begin_load(TABLE, "")
            await staging.add(documents(ROWS))
        cut(doomed)
        assert await swept(store) == 200
        if not finished:
            with pytest.raises(Unavailable):
                await staging.add(documents({"late": {"n": 0}}))
    assert await store.read(TABLE, "k0") is None


async def test_a_flip_that_arrived_before_the_connection_was_lost_stands(store: Shared) -> None:
    commits = store.owned.commit
    async with worker(store) as doomed:

        def commit_and_cut(commit: Commit) -> asyncio.Future[Committed]:
            if commit.flips:
                cut(doomed)
            return commits(commit)

        staging, *_ = await stage(doomed, TABLE, ROWS)
        commit = new_commit()
        commit.flips.append(staging.flip)
        store.owned.commit = commit_and_cut  # type: ignore[method-assign]
        with pytest.raises(CommitUnknown):
            await doomed.commit(commit)
        await asyncio.wait_for(doomed._connected.wait(), PATIENCE_S)
    await store.barrier()
    assert await store.owned.sweep_loads(1000) == 0
    assert await expand(store.owned, TABLE) == 200
    assert (await store.read(TABLE, "k7"))["n"] == 7


async def test_a_job_that_is_cut_off_while_it_stages(store: Shared) -> None:
    staging = await store.engine.begin_load(TABLE, "")
    adding = asyncio.ensure_future(staging.add(documents(ROWS)))
    await asyncio.sleep(0)
    adding.cancel()
    await asyncio.wait([adding])
    staging.close()
    with pytest.raises(StoreError, match="no such load"):
        await staging.add(documents(ROWS))
    store.engine.abandon(staging.flip.load)
    _, differences, _ = await stage(store.engine, TABLE, ROWS)
    assert differences.inserted == 200


async def test_rows_that_fill_several_frames(store: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_FRAME", 2 * 1024 * 1024)
    large = {f"k{n}": {"text": "x" * 400_000} for n in range(12)}
    staging, differences, _ = await stage(store.engine, TABLE, large)
    assert (differences.inserted, staging.staged) == (12, 12)
