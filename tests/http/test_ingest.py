"""POSTs straight into a queue: what is accepted, refused as a whole, and what the handler gets."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec
import pytest
from pydantic import BaseModel

from headwater import App, Event, anyone, require
from headwater.http.ingest import MAX_BATCH
from headwater.pytest_plugin import StartHarness
from headwater.testing import Harness

NDJSON = {"content-type": "application/x-ndjson"}
JSON = {"content-type": "application/json"}


class Reading(BaseModel):
    device: str
    value: int = 0


class Tick(msgspec.Struct):
    n: int


def meters(received: list[Event[Any]]) -> App:
    app = App("meters")
    readings = app.queue("readings", Reading)
    ordered = app.queue("ordered", Reading, fifo=True)
    full = app.queue("full", Reading, max_depth=2)
    ticks = app.queue("ticks", Tick)
    anything = app.queue("anything")
    app.ingest(readings, "/readings", auth=require("write"))
    app.ingest(ordered, "/ordered", auth=anyone(), group="device")
    app.ingest(full, "/full", auth=anyone())
    app.ingest(ticks, "/ticks", auth=anyone())
    app.ingest(anything, "/anything", auth=anyone())

    @app.on(readings, batch=10)
    async def persist(events: list[Event[Reading]]) -> None:
        received.extend(events)

    return app


@pytest.fixture
def received() -> list[Event[Any]]:
    """What the handler of the readings got."""
    return []


@pytest.fixture
async def h(harness: StartHarness, received: list[Event[Any]]) -> Harness:
    return await harness(meters(received))


@pytest.fixture
def client(h: Harness) -> httpx.AsyncClient:
    return h.client(h.apps[0], token={"sub": "ann", "roles": ["write"]})


async def waiting(h: Harness, queue: str) -> list[Any]:
    return [msgspec.json.decode(m.event.data or b"") for m in await h.messages(f"meters/{queue}", 5_000)]


async def test_one_message_is_durable_and_carries_its_caller(
    h: Harness, client: httpx.AsyncClient, received: list[Event[Any]]
) -> None:
    answer = await client.post("/readings", json={"value": 3, "device": "d1"})
    assert answer.status_code == 202
    await h.run_until_idle()
    (event,) = received
    assert answer.json() == {"id": event.id}
    assert event.data == Reading(device="d1", value=3)
    assert event.caller is not None
    assert (event.caller.subject, event.caller.roles) == ("ann", frozenset({"write"}))
    assert event.cause == "POST /readings"


async def test_it_waits_for_the_commit(h: Harness) -> None:
    client = h.client(h.apps[0])
    await client.post("/ticks", json={"n": 1})
    await h.crash()
    assert await waiting(h, "ticks") == [{"n": 1}]


@pytest.mark.parametrize("form", ["array", "lines"])
async def test_batches(h: Harness, client: httpx.AsyncClient, received: list[Event[Any]], form: str) -> None:
    items = [{"device": "d", "value": n} for n in range(25)]
    lines = b"\n".join(msgspec.json.encode(item) for item in items)
    if form == "array":
        answer = await client.post("/readings", json=items)
    else:
        answer = await client.post("/readings", content=b"\n" + lines + b"\r\n \n", headers=NDJSON)
    assert answer.status_code == 202
    await h.run_until_idle()
    assert {event.id: event.data.value for event in received} == dict(zip(answer.json()["ids"], range(25), strict=True))
    assert {event.caller.subject for event in received if event.caller} == {"ann"}


async def test_one_line_is_a_batch_of_one(h: Harness) -> None:
    answer = await h.client(h.apps[0]).post("/ticks", content=b'{"n": 1}', headers=NDJSON)
    assert list(answer.json()) == ["ids"]


@pytest.mark.parametrize(
    ("content", "headers", "places"),
    [
        (
            b'[{"device": "a"}, {"value": "x"}, {}]',
            JSON,
            [["body", 1, "device"], ["body", 1, "value"], ["body", 2, "device"]],
        ),
        (b'{"device": "a"}\n\n{"device": 1}\n', NDJSON, [["body", 3, "device"]]),
        (b'[{"device": "a"}, 1]', JSON, [["body", 1]]),
        (b'[{"device": "a"}, [{"device": "a"}]]', JSON, [["body", 1]]),
    ],
)
async def test_an_invalid_item_refuses_the_whole_batch(
    h: Harness, content: bytes, headers: dict[str, str], places: list[Any]
) -> None:
    answer = await h.client(h.apps[0]).post("/full", content=content, headers=headers)
    assert answer.status_code == 422
    assert [error["loc"] for error in answer.json()["errors"]] == places
    assert await waiting(h, "full") == []


@pytest.mark.parametrize(
    ("content", "media", "status"),
    [
        (b"", "application/json", 422),
        (b" \n", "application/x-ndjson", 422),
        (b"[]", "application/json", 422),
        (b"null", "application/json", 422),
        (b"{", "application/json", 422),
        (b"[{", "application/json", 422),
        (b'{"n": "x"}', "application/json", 422),
        (b'{"n": 9223372036854775808}', "application/json", 422),
        (b'{"n": 1}', "text/plain", 415),
        (b'{"n": 1}', "", 415),
        (b'{"n": 1}', "application/x-www-form-urlencoded", 415),
        (b'{"n": 1}', "Application/JSON; charset=utf-8", 202),
    ],
)
async def test_what_is_read(h: Harness, content: bytes, media: str, status: int) -> None:
    headers = {"content-type": media} if media else {}
    answer = await h.client(h.apps[0]).post("/ticks", content=content, headers=headers)
    assert answer.status_code == status, answer.text
    assert len(await waiting(h, "ticks")) == (status == 202)


async def test_a_struct_s_error_has_its_place(h: Harness) -> None:
    answer = await h.client(h.apps[0]).post("/ticks", json=[{"n": 1}, {"n": "x"}])
    (error,) = answer.json()["errors"]
    assert (error["loc"], error["msg"]) == (["body", 1, "n"], "Expected `int`, got `str`")


async def test_batches_are_bounded(h: Harness) -> None:
    client = h.client(h.apps[0])
    answer = await client.post("/ticks", json=[{"n": 1}] * (MAX_BATCH + 1))
    assert answer.status_code == 422
    assert await waiting(h, "ticks") == []
    answer = await client.post("/ticks", json=[{"n": 1}] * MAX_BATCH)
    assert (answer.status_code, len(answer.json()["ids"])) == (202, MAX_BATCH)
    assert len(await waiting(h, "ticks")) == MAX_BATCH


async def test_the_group_is_a_field(h: Harness) -> None:
    client = h.client(h.apps[0])
    answer = await client.post("/ordered", json=[{"device": "a"}, {"device": "b"}, {"device": "a", "value": 1}])
    assert answer.status_code == 202
    assert [message.group for message in await h.messages("meters/ordered")] == ["a", "b", "a"]
    refused = await client.post("/ordered", json={"device": ""})
    assert (refused.status_code, refused.json()["errors"][0]["loc"]) == (422, ["body", "device"])


async def test_a_full_queue_is_429(h: Harness) -> None:
    client = h.client(h.apps[0])
    statuses = [(await client.post("/full", json={"device": "a"})).status_code for _ in range(2)]
    answer = await client.post("/full", json={"device": "a"})
    assert [*statuses, answer.status_code] == [202, 202, 429]
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["error"] == "QueueFull"
    assert len(await waiting(h, "full")) == 2


async def test_bytes_are_canonical_and_large_messages_refused(h: Harness) -> None:
    client = h.client(h.apps[0])
    await client.post("/anything", content=b'{ "b": 1,\n "a": "\\u00e9" }', headers=JSON)
    (message,) = await h.messages("meters/anything")
    assert message.event.data == '{"a":"é","b":1}'.encode()
    answer = await client.post("/anything", json={"x": "y" * 300_000})
    assert answer.status_code == 413


async def test_an_idempotency_key_sends_once(h: Harness) -> None:
    client = h.client(h.apps[0])
    answers = [await client.post("/ticks", json={"n": 1}, headers={"idempotency-key": "k"}) for _ in range(2)]
    assert answers[0].content == answers[1].content
    assert len(await waiting(h, "ticks")) == 1


async def test_callers_without_the_role_send_nothing(h: Harness) -> None:
    body = {"device": "d"}
    assert (await h.client(h.apps[0]).post("/readings", json=body)).status_code == 401
    wrong = h.client(h.apps[0], token={"sub": "ann", "roles": ["read"]})
    assert (await wrong.post("/readings", json=body)).status_code == 403
    answer = await h.client(h.apps[0]).get("/readings")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
