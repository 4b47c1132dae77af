"""The function of a queue on the stand-in: what is done, what is told to be left, and what takes effect once."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import Any

import pytest
from pydantic import BaseModel

from headwater import App, Event, attempt
from headwater.aws.messages import Address, body_of
from headwater.events import MESSAGE, Envelope
from headwater.functions.queue import consume
from headwater.unit import Write
from headwater.work import UnitOfWork
from tests.aws.lambdas import Stage, invocation, staged

pytestmark = pytest.mark.usefixtures("aws")


class Order(BaseModel):
    id: str
    poison: bool = False


class Shop:
    """An app with a handler that fails for poison; `runs` are the ids that it was run for."""

    def __init__(self, batch: int = 0, **options: Any) -> None:
        self.app = App("shop")
        self.orders = self.app.queue("orders", Order, backoff="1s", **options)
        self.done = self.app.table("done", Order, key="id")
        self.runs: list[str] = []
        if batch:
            self.app.on(self.orders, batch=batch)(self.handle_batch)
        else:
            self.app.on(self.orders)(self.handle)

    async def handle(self, event: Event[Order]) -> None:
        self.runs.append(event.data.id)
        if event.data.poison:
            raise ValueError("poison")
        await self.done.put(event.data)

    async def handle_batch(self, events: list[Event[Order]]) -> None:
        for event in events:
            async with attempt(event):
                await self.handle(event)

    async def stored(self) -> set[str]:
        return {row.id for row in (await self.done.query()).items}


@pytest.fixture(autouse=True)
def queue(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HEADWATER_QUEUE", "shop/orders")
    return "shop/orders"


def failed(event: dict[str, Any], answer: dict[str, Any]) -> set[str]:
    """The ids of the orders that the answer says are not done."""
    ids = {item["itemIdentifier"] for item in answer["batchItemFailures"]}
    return {json.loads(record["body"])["data"]["id"] for record in event["Records"] if record["messageId"] in ids}


async def run(stage: Stage, queue: str, event: dict[str, Any], left_s: float = 30.0) -> set[str]:
    answer = await consume(stage.home, event, invocation(left_s))
    stage.end(queue, event, answer)
    return failed(event, answer)


@pytest.mark.parametrize("batch", [0, 10])
async def test_a_poison_message_fails_alone(stack: str, queue: str, batch: int) -> None:
    shop = Shop(batch)
    async with staged(stack, [shop.app]) as stage:
        for id in ("a", "b", "c"):
            await shop.orders.send(Order(id=id, poison=id == "b"))
        event = stage.receive(queue, 3)
        assert await run(stage, queue, event) == {"b"}
        assert await shop.stored() == {"a", "c"}
        assert stage.waiting(queue)[1] + stage.waiting(queue)[0] == 1


@pytest.mark.parametrize("batch", [0, 10])
async def test_a_group_stops_at_its_first_failure_and_others_go_on(stack: str, queue: str, batch: int) -> None:
    shop = Shop(batch, fifo=True)
    async with staged(stack, [shop.app]) as stage:
        for id, group in (("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b")):
            await shop.orders.send(Order(id=id, poison=id == "a2"), group=group)
        event = stage.receive(queue, 4)
        assert await run(stage, queue, event) == {"a2", "a3"}
        assert await shop.stored() == {"a1", "b1"}
        assert "a3" not in shop.runs or batch
        assert "a3" not in await shop.stored()


async def test_a_message_that_was_committed_has_no_effect_when_it_comes_again(stack: str, queue: str) -> None:
    app = App("shop")
    orders = app.queue("orders", Order)
    counts = app.table("counts", dict, key="id")

    @app.on(orders)
    async def count(event: Event[Order]) -> None:
        await counts.update("all", add={"n": 1})

    async with staged(stack, [app]) as stage:
        await orders.send(Order(id="a"))
        event = stage.receive(queue)
        for _ in range(2):
            answer = await consume(stage.home, event, invocation())
            assert answer == {"batchItemFailures": []}
        found = await counts.get("all")
        assert found is not None
        assert found["n"] == 1


async def test_what_took_effect_does_not_hold_up_the_rest_of_its_batch(stack: str, queue: str) -> None:
    shop = Shop(10)
    async with staged(stack, [shop.app]) as stage:
        await shop.orders.send(Order(id="a"))
        first = stage.receive(queue)
        await consume(stage.home, first, invocation())
        await shop.orders.send(Order(id="b"))
        both = {"Records": [*first["Records"], *stage.receive(queue)["Records"]]}
        assert await run(stage, queue, both) == set()
        assert await shop.stored() == {"a", "b"}


async def test_the_last_receive_makes_a_dead_letter(stack: str, queue: str) -> None:
    shop = Shop(max_receives=2)
    async with staged(stack, [shop.app]) as stage:
        await shop.orders.send(Order(id="b", poison=True))
        assert await run(stage, queue, stage.receive(queue)) == {"b"}
        assert await run(stage, queue, stage.receive(queue)) == set()
        (letter,) = await stage.engine.dead_letters(queue)
        assert (letter.receives, letter.reason) == (2, "ValueError: poison")
        assert stage.waiting(queue) == (0, 0)


async def test_what_no_model_fits_is_a_dead_letter_at_once(stack: str, queue: str) -> None:
    shop = Shop()
    async with staged(stack, [shop.app]) as stage:
        stage.sqs.send_message(QueueUrl=stage.url(queue), MessageBody="no order at all")
        event = stage.receive(queue)
        answer = await consume(stage.home, event, invocation())
        assert answer == {"batchItemFailures": []}
        (letter,) = await stage.engine.dead_letters(queue)
        assert letter.event.data == b'"no order at all"'
        assert shop.runs == []


async def test_a_conflict_is_run_again_in_place(stack: str, queue: str) -> None:
    app = App("shop")
    orders = app.queue("orders", Order)
    counts = app.table("counts", dict, key="id")
    others = iter([True, False])

    @app.on(orders)
    async def count(event: Event[Order]) -> None:
        found = await counts.get("all") or {"id": "all", "n": 0}
        if next(others):
            unit = UnitOfWork(app.binding.engine)
            body = counts.codec.encode({"id": "all", "n": 10})
            unit.write(write_of(counts, unit, body))
            await unit.commit()
        await counts.put({"id": "all", "n": found["n"] + 1})

    async with staged(stack, [app]) as stage:
        await orders.send(Order(id="a"))
        answer = await consume(stage.home, stage.receive(queue), invocation())
        assert answer == {"batchItemFailures": []}
        found = await counts.get("all")
        assert found is not None
        assert found["n"] == 11


def write_of(table: Any, unit: UnitOfWork, body: bytes) -> Any:
    return Write(table.name, table.key("all"), unit.next_id(), body)


async def test_a_handler_has_no_more_than_what_is_left_of_the_functions_time(stack: str, queue: str) -> None:
    app = App("shop")
    orders = app.queue("orders", Order, backoff="1s")

    @app.on(orders)
    async def stall(event: Event[Order]) -> None:
        await asyncio.sleep(60)

    async with staged(stack, [app]) as stage:
        await orders.send(Order(id="a"))
        event = stage.receive(queue)
        begun = time.monotonic()
        assert await run(stage, queue, event, left_s=1.0) == {"a"}
        assert time.monotonic() - begun < 5
        (again,) = stage.receive(queue)["Records"]
        assert again["attributes"]["ApproximateReceiveCount"] == "2"


async def test_a_paused_queue_keeps_its_messages(stack: str, queue: str) -> None:
    shop = Shop()
    async with staged(stack, [shop.app]) as stage:
        await shop.orders.send(Order(id="a"))
        event = stage.receive(queue)
        await stage.engine.pause(queue, True)
        assert await run(stage, queue, event) == {"a"}
        assert shop.runs == []
        await stage.engine.pause(queue, False)
        assert await run(stage, queue, event) == set()


async def test_what_a_topic_lets_through_too_much_is_not_run(stack: str, queue: str) -> None:
    app = App("shop")
    news = app.topic("news", Order)
    runs: list[str] = []

    @app.on(news, name="orders", match={"id": [{"prefix": "a"}]})
    async def handle(event: Event[Order]) -> None:
        runs.append(event.data.id)

    async with staged(stack, [app]) as stage:
        for id, by_topic in (("b", True), ("c", False), ("a", True)):
            told = Envelope(id=id, source=news.name, type=MESSAGE, data=news.codec.encode(Order(id=id)))
            body = body_of(told, Address(by_topic=by_topic))
            stage.sqs.send_message(QueueUrl=stage.url(queue), MessageBody=body)
        event = stage.receive(queue, 3)
        assert await run(stage, queue, event) == set()
        assert sorted(runs) == ["a", "c"]


async def test_a_lease_that_was_lost_is_not_taken_for_a_message_that_is_done(stack: str, queue: str) -> None:
    app = App("shop")
    orders = app.queue("orders", Order)
    rows = app.table("rows", Order, key="id")
    lost = [True]

    @app.on(orders)
    async def handle(event: Event[Order]) -> None:
        await rows.put(event.data)
        if lost[0]:
            stage.engine.state.leases.clear()

    async with staged(stack, [app]) as stage:
        await orders.send(Order(id="a"))
        event = stage.receive(queue)
        assert await run(stage, queue, event) == {"a"}
        assert await rows.get("a") is None
        lost[0] = False
        assert await run(stage, queue, event) == set()
        assert await rows.get("a") is not None


async def test_leases_are_extended_while_a_handler_runs(stack: str, queue: str) -> None:
    app = App("shop")
    orders = app.queue("orders", Order, visibility="1s")
    rows = app.table("rows", Order, key="id")

    @app.on(orders)
    async def handle(event: Event[Order]) -> None:
        await asyncio.sleep(2)
        await rows.put(event.data)

    async with staged(stack, [app]) as stage:
        await orders.send(Order(id="a"))
        assert await run(stage, queue, stage.receive(queue)) == set()
        assert await rows.get("a") is not None


async def test_a_job_in_a_thread_that_does_not_end_keeps_nobody_from_working(stack: str, queue: str) -> None:
    app = App("shop")
    orders = app.queue("orders", Order, backoff="1s")
    going_on = threading.Event()

    @app.on(orders, concurrency=1)
    def handle(event: Event[Order]) -> None:
        if event.data.poison:
            going_on.wait(60)

    async with staged(stack, [app]) as stage:
        try:
            await orders.send(Order(id="a", poison=True))
            assert await run(stage, queue, stage.receive(queue), left_s=1.0) == {"a"}
            await orders.send(Order(id="b"))
            event = stage.receive(queue, 1)
            event["Records"] = [record for record in event["Records"] if '"b"' in record["body"]]
            assert await run(stage, queue, event, left_s=8.0) == set()
        finally:
            going_on.set()


async def test_what_time_left_no_room_for_is_given_back_at_once(stack: str, queue: str) -> None:
    app = App("shop")
    orders = app.queue("orders", Order, backoff="60s", visibility="60s")

    @app.on(orders, concurrency=1)
    async def stall(event: Event[Order]) -> None:
        await asyncio.sleep(60)

    async with staged(stack, [app]) as stage:
        for id in ("a", "b"):
            await orders.send(Order(id=id))
        event = stage.receive(queue, 2)
        assert await run(stage, queue, event, left_s=1.0) == {"a", "b"}
        assert stage.waiting(queue) == (1, 1)


async def test_a_handler_may_do_what_its_code_was_seen_to_do_and_no_more(stack: str, queue: str) -> None:
    app = App("shop")
    orders = app.queue("orders", Order, max_receives=1)
    rows = app.table("rows", Order, key="id")

    @app.on(orders, uses=[rows.can("get")])
    async def handle(event: Event[Order]) -> None:
        await rows.put(event.data)

    async with staged(stack, [app]) as stage:
        await orders.send(Order(id="a"))
        assert await run(stage, queue, stage.receive(queue)) == set()
        (letter,) = await stage.engine.dead_letters(queue)
        assert letter.reason.startswith("NotGranted")
