"""The stack's own functions on the stand-in: ticks, alarms, letters and objects, each once however often it is told."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import botocore.session
import pytest

from headwater import App, Event, Tick
from headwater.alarms import AlarmState
from headwater.functions.alarm import tell
from headwater.functions.letters import bury
from headwater.functions.objects import follow
from headwater.functions.tick import make_ticks
from headwater.object_listing import ObjectInfo
from headwater.schedules import ScheduleRow
from tests.aws.lambdas import Stage, invocation, staged

pytestmark = pytest.mark.usefixtures("aws")


async def bodies(stage: Stage, queue: str, wanted: int) -> list[Any]:
    """The data of the queue's next messages, which are gone then."""
    event = stage.receive(queue, wanted)
    stage.end(queue, event, {"batchItemFailures": []})
    return [json.loads(record["body"])["data"] for record in event["Records"]]


# Ticks


def ring(schedule: str, hour: int, minute: int = 0) -> dict[str, str]:
    return {"schedule": schedule, "nominal": f"2026-03-05T{hour:02d}:{minute:02d}:00Z"}


async def test_a_nominal_time_has_one_tick_however_often_it_rings(stack: str) -> None:
    app = App("shop")
    hourly = app.schedule("cron(0 * * * ? *)", name="hourly")

    @app.on(hourly)
    async def work(event: Event[Tick]) -> None: ...

    async with staged(stack, [app], system=["schedules"]) as stage:
        rings = [ring(hourly.name, 9), ring(hourly.name, 9), ring(hourly.name, 12), ring(hourly.name, 10)]
        told = [await make_ticks(stage.home, one, invocation()) for one in rings]
        assert told == [{"ticks": 1}, {"ticks": 0}, {"ticks": 1}, {"ticks": 0}]
        ticks = await bodies(stage, "shop/work", 2)
        assert [(tick["nominal"], tick["missed"]) for tick in ticks] == [
            ("2026-03-05T09:00:00Z", 0),
            ("2026-03-05T12:00:00Z", 2),
        ]


async def test_a_paused_schedule_and_an_unknown_one_make_no_ticks(stack: str) -> None:
    app = App("shop")
    hourly = app.schedule("rate(1 hour)", name="hourly")
    async with staged(stack, [app], system=["schedules"]) as stage:
        assert await make_ticks(stage.home, ring("shop/never", 9), invocation()) == {"ticks": 0}
        table = stage.home.system.schedules
        row = ScheduleRow(name=hourly.name, spec=hourly.spec(), last_ms=0, paused=True)
        await table.put(row)
        assert await make_ticks(stage.home, ring(hourly.name, 9), invocation()) == {"ticks": 0}


async def test_the_times_of_a_rate_are_those_of_the_rings(stack: str) -> None:
    app = App("shop")
    often = app.schedule("rate(5 minutes)", name="often")

    @app.on(often)
    async def work(event: Event[Tick]) -> None: ...

    async with staged(stack, [app], system=["schedules"]) as stage:
        for minute in (3, 8, 23):
            assert await make_ticks(stage.home, ring(often.name, 9, minute), invocation()) == {"ticks": 1}
        ticks = await bodies(stage, "shop/work", 3)
        assert [(tick["nominal"][14:16], tick["missed"]) for tick in ticks] == [("03", 0), ("08", 0), ("23", 2)]


# Alarms


def alarm_event(description: str, state: str = "ALARM", id: str = "m-1") -> dict[str, Any]:
    message = {
        "AlarmName": "anything",
        "AlarmDescription": description,
        "AWSAccountId": "000000000000",
        "NewStateValue": state,
        "NewStateReason": "Threshold Crossed: 1 datapoint [3.0] was greater than the threshold (0.0).",
        "StateChangeTime": "2026-03-05T09:00:31.123+0000",
        "Region": "EU (Frankfurt)",
        "OldStateValue": "OK",
        "Trigger": {
            "MetricName": "ApproximateNumberOfMessagesVisible",
            "Namespace": "AWS/SQS",
            "Dimensions": [{"value": "shop-orders-dead", "name": "QueueName"}],
            "Threshold": 0.0,
        },
    }
    sns = {"Type": "Notification", "MessageId": id, "TopicArn": "arn", "Message": json.dumps(message)}
    return {"Records": [{"EventSource": "aws:sns", "EventVersion": "1.0", "Sns": sns}]}


