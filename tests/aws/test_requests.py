"""What commits and reads ask of AWS: how many requests, of which kind, and what is refused before any is sent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from headwater.catalog import IndexSpec, QueueSpec, RouteSpec, TableSpec
from headwater.clock import SystemClock
from headwater.engine import Query, Question
from headwater.engines.aws.engine import AwsEngine
from headwater.errors import StoreError, TooLarge, Unsupported
from headwater.unit import Claim, Commit, Merge, Read, new_commit
from tests.aws.ministack import Ministack
from tests.aws.provision import Provisioner
from tests.conformance.workbench import catalog, emit, settle, write

pytestmark = pytest.mark.anyio
ROWS = TableSpec(name="shop/rows", partition="id", indexes=(IndexSpec("kind", "kind"),))
CATALOG = catalog(
    ROWS,
    QueueSpec(name="shop/jobs"),
    QueueSpec(name="shop/fifo", fifo=True),
    "shop/topic",
    "shop/free",
    RouteSpec(source="shop/topic", target="shop/fifo", group="customer"),
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Counting(AwsEngine):
    def __init__(self, stack: str) -> None:
        super().__init__(stack, clock=SystemClock())
        self.asked: list[str] = []
        call = self.clients.call

        async def counted(service: str, operation: str, **arguments: Any) -> dict[str, Any]:
            self.asked.append(operation)
            return await call(service, operation, **arguments)

        self.clients.call = counted  # type: ignore[method-assign]

    async def requests(self, commit: Commit) -> list[str]:
        self.asked.clear()
        await self.commit(commit)
        return self.asked[:]


@pytest.fixture
async def engine(aws: Ministack, stack: str) -> AsyncIterator[Counting]:
    provisioner = Provisioner(stack)
    provisioner.provide_own()
    provisioner.provide(CATALOG)
    provisioner.close()
    engine = Counting(stack)
    await engine.open()
    await engine.install(CATALOG)
    yield engine
    await engine.close()


def put(commit: Commit, key: str, **fields: Any) -> Commit:
    write(commit, "shop/rows", key, {"id": key, **fields})
    return commit


async def taken(engine: Counting) -> Commit:
    """A commit that acknowledges a message."""
    attributes = {"ApproximateReceiveCount": "1", "SentTimestamp": "1"}
    message = {"MessageId": "m", "ReceiptHandle": "r", "Body": "1", "Attributes": attributes}
    (delivery,) = await engine.adopt("shop/jobs", [message])
    commit = new_commit()
    commit.settles.append(settle(delivery))
    return commit


async def test_what_a_commit_asks(engine: Counting) -> None:
    assert await engine.requests(put(new_commit(), "a")) == ["put_item"]
    record = await engine.read("shop/rows", ("a", ""))
    assert record is not None
    validated = put(new_commit(), "a", n=1)
    validated.reads = [Read("shop/rows", ("a", ""), record.version)]
    assert await engine.requests(validated) == ["put_item"]
    blind = new_commit()
    write(blind, "shop/rows", "a", None, Merge(add={"n": 1}), blind=True)
    assert await engine.requests(blind) == ["batch_get_item", "put_item"]
    sent = new_commit()
    emit(sent, "shop/free", 1)
    emit(sent, "shop/jobs", 2, queue="shop/jobs")
    assert await engine.requests(sent) == ["put_item"]
    several = put(put(new_commit(), "b"), "c")
    several.claims.append(Claim("s", "x", await engine.now_ms() + 1000))
    assert await engine.requests(several) == ["transact_write_items"]
    assert await engine.requests(new_commit()) == []


async def test_an_acknowledgement_without_effect_writes_nothing(engine: Counting) -> None:
    assert await engine.requests(await taken(engine)) == []
    assert await engine.requests(put(await taken(engine), "a")) == ["transact_write_items"]


async def test_what_no_transaction_can_hold_is_refused_before_it_is_sent(engine: Counting) -> None:
    many = new_commit()
    for n in range(101):
        put(many, str(n))
    large = new_commit()
    for n in range(12):
        put(large, str(n), text="x" * 380_000)
    for commit in (many, large, put(new_commit(), "x", text="x" * (400 * 1024))):
        engine.asked.clear()
        with pytest.raises(TooLarge):
            await engine.commit(commit)
        assert engine.asked == []


async def test_the_largest_that_fit(engine: Counting) -> None:
    commit = new_commit()
    for n in range(10):
        put(commit, str(n), text="x" * 380_000)
    await engine.commit(commit)
    commit = new_commit()
    for n in range(100):
        put(commit, str(n))
    await engine.commit(commit)


async def test_orders_of_the_outbox(engine: Counting) -> None:
    """What goes into one group has one partition key, whatever commit it is of; what has no order has its commit's."""
    for customer in ("x", "y", "x"):
        commit = new_commit()
        emit(commit, "shop/topic", {"customer": customer})
        emit(commit, "shop/free", 1)
        emit(commit, "shop/fifo", 2, queue="shop/fifo", group=customer)
        await engine.commit(commit)
    items = (await engine.dynamodb("scan", TableName=engine.names.outbox))["Items"]
    keys = [item["hw_pk"]["S"] for item in items]
    assert len(items) == 9
    assert {key for key in keys if "#" in key and not key.startswith("commit#")} == {
        "shop/topic#x",
        "shop/topic#y",
        "shop/fifo#x",
        "shop/fifo#y",
    }
    assert len({key for key in keys if key.startswith("commit#")}) == 3


