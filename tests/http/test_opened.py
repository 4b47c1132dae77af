"""Queues opened over HTTP: leases, results, receipts, and what befalls those who wait."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from headwater import App, DeclarationError, Event, anyone, require
from headwater.http.limits import Limits
from headwater.metrics import series
from headwater.pytest_plugin import StartHarness
from headwater.testing import Harness
from headwater.tracing import Span
from headwater.unit import new_commit
from tests.http.raw import Exchange
from tests.patience import PATIENCE_S

TRACE = "0af7651916cd43dd8448eb211c80319c"
ANN = {"sub": "ann", "roles": ["work"]}


class Job(BaseModel):
    n: int


def shop() -> App[None]:
    app: App[None] = App("shop")
    jobs = app.queue("jobs", Job, visibility="30s", max_receives=3)
    ordered = app.queue("ordered", Job, fifo=True)
    app.open(jobs, "/jobs", auth=require("work"))
    slow = app.queue("slow", Job, visibility="1d")
    app.open(ordered, "/ordered", auth=require("work"))
    app.open(slow, "/slow", auth=require("work"))
    return app


@pytest.fixture
async def h(harness: StartHarness) -> Harness:
    return await harness(shop())


class Worker:
    """A consumer of one queue."""

    def __init__(self, h: Harness, path: str = "/jobs", token: dict[str, Any] | None = None) -> None:
        self.client = h.client(h.apps[0], token=token or ANN)
        self.path = path

    async def post(self, verb: str, body: Any) -> httpx.Response:
        return await self.client.post(f"{self.path}/{verb}", json=body)

    async def receive(self, most: int = 10, wait: float = 0) -> list[dict[str, Any]]:
        answer = await self.post("receive", {"max": most, "wait": wait})
        assert answer.status_code == 200, answer.text
        deliveries: list[dict[str, Any]] = answer.json()["deliveries"]
        return deliveries

    async def settle(self, *results: dict[str, Any]) -> list[int]:
        answer = await self.post("results", {"results": list(results)})
        assert answer.status_code == 200, answer.text
        return [item["status"] for item in answer.json()["results"]]

    async def ack(self, *deliveries: dict[str, Any]) -> list[int]:
        return await self.settle(*(result(delivery, "ack") for delivery in deliveries))

    async def extend(self, *deliveries: dict[str, Any]) -> list[int]:
        answer = await self.post("extend", {"receipts": [delivery["receipt"] for delivery in deliveries]})
        assert answer.status_code == 200, answer.text
        return [item["status"] for item in answer.json()["results"]]


def result(delivery: dict[str, Any], outcome: str, **more: Any) -> dict[str, Any]:
    return {"receipt": delivery["receipt"], "outcome": outcome, **more}


def numbers(deliveries: list[dict[str, Any]]) -> list[int]:
    return [delivery["event"]["data"]["n"] for delivery in deliveries]


async def send(h: Harness, *numbers: int, queue: str = "jobs", **options: Any) -> None:
    for n in numbers:
        await h.apps[0].queues[f"shop/{queue}"].send(Job(n=n), **options)


async def depth(h: Harness, queue: str = "shop/jobs") -> int:
    return next(stats.depth for stats in await h.supervisor.engine.stats() if stats.queue == queue)


async def advance(h: Harness, **duration: float) -> None:
    """Let time pass; leases that expire in it have passed through the store then."""
    await h.advance(**duration)
    await h.supervisor.engine.commit(new_commit())
    for _ in range(3):
        await asyncio.sleep(0)


async def until_waiting(h: Harness, count: int = 1) -> None:
    for _ in range(10_000):
        if h.supervisor.pulls.waiting == count:
            return
        await asyncio.sleep(0.001)
    raise AssertionError(h.supervisor.pulls.waiting)


async def test_a_delivery_is_a_cloud_event_with_its_receipt(h: Harness) -> None:
    await send(h, 1)
    (delivery,) = await Worker(h).receive()
    event = delivery["event"]
    assert (event["specversion"], event["source"], event["type"]) == ("1.0", "shop/jobs", "message")
    assert event["data"] == {"n": 1}
    assert delivery["receives"] == 1
    assert delivery["idempotency_key"] == f"{event['id']}/shop/jobs"
    assert delivery["traceparent"].startswith("00-")
    assert "group" not in delivery


async def test_two_consumers_share_a_queue_and_settle_apart(h: Harness) -> None:
    await send(h, 1, 2, 3)
    first, second = Worker(h), Worker(h, token={"sub": "bob", "roles": ["work"]})
    mine, others = await first.receive(2), await second.receive(2)
    assert (numbers(mine), numbers(others)) == ([1, 2], [3])
    assert await first.ack(*mine) == [200, 200]
    assert await depth(h) == 1
    assert await second.ack(*others) == [200]
    assert await depth(h) == 0


async def test_the_results_of_a_batch_are_one_call(h: Harness) -> None:
    await send(h, 1, 2, 3, 4)
    worker = Worker(h)
    one, two, three, four = await worker.receive()
    done = await worker.settle(
        result(one, "ack"),
        result(two, "retry", after="1m", reason="the printer is off"),
        result(three, "discard", reason="nobody wants it"),
        result(four, "dead", reason="no such album"),
    )
    assert done == [200, 200, 200, 200]
    (letter,) = await h.dead_letters("shop/jobs")
    assert "no such album" in letter.reason
    assert await worker.receive() == []
    await advance(h, seconds=59)
    assert await worker.receive() == []
    await advance(h, seconds=1)
    (again,) = await worker.receive()
    assert (numbers([again]), again["receives"]) == ([2], 2)
    (waiting,) = await h.messages("shop/jobs")
    assert ["the printer is off" in failure["error"] for failure in waiting.failures] == [True]


async def test_a_retry_after_the_last_receive_is_a_dead_letter(h: Harness) -> None:
    await send(h, 1)
    worker = Worker(h)
    for _ in range(3):
        assert await worker.settle(result((await worker.receive())[0], "retry", after=0.001)) == [200]
        await advance(h, seconds=1)
    assert await worker.receive() == []
    (letter,) = await h.dead_letters("shop/jobs")
    assert letter.receives == 3


async def test_a_late_result_has_no_effect_and_the_others_do(h: Harness) -> None:
    await send(h, 1)
    worker = Worker(h)
    (late,) = await worker.receive()
    await advance(h, seconds=30)
    await send(h, 2)
    again, other = await worker.receive()
    assert (again["receives"], numbers([other])) == (2, [2])
    answer = await worker.post("results", {"results": [result(late, "dead"), result(other, "ack")]})
    refused, settled = answer.json()["results"]
    assert (refused["status"], refused["error"], settled) == (409, "LeaseLost", {"status": 200})
    assert await depth(h) == 1
    assert await h.dead_letters("shop/jobs") == []
    assert await worker.ack(again) == [200]
    assert await worker.ack(again) == [409]


async def test_a_consumer_that_vanishes_uses_up_receives(h: Harness) -> None:
    await send(h, 1)
    worker = Worker(h)
    for receives in (1, 2, 3):
        assert [delivery["receives"] for delivery in await worker.receive()] == [receives]
        await advance(h, seconds=30)
    assert await worker.receive() == []
    (letter,) = await h.dead_letters("shop/jobs")
    assert letter.reason == "received 3 times without a result"


async def test_an_extended_delivery_is_kept(h: Harness) -> None:
    await send(h, 1, 2)
    worker = Worker(h)
    kept, left = await worker.receive()
    for _ in range(3):
        await advance(h, seconds=20)
        assert await worker.extend(kept) == [200]
    assert await worker.extend(left, kept) == [409, 200]
    assert numbers(await worker.receive()) == [2]
    assert await worker.ack(kept) == [200]


async def test_a_delivery_cannot_be_held_for_ever(h: Harness) -> None:
    await send(h, 1, queue="slow")
    (delivery,) = await Worker(h, "/slow").receive()
    await advance(h, hours=11, minutes=59)
    assert await Worker(h, "/slow").extend(delivery) == [200]
    await advance(h, minutes=1)
    worker = Worker(h, "/slow")
    assert await worker.extend(delivery) == [409]
    assert await worker.ack(delivery) == [409]


async def test_receipts_cannot_be_made_nor_used_elsewhere(h: Harness) -> None:
    await send(h, 1)
    await send(h, 7, queue="ordered", group="g")
    worker = Worker(h)
    (delivery,) = await worker.receive()
    receipt = delivery["receipt"]
    raw = base64.urlsafe_b64decode(receipt + "=" * (-len(receipt) % 4))
    forged = [base64.urlsafe_b64encode(raw[:n] + bytes([raw[n] ^ 1]) + raw[n + 1 :]).decode() for n in range(len(raw))]
    worthless = ["", "x", "é", "=", receipt[:-2], f"{receipt}AA", receipt + "A" * 300, *forged]
    answer = await worker.post("results", {"results": [{"receipt": text, "outcome": "ack"} for text in worthless]})
    assert {item["status"] for item in answer.json()["results"]} == {422}
    assert await Worker(h, "/ordered").ack(delivery) == [422]
    other = Worker(h, token={"sub": "bob", "roles": ["work"]})
    assert await other.ack(delivery) == [422]
    assert await other.extend(delivery) == [422]
    assert await depth(h) == 1
    assert await worker.ack(delivery) == [200]


async def test_another_queues_token_is_refused(h: Harness) -> None:
    await send(h, 1)
    (delivery,) = await Worker(h).receive()
    outsider = Worker(h, token={"sub": "eve", "roles": ["other"]})
    for verb, body in (
        ("receive", {}),
        ("results", {"results": [result(delivery, "ack")]}),
        ("extend", {"receipts": [delivery["receipt"]]}),
    ):
        assert (await outsider.post(verb, body)).status_code == 403
        assert (await h.client(h.apps[0]).post(f"/jobs/{verb}", json=body)).status_code == 401
    assert await depth(h) == 1


async def test_a_receipt_that_comes_twice_counts_once(h: Harness) -> None:
    await send(h, 1)
    worker = Worker(h)
    (delivery,) = await worker.receive()
    assert await worker.ack(delivery, delivery) == [200, 422]
    assert await depth(h) == 0


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        ("receive", {"max": 0}),
        ("receive", {"max": 101}),
        ("receive", {"wait": 21}),
        ("receive", {"limit": 1}),
        ("receive", []),
        ("results", {}),
        ("results", {"results": []}),
        ("results", {"results": [{"receipt": "x", "outcome": "nack"}]}),
        ("results", {"results": [{"receipt": "x", "outcome": "retry", "after": "soon"}]}),
        ("results", {"results": [{"receipt": "x", "outcome": "retry", "after": -1}]}),
        ("results", {"results": [{"receipt": "x", "outcome": "ack", "after": 1}]}),
        ("extend", {"receipts": "x"}),
    ],
)
async def test_what_is_no_request_is_a_problem(h: Harness, verb: str, body: Any) -> None:
    answer = await Worker(h).post(verb, body)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert answer.json()["errors"]


async def test_one_delivery_a_group_in_order(h: Harness) -> None:
    await send(h, 1, 2, queue="ordered", group="a")
    await send(h, 3, queue="ordered", group="b")
    worker = Worker(h, "/ordered")
    deliveries = await worker.receive()
    assert [(delivery["group"], *numbers([delivery])) for delivery in deliveries] == [("a", 1), ("b", 3)]
    await worker.settle(result(deliveries[0], "retry", after=5))
    assert await worker.receive() == []
    await advance(h, seconds=5)
    (head,) = await worker.receive()
    await worker.ack(head)
    assert numbers(await worker.receive()) == [2]


async def test_a_receive_waits_for_a_message(h: Harness) -> None:
    receiving = asyncio.create_task(Worker(h).receive(wait=20))
    await until_waiting(h)
    await send(h, 1)
    assert numbers(await asyncio.wait_for(receiving, PATIENCE_S)) == [1]


async def test_a_receive_ends_without_a_message_when_its_wait_is_over(h: Harness) -> None:
    receiving = asyncio.create_task(Worker(h).receive(wait=10))
    await until_waiting(h)
    await advance(h, seconds=9)
    assert not receiving.done()
    await advance(h, seconds=1)
    assert await asyncio.wait_for(receiving, PATIENCE_S) == []
    await send(h, 1)
    assert numbers(await Worker(h).receive()) == [1]


async def test_a_wait_ends_before_the_request_would_be_cut_off(h: Harness) -> None:
    h.supervisor.limits = Limits(request_timeout="3s")
    receiving = asyncio.create_task(Worker(h).receive(wait=20))
    await until_waiting(h)
    await advance(h, seconds=2)
    assert await asyncio.wait_for(receiving, PATIENCE_S) == []


async def receive_and_leave(h: Harness, leaving: asyncio.Event) -> None:
    """A receive whose client is gone as soon as `leaving` is set."""
    headers = dict(h.client(h.apps[0], token=ANN).headers)
    exchange = Exchange(h.apps[0].http, path="/jobs/receive", headers=headers)
    bodies = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> dict[str, Any]:
        for body in bodies:
            return body
        await leaving.wait()
        return {"type": "http.disconnect"}

    async def send(_: Any) -> None:
        """Nobody is there."""

    await asyncio.wait_for(exchange.app(exchange.scope, receive, send), PATIENCE_S)


async def test_a_client_that_left_while_it_waited_takes_nothing(h: Harness) -> None:
    leaving = asyncio.Event()
    running = asyncio.create_task(receive_and_leave(h, leaving))
    await until_waiting(h)
    leaving.set()
    await send(h, 1)
    await running
    (delivery,) = await Worker(h).receive()
    assert delivery["receives"] == 1


async def test_what_a_client_that_is_gone_was_given_comes_back_uncounted(h: Harness) -> None:
    await send(h, 1)
    gone = asyncio.Event()
    gone.set()
    await receive_and_leave(h, gone)
    (delivery,) = await Worker(h).receive()
    assert delivery["receives"] == 1


async def test_too_many_waiting_receives_are_shed(h: Harness) -> None:
    h.supervisor.pulls._most_waiting = 2
    waiting = [asyncio.create_task(Worker(h).receive(wait=20)) for _ in range(2)]
    await until_waiting(h, 2)
    refused = await Worker(h).post("receive", {"wait": 20})
    assert (refused.status_code, refused.json()["retryable"]) == (503, True)
    assert refused.headers["retry-after"]
    await send(h, 1, 2)
    found = await asyncio.gather(*waiting)
    assert sorted(numbers(found[0]) + numbers(found[1])) == [1, 2]


async def test_a_draining_server_takes_results_and_hands_out_nothing(h: Harness) -> None:
    await send(h, 1)
    worker = Worker(h)
    (delivery,) = await worker.receive()
    receiving = asyncio.create_task(worker.receive(wait=20))
    await until_waiting(h)
    h.supervisor.pulls.drain()
    assert await asyncio.wait_for(receiving, PATIENCE_S) == []
    assert (await worker.post("receive", {})).status_code == 503
    assert await worker.extend(delivery) == [200]
    assert await worker.ack(delivery) == [200]


async def test_a_crash_between_receive_and_result(h: Harness) -> None:
    await send(h, 1)
    worker = Worker(h)
    (delivery,) = await worker.receive()
    await h.crash()
    assert await worker.extend(delivery) == [409]
    assert await worker.ack(delivery) == [409]
    (again,) = await worker.receive()
    assert again["event"]["id"] == delivery["event"]["id"]
    assert again["idempotency_key"] == delivery["idempotency_key"]
    assert await worker.ack(again) == [200]


async def test_a_paused_queue_hands_out_nothing(h: Harness) -> None:
    await send(h, 1)
    await h.supervisor.engine.pause("shop/jobs", True)
    assert await Worker(h).receive() == []
    await h.supervisor.engine.pause("shop/jobs", False)
    assert numbers(await Worker(h).receive()) == [1]


async def test_an_opened_queue_has_a_consumer(h: Harness) -> None:
    await send(h, 1)
    assert "shop/jobs" in (await h.supervisor.engine.catalog()).consumed
    assert await h.supervisor.orphans() == []


async def test_the_document_tells_of_the_three_calls(h: Harness) -> None:
    document = (await h.client(h.apps[0]).get("/openapi.json")).json()
    for verb in ("receive", "results", "extend"):
        operation = document["paths"][f"/jobs/{verb}"]["post"]
        assert operation["security"] == [{"bearer": ["work"]}, {"apiKey": ["work"]}]
        assert {"200", "401", "403", "422", "503"} <= set(operation["responses"])
        assert operation["requestBody"]["content"]["application/json"]["schema"]["properties"]
        assert operation["responses"]["200"]["content"]["application/json"]["schema"]["properties"]


def test_a_queue_has_a_handler_or_is_opened() -> None:
    app: App[None] = App("shop")
    jobs, other = app.queue("jobs", Job), app.queue("other", Job)
    app.open(jobs, "/jobs", auth=require("work"))

    async def handle(event: Event[Job]) -> None:
        """Never runs."""

    with pytest.raises(DeclarationError, match="opened already, at /jobs"):
        app.on(jobs)(handle)
    with pytest.raises(DeclarationError, match="opened already"):
        app.open(jobs, "/again", auth=require("work"))
    app.on(other)(handle)
    with pytest.raises(DeclarationError, match="has a handler already"):
        app.open(other, "/other", auth=require("work"))


def test_what_cannot_be_opened() -> None:
    app: App[None] = App("shop")
    jobs, more = app.queue("jobs", Job), app.queue("more", Job)
    with pytest.raises(DeclarationError, match="lets in anyone"):
        app.open(jobs, "/jobs", auth=anyone())
    with pytest.raises(DeclarationError, match="belongs to another app"):
        app.open(App("other").queue("jobs"), "/jobs", auth=require())
    app.ingest(more, "/jobs/receive", auth=require())
    with pytest.raises(DeclarationError, match="declared already"):
        app.open(jobs, "/jobs", auth=require())


async def spans_of(h: Harness, trace: str = TRACE) -> list[Span]:
    return await h.supervisor.tracer.of(trace, 100)


async def attempts(h: Harness) -> tuple[float, float, list[float]]:
    """(how many ended, how many of them failed, how long they ran), as metrics tell of the queue."""
    totals = await h.supervisor.monitor.totals()
    kinds = ("attempts", "failures")
    ended, failed = (totals.counters[series(f"handler_{kind}_total", queue="shop/jobs")] for kind in kinds)
    durations = totals.histograms[series("handler_duration_seconds", queue="shop/jobs")]
    return ended, failed, [durations.count, durations.total]


async def test_attempts_are_counted_as_those_of_handlers(h: Harness) -> None:
    assert await attempts(h) == (0, 0, [0, 0.0])
    await send(h, 1, 2, 3, 4)
    worker = Worker(h)
    one, two, three, four = await worker.receive()
    await advance(h, seconds=5)
    await worker.ack(one)
    await worker.settle(result(two, "retry", after="1d"), result(three, "discard"), result(four, "dead"))
    assert await attempts(h) == (4, 2, [4, 20.0])
    assert await worker.ack(one) == [409]
    assert await attempts(h) == (4, 2, [4, 20.0])


async def test_a_message_buried_for_want_of_results_counts_as_failed(h: Harness) -> None:
    await send(h, 1)
    for _ in range(4):
        await Worker(h).receive()
        await advance(h, seconds=30)
    assert await attempts(h) == (1, 1, [0, 0.0])


async def test_an_attempt_is_a_span_that_calls_of_the_consumer_hang_below() -> None:
    app = shop()
    app.ingest(app.queues["shop/jobs"], "/sent", auth=require("work"))
    async with Harness(app) as h:
        worker = Worker(h)
        sampled = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
        await worker.client.post("/sent", json={"n": 1}, headers=sampled)
        (first,) = await worker.receive()
        await advance(h, seconds=2)
        await worker.settle(result(first, "retry", after="1s", reason="busy"))
        await advance(h, seconds=1)
        (second,) = await worker.receive()
        await worker.client.post("/ordered/receive", json={"wait": 0}, headers={"traceparent": second["traceparent"]})
        await worker.ack(second)
        sent, failed, done, call = await spans_of(h)
        assert (failed.kind, failed.name, failed.app, failed.parent) == ("attempt", "jobs", "shop", sent.id)
        assert (failed.of, failed.attempt, failed.duration_us) == (first["idempotency_key"], 1, 2_000_000)
        assert (failed.outcome, failed.error) == ("failed", "Retry: busy")
        assert (done.kind, done.outcome, done.attempt, done.error) == ("attempt", "ok", 2, "")
        assert second["traceparent"] == f"00-{TRACE}-{done.id}-01"
        assert (call.kind, call.parent) == ("request", done.id)


async def test_of_a_trace_that_is_not_kept_failures_are_spans(h: Harness) -> None:
    await send(h, 1, 2, 3)
    one, two, three = await Worker(h).receive()
    await Worker(h).settle(result(one, "ack"), result(two, "discard"), result(three, "dead", reason="no such album"))
    traces = [delivery["traceparent"].split("-")[1] for delivery in (one, two, three)]
    found = [span for trace in traces for span in await spans_of(h, trace)]
    assert [(span.of, span.error) for span in found] == [(three["idempotency_key"], "Undeliverable: no such album")]
