"""Reporting's part of the tour: totals that follow the catalog, a dead letter that is mended, a late subscriber."""

import asyncio
import json
import shlex
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx

from apps.play import PAUSE_S, Admin, Command, Play, Step, check

Totals = dict[str, tuple[int, int]]
QUEUE, AUDIT_QUEUE = "reporting/reports", "reporting/audit-reports"
PAGES = ["/reporting/docs", "/reporting/totals", "/reporting/audit"]


def steps(http: httpx.AsyncClient, admin: Admin, command: Command) -> list[Step]:
    play = ReportingTour(http, admin, command)
    return [
        play.totals_follow_the_catalog,
        play.a_bad_message_is_dead_lettered,
        play.its_redrive_mends_it,
        play.a_late_subscriber_catches_up,
    ]


class ReportingTour(Play):
    def __init__(self, http: httpx.AsyncClient, admin: Admin, command: Command) -> None:
        super().__init__(http, admin, command)
        self._product = ""
        self._letter: dict[str, Any] = {}

    async def totals_follow_the_catalog(self) -> Sequence[str]:
        wanted = await self._counted()
        await until(lambda: self._totals("/reporting/totals"), wanted)
        return ["GET /reporting/totals, 5 s after the last change:", *table(wanted)]

    async def a_bad_message_is_dead_lettered(self) -> Sequence[str]:
        self._product = (await self._get("/catalog/products"))["items"][0]["id"]
        message = json.dumps({"id": "no such form of id"})
        sent = await self._do("send", QUEUE, message, "--group", self._product, "--delay", "0s")
        await until(self._count_dead, 1)
        (self._letter,) = (await self._admin("dead-letters", queue=QUEUE))["dead_letters"]
        receives = self._letter["receives"]
        check(receives == 3, f"it died after {receives} receives, not 3")
        return [sent, f"died after {receives} receives: {str(self._letter['reason']).splitlines()[0][:70]}"]

    async def its_redrive_mends_it(self) -> Sequence[str]:
        edit = json.dumps({"id": self._product})
        redriven = await self._do("dlq", "redrive", str(self._letter["id"]), "--edit", edit)
        await until(self._depth, 0)
        check(await self._count_dead() == 0, "it is dead again")
        check(await self._totals("/reporting/totals") == await self._counted(), "the totals are wrong now")
        return [redriven, "handled; no dead letter is left, and the totals are right"]

    async def a_late_subscriber_catches_up(self) -> Sequence[str]:
        check((await self._get("/reporting/audit"))["items"] == [], "the audit has something already")
        subscribed = await self._do("topic", "subscribe", "catalog/product-events", AUDIT_QUEUE, "--group", "id")
        replayed = await self._do("replay", "catalog/products", AUDIT_QUEUE)
        await until(lambda: self._totals("/reporting/audit"), await self._counted())
        differences = (await self._get("/reporting/audit"))["differences"]
        check(differences == [], f"the audit differs from the report in {differences}")
        return [subscribed, replayed, "GET /reporting/audit: its totals are those of the report"]

    async def _do(self, *arguments: str) -> str:
        """Run a command; how it is written in a shell."""
        await self._command(*arguments)
        return shlex.join(["headwater", *arguments])

    async def _count_dead(self) -> int:
        return len((await self._admin("dead-letters", queue=QUEUE))["dead_letters"])

    async def _get(self, path: str) -> Any:
        answer = await self._http.get(path, params={"limit": 500} if path == "/catalog/products" else None)
        return answer.raise_for_status().json()

    async def _counted(self) -> Totals:
        """The totals as the catalog's own list has them."""
        counted: Totals = {}
        for product in (await self._get("/catalog/products"))["items"]:
            cents, count = counted.get(product["category"], (0, 0))
            counted[product["category"]] = (cents + product["price_cents"], count + 1)
        return counted

    async def _totals(self, path: str) -> Totals:
        return {item["category"]: (item["cents"], item["count"]) for item in (await self._get(path))["items"]}

    async def _depth(self) -> int:
        queues = (await self._admin("queues"))["queues"]
        return next(int(queue["depth"]) for queue in queues if queue["name"] == QUEUE)


def table(totals: Totals) -> list[str]:
    return [
        f"  {category:<10}{count:>3} products{cents / 100:>10.2f}"
        for category, (cents, count) in sorted(totals.items())
    ]


async def until(look: Callable[[], Awaitable[Any]], wanted: object) -> None:
    """Look again and again; the step's time-out ends it."""
    while True:
        if await look() == wanted:
            return
        await asyncio.sleep(PAUSE_S)
