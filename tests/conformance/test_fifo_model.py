"""FIFO groups against a model: whatever consumers do, what is handed out are exactly the heads that may be.

The model is a list for each group. A group's head may be handed out when nobody holds it and it is ready; settling,
failing, expiring and reopening the store change the model as the guarantees say.
"""

from __future__ import annotations

import random
from collections import defaultdict

import msgspec
import pytest

from headwater.catalog import QueueSpec
from headwater.engines.sqlite import fifo
from headwater.errors import LeaseLost
from headwater.events import Delivery
from tests.conformance.workbench import Store, data, emit

pytestmark = pytest.mark.anyio
QUEUE = "shop/fifo"
VISIBILITY_S = 1.0
GROUPS = "abcdefghijkl"


class Message(msgspec.Struct):
    """`counted` are the receives that the store knows of, `receives` those that this process knows of."""

    item: str
    ready_ms: int = 0
    receives: int = 0
    counted: int = 0


class Model:
    def __init__(self, shop: Store, seed: int) -> None:
        self.shop = shop
        self.rolls = random.Random(seed)
        self.waiting: dict[str, list[Message]] = defaultdict(list)
        self.held: dict[str, Delivery] = {}
        self.until: dict[str, float] = {}
        self.sent: dict[str, list[str]] = defaultdict(list)
        self.ended: dict[str, list[str]] = defaultdict(list)
        self.late: list[Delivery] = []

    async def send(self, count: int) -> None:
        """One commit; half of all messages go to one group, which gets long."""

        def fill(commit: object) -> None:
            for _ in range(count):
                group = "a" if self.rolls.random() < 0.5 else self.rolls.choice(GROUPS)
                item = f"{group}{len(self.sent[group])}"
                emit(commit, QUEUE, item, queue=QUEUE, group=group)  # type: ignore[arg-type]
                self.sent[group].append(item)
                self.waiting[group].append(Message(item))

        await self.shop.commit(fill)

    async def receive(self, limit: int) -> None:
        """Receive up to `limit` messages in one call or several: an engine may hand over fewer than are ready."""
        now_ms = await self.shop.engine.now_ms()
        ready = {
            group: queue[0]
            for group, queue in self.waiting.items()
            if queue and group not in self.held and queue[0].ready_ms <= now_ms
        }
        while limit and ready:
            found = await self.shop.ready(QUEUE, limit)
            assert found, f"nothing is handed out of {ready}"
            limit -= len(found)
            for delivery in found:
                self.hold(delivery, ready.pop(delivery.group or ""))
        if limit:
            assert await self.shop.ready(QUEUE) == []

    def hold(self, delivery: Delivery, head: Message) -> None:
        head.receives += 1
        assert (data(delivery), delivery.receives) == (head.item, head.receives)
        group = delivery.group or ""
        self.held[group] = delivery
        self.until[group] = self.shop.clock.monotonic() + VISIBILITY_S

    async def end_one(self) -> None:
        """Of one delivery that is held: success, failure with or without back-off, the last failure, given back."""
        if not self.held:
            return
        group = self.rolls.choice(sorted(self.held))
        delivery, head = self.held.pop(group), self.waiting[group][0]
        match self.rolls.choice(["ack"] * 6 + ["retry", "at once", "bury", "release"]):
            case "ack":
                await self.shop.ack(delivery)
                self.ended[group].append(self.waiting[group].pop(0).item)
            case "bury":
                await self.shop.bury(delivery)
                self.ended[group].append(self.waiting[group].pop(0).item)
            case "release":
                await self.shop.engine.release([delivery])
                head.receives -= 1
            case how:
                after_s = 0 if how == "at once" else self.rolls.choice([0.3, 5])
                await self.shop.retry(delivery, after_s)
                head.ready_ms = await self.shop.engine.now_ms() + round(after_s * 1000) if after_s else 0
                head.counted = head.receives

    async def advance(self, seconds: float) -> None:
        await self.shop.advance(seconds)
        now = self.shop.clock.monotonic()
        for group in [group for group in self.held if self.until[group] <= now]:
            self.late.append(self.held.pop(group))

    async def reopen(self) -> None:
        """What was held is given back uncounted. Where leases live in memory, those that ran out are not counted."""
        for group in self.held:
            self.waiting[group][0].receives -= 1
        self.late += self.held.values()
        self.held.clear()
        await self.shop.reopen()
        if self.shop.engine.features.single_process:
            for queue in self.waiting.values():
                for message in queue:
                    message.receives = message.counted

    async def try_late(self) -> None:
        for delivery in self.late:
            with pytest.raises(LeaseLost):
                await self.shop.ack(delivery)
        self.late.clear()

    async def step(self) -> None:
        match self.rolls.choice(["send", "receive", "receive", "end", "end", "end", "end", "pass", "reopen"]):
            case "send":
                await self.send(self.rolls.randint(1, 8))
            case "receive":
                await self.receive(self.rolls.choice([1, 3, 100]))
            case "end":
                await self.end_one()
            case "pass":
                await self.advance(self.rolls.choice([0.1, 0.6, 2]))
            case _:
                if self.rolls.random() < 0.15:
                    await self.reopen()
                await self.try_late()

    async def finish(self) -> None:
        """Let everything succeed: each group ends in the order in which it was sent."""
        await self.advance(10)
        await self.try_late()
        while any(self.waiting.values()):
            await self.receive(100)
            assert self.held
            await self.shop.ack(*self.held.values())
            for group in self.held:
                self.ended[group].append(self.waiting[group].pop(0).item)
            self.held.clear()
        assert self.ended == self.sent


@pytest.mark.parametrize("small", [False, True], ids=["as it is", "small windows"])
@pytest.mark.parametrize("seed", range(6))
async def test_groups_are_handed_out_as_the_model_says(
    store: Store, monkeypatch: pytest.MonkeyPatch, seed: int, small: bool
) -> None:
    if small:
        for name, size in {"HELD_MAX": 10, "GROUP_MAX": 3, "CHUNK": 4, "RUN": 5}.items():
            monkeypatch.setattr(fifo, name, size)
    shop = await store.open(QueueSpec(name=QUEUE, fifo=True, visibility_ms=round(VISIBILITY_S * 1000)))
    model = Model(shop, seed)
    for _ in range(200):
        await model.step()
    await model.finish()