async def test_an_alarm_of_headwater_is_told_once(stack: str) -> None:
    app = App("shop")
    async with staged(stack, [app], system=["alarm-states", "alarm-events"]) as stage:
        event = alarm_event("headwater:dead-letters:shop/orders: the queue has dead letters")
        assert await tell(stage.home, event, invocation()) == {"told": 1}
        assert await tell(stage.home, event, invocation()) == {"told": 0}
        (told,) = await bodies(stage, "headwater/alarm-events", 1)
        assert (told["name"], told["resource"], told["state"]) == ("dead-letters", "shop/orders", "alarm")
        assert told["detail"].startswith("the queue has dead letters: Threshold Crossed")
        assert await tell(stage.home, alarm_event("by hand", id="m-2"), invocation()) == {"told": 1}
        (told,) = await bodies(stage, "headwater/alarm-events", 1)
        assert (told["name"], told["resource"]) == ("anything", "shop-orders-dead")


async def test_a_declared_alarm_is_an_event_of_its_own_and_keeps_its_state(stack: str) -> None:
    app = App("shop")
    orders = app.queue("orders")
    deep = app.alarm("deep", orders.depth, above=100)

    @app.on(deep)
    async def told(event: Event[AlarmState]) -> None: ...

    async with staged(stack, [app], system=["alarm-states", "alarm-events"]) as stage:
        event = alarm_event(f"headwater:declared:{deep.name}: depth of shop/orders")
        assert await tell(stage.home, event, invocation()) == {"told": 1}
        (state,) = await bodies(stage, "shop/told", 1)
        assert (state["name"], state["state"], state["previous"], state["threshold"]) == (deep.name, "alarm", "ok", 100)
        assert state["since"] == "2026-03-05T09:00:31.123000Z"
        row = await stage.home.system.alarm_states.get(deep.name, orders.name)
        assert row is not None
        assert row.state == "alarm"


# Letters


async def test_what_sqs_gave_up_becomes_a_dead_letter_once(stack: str) -> None:
    app = App("shop")
    orders = app.queue("orders", max_receives=3)
    async with staged(stack, [app]) as stage:
        await orders.send({"id": "a"})
        stage.give_up(orders.name, stage.receive(orders.name))
        event = stage.receive(orders.name, dead=True)
        for _ in range(2):
            assert await bury(stage.home, event, invocation()) == {"batchItemFailures": []}
        (letter,) = await stage.engine.dead_letters(orders.name)
        assert letter.event.data == b'{"id":"a"}'
        assert "without an end" in letter.reason


async def test_a_letter_of_no_known_queue_stays(stack: str) -> None:
    app = App("shop")
    orders = app.queue("orders")
    async with staged(stack, [app]) as stage:
        await orders.send({"id": "a"})
        event = stage.receive(orders.name)
        event["Records"][0]["eventSourceARN"] = "arn:aws:sqs:eu-central-1:000000000000:other-dead"
        answer = await bury(stage.home, event, invocation())
        assert answer == {"batchItemFailures": [{"itemIdentifier": event["Records"][0]["messageId"]}]}


# Objects