async def test_a_query_passes_over_what_was_deleted(engine: Counting) -> None:
    for n in range(60):
        await engine.commit(put(new_commit(), f"{n:02}", kind="k"))
        if n % 20:
            deleted = new_commit()
            write(deleted, "shop/rows", f"{n:02}", None)
            await engine.commit(deleted)
    for query in (Query(table="shop/rows", limit=2), Query(table="shop/rows", index="kind", partition="k", limit=2)):
        page = await engine.query(query)
        rest = await engine.query(Query(**{**_fields(query), "after": page.next}))
        found = sorted(record.key[0] for record in page.records + rest.records)
        assert found == ["00", "20", "40"]
        assert rest.next is None


def _fields(query: Query) -> dict[str, Any]:
    return {name: getattr(query, name) for name in query.__struct_fields__}


async def test_deleting_what_is_not_there_writes_nothing(engine: Counting) -> None:
    commit = new_commit()
    write(commit, "shop/rows", "none", None)
    assert await engine.requests(commit) == ["batch_get_item"]


async def test_check_names_what_the_stack_lacks(engine: Counting, stack: str) -> None:
    assert await engine.check() == []
    provisioner = Provisioner(stack)
    try:
        name = provisioner.names.table("shop/rows")
        provisioner.dynamodb.update_table(
            TableName=name, GlobalSecondaryIndexUpdates=[{"Delete": {"IndexName": "by-kind"}}]
        )
        assert await engine.check() == [f"table {name}: it lacks the index by-kind"]
        provisioner.dynamodb.delete_table(TableName=name)
        assert await engine.check() == [f"table {name}: it is not there"]
    finally:
        provisioner.close()
    with pytest.raises(StoreError) as caught:
        await engine.commit(put(new_commit(), "a"))
    assert "headwater deploy aws" in caught.value.hint


async def test_a_stack_that_is_not_deployed_says_so(aws: Ministack) -> None:
    engine = AwsEngine("nowhere", clock=SystemClock())
    with pytest.raises(StoreError) as caught:
        await engine.open()
    assert "headwater deploy aws" in caught.value.hint


async def test_what_it_lacks_is_refused(engine: Counting) -> None:
    with pytest.raises(Unsupported):
        await engine.ask(Question(statement="SELECT 1"))
    with pytest.raises(Unsupported):
        await engine.scrub()
    assert not engine.features.sql
    assert not engine.features.erasure
