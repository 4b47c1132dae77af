"""Intake's part of the tour: two users who see only their own, a poison, a repetition, a throttle, and a trace."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from apps.play import PAUSE_S, Admin, Command, Play, Step, check, expect, messages

SAMPLES = Path(__file__).parent / "samples"
QUEUE = "intake/incoming"
PARALLEL = 100
PAGES = ["/intake/", "/intake/docs"]


def steps(http: httpx.AsyncClient, admin: Admin, command: Command) -> list[Step]:
    play = IntakeTour(http, admin, command)
    return [
        play.each_user_sees_only_its_own,
        play.without_the_right_token_nothing_is_served,
        play.a_poison_dies_alone,
        play.its_redrive_mends_it,
        play.the_same_post_twice_is_one_reading,
        play.too_many_posts_are_throttled,
        play.one_post_is_traced_to_its_end,
    ]


class IntakeTour(Play):
    def __init__(self, http: httpx.AsyncClient, admin: Admin, command: Command) -> None:
        super().__init__(http, admin, command)
        self._tokens: dict[str, str] = {}
        self._poison = ""

    async def each_user_sees_only_its_own(self) -> Sequence[str]:
        for user in ("ann", "bob"):
            await self._mint(user, "data.read", "data.write")
        lines = ["token=$(headwater token ann --role data.read --role data.write), and the same for bob"]
        for user, bodies in {"ann": sample("readings.jsonl"), "bob": sample("readings.jsonl")[:2]}.items():
            ids = expect(await self._post(user, bodies), 202).json()["ids"]
            await self._until_listed(user, set(ids))
            lines.append(f"POST /intake/data as {user}: {len(ids)} readings; GET /intake/data: the same {len(ids)}")
        (of_ann, *_) = await self._ids("ann")
        expect(await self._get("ann", f"/{of_ann}"), 200)
        expect(await self._get("bob", f"/{of_ann}"), 404)
        return [*lines, f"GET /intake/data/{of_ann} as ann: 200, as bob: 404"]

    async def without_the_right_token_nothing_is_served(self) -> Sequence[str]:
        (body,) = sample("poison.jsonl")
        await self._mint("eve", "data.read")
        expect(await self._http.post("/intake/data", json=body), 401)
        hint = expect(await self._post("eve", body), 403).json()["detail"]
        for case in sample("refused.jsonl"):
            named = expect(await self._post("ann", case["body"]), 422).json()["errors"][0]["loc"][-1]
            check(named == case["field"], f"the answer names {named}, not {case['field']}")
        return ["POST without a token: 401", f"with one that may only read: 403, {hint}", "malformed: 422"]

    async def a_poison_dies_alone(self) -> Sequence[str]:
        before = set(await self._ids("ann"))
        (poison,) = sample("poison.jsonl")
        first, *others = sample("readings.jsonl")
        ids = expect(await self._post("ann", [first, poison, *others]), 202).json()["ids"]
        self._poison = ids.pop(1)
        await self._until_listed("ann", before | set(ids))
        letters = await self._until_dead()
        check([letter["event"]["id"] for letter in letters] == [self._poison], f"other letters: {letters}")
        reason = str(letters[0]["reason"])
        check("no whole JSON object" in reason, f"it died of {reason}")
        return [f"{len(ids)} readings of its batch are stored", f"headwater dlq ls {QUEUE}: {reason[:80]}"]

    async def its_redrive_mends_it(self) -> Sequence[str]:
        (letter,) = await self._until_dead()
        (poison,) = sample("poison.jsonl")
        edit = json.dumps({**poison, "informationOne": '{"humidity": 41}'})
        await self._command("dlq", "redrive", str(letter["id"]), "--edit", edit)
        await self._until_listed("ann", {*await self._ids("ann"), self._poison})
        found = expect(await self._get("ann", f"/{self._poison}"), 200).json()
        check(found["user_id"] == "ann", f"it belongs to {found['user_id']}")
        return [
            f"headwater dlq redrive {letter['id']} --edit …",
            "stored for ann, under the id that it was accepted with",
        ]

    async def the_same_post_twice_is_one_reading(self) -> Sequence[str]:
        before = set(await self._ids("bob"))
        body, key = sample("readings.jsonl")[0], {"Idempotency-Key": "submission-1"}
        answers = [expect(await self._post("bob", body, key), 202) for _ in range(2)]
        first, second = (answer.json()["id"] for answer in answers)
        check(first == second, "two readings were made")
        await self._until_listed("bob", {*before, first})
        return [f"POST twice with Idempotency-Key: submission-1: {first}, once"]

    async def too_many_posts_are_throttled(self) -> Sequence[str]:
        await self._mint("max", "data.read", "data.write")
        body = sample("readings.jsonl")[0]
        answers = await asyncio.gather(*(self._post("max", body) for _ in range(PARALLEL)))
        refused = [answer for answer in answers if answer.status_code == 429]
        accepted = [expect(answer, 202).json()["id"] for answer in answers if answer not in refused]
        check(bool(refused), f"all {PARALLEL} were accepted")
        check("retry-after" in refused[0].headers, "429 does not say when to try again")
        expect(await self._post("bob", body), 202)
        await self._until_listed("max", set(accepted))
        return [
            f"{PARALLEL} POSTs at once as max: {len(accepted)} accepted and stored, {len(refused)} answered 429",
            f"Retry-After: {refused[0].headers['retry-after']}; RateLimit-Policy: "
            f"{refused[0].headers['ratelimit-policy']}; bob is not throttled",
        ]

    async def one_post_is_traced_to_its_end(self) -> Sequence[str]:
        answer = expect(await self._post("ann", sample("readings.jsonl")[2]), 202)
        trace = answer.headers["headwater-trace"]
        await self._until_listed("ann", {*await self._ids("ann"), answer.json()["id"]})
        found = await self._admin("trace", id=trace)
        states = [message["state"] for message in messages(found["roots"])]
        check(states == ["done"], f"the messages of the POST are {states}")
        tree = await self._command("trace", trace)
        check("intake/readings inserted" in tree, f"the tree does not show the reading: {tree}")
        return [f"headwater trace {trace}", *(f"  {line}" for line in tree.rstrip().splitlines())]

    async def _mint(self, user: str, *roles: str) -> None:
        options = [part for role in roles for part in ("--role", role)]
        self._tokens[user] = (await self._command("token", user, *options)).strip()

    async def _post(self, user: str, body: Any, headers: dict[str, str] | None = None) -> httpx.Response:
        return await self._http.post("/intake/data", json=body, headers={**self._bearer(user), **(headers or {})})

    async def _get(self, user: str, path: str = "", **params: Any) -> httpx.Response:
        return await self._http.get(f"/intake/data{path}", params=params, headers=self._bearer(user))

    def _bearer(self, user: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._tokens[user]}"}

    async def _ids(self, user: str) -> list[str]:
        items = expect(await self._get(user, limit=500), 200).json()["items"]
        check({item["user_id"] for item in items} <= {user}, f"{user} sees the readings of others")
        return [item["id"] for item in items]

    async def _until_listed(self, user: str, wanted: set[str]) -> None:
        """Look again and again; the step's time-out ends it."""
        while True:
            if set(await self._ids(user)) == wanted:
                return
            await asyncio.sleep(PAUSE_S)

    async def _until_dead(self) -> list[dict[str, Any]]:
        while True:
            letters: list[dict[str, Any]] = (await self._admin("dead-letters", queue=QUEUE))["dead_letters"]
            if letters:
                return letters
            await asyncio.sleep(PAUSE_S)


def sample(name: str) -> list[Any]:
    return [json.loads(line) for line in (SAMPLES / name).read_text("utf-8").splitlines()]
