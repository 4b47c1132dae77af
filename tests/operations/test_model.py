"""Hundreds of operations, each with a random sequence of faults, wishes and polls by hand, and processes that die.

Whatever happens: each operation ends once, and as the third party says, or is in doubt where nobody can know; with
idempotency keys none is in doubt and the third party has begun each once; nothing is left behind.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from typing import Any

import httpx
import msgspec
import pytest

from headwater.app import App
from headwater.testing import Harness
from tests.operations.vendor import Deletion, Vendor, declare_cancel, make_app

SUBJECTS = 250
STEPS = 240
STEP_S = 180.0
BEFORE: list[Any] = [
    (500, {}, ""),
    (502, {}, "<html>"),
    (404, {}, {}),
    (200, {}, "<html>"),
    (200, {}, {"state": "done"}),
    (200, {}, {"status": "archived"}),
    httpx.ReadTimeout("slow"),
    httpx.ConnectError("refused"),
    httpx.RemoteProtocolError("cut"),
]
AFTER: list[Any] = [httpx.ReadTimeout("slow"), httpx.RemoteProtocolError("cut"), (500, {}, ""), (202, {}, {"no": "id"})]
PAUSE: Any = (429, {"retry-after": "30"}, {})


class Unruly(Vendor):
    """Each call may go wrong, before it has an effect or after; it gets better with time."""

    def __init__(self, rolls: random.Random, *, keyed: bool) -> None:
        super().__init__()
        self.rolls, self.keyed, self.badness = rolls, keyed, 0.5
        self.done = 0.3
        self.begun: Counter[str] = Counter()
        self.bend, self.after = self._before, self._after

    def _before(self, vendor: Vendor, method: str, path: str) -> Any:
        if self.rolls.random() > self.badness:
            return None
        return PAUSE if self.rolls.random() < 0.01 else self.rolls.choice(BEFORE)

    def _after(self, vendor: Vendor, method: str, path: str) -> Any:
        return self.rolls.choice(AFTER) if self.rolls.random() < self.badness / 3 else None

    def _serve(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], Any]:
        if method == "POST":
            present = len(self.deletions)
            answer = super()._serve(method, path, headers, body)
            self.begun[headers["idempotency-key"]] += len(self.deletions) - present
            return answer
        id = path.rpartition("/")[2]
        if self.deletions.get(id) == "pending":
            if method == "GET" and self.rolls.random() < self.done:
                self.deletions[id] = self.rolls.choice(["done", "rejected"])
        elif method == "DELETE":
            return 409, {}, {}
        return super()._serve(method, path, headers, body)


async def ended_events(h: Harness) -> Counter[str]:
    """How often each operation has come to an end, by its id."""
    ends: Counter[str] = Counter()
    for one in await h.supervisor.engine.events(0, 10_000_000):
        if one.event.source == "erasure/deletions" and one.event.data:
            new, old = msgspec.json.decode(one.event.data), json.loads(one.event.old or b"{}")
            if new["standing"] == "" and old.get("standing") != "":
                ends[new["id"]] += 1
    return ends


async def live(h: Harness, app: App[None], rolls: random.Random, vendor: Unruly) -> None:
    """Let time pass in steps; now and then somebody wants something, or the process dies in the middle of it."""
    deletions = app.operations["erasure/deletions"]
    for step in range(STEPS):
        vendor.badness = max(0.0, 0.5 - step / STEPS)
        vendor.done = 1.0 if step > 0.8 * STEPS else 0.3
        if step < STEPS // 2:
            for wish in rolls.choices(["cancel", "poll", "request"], k=5):
                subject = f"c{rolls.randrange(SUBJECTS)}"
                if wish == "request":
                    await deletions.request(subject, Deletion(customer_id=subject))
                else:
                    await getattr(deletions, wish)(subject)
        if step % 50 == 10:
            await deletions.poll_due()
        h.clock.move_to(h.clock.monotonic() + STEP_S)
        if step % 25 == 20:
            await asyncio.sleep(rolls.random() * 0.02)
            await h.crash()
        await h.run_until_idle()


@pytest.mark.parametrize("idempotent", [True, False], ids=["idempotent", "not"])
async def test_each_ends_once_or_is_shown(idempotent: bool) -> None:
    rolls = random.Random(5)
    app, deletions = make_app(idempotent=idempotent, every="20m", overdue="4h", concurrency=50)
    declare_cancel(app, deletions)
    vendor = Unruly(rolls, keyed=idempotent)
    async with Harness(app, services={"vendor": vendor}) as h:
        for n in range(SUBJECTS):
            await deletions.request(f"c{n}", Deletion(customer_id=f"c{n}"))
        await live(h, app, rolls, vendor)
        everything, cursor = [], None
        while True:
            page = await deletions.table.query(limit=1000, cursor=cursor)
            everything += page.items
            cursor = page.cursor
            if cursor is None:
                break
        ended = [one for one in everything if not one.open]
        doubtful = [one for one in everything if one.open]
        ends = await ended_events(h)
        assert ends == Counter({one.id: 1 for one in ended})
        assert {one.state for one in doubtful} <= (set() if idempotent else {"in_doubt"})
        assert {one.subject for one in everything} == {f"c{n}" for n in range(SUBJECTS)}
        said = {"completed": "done", "failed": "rejected"}
        for one in everything:
            assert vendor.begun[one.id] <= 1, "begun twice"
            if one.state in said:
                assert vendor.deletions[one.external_id] == said[one.state]
            if one.state == "cancelled" and vendor.begun[one.id]:
                assert vendor.deletions[one.external_id] == "cancelled", "it claims that it was stopped"
        states = Counter(one.state for one in everything)
        assert states["completed"] > 50
        assert states["cancelled"] > 10
        assert len((await deletions.opened.query(limit=1000)).items) == len(doubtful)
        assert await h.dead_letters() == []
        if idempotent:
            assert (await deletions.contracts.query()).items == []
            assert await h.messages(deletions.ledger.calls) == []
