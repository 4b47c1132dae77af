"""Intake: what is accepted is persisted, for its user only; poison, repetition, throttling and crashes included."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from apps.intake.app import NewReading, Reading, app, incoming, readings
from headwater.testing import Harness

SAMPLES = Path(__file__).parent.parent / "samples"
BURST = 5
PLANS = {"intake": {"rate": 1, "burst": BURST}}
BOTH = ["data.read", "data.write"]
DOOR = {"informationOne": "Door 7 opened", "informationTwo": "south wing"}


def sample(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (SAMPLES / name).read_text("utf-8").splitlines()]


READINGS = sample("readings.jsonl")
(POISON,) = sample("poison.jsonl")


@pytest.fixture
async def harness() -> AsyncIterator[Harness]:
    async with Harness(app, plans=PLANS) as running:
        yield running


@pytest.fixture
def ann(harness: Harness) -> httpx.AsyncClient:
    return user(harness, "ann")


@pytest.fixture
def bob(harness: Harness) -> httpx.AsyncClient:
    return user(harness, "bob")


def user(harness: Harness, name: str, roles: list[str] | None = None) -> httpx.AsyncClient:
    return harness.client(app, token={"sub": name, "Role": BOTH if roles is None else roles})


async def accepted(client: httpx.AsyncClient, *bodies: dict[str, Any]) -> list[str]:
    """Send them in one request; their ids."""
    answer = await client.post("/data", json=list(bodies))
    assert answer.status_code == 202, answer.text
    return list(answer.json()["ids"])


async def listed(client: httpx.AsyncClient, **params: Any) -> list[dict[str, Any]]:
    answer = await client.get("/data", params=params)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["items"])


async def test_what_is_accepted_is_persisted_under_the_id_of_its_answer(
    harness: Harness, ann: httpx.AsyncClient
) -> None:
    answer = await ann.post("/data", json=DOOR)
    assert answer.status_code == 202
    id = answer.json()["id"]
    await harness.run_until_idle()
    stored = await ann.get(f"/data/{id}")
    assert (stored.status_code, stored.json()) == (200, {"id": id, "user_id": "ann", **DOOR})
    again = await ann.get(f"/data/{id}", headers={"If-None-Match": stored.headers["etag"]})
    assert again.status_code == 304


async def test_samples_come_back_as_they_were_sent_newest_first_on_request(
    harness: Harness, ann: httpx.AsyncClient
) -> None:
    ids = await accepted(ann, *READINGS)
    await harness.run_until_idle()
    items = await listed(ann)
    sent = [{"id": id, "user_id": "ann", **body} for id, body in zip(ids, READINGS, strict=True)]
    assert items == sorted(sent, key=lambda item: item["id"])
    assert await listed(ann, order="desc") == items[::-1]


async def test_pages_are_complete_and_do_not_overlap(harness: Harness, ann: httpx.AsyncClient) -> None:
    ids = await accepted(ann, *(DOOR for _ in range(23)))
    await harness.run_until_idle()
    seen: list[str] = []
    params: dict[str, Any] = {"limit": 10}
    for _ in range(3):
        page = (await ann.get("/data", params=params)).json()
        seen += [item["id"] for item in page["items"]]
        params["cursor"] = page["cursor"]
    assert seen == sorted(ids)
    assert params["cursor"] is None


@pytest.mark.parametrize("case", sample("refused.jsonl"), ids=lambda case: case["field"])
async def test_refused_input_names_the_field_and_nothing_is_queued(
    harness: Harness, ann: httpx.AsyncClient, case: dict[str, Any]
) -> None:
    answer = await ann.post("/data", json=case["body"])
    assert answer.status_code == 422
    assert [error["loc"][-1] for error in answer.json()["errors"]] == [case["field"]]
    assert (await ann.post("/data", json=[DOOR, case["body"]])).status_code == 422
    assert await harness.messages(incoming) == []
    await harness.run_until_idle()
    assert await listed(ann) == []


@pytest.mark.parametrize(
    ("roles", "written", "read"),
    [([], 403, 403), (["data.read"], 403, 200), (["data.write"], 202, 403), (["data.writer", "DATA.READ"], 403, 403)],
)
async def test_each_role_allows_its_part_only(harness: Harness, roles: list[str], written: int, read: int) -> None:
    client = user(harness, "ann", roles)
    assert (await client.post("/data", json=DOOR)).status_code == written
    assert (await client.get("/data")).status_code == read
    assert (await client.get("/data/some")).status_code in ({403} if read == 403 else {404})


async def test_without_a_token_nothing_is_served_but_the_page(harness: Harness) -> None:
    client = harness.client(app)
    for answer in (await client.post("/data", json=DOOR), await client.get("/data"), await client.get("/data/some")):
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
    assert (await client.get("/")).status_code == 200


async def test_a_reading_of_another_is_like_a_missing_one(
    harness: Harness, ann: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    """Every route and verb, with the other's id, its ETag, its cursor, and filters that name the other."""
    (first, *_) = await accepted(ann, DOOR, DOOR, DOOR)
    await harness.run_until_idle()
    tag = (await ann.get(f"/data/{first}")).headers["etag"]
    cursor = (await ann.get("/data", params={"limit": 1})).json()["cursor"]

    def told(answer: httpx.Response) -> tuple[int, dict[str, Any]]:
        body = answer.json()
        return answer.status_code, {**body, "request_id": "", "resource": body.get("resource", "").replace(first, "-")}

    for headers in ({}, {"If-Match": tag}, {"If-None-Match": tag}, {"If-None-Match": "*"}):
        others = await bob.get(f"/data/{first}", headers=headers)
        missing = await bob.get("/data/-", headers=headers)
        assert others.status_code == 404
        assert told(others) == told(missing)
    for method in ("PUT", "PATCH", "DELETE"):
        assert (await bob.request(method, f"/data/{first}", json=DOOR)).status_code == 405
    assert await listed(bob) == []
    for params in ({"user_id": "ann"}, {"cursor": cursor}, {"id": first}, {"id.prefix": first[:8]}):
        answer = await bob.get("/data", params=params)
        assert answer.status_code in (200, 422)
        assert first not in answer.text.replace(str(answer.url), "")
        assert "items" not in answer.json() or answer.json()["items"] == []
    assert len(await listed(ann)) == 3


