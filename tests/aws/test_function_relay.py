"""The relay's function, handed what Lambda hands it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from headwater.aws.changes import Streamed
from headwater.aws.messages import Address, body_of
from headwater.catalog import QueueSpec, RouteSpec, TableSpec
from headwater.clock import SystemClock
from headwater.codec import encode_json
from headwater.engines.aws.client import session
from headwater.engines.aws.engine import AwsEngine
from headwater.events import Envelope
from headwater.functions import relay as function
from headwater.unit import Write, new_commit
from tests.aws.provision import Provisioner
from tests.conformance.workbench import catalog

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("aws")]
FAR = "far/topic"
CATALOG = catalog(
    TableSpec(name="shop/rows", partition="id"),
    QueueSpec(name="shop/fifo", fifo=True),
    RouteSpec(source="shop/rows", target="shop/fifo"),
    RouteSpec(source=FAR, target="shop/fifo", group="id", match={"n": [1]}),
    FAR,
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def engine(stack: str) -> AsyncIterator[AwsEngine]:
    provisioner = Provisioner(stack)
    engine = AwsEngine(stack, clock=SystemClock())
    engine.poll_s = 1
    await asyncio.to_thread(provisioner.provide_own)
    await asyncio.to_thread(provisioner.provide, CATALOG)
    await engine.open()
    await engine.install(CATALOG)
    yield engine
    await engine.close()
    provisioner.close()


def lambdas(record: dict[str, Any], arn: str) -> dict[str, Any]:
    """A stream's record as it is in a function's event: JSON, with binary values in base64."""
    told = dict(record["dynamodb"])
    told["ApproximateCreationDateTime"] = told["ApproximateCreationDateTime"].timestamp()
    plain = {**record, "dynamodb": told, "eventSource": "aws:dynamodb", "eventSourceARN": arn}
    return dict(json.loads(json.dumps(plain, default=lambda value: base64.b64encode(value).decode())))


def stream_event(engine: AwsEngine, table: str) -> dict[str, Any]:
    with (
        contextlib.closing(session().create_client("dynamodb")) as tables,
        contextlib.closing(session().create_client("dynamodbstreams")) as streams,
    ):
        return {"Records": _records(tables, streams, engine.names.table(table))}


def _records(tables: Any, streams: Any, table: str) -> list[dict[str, Any]]:
    arn = tables.describe_table(TableName=table)["Table"]["LatestStreamArn"]
    (shard,) = streams.describe_stream(StreamArn=arn)["StreamDescription"]["Shards"]
    iterator = streams.get_shard_iterator(StreamArn=arn, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON")[
        "ShardIterator"
    ]
    records = streams.get_records(ShardIterator=iterator)["Records"]
    return [lambdas(record, arn) for record in records]


def handled(event: dict[str, Any], times: int) -> list[dict[str, Any]]:
    """The answers of one execution environment."""
    try:
        return [function.handle(event, None) for _ in range(times)]
    finally:
        function._here.close()


async def put(engine: AwsEngine, id: str) -> str:
    commit = new_commit("m/q")
    commit.writes.append(Write("shop/rows", (id, ""), f"{commit.id}-0", encode_json({"id": id, "n": 1.0})))
    await engine.commit(commit)
    return f"{commit.id}-0"


async def test_a_batch_of_a_tables_stream(engine: AwsEngine, stack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_STORE", f"aws:{stack}")
    versions = [await put(engine, id) for id in ("a", "b")]
    event = await asyncio.to_thread(stream_event, engine, "shop/rows")
    assert await asyncio.to_thread(handled, event, 2) == [{"batchItemFailures": []}] * 2
    found = [one for _ in range(2) for one in await asyncio.wait_for(engine.receive("shop/fifo", 1), 20)]
    assert sorted(one.event.version for one in found) == sorted(versions)
    assert {one.event.cause for one in found} == {"m/q"}
    assert found[0].event.data == encode_json({"id": found[0].group, "n": 1.0})
    await engine.release(found)


async def test_what_another_stacks_topic_sent_is_routed_as_if_it_was_made_here(engine: AwsEngine) -> None:
    events = [
        Envelope(id=f"e{n}", source=FAR, type="message", data=encode_json({"id": f"k{n}", "n": n})) for n in range(2)
    ]
    records = [sqs_record(n, body_of(event, Address(by_topic=True))) for n, event in enumerate(events)]
    assert await function.relay(engine, {"Records": records}) == {"batchItemFailures": []}
    (delivery,) = await asyncio.wait_for(engine.receive("shop/fifo", 1), 20)
    assert (delivery.event, delivery.group) == (events[1], "k1")
    await engine.release([delivery])


def sqs_record(n: int, body: str) -> dict[str, Any]:
    return {
        "messageId": f"m{n}",
        "receiptHandle": f"r{n}",
        "body": body,
        "attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "1795000000000"},
        "messageAttributes": {},
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:eu-central-1:000000000000:inbox",
    }


class Failing:
    exported: frozenset[str] = frozenset()

    async def relay(self, records: Sequence[Streamed]) -> int | None:
        return 1


async def test_lambda_is_told_the_first_record_of_a_stream_and_all_messages_that_are_not_done() -> None:
    change = {"Keys": {}, "SequenceNumber": "0", "ApproximateCreationDateTime": 0}
    records = [
        {
            "eventName": "MODIFY",
            "eventSource": "aws:dynamodb",
            "eventSourceARN": "arn:aws:dynamodb:eu-central-1:000000000000:table/t/stream/s",
            "dynamodb": {**change, "SequenceNumber": str(n)},
        }
        for n in range(3)
    ]
    answer = await function.relay(Failing(), {"Records": records})
    assert answer == {"batchItemFailures": [{"itemIdentifier": "1"}]}
    answer = await function.relay(Failing(), {"Records": [sqs_record(n, "{}") for n in range(3)]})
    assert answer == {"batchItemFailures": [{"itemIdentifier": "m1"}, {"itemIdentifier": "m2"}]}
