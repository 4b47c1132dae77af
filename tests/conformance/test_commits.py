from __future__ import annotations

import asyncio
from typing import Any

import pytest

from headwater.catalog import QueueSpec, RouteSpec, TableSpec
from headwater.engine import AlreadyClaimed, Query
from headwater.errors import Conflict, HeadwaterError, InvalidValue, LeaseLost, QueueFull, TooLarge, UnknownResource
from headwater.unit import Claim, Commit, Merge, Settle, new_commit
from tests.conformance.workbench import Store, emit, settle, write

pytestmark = pytest.mark.anyio
ROWS = TableSpec(name="shop/rows", partition="id")
JOBS = QueueSpec(name="shop/jobs", max_depth=3)
CHANGES = QueueSpec(name="shop/changes")
ROUTE = RouteSpec(source="shop/rows", target="shop/changes")
_ALL = Query(table="shop/rows")


@pytest.fixture
async def shop(store: Store) -> Store:
    return await store.open(ROWS, JOBS, CHANGES, ROUTE)


async def everything(store: Store) -> list[Any]:
    """All that a commit can change."""
    rows = await store.engine.query(_ALL)
    stats = [(await store.counts(queue)) for queue in ("shop/jobs", "shop/changes")]
    events = await store.engine.events(0)
    letters = await store.engine.dead_letters()
    return [rows, stats, events, letters, await store.engine.claimed("s", "new")]


async def test_a_commit_applies_all_its_parts(shop: Store) -> None:
    await shop.send("shop/jobs", "cause")
    (delivery,) = await shop.take("shop/jobs")
    commit = new_commit()
    write(commit, "shop/rows", "a", {"id": "a"})
    emit(commit, "shop/jobs", "next", queue="shop/jobs")
    commit.settles.append(settle(delivery))
    commit.claims.append(Claim("s", "new", await shop.engine.now_ms() + 1000, b"result"))
    committed = await shop.engine.commit(commit)
    assert committed.time_ms == shop.clock.wall_ms()
    assert await shop.read("shop/rows", "a") == {"id": "a"}
    assert await shop.engine.claimed("s", "new") == b"result"
    assert await shop.drain("shop/jobs") == ["next"]
    assert await shop.drain("shop/changes") == [{"id": "a"}]


async def refused(shop: Store, kind: str) -> tuple[Commit, type[HeadwaterError]]:
    """A commit with parts that are fine and one that must refuse it."""
    commit = new_commit()
    write(commit, "shop/rows", "new", {"id": "new"})
    emit(commit, "shop/jobs", "new", queue="shop/jobs")
    commit.claims.append(Claim("s", "new", await shop.engine.now_ms() + 1000))
    error: type[HeadwaterError]
    match kind:
        case "stale read":
            commit.reads, error = shop.reading("shop/rows", "a", "another"), Conflict
        case "read of an absent record":
            commit.reads, error = shop.reading("shop/rows", "absent", "version"), Conflict
        case "read as absent":
            commit.reads, error = shop.reading("shop/rows", "a", None), Conflict
        case "lost lease":
            commit.settles, error = [Settle("shop/jobs", 1, 1)], LeaseLost
        case "claim":
            await shop.claim("s", "taken", 60)
            commit.claims.append(Claim("s", "taken", await shop.engine.now_ms() + 1000))
            error = AlreadyClaimed
        case "queue full":
            for n in range(3):
                emit(commit, "shop/jobs", n, queue="shop/jobs")
            error = QueueFull
        case "bad merge":
            write(commit, "shop/rows", "a", None, Merge(add={"id": 1}), blind=True)
            error = InvalidValue
        case "too large":
            write(commit, "shop/rows", "b", None, Merge(set={"x": "x" * 500_000}), blind=True)
            error = TooLarge
        case "unknown table":
            write(commit, "shop/none", "b", {})
            error = UnknownResource
        case "unknown queue":
            emit(commit, "shop/jobs", 1, queue="shop/none")
            error = UnknownResource
        case _:
            emit(commit, "shop/none", 1)
            error = UnknownResource
    return commit, error


REFUSALS = [
    "stale read",
    "read of an absent record",
    "read as absent",
    "lost lease",
    "claim",
    "queue full",
    "bad merge",
    "too large",
    "unknown table",
    "unknown queue",
    "unknown source",
]


@pytest.mark.parametrize("kind", REFUSALS)
async def test_a_refused_commit_leaves_nothing(shop: Store, kind: str) -> None:
    await shop.put("shop/rows", "a", {"id": "a"})
    commit, error = await refused(shop, kind)
    before = await everything(shop)
    with pytest.raises(error) as caught:
        await shop.engine.commit(commit)
    assert type(caught.value) is error
    assert await everything(shop) == before


