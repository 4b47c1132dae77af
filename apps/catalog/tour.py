"""The catalog's part of the tour: products come in over HTTP, are refused, replaced, moved, deleted, and traced."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from apps.play import PAUSE_S, Admin, Command, Play, Step, check, expect, messages

SAMPLES = Path(__file__).parent / "samples"
PAGES = ["/catalog/docs", "/catalog/products", "/catalog/products?category=tools"]


def steps(http: httpx.AsyncClient, admin: Admin, command: Command) -> list[Step]:
    play = CatalogTour(http, admin, command)
    return [
        play.products_are_created,
        play.bad_input_is_refused,
        play.lost_updates_are_refused,
        play.products_move_and_go,
        play.one_put_is_traced_to_its_end,
    ]


class CatalogTour(Play):
    def __init__(self, http: httpx.AsyncClient, admin: Admin, command: Command) -> None:
        super().__init__(http, admin, command)
        self._products: list[dict[str, Any]] = []
        self._trace = ""

    async def products_are_created(self) -> Sequence[str]:
        for draft in sample("products.jsonl"):
            answer = await self._http.post("/catalog/products", json=draft)
            expect(answer, 201)
            self._products.append(answer.json())
        listed = expect(await self._http.get("/catalog/products", params={"limit": 500}), 200).json()["items"]
        check(sorted(listed, key=by_id) == sorted(self._products, key=by_id), "the list is not what was created")
        categories = sorted({product["category"] for product in listed})
        return [f"POST /catalog/products: {len(listed)} products in {', '.join(categories)}"]

    async def bad_input_is_refused(self) -> Sequence[str]:
        fields = []
        for case in sample("refused.jsonl"):
            answer = expect(await self._http.post("/catalog/products", json=case["body"]), 422)
            named = answer.json()["errors"][0]["loc"][-1]
            check(named == case["field"], f"the answer names {named}, not {case['field']}")
            fields.append(named)
        return [f"{len(fields)} bad ones answered 422, each naming its field: {', '.join(dict.fromkeys(fields))}"]

    async def lost_updates_are_refused(self) -> Sequence[str]:
        product = self._products[0]
        path = f"/catalog/products/{product['id']}"
        tag = {"If-Match": expect(await self._http.get(path), 200).headers["etag"]}
        dearer = {**product, "price_cents": product["price_cents"] + 1000}
        expect(await self._http.put(path, json=dearer, headers=tag), 200)
        expect(await self._http.put(path, json=product, headers=tag), 412)
        kinds = [item["kind"] for item in expect(await self._http.get(f"{path}/history"), 200).json()["items"]]
        check(kinds == ["modified", "inserted"], f"the history is {kinds}")
        return ["PUT with If-Match: 200, again with the same ETag: 412", f"GET …/history: {', '.join(kinds)}"]

    async def products_move_and_go(self) -> Sequence[str]:
        moved, gone = self._products[5], self._products[-1]
        body = {**moved, "category": "camping"}
        answer = expect(await self._http.put(f"/catalog/products/{moved['id']}", json=body), 200)
        self._trace = answer.headers["headwater-trace"]
        expect(await self._http.delete(f"/catalog/products/{gone['id']}"), 204)
        expect(await self._http.get(f"/catalog/products/{gone['id']}"), 404)
        return [f"{moved['name']}: {moved['category']} → camping; {gone['name']}: deleted"]

    async def one_put_is_traced_to_its_end(self) -> Sequence[str]:
        while True:
            found = await self._admin("trace", id=self._trace)
            states = [message["state"] for message in messages(found["roots"])]
            check("dead" not in states, "a message of the PUT is dead")
            if states and set(states) == {"done"} and found["events"] >= 2:
                break
            await asyncio.sleep(PAUSE_S)
        tree = await self._command("trace", self._trace)
        check("product-events" in tree, f"the tree does not show the event: {tree}")
        return [f"headwater trace {self._trace}", *(f"  {line}" for line in tree.rstrip().splitlines())]


def sample(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (SAMPLES / name).read_text("utf-8").splitlines()]


def by_id(product: dict[str, Any]) -> str:
    return str(product["id"])
