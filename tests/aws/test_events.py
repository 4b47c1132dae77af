"""The way of an event: from a commit over streams, the relay and SQS to the commit that acknowledges it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any
from unittest.mock import patch

import pytest

from headwater.aws.changes import Streamed
from headwater.catalog import QueueSpec, RouteSpec, TableSpec
from headwater.clock import SystemClock
from headwater.codec import decode_json, encode_json
from headwater.engine import Query
from headwater.engines.aws.engine import AwsEngine
from headwater.errors import LeaseLost, StoreError, Unavailable
from headwater.events import Delivery, Envelope
from headwater.ids import new_id
from headwater.unit import Commit, Emit, Failure, Settle, Write, new_commit
from tests.aws.provision import Provisioner
from tests.aws.streams import Relay
from tests.conformance.workbench import catalog

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("aws")]
PATIENCE_S = 20.0
ROWS, DONE = TableSpec(name="shop/rows", partition="id"), TableSpec(name="shop/done", partition="id")
JOBS, FIFO = QueueSpec(name="shop/jobs"), QueueSpec(name="shop/fifo", fifo=True)
SHORT = QueueSpec(name="shop/short", visibility_ms=1_000)
TOPIC = "shop/topic"
PATTERN = {"kind": ["good"], "n": [{"numeric": [">", 1]}]}


class Shop:
    """A stack with two processes that have it open, and a relay that runs when a test says so."""

    def __init__(self, stack: str) -> None:
        clock = SystemClock()
        self.catalog = catalog(
            ROWS,
            DONE,
            JOBS,
            FIFO,
            SHORT,
            TOPIC,
            RouteSpec(source="shop/rows", target="shop/fifo"),
            RouteSpec(source="shop/rows", target="shop/short", types=("inserted",)),
            RouteSpec(source=TOPIC, target="shop/jobs", match=PATTERN),
        )
        self.provisioner = Provisioner(stack)
        self.engine, self.other = (AwsEngine(stack, clock=clock) for _ in range(2))
        self.relay = Relay(stack, clock)

    async def open(self) -> Shop:
        await asyncio.to_thread(self._provide)
        for engine in (self.engine, self.other):
            engine.poll_s = 1
            await engine.open()
        await self.engine.install(self.catalog)
        await self.other.reload()
        return self

    def _provide(self) -> None:
        self.provisioner.provide_own()
        self.provisioner.provide(self.catalog)
        self.provisioner.subscribe(self.catalog)

    async def close(self) -> None:
        await self.engine.close()
        await self.other.close()
        self.relay.close()
        self.provisioner.close()

    @property
    def streams(self) -> list[str]:
        names = self.engine.names
        return [names.table("shop/rows"), names.table("shop/done"), names.outbox]

    async def pump(self) -> None:
        await self.relay.pump(self.streams)

    async def put(self, id: str, n: int, table: str = "shop/rows") -> Commit:
        commit = new_commit()
        commit.writes.append(Write(table, (id, ""), f"{commit.id}-0", encode_json({"id": id, "n": n})))
        await self.engine.commit(commit)
        return commit

    async def publish(self, data: Any, source: str = TOPIC, **options: Any) -> Envelope:
        commit = new_commit()
        event = Envelope(id=f"{commit.id}-0", source=source, type="message", data=encode_json(data), trace=commit.trace)
        commit.emits.append(Emit(event, **options))
        await self.engine.commit(commit)
        return event

    async def take(self, queue: str, count: int, engine: AwsEngine | None = None) -> list[Delivery]:
        found: list[Delivery] = []
        while len(found) < count:
            found += await asyncio.wait_for((engine or self.engine).receive(queue, count - len(found)), PATIENCE_S)
        return found

    async def nothing_comes(self, queue: str) -> None:
        stats = next(one for one in await self.engine.stats() if one.queue == queue)
        assert stats.depth == 0

    async def read(self, table: str, id: str) -> Any:
        record = await self.engine.read(table, (id, ""))
        return decode_json(record.body) if record else None


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def shop(stack: str) -> AsyncIterator[Shop]:
    shop = await Shop(stack).open()
    yield shop
    await shop.close()


def done(delivery: Delivery, *writes: Write, outcome: Any = "ack", **options: Any) -> Commit:
    """What settles the delivery, with an effect."""
    commit = new_commit(delivery.message_id, trace=delivery.event.trace)
    commit.settles.append(Settle(delivery.queue, delivery.position, delivery.fence, outcome, **options))
    for write in writes:
        commit.writes.append(write)
    return commit


def effect(delivery: Delivery) -> Write:
    """One row more for each time that it takes effect."""
    id = new_id()
    return Write("shop/done", (id, ""), f"{id}-0", encode_json({"id": id, "of": delivery.message_id}))


async def effects(shop: Shop) -> list[str]:
    page = await shop.engine.query(Query(table="shop/done", limit=1000))
    return sorted(decode_json(record.body)["of"] for record in page.records)


async def test_a_change_arrives_and_is_gone_with_the_commit_that_acknowledges_it(shop: Shop) -> None:
    commit = await shop.put("a", 1)
    await shop.nothing_comes("shop/fifo")
    await shop.pump()
    (delivery,) = await shop.take("shop/fifo", 1)
    event = delivery.event
    assert (event.source, event.type, event.key) == ("shop/rows", "inserted", ("a", ""))
    assert (event.version, event.trace, delivery.group) == (f"{commit.id}-0", commit.trace, "a")
    assert decode_json(event.data or b"") == {"id": "a", "n": 1}
    await shop.engine.commit(done(delivery, effect(delivery)))
    assert await effects(shop) == [delivery.message_id]
    await shop.nothing_comes("shop/fifo")


async def test_a_redelivery_after_the_commit_has_no_second_effect(shop: Shop) -> None:
    await shop.put("a", 1)
    await shop.pump()
    (delivery,) = await shop.take("shop/short", 1)
    with patch.object(shop.engine, "_delete", _lost):
        await shop.engine.commit(done(delivery, effect(delivery)))
    (again,) = await shop.take("shop/short", 1, shop.other)
    assert (again.message_id, again.receives) == (delivery.message_id, 2)
    with pytest.raises(LeaseLost):
        await shop.other.commit(done(again, effect(again)))
    assert await effects(shop) == [delivery.message_id]
    await shop.nothing_comes("shop/short")


async def _lost(queue: str, receipts: Sequence[Any]) -> None:
    """A request that never gets there."""


async def test_of_two_attempts_at_once_one_takes_effect(shop: Shop) -> None:
    await shop.put("a", 1)
    await shop.pump()
    (slow,) = await shop.take("shop/short", 1)
    shop.engine.state.leases[shop.engine._place(slow)].deadline += 60  # its clock is wrong
    (quick,) = await shop.take("shop/short", 1, shop.other)
    outcomes = await asyncio.gather(
        shop.engine.commit(done(slow, effect(slow))),
        shop.other.commit(done(quick, effect(quick))),
        return_exceptions=True,
    )
    assert sorted(isinstance(outcome, LeaseLost) for outcome in outcomes) == [False, True]
    assert len(await effects(shop)) == 1


async def test_a_relay_that_runs_twice_has_one_effect(shop: Shop) -> None:
    await shop.put("a", 1)
    records = [one for table in shop.streams for one in shop.relay._streams.read(table)]
    for _ in range(2):
        assert await shop.relay.relay(records) is None
    deliveries = await shop.take("shop/short", 2)
    outcomes = [await _settled(shop, delivery) for delivery in deliveries]
    assert outcomes == [True, False]
    (only,) = await shop.take("shop/fifo", 1)
    await shop.engine.commit(done(only))
    await shop.nothing_comes("shop/fifo")
    assert len(await shop.engine.history("shop/rows", ("a", ""), 10)) == 1


async def _settled(shop: Shop, delivery: Delivery) -> bool:
    try:
        await shop.engine.commit(done(delivery, effect(delivery)))
    except LeaseLost:
        return False
    return True


@pytest.mark.parametrize("call", ["publish_batch", "send_message_batch"])
@pytest.mark.parametrize("is_done", [False, True])
async def test_a_relay_that_dies_in_the_middle_is_repeated(shop: Shop, call: str, is_done: bool) -> None:
    for n in range(3):
        await shop.put("a", n)
        await shop.publish({"kind": "good", "n": 2 + n})
    records = [one for table in shop.streams for one in shop.relay._streams.read(table)]
    with patch.object(shop.relay.clients, "call", _dying(shop, call, is_done)), pytest.raises(Unavailable):
        await shop.relay.relay(records)
    await _relay_all(shop, records)
    seen: set[str] = set()
    while len(seen) < 7:
        for queue in ("shop/fifo", "shop/short", "shop/jobs"):
            stats = next(one for one in await shop.engine.stats() if one.queue == queue)
            for delivery in await shop.take(queue, 1) if stats.depth else ():
                seen.add(delivery.message_id)
                await _settled(shop, delivery)
    assert await effects(shop) == sorted(seen)


def _dying(shop: Shop, call: str, is_done: bool) -> Any:
    real = shop.relay.clients.call

    async def answer(service: str, operation: str, **arguments: Any) -> Any:
        if operation != call or is_done:
            found = await real(service, operation, **arguments)
            if operation != call:
                return found
        raise Unavailable("the process is gone", operation=operation)

    return answer


async def _relay_all(shop: Shop, records: list[Streamed]) -> None:
    for _ in range(len(records)):
        undone = await shop.relay.relay(records)
        if undone is None:
            return
        records = records[undone:]
    raise AssertionError("the relay does not come to an end")


async def test_what_sqs_refuses_is_named_and_sent_again_with_all_after_it(shop: Shop) -> None:
    for n in range(3):
        await shop.put(f"k{n}", n)
    records = shop.relay._streams.read(shop.engine.names.table("shop/rows"))
    real = shop.relay.clients.call

    async def refusing(service: str, operation: str, **arguments: Any) -> Any:
        if operation != "send_message_batch" or "fifo" not in arguments["QueueUrl"]:
            return await real(service, operation, **arguments)
        first, second, third = arguments["Entries"]
        answer = await real(service, operation, **{**arguments, "Entries": [first, third]})
        return {**answer, "Failed": [{"Id": second["Id"], "Code": "InternalError", "SenderFault": False}]}

    with patch.object(shop.relay.clients, "call", refusing):
        assert await shop.relay.relay(records) == 1
    assert await shop.relay.relay(records[1:]) is None
    keys = [delivery.group for delivery in await shop.take("shop/fifo", 3)]
    assert sorted(map(str, keys)) == ["k0", "k1", "k2"]


async def test_changes_of_a_key_come_in_the_order_of_their_commits(shop: Shop) -> None:
    async def write(engine: AwsEngine, writer: int) -> None:
        for n in range(6):
            commit = new_commit()
            key = "ab"[n % 2]
            body = encode_json({"id": key, "n": writer * 100 + n})
            commit.writes.append(Write("shop/rows", (key, ""), f"{commit.id}-0", body))
            await engine.commit(commit)

    writers = [write(engine, n) for n, engine in enumerate((shop.engine, shop.other, shop.engine))]
    pumping = asyncio.ensure_future(asyncio.gather(*writers))
    while not pumping.done():
        await shop.pump()
    await pumping
    await shop.pump()
    images: dict[str, list[tuple[bytes | None, bytes | None]]] = {"a": [], "b": []}
    for _ in range(18):
        (delivery,) = await shop.take("shop/fifo", 1)
        images[str(delivery.group)].append((delivery.event.old, delivery.event.data))
        await shop.engine.commit(done(delivery))
    for key, found in images.items():
        assert [old for old, _ in found] == [None, *(new for _, new in found[:-1])]
        assert decode_json(found[-1][1] or b"") == await shop.read("shop/rows", key)


async def test_a_topics_messages_come_by_sns_as_far_as_its_policy_lets_them(shop: Shop) -> None:
    sent: list[dict[str, Any]] = [{"kind": kind, "n": n} for n in range(4) for kind in ("good", "bad")]
    odd = [{"kind": [["good"]], "n": 3}, {"kind": "good", "n": 2.123456789}]
    for data in sent + odd:
        await shop.publish(data)
    with patch.object(shop.relay.clients, "call", wraps=shop.relay.clients.call) as calls:
        await shop.pump()
    found = [decode_json(one.event.data or b"") for one in await shop.take("shop/jobs", 4)]
    expected = [data for data in sent if data["kind"] == "good" and data["n"] > 1] + odd
    assert sorted(map(str, found)) == sorted(map(str, expected))
    names = [call.args[1] for call in calls.call_args_list]
    assert (names.count("publish_batch"), names.count("send_message_batch")) == (1, 1)


async def test_what_a_policy_lets_through_in_vain_is_dropped_by_the_consumer(shop: Shop) -> None:
    topic = await shop.relay.topic_arn(TOPIC)
    found = await asyncio.to_thread(shop.provisioner.sns.list_subscriptions_by_topic, TopicArn=topic)
    (subscription,) = found["Subscriptions"]
    await asyncio.to_thread(
        shop.provisioner.sns.set_subscription_attributes,
        SubscriptionArn=subscription["SubscriptionArn"],
        AttributeName="FilterPolicy",
        AttributeValue="{}",
    )
    shop.relay.exported = frozenset([TOPIC])
    await shop.publish({"kind": "bad", "n": 5})
    await shop.publish({"kind": "good", "n": 5})
    await shop.pump()
    (delivery,) = await shop.take("shop/jobs", 1)
    assert decode_json(delivery.event.data or b"") == {"kind": "good", "n": 5}
    await shop.engine.commit(done(delivery))
    receiving = asyncio.ensure_future(shop.engine.receive("shop/jobs", 1))
    for _ in range(200):
        if next(one for one in await shop.engine.stats() if one.queue == "shop/jobs").depth == 0:
            break
    await shop.nothing_comes("shop/jobs")
    receiving.cancel()


async def test_a_subscription_is_in_force_from_the_commit_that_made_it(shop: Shop) -> None:
    await shop.put("a", 1)
    await shop.pump()
    made = await shop.other.subscribe(RouteSpec(source="shop/rows", target="shop/jobs", match={"id": ["b"]}))
    await shop.put("b", 1)
    await shop.pump()
    (delivery,) = await shop.take("shop/jobs", 1)
    assert delivery.event.subject == "b"
    assert await shop.engine.unsubscribe(made.id)
    await shop.engine.commit(done(delivery))
    await shop.put("b", 2)
    await shop.pump()
    await shop.nothing_comes("shop/jobs")


async def test_a_message_beyond_what_sqs_takes_is_fetched_from_the_journal(shop: Shop) -> None:
    large = {"text": "x" * 250_000, "more": "ö" * 5_000}
    await shop.publish(large, "shop/jobs", queue="shop/jobs")
    await shop.pump()
    (delivery,) = await shop.take("shop/jobs", 1)
    assert decode_json(delivery.event.data or b"") == large
    (event,) = await shop.engine.events(0)
    assert event.event.data == delivery.event.data


async def test_delays_and_retries_in_the_queues_own_time(shop: Shop) -> None:
    now_s = asyncio.get_running_loop().time
    begun = now_s()
    await shop.publish("late", "shop/jobs", queue="shop/jobs", delay_ms=1_500)
    await shop.publish("held", "shop/fifo", queue="shop/fifo", group="g", delay_ms=1_500)
    await shop.pump()
    for queue in ("shop/fifo", "shop/jobs"):
        (late,) = await shop.take(queue, 1)
        assert now_s() - begun > 1.4, queue
        assert late.receives == 1
    ready_ms = await shop.engine.now_ms() + 900
    failure = Failure(error="no")
    begun = now_s()
    await shop.engine.commit(done(late, outcome="retry", ready_ms=ready_ms, failure=failure))
    (again,) = await shop.take("shop/jobs", 1)
    assert now_s() - begun > 0.8
    assert again.receives == 2
    await shop.engine.commit(done(again, outcome="bury", reason="enough"))
    (letter,) = await shop.engine.dead_letters("shop/jobs")
    assert [one["outcome"] for one in letter.failures] == ["retry", "bury"]
    await shop.nothing_comes("shop/jobs")


@pytest.mark.parametrize("paused", [False, True])
async def test_closing_ends_who_waits_and_gives_back_what_is_leased(shop: Shop, paused: bool) -> None:
    for n in range(3):
        await shop.publish(n, "shop/jobs", queue="shop/jobs")
    await shop.pump()
    leased = await shop.take("shop/jobs", 2, shop.other)
    await shop.other.pause("shop/jobs", paused)
    waiting = [asyncio.ensure_future(shop.other.receive(queue, 1)) for queue in ("shop/jobs", "shop/short")]
    await asyncio.sleep(0)
    await asyncio.wait_for(shop.other.close(), PATIENCE_S)
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(ended[1], StoreError)
    await shop.engine.pause("shop/jobs", False)
    again = await shop.take("shop/jobs", 2 + isinstance(ended[0], StoreError))
    assert {one.message_id for one in leased} <= {one.message_id for one in again}