class Drop:
    """A drop bucket of S3, and the notices of what happens there."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.s3 = botocore.session.get_session().create_client("s3")
        where = {"LocationConstraint": "eu-central-1"}
        self.s3.create_bucket(Bucket=name, CreateBucketConfiguration=where)

    def put(self, key: str, body: bytes, sequencer: str, **more: Any) -> dict[str, Any]:
        etag = self.s3.put_object(Bucket=self.name, Key=key, Body=body, **more)["ETag"].strip('"')
        return self.notice("ObjectCreated:Put", key, sequencer, etag)

    def notice(self, name: str, key: str, sequencer: str, etag: str = "") -> dict[str, Any]:
        found = {"key": key.replace("+", "%2B").replace(" ", "+"), "sequencer": sequencer, "eTag": etag, "size": 1}
        s3 = {"s3SchemaVersion": "1.0", "bucket": {"name": self.name, "arn": "arn"}, "object": found}
        return {"Records": [{"eventVersion": "2.1", "eventSource": "aws:s3", "eventName": name, "s3": s3}]}


async def test_an_object_of_s3_becomes_one_of_the_bucket_once(
    stack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = App("shop")
    files = app.bucket("files", max_size=100)
    drop = Drop(f"{stack}-drop")
    monkeypatch.setenv("HEADWATER_BUCKETS", json.dumps({files.name: drop.name}))

    @app.on(files.created)
    async def created(event: Event[ObjectInfo]) -> None: ...

    async with staged(stack, [app], system=["drops"], objects=str(tmp_path), objects_shared=True) as stage:
        key = "in box/a+b ü.csv"
        first = drop.put(key, b"one", "0055AED6DCD90281E5", ContentType="text/csv", Metadata={"by": "ann"})
        told = [await follow(stage.home, first, invocation()) for _ in range(2)]
        assert told == [{"followed": 1}, {"followed": 0}]
        info = await files.head(key)
        assert info is not None
        assert (info.content_type, info.metadata, await files.get(key)) == ("text/csv", {"by": "ann"}, b"one")
        later = drop.put(key, b"two", "0055AED6DCD90281F")
        early = drop.notice("ObjectRemoved:Delete", key, "0055AED6DCD90281EF")
        assert [await follow(stage.home, one, invocation()) for one in (later, early)] == [
            {"followed": 1},
            {"followed": 0},
        ]
        assert await files.get(key) == b"two"
        assert len(await bodies(stage, "shop/created", 2)) == 2
        gone = drop.notice("ObjectRemoved:Delete", key, "0055AED6DCD902820")
        assert await follow(stage.home, gone, invocation()) == {"followed": 1}
        assert await files.head(key) is None


async def test_a_notice_that_comes_twice_in_a_race_has_one_effect(
    stack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = App("shop")
    files = app.bucket("files")
    drop = Drop(f"{stack}-drop")
    monkeypatch.setenv("HEADWATER_BUCKETS", json.dumps({files.name: drop.name}))
    async with staged(stack, [app], system=["drops"], objects=str(tmp_path), objects_shared=True) as stage:
        notice = drop.put("a", b"one", "01")
        told = await asyncio.gather(*(follow(stage.home, notice, invocation()) for _ in range(3)))
        assert sum(one["followed"] for one in told) == 1
        assert len(await stage.home.blobs.ids("", 10)) == 1


async def test_an_object_that_is_another_by_now_or_too_large_is_left(
    stack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = App("shop")
    files = app.bucket("files", max_size=3)
    drop = Drop(f"{stack}-drop")
    monkeypatch.setenv("HEADWATER_BUCKETS", json.dumps({files.name: drop.name}))
    async with staged(stack, [app], system=["drops"], objects=str(tmp_path), objects_shared=True) as stage:
        before = drop.put("a", b"one", "01")
        now = drop.put("a", b"two", "02")
        large = drop.put("b", b"four", "01")
        told = [await follow(stage.home, one, invocation()) for one in (before, large, now)]
        assert told == [{"followed": 0}, {"followed": 0}, {"followed": 1}]
        assert await files.get("a") == b"two"
        assert await files.head("b") is None
        assert len(await stage.home.blobs.ids("", 10)) == 1
