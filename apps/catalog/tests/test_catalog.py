"""The product service: its HTTP API, optimistic locking, history, and the events of each change."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from apps.catalog.app import app, product_events, products
from headwater.testing import Harness

SAMPLES = Path(__file__).parent.parent / "samples"
SKILLET = {"name": "Skillet", "category": "kitchen", "price_cents": 3990}


@pytest.fixture
async def harness() -> AsyncIterator[Harness]:
    async with Harness(app) as running:
        yield running


@pytest.fixture
def client(harness: Harness) -> httpx.AsyncClient:
    return harness.client(app)


def sample(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (SAMPLES / name).read_text("utf-8").splitlines()]


async def announced(harness: Harness) -> list[str]:
    """The ids in the messages of the topic, in order."""
    await harness.run_until_idle()
    events = await harness.supervisor.engine.events(0, 1000)
    bodies = [event.event.data or b"" for event in events if event.event.source == product_events.name]
    messages = [json.loads(body) for body in bodies]
    assert all(set(message) == {"id"} for message in messages)
    return [message["id"] for message in messages]


async def test_create_makes_the_id_and_says_where_the_product_is(client: httpx.AsyncClient) -> None:
    answer = await client.post("/products", json=SKILLET)
    assert answer.status_code == 201
    assert answer.json() == {"id": answer.json()["id"], **SKILLET}
    found = await client.get(answer.headers["location"])
    assert found.json() == answer.json()
    assert found.headers["etag"] == answer.headers["etag"]


async def test_create_with_an_idempotency_key_creates_once(client: httpx.AsyncClient) -> None:
    answers = [await client.post("/products", json=SKILLET, headers={"Idempotency-Key": "k1"}) for _ in range(3)]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len((await products.query()).items) == 1


async def test_samples_are_accepted_and_listed_by_category(client: httpx.AsyncClient) -> None:
    given = sample("products.jsonl")
    for draft in given:
        assert (await client.post("/products", json=draft)).status_code == 201
    tools = (await client.get("/products", params={"category": "tools"})).json()
    assert [item["name"] for item in tools["items"]] == sorted(p["name"] for p in given if p["category"] == "tools")
    assert tools["cursor"] is None


async def test_pages_are_complete_and_do_not_overlap(client: httpx.AsyncClient) -> None:
    for draft in sample("products.jsonl"):
        await client.post("/products", json=draft)
    seen: list[str] = []
    params: dict[str, Any] = {"limit": 7}
    while True:
        page = (await client.get("/products", params=params)).json()
        seen += [item["id"] for item in page["items"]]
        if page["cursor"] is None:
            break
        params["cursor"] = page["cursor"]
    assert seen == sorted(set(seen))
    assert len(seen) == 24


@pytest.mark.parametrize("case", sample("refused.jsonl"), ids=lambda case: f"{case['field']}-{len(str(case))}")
async def test_refused_input_names_the_field(client: httpx.AsyncClient, case: dict[str, Any]) -> None:
    for answer in (
        await client.post("/products", json=case["body"]),
        await client.put("/products/p1", json=case["body"]),
    ):
        assert answer.status_code == 422
        assert [error["loc"] for error in answer.json()["errors"]] == [["body", case["field"]]]
    assert (await products.query()).items == []


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'"x"',
        b"\xff",
        b"",
        b'{"name": NaN}',
        b'{"name": "\\ud800"}',
    ],
)
async def test_malformed_bodies_are_the_clients_fault(client: httpx.AsyncClient, body: bytes) -> None:
    answer = await client.post("/products", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.json()["detail"]


async def test_create_refuses_an_id_and_put_one_that_differs_from_the_path(client: httpx.AsyncClient) -> None:
    assert (await client.post("/products", json={"id": "p1", **SKILLET})).status_code == 422
    answer = await client.put("/products/p1", json={"id": "p2", **SKILLET})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == ["body", "id"]
    assert (await client.put("/products/p1", json={"id": "p1", **SKILLET})).status_code == 201


@pytest.mark.parametrize("id", ["-x", "a%20b", "a" * 101, "%2e%2e"])
async def test_ids_have_one_form(client: httpx.AsyncClient, id: str) -> None:
    assert (await client.put(f"/products/{id}", json=SKILLET)).status_code in (404, 422)


async def test_absent_products_are_404(client: httpx.AsyncClient) -> None:
    for path in ("/products/p1", "/products/p1/history"):
        assert (await client.get(path)).status_code == 404
    assert (await client.delete("/products/p1")).status_code == 404


async def test_replace_with_the_present_version_only(harness: Harness, client: httpx.AsyncClient) -> None:
    first = (await client.put("/products/p1", json=SKILLET)).headers["etag"]
    mine = await client.put("/products/p1", json={**SKILLET, "price_cents": 1}, headers={"If-Match": first})
    assert mine.status_code == 200
    theirs = await client.put("/products/p1", json={**SKILLET, "price_cents": 2}, headers={"If-Match": first})
    assert theirs.status_code == 412
    assert (await client.get("/products/p1")).json()["price_cents"] == 1
    either = f"{first}, {mine.headers['etag']}"
    assert (await client.put("/products/p1", json=SKILLET, headers={"If-Match": either})).status_code == 200
    assert await announced(harness) == ["p1"] * 3


async def test_concurrent_replacements_of_one_version_let_one_win(client: httpx.AsyncClient) -> None:
    tag = (await client.put("/products/p1", json=SKILLET)).headers["etag"]
    answers = await asyncio.gather(
        *(client.put("/products/p1", json={**SKILLET, "price_cents": n}, headers={"If-Match": tag}) for n in range(10))
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 9
    assert len(await products.history("p1")) == 2


async def test_create_only_and_conditions_on_an_absent_product(client: httpx.AsyncClient) -> None:
    only_new = {"If-None-Match": "*"}
    assert (await client.put("/products/p1", json=SKILLET, headers={"If-Match": "*"})).status_code == 412
    assert (await client.put("/products/p1", json=SKILLET, headers=only_new)).status_code == 201
    assert (await client.put("/products/p1", json=SKILLET, headers=only_new)).status_code == 412
    assert (await client.put("/products/p1", json=SKILLET, headers={"If-None-Match": '"x"'})).status_code == 422


async def test_delete_needs_the_present_version_too(client: httpx.AsyncClient) -> None:
    tag = (await client.put("/products/p1", json=SKILLET)).headers["etag"]
    assert (await client.delete("/products/p1", headers={"If-Match": '"other"'})).status_code == 412
    assert (await client.delete("/products/p1", headers={"If-Match": tag})).status_code == 204
    assert (await client.get("/products/p1")).status_code == 404


async def test_unchanged_products_are_not_sent_again(client: httpx.AsyncClient) -> None:
    tag = (await client.put("/products/p1", json=SKILLET)).headers["etag"]
    same = await client.get("/products/p1", headers={"If-None-Match": tag})
    assert (same.status_code, same.content) == (304, b"")
    assert (await client.get("/products/p1", headers={"If-None-Match": '"x"'})).status_code == 200


async def test_history_tells_every_change_newest_first(client: httpx.AsyncClient) -> None:
    dearer = {**SKILLET, "price_cents": 4990}
    await client.put("/products/p1", json=SKILLET)
    tag = (await client.put("/products/p1", json=dearer)).headers["etag"]
    await client.put("/products/p1", json=dearer)
    await client.delete("/products/p1")
    items = (await client.get("/products/p1/history")).json()["items"]
    first, second = {"id": "p1", **SKILLET}, {"id": "p1", **dearer}
    assert [(item["kind"], item["old"], item["new"]) for item in items] == [
        ("removed", second, None),
        ("modified", first, second),
        ("inserted", None, first),
    ]
    assert f'"{items[1]["version"]}"' == tag


async def test_every_change_is_announced_by_id_and_nothing_else_is(harness: Harness, client: httpx.AsyncClient) -> None:
    await client.put("/products/p1", json=SKILLET)
    await client.put("/products/p2", json=SKILLET)
    await client.put("/products/p1", json=SKILLET)
    await client.put("/products/p1", json={**SKILLET, "name": ""})
    await client.delete("/products/p2")
    ids = await announced(harness)
    assert sorted(ids) == ["p1", "p2", "p2"]


async def test_dead_letters_mail_the_team_and_so_does_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("the topic is closed")

    monkeypatch.setattr(product_events, "publish", fail)
    async with Harness(app, settings={"catalog": {"team": "team@example.org"}}) as h:
        await h.client(app).post("/products", json=SKILLET)
        await h.advance(minutes=10)
        (letter,) = await h.dead_letters("catalog/announce")
        assert [(mail.to, mail.subject) for mail in h.mail] == [
            ("team@example.org", "[ALARM] catalog/announce: dead-letters")
        ]
        monkeypatch.undo()
        await h.redrive(letter)
        await h.advance(minutes=30)
        assert [mail.subject for mail in h.mail[1:]] == ["[OK] catalog/announce: dead-letters"]