async def test_the_sender_is_who_the_token_says(harness: Harness, bob: httpx.AsyncClient) -> None:
    assert (await bob.post("/data", json={**DOOR, "user_id": "ann"})).status_code == 422
    await accepted(bob, DOOR)
    await harness.run_until_idle()
    assert [item.user_id for item in (await readings.query()).items] == ["bob"]


async def test_poison_dies_alone_and_its_batch_is_persisted(
    harness: Harness, ann: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are not run again on its account: each is put once."""
    put, calls = readings.put, []

    async def put_and_count(value: Reading, **options: Any) -> str:
        calls.append(value.id)
        return await put(value, **options)

    monkeypatch.setattr(readings, "put", put_and_count)
    ids = await accepted(ann, *READINGS[:3], POISON, *READINGS[3:])
    await harness.run_until_idle()
    assert {item["id"] for item in await listed(ann)} == {*ids} - {ids[3]}
    assert sorted(calls) == sorted({*ids} - {ids[3]})
    assert (await ann.get(f"/data/{ids[3]}")).status_code == 404
    await harness.advance(minutes=1)
    (letter,) = await harness.dead_letters(incoming)
    assert (letter.event.id, letter.receives) == (ids[3], 3)
    assert letter.reason.startswith("ValueError: informationOne is no whole JSON object")
    assert len(await listed(ann)) == len(READINGS)


async def test_what_nobody_sent_is_discarded(harness: Harness) -> None:
    async with app.transaction():
        await incoming.send(NewReading(**DOOR))
    await harness.advance(minutes=1)
    assert (await readings.query()).items == []
    assert await harness.dead_letters(incoming) == []


async def test_the_same_idempotency_key_is_one_reading(
    harness: Harness, ann: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    headers = {"Idempotency-Key": "k1"}
    answers = await asyncio.gather(*(ann.post("/data", json=DOOR, headers=headers) for _ in range(3)))
    assert {answer.status_code for answer in answers} <= {202, 409}
    again = await ann.post("/data", json=DOOR, headers=headers)
    assert again.status_code == 202
    assert {answer.json()["id"] for answer in answers if answer.status_code == 202} == {again.json()["id"]}
    await harness.advance(seconds=BURST)
    assert (await ann.post("/data", json=POISON, headers=headers)).status_code == 422
    assert (await bob.post("/data", json=DOOR, headers=headers)).json()["id"] != again.json()["id"]
    await harness.run_until_idle()
    assert [item["id"] for item in await listed(ann)] == [again.json()["id"]]
    assert len(await listed(bob)) == 1


async def test_each_sender_is_throttled_alone_and_told_when_to_try_again(
    harness: Harness, ann: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    statuses = [(await ann.post("/data", json=DOOR)).status_code for _ in range(BURST)]
    assert statuses == [202] * BURST
    refused = await ann.post("/data", json=DOOR)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert refused.json()["retryable"] is True
    assert f'"rate";q={BURST}' in refused.headers["ratelimit-policy"]
    assert (await ann.get("/data")).status_code == 200
    assert (await bob.post("/data", json=DOOR)).status_code == 202
    await harness.advance(seconds=1)
    assert (await ann.post("/data", json=DOOR)).status_code == 202
    await harness.run_until_idle()
    assert len(await listed(ann)) == BURST + 1


async def test_a_crash_between_acceptance_and_persisting_loses_nothing(
    harness: Harness, ann: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first batch hangs with all its writes made and none committed; the process dies there."""
    put, reached, hanging = readings.put, asyncio.Event(), True

    async def put_and_hang(value: Reading, **options: Any) -> str:
        version = await put(value, **options)
        if hanging:
            reached.set()
            await asyncio.Event().wait()
        return version

    monkeypatch.setattr(readings, "put", put_and_hang)
    ids = await accepted(ann, *(DOOR for _ in range(120)))
    await asyncio.wait_for(reached.wait(), 10)
    assert await listed(ann) == []
    hanging = False
    await harness.crash()
    await harness.advance(minutes=1)
    assert [item["id"] for item in await listed(ann, limit=500)] == sorted(ids)
    assert await harness.dead_letters(incoming) == []


async def test_readings_outlive_a_crash_and_a_restart(harness: Harness, ann: httpx.AsyncClient) -> None:
    ids = await accepted(ann, DOOR, DOOR)
    await harness.run_until_idle()
    await harness.crash()
    await harness.restart()
    assert [item["id"] for item in await listed(ann)] == sorted(ids)


async def test_the_api_is_documented(harness: Harness) -> None:
    document = (await harness.client(app).get("/openapi.json")).json()
    assert {path: sorted(verbs) for path, verbs in document["paths"].items()} == {
        "/data": ["get", "post"],
        "/data/{id}": ["get"],
    }
    assert {"202", "401", "403", "422", "429"} <= set(document["paths"]["/data"]["post"]["responses"])
