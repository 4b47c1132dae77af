"""The dual-write problem: a product and its event are saved together, wherever the service dies.

The service runs as a process with real HTTP and the real store, and is killed at every point around the save while
clients write. Every write has a price of its own, so that each is known again in the rows and in the events.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from apps.catalog.app import announce, product_events, products
from apps.catalog.app import app as catalog
from headwater.engine import TracedEvent
from headwater.testing import Harness
from tests.acceptance import naive_service
from tests.patience import PATIENCE_S
from tests.warm import Talking

ROOT = Path(__file__).parents[2]
WRITERS, IDS = 4, 3
POINTS = (
    "before-save",
    "save-under-way",
    "before-begin",
    "after-apply",
    "before-commit",
    "before-flush",
    "after-flush",
    "after-commit",
    "before-results",
    "saved-unanswered",
)


class Clients:
    """What the clients know: which writes were begun, and which were answered with success."""

    def __init__(self) -> None:
        self.begun: dict[int, str] = {}
        self.acknowledged: dict[int, str] = {}
        self._price = itertools.count(1)

    async def write(self, address: str, writer: int) -> None:
        """Replace products one after the other until the service is gone."""
        async with httpx.AsyncClient(base_url=address, timeout=PATIENCE_S) as client:
            while True:
                price = next(self._price)
                id = f"w{writer}-p{price % IDS}"
                self.begun[price] = id
                body = {"name": id, "category": "tools", "price_cents": price}
                try:
                    (await client.put(f"/products/{id}", json=body)).raise_for_status()
                except httpx.TransportError:
                    return
                self.acknowledged[price] = id

    async def have_written(self, more: int) -> None:
        """Wait until so many more writes are acknowledged."""
        enough = len(self.acknowledged) + more
        async with asyncio.timeout(PATIENCE_S):
            while len(self.acknowledged) < enough:  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    async def write_all(self, address: str, writers: int = WRITERS) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(self.write(address, writer) for writer in range(writers)))


@contextmanager
def service(folder: Path, point: str = "", passes: int = 1, app: str = "apps.catalog.app") -> Iterator[tuple[str, str]]:
    """(address, name under which the app is served) of a service; afterwards it must have been killed."""
    with Talking("tests.acceptance.crashing_service", app, str(folder), point, str(passes)) as process:
        try:
            yield process.stdout.readline().strip(), str(process.pid)
            assert process.read() == (f"dies {point}\n" if point else "")
            assert process.returncode == -signal.SIGKILL
        finally:
            process.kill()


@asynccontextmanager
async def recovered(folder: Path, *apps: object) -> AsyncIterator[Harness]:
    """The apps on the store that the crash left, until all messages are handled."""
    now = datetime.now(UTC).isoformat()
    async with Harness(*apps, store=folder, start=now) as harness:  # type: ignore[arg-type]
        await harness.run_until_idle()
        yield harness


async def events_of(harness: Harness) -> list[TracedEvent]:
    engine, found = harness.supervisor.engine, []
    after = 0
    while page := await engine.events(after, 1000):
        found += page
        after = page[-1].position
    return found


async def check(clients: Clients, folder: Path) -> int:
    """Both or none of each write, all that were acknowledged, each announced exactly once; how many there are."""
    async with recovered(folder, catalog) as harness:
        rows = {row.id: row.price_cents for row in (await products.query(limit=1000)).items}
        saved: dict[int, str] = {}
        for id in {*rows, *clients.begun.values()}:
            changes = list(reversed(await products.history(id, limit=1000)))
            assert [change.old for change in changes] == [None, *(change.new for change in changes)][:-1]
            assert rows.get(id) == (changes[-1].data.price_cents if changes else None)
            saved.update({change.data.price_cents: id for change in changes})
        assert clients.acknowledged.items() <= saved.items() <= clients.begun.items()
        await check_announcements(await events_of(harness), saved)
    return len(saved)


async def check_announcements(events: list[TracedEvent], saved: dict[int, str]) -> None:
    changed = {f"{e.event.id}/catalog/{announce.__name__}": e.event for e in events if e.event.source == products.name}
    announced = [e.event for e in events if e.event.source == product_events.name]
    assert sorted(str(event.cause) for event in announced) == sorted(changed)
    assert sorted(json.loads(change.data or b"")["price_cents"] for change in changed.values()) == sorted(saved)
    for event in announced:
        assert json.loads(event.data or b"")["id"] == changed[str(event.cause)].subject


@pytest.mark.parametrize("point", POINTS)
async def test_product_and_event_are_both_there_or_both_absent(tmp_path: Path, point: str) -> None:
    clients = Clients()
    roll = random.Random(point)
    for _ in range(2):
        with service(tmp_path, point, roll.randint(8, 40)) as (address, _pid):
            await clients.write_all(f"{address}/catalog")
    assert await check(clients, tmp_path) >= 4


async def test_kills_at_any_time(tmp_path: Path) -> None:
    clients = Clients()
    roll = random.Random(7)
    for _ in range(5):
        with service(tmp_path) as (address, pid):
            writing = asyncio.create_task(clients.write_all(f"{address}/catalog"))
            await clients.have_written(roll.randint(1, 40))
            await asyncio.sleep(roll.uniform(0, 0.02))
            subprocess.run(["kill", "-9", pid], check=True)
            await writing
    assert await check(clients, tmp_path) >= 20


async def test_control_two_commits_come_apart(tmp_path: Path) -> None:
    """The same crashes do separate a row from its event when a service saves them one after the other."""
    apart = 0
    for passes in range(3, 7):
        folder = tmp_path / str(passes)
        with service(folder, "before-begin", passes, "tests.acceptance.naive_service") as (address, _pid):
            await Clients().write_all(f"{address}/naive", writers=1)
        async with recovered(folder, naive_service.app) as harness:
            rows = {row.price_cents for row in (await naive_service.rows.query()).items}
            events = [e.event for e in await events_of(harness) if e.event.source == naive_service.events.name]
            apart += not rows <= {json.loads(event.data or b"")["price_cents"] for event in events}
    assert apart > 0
