"""Answers of AWS that never arrive: a commit takes effect once, or says that nobody knows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest

from headwater.applying.state import Stored
from headwater.aws.items import PK, Origin, pack_record
from headwater.aws.names import Names
from headwater.catalog import QueueSpec, TableSpec
from headwater.clock import SystemClock
from headwater.engine import AlreadyClaimed
from headwater.engines.aws import client, writing
from headwater.engines.aws.engine import AwsEngine
from headwater.errors import CommitUnknown, Conflict, LeaseLost, Unavailable
from headwater.unit import Claim, Commit, Merge, Read, new_commit
from tests.aws.ministack import Ministack, environment
from tests.aws.provision import Provisioner
from tests.conformance.clocks import ManualClock
from tests.conformance.workbench import catalog, emit, image, settle, write
from tests.postgres.proxy import Direction, Link, Proxy

pytestmark = pytest.mark.anyio
ROWS = TableSpec(name="shop/rows", partition="id")
CATALOG = catalog(ROWS, QueueSpec(name="shop/jobs", visibility_ms=60_000))
KEY = ("a", "")
ALWAYS = 10**6


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Losing:
    """Loses the answers to requests of one operation, so many of them; `lost` counts. `meanwhile` is done before."""

    def __init__(self, operation: str, most: int, meanwhile: Callable[[], object] = lambda: None) -> None:
        self._meanwhile = meanwhile
        self._wanted = f"DynamoDB_20120810.{operation}".encode()
        self._left = most
        self._asked: set[Link] = set()
        self.lost = 0

    def __call__(self, link: Link, direction: Direction, data: bytes) -> None:
        if direction == "request" and b"DynamoDB_20120810." in data:
            if self._wanted in data and self._left > 0:
                self._asked.add(link)
            else:
                self._asked.discard(link)
        elif direction == "reply" and link in self._asked:
            self._asked.discard(link)
            self._left -= 1
            self.lost += 1
            self._meanwhile()
            link.cut()


@pytest.fixture
def proxy(aws: Ministack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """What the engines of the test go through; a call is tried once before it counts as unanswered."""
    monkeypatch.setattr(client, "_ATTEMPTS", 1)
    with Proxy(("127.0.0.1", aws.port)) as proxy:
        for name, value in environment(f"http://127.0.0.1:{proxy.port}").items():
            monkeypatch.setenv(name, value)
        yield proxy


@asynccontextmanager
async def opened(stack: str, *, count: int = 1) -> AsyncIterator[list[AwsEngine]]:
    provisioner = Provisioner(stack)
    provisioner.provide_own()
    provisioner.provide(CATALOG)
    provisioner.close()
    engines = [AwsEngine(stack, clock=SystemClock()) for _ in range(count)]
    for engine in engines:
        await engine.open()
        await engine.install(CATALOG)
    try:
        yield engines
    finally:
        for engine in engines:
            await engine.close()


async def outbox(engine: AwsEngine) -> list[Any]:
    answer = await engine.dynamodb("scan", TableName=engine.names.outbox)
    return list(answer["Items"])


async def number(engine: AwsEngine) -> Any:
    record = await engine.read("shop/rows", KEY)
    return record and image(record.body).get("n")


def reading(version: str | None) -> Read:
    return Read("shop/rows", KEY, version)


def increment() -> Commit:
    commit = new_commit()
    write(commit, "shop/rows", KEY, None, Merge(add={"n": 1}), blind=True)
    return commit


async def test_a_transaction_whose_answer_is_lost_is_repeated_without_a_second_effect(proxy: Proxy, stack: str) -> None:
    async with opened(stack) as (engine,):
        proxy.watch = losing = Losing("TransactWriteItems", 3)
        commit = increment()
        emit(commit, "shop/jobs", "x", queue="shop/jobs")
        await engine.commit(commit)
        assert losing.lost == 3
        assert await number(engine) == 1
        assert len(await outbox(engine)) == 1


async def test_a_single_write_whose_answer_is_lost_takes_effect_once(proxy: Proxy, stack: str) -> None:
    async with opened(stack) as (engine,):
        proxy.watch = losing = Losing("PutItem", 4)
        for _ in range(4):
            await engine.commit(increment())
        assert losing.lost == 4
        assert await number(engine) == 4


@pytest.fixture
def others(aws: Ministack, stack: str) -> Iterator[Callable[[], object]]:
    """Another process writes the record."""
    with ThreadPoolExecutor(1) as thread:
        dynamodb = client.session().create_client("dynamodb", endpoint_url=aws.url)
        record = Stored("other-0", b'{"id":"a","n":100}', None, 1)
        item = pack_record(ROWS, KEY, record, Origin(time_ms=SystemClock().wall_ms()))
        table = Names(stack).table(ROWS.name)
        yield lambda: thread.submit(dynamodb.put_item, TableName=table, Item=item).result()
        dynamodb.close()


@pytest.mark.parametrize("kind", ["merge", "put", "validated"])
async def test_a_write_that_may_have_taken_effect_has_no_second_one(
    proxy: Proxy, stack: str, others: Callable[[], object], kind: str
) -> None:
    async with opened(stack) as (engine,):
        await engine.commit(increment())
        first = await engine.read("shop/rows", KEY)
        assert first is not None
        commit = increment() if kind == "merge" else new_commit()
        if kind != "merge":
            write(commit, "shop/rows", KEY, {"id": "a", "n": 7})
        if kind == "validated":
            commit.reads = [reading(first.version)]
        proxy.watch = losing = Losing("PutItem", 1, others)
        with pytest.raises(CommitUnknown):
            await engine.commit(commit)
        assert losing.lost == 1
        assert await number(engine) == 100


@pytest.mark.parametrize("present", [False, True])
async def test_a_put_that_never_arrived_is_repeated(proxy: Proxy, stack: str, present: bool) -> None:
    async with opened(stack) as (engine,):
        if present:
            clock = engine.clock = ManualClock()
            await engine.commit(increment())
            clock.advance(60)
        lost = 0

        def lose(link: Link, direction: Direction, data: bytes) -> None:
            nonlocal lost
            if b"DynamoDB_20120810.PutItem" in data and lost < 2:
                lost += 1
                link.cut()

        proxy.watch = lose
        commit = new_commit()
        write(commit, "shop/rows", KEY, {"id": "a", "n": 7})
        await engine.commit(commit)
        assert (lost, await number(engine)) == (2, 7)


async def test_a_claim_whose_answer_is_lost_is_not_taken_by_another(proxy: Proxy, stack: str) -> None:
    async with opened(stack) as (engine,):
        proxy.watch = Losing("PutItem", 1)
        claim = Claim("s", "x", await engine.now_ms() + 60_000, b"mine")
        await engine.commit(Commit(id="1" * 32, claims=[claim]))
        with pytest.raises(AlreadyClaimed) as caught:
            await engine.commit(Commit(id="2" * 32, claims=[Claim("s", "x", claim.expires_ms, b"theirs")]))
        assert caught.value.result == b"mine"


async def test_an_outcome_that_stays_unknown_is_told(proxy: Proxy, stack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "PATIENCE_S", 0.3)
    async with opened(stack) as (engine,):
        proxy.watch = Losing("PutItem", ALWAYS)
        with pytest.raises(CommitUnknown):
            await engine.commit(increment())
        proxy.watch = None
        await engine.commit(increment())
        assert await number(engine) == 2


async def test_without_a_connection_nothing_is_written(proxy: Proxy, stack: str) -> None:
    async with opened(stack) as (engine,):
        proxy.refuse()
        proxy.cut()
        with pytest.raises(Unavailable) as caught:
            await engine.commit(increment())
        assert not isinstance(caught.value, client.Unanswered)
        proxy.heal()
        assert await number(engine) is None


async def test_processes_that_merge_into_one_record_lose_nothing(aws: Ministack, stack: str) -> None:
    async with opened(stack, count=3) as engines:
        await asyncio.gather(*(engine.commit(increment()) for _ in range(8) for engine in engines))
        assert await number(engines[0]) == 24


async def test_a_read_that_another_process_made_stale_is_a_conflict(aws: Ministack, stack: str) -> None:
    async with opened(stack, count=2) as (one, other):
        await one.commit(increment())
        record = await one.read("shop/rows", KEY)
        assert record is not None
        await other.commit(increment())
        commit = new_commit()
        write(commit, "shop/rows", "b", {"id": "b"})
        commit.reads = [reading(record.version)]
        with pytest.raises(Conflict):
            await one.commit(commit)
        assert await one.read("shop/rows", ("b", "")) is None


async def test_of_two_attempts_of_a_message_one_commits(aws: Ministack, stack: str) -> None:
    """SQS may hand a message out twice, and a lease may pass while its holder works on."""
    async with opened(stack, count=2) as engines:
        message = {
            "MessageId": "m1",
            "ReceiptHandle": "r",
            "Body": '{"n": 1}',
            "Attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "1"},
        }

        async def attempt(engine: AwsEngine) -> bool:
            (delivery,) = await engine.adopt("shop/jobs", [message])
            commit = increment()
            commit.settles.append(settle(delivery))
            try:
                await engine.commit(commit)
            except LeaseLost:
                return False
            return True

        assert sorted(await asyncio.gather(*map(attempt, engines))) == [False, True]
        assert not await attempt(engines[0])
        assert await number(engines[0]) == 1


async def test_the_catalog_is_not_lost_when_several_install(aws: Ministack, stack: str) -> None:
    async with opened(stack, count=3) as engines:
        names = [f"app{n}" for n in range(3)]
        revisions = await asyncio.gather(
            *(
                engine.install(catalog(TableSpec(name=f"{name}/t", partition="id"), app=name))
                for name, engine in zip(names, engines, strict=True)
            )
        )
        assert set((await engines[0].catalog()).apps) == {"shop", *names}
        assert len(set(revisions)) == 3


async def test_what_another_program_wrote_is_read_and_validated(aws: Ministack, stack: str) -> None:
    async with opened(stack) as (engine,):
        table = engine.names.table("shop/rows")
        item = {PK: {"S": "a"}, "id": {"S": "a"}, "n": {"N": "41"}}
        await engine.dynamodb("put_item", TableName=table, Item=item)
        record = await engine.read("shop/rows", KEY)
        assert record is not None
        await engine.commit(increment())
        assert await number(engine) == 42
        stale = new_commit()
        write(stale, "shop/rows", KEY, {"id": "a"})
        stale.reads = [reading(record.version)]
        with pytest.raises(Conflict):
            await engine.commit(stale)