async def test_refused_and_accepted_commits_of_one_batch_do_not_mix(shop: Store) -> None:
    await shop.put("shop/rows", "a", {"id": "a"})
    commits, errors = [], []
    for n, kind in enumerate(REFUSALS):
        commit, error = await refused(shop, kind)
        good = new_commit()
        write(good, "shop/rows", f"good{n}", {"id": f"good{n}"})
        commits += [commit, good]
        errors.append(error)
    futures = [shop.engine.commit(commit) for commit in commits]
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(result) for result in results[::2]] == errors
    assert not any(isinstance(result, Exception) for result in results[1::2])
    assert await shop.read("shop/rows", "new") is None
    page = await shop.engine.query(_ALL)
    assert {record.key[0] for record in page.records} == {"a", *(f"good{n}" for n in range(len(REFUSALS)))}
    assert await shop.counts("shop/jobs") == (0, 0, 0, 0)


async def test_commits_of_one_batch_see_those_before_them(shop: Store) -> None:
    first, second, third = new_commit(), new_commit(), new_commit()
    version = write(first, "shop/rows", "a", {"id": "a", "n": 1}).version
    second.reads = shop.reading("shop/rows", "a", version)
    write(second, "shop/rows", "a", {"id": "a", "n": 2})
    third.reads = shop.reading("shop/rows", "a", version)
    write(third, "shop/rows", "a", {"id": "a", "n": 3})
    results = await asyncio.gather(*map(shop.engine.commit, (first, second, third)), return_exceptions=True)
    assert [isinstance(result, Conflict) for result in results] == [False, False, True]
    assert await shop.read("shop/rows", "a") == {"id": "a", "n": 2}


async def test_the_same_claim_twice_in_a_batch_is_taken_once(shop: Store) -> None:
    expires = await shop.engine.now_ms() + 1000
    commits = [Commit(id=str(n), claims=[Claim("s", "one", expires, str(n).encode())]) for n in range(3)]
    results = await asyncio.gather(*map(shop.engine.commit, commits), return_exceptions=True)
    assert [isinstance(result, AlreadyClaimed) for result in results] == [False, True, True]
    assert isinstance(results[2], AlreadyClaimed)
    assert results[2].result == b"0"


async def test_a_claim_expires(shop: Store) -> None:
    await shop.claim("s", "one", 10, b"first")
    await shop.advance(9.999)
    with pytest.raises(AlreadyClaimed) as caught:
        await shop.claim("s", "one", 10, b"second")
    assert caught.value.result == b"first"
    await shop.claim("other", "one", 10)
    await shop.advance(0.001)
    assert await shop.engine.claimed("s", "one") is None
    await shop.claim("s", "one", 10, b"third")
    assert await shop.engine.claimed("s", "one") == b"third"


async def test_commits_of_one_caller_are_applied_in_order(shop: Store) -> None:
    commits = [new_commit() for _ in range(50)]
    for n, commit in enumerate(commits):
        write(commit, "shop/rows", "a", {"id": "a", "n": n})
    await asyncio.gather(*map(shop.engine.commit, commits))
    found = await shop.drain("shop/changes")
    assert [change["n"] for change in found] == list(range(50))


async def test_cancelling_a_commit_undoes_nothing(shop: Store) -> None:
    commit = new_commit()
    write(commit, "shop/rows", "a", {"id": "a"})
    shop.engine.commit(commit).cancel()
    await shop.barrier()
    assert await shop.read("shop/rows", "a") == {"id": "a"}


async def test_a_full_queue_counts_what_its_commit_settles(shop: Store) -> None:
    await shop.send("shop/jobs", 1, 2, 3)
    with pytest.raises(QueueFull):
        await shop.send("shop/jobs", 4)
    (delivery,) = await shop.take("shop/jobs")
    with pytest.raises(QueueFull):
        await shop.commit(lambda commit: emit(commit, "shop/jobs", 4, queue="shop/jobs"))
    await shop.commit(lambda commit: emit(commit, "shop/jobs", 4, queue="shop/jobs"), settles=[settle(delivery)])
    assert await shop.drain("shop/jobs") == [2, 3, 4]


async def test_a_full_queue_refuses_no_routed_message(store: Store) -> None:
    await store.open(ROWS, JOBS, RouteSpec(source="shop/rows", target="shop/jobs"))
    for n in range(5):
        await store.put("shop/rows", f"{n}", {"id": f"{n}"})
    assert (await store.stats("shop/jobs")).depth == 5


async def test_the_time_of_the_store_never_steps_back(shop: Store) -> None:
    await shop.put("shop/rows", "a", {"id": "a"})
    before = await shop.engine.now_ms()
    shop.clock.wall -= 3_600_000
    assert await shop.engine.now_ms() == before
    assert (await shop.commit()).time_ms == before


@pytest.mark.feature("keeps_time", "each process goes by its own clock, which Amazon's time service keeps right")
async def test_the_time_of_the_store_outlives_the_process(shop: Store) -> None:
    await shop.put("shop/rows", "a", {"id": "a"})
    before = await shop.engine.now_ms()
    shop.clock.wall -= 3_600_000
    await shop.reopen()
    assert await shop.engine.now_ms() == before
