"""What the fault tests of the engine work with: a small catalog, short ways to use an open engine, quick beats."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from headwater.catalog import Catalog, QueueSpec, TableSpec
from headwater.clock import SystemClock
from headwater.engines.postgres import beats, database
from headwater.engines.postgres.engine import PostgresEngine
from headwater.events import Delivery
from headwater.unit import Commit, Committed, Merge, new_commit
from tests.conformance import workbench
from tests.conformance.workbench import emit, settle, write
from tests.patience import PATIENCE_S

ACCOUNTS, JOBS, STEPS = "shop/accounts", "shop/jobs", "shop/steps"
VISIBILITY_MS = 1_000


def catalog(visibility_ms: int = VISIBILITY_MS, max_receives: int = 5) -> Catalog:
    return workbench.catalog(
        TableSpec(name=ACCOUNTS, partition="name"),
        QueueSpec(name=JOBS, visibility_ms=visibility_ms, max_receives=max_receives),
        QueueSpec(name=STEPS, visibility_ms=visibility_ms, fifo=True),
    )


def hurry(monkeypatch: pytest.MonkeyPatch, *, statement_s: float = 1.0) -> None:
    """Beats, lives, statements and pauses as short as a test likes them."""
    monkeypatch.setattr(beats, "BEAT_S", 0.1)
    monkeypatch.setattr(beats, "LIFE_MS", 1_000)
    monkeypatch.setattr(database, "STATEMENT_S", statement_s)
    monkeypatch.setattr(database, "CONNECT_S", statement_s)
    monkeypatch.setattr(database, "RELEASE_S", statement_s / 5)
    monkeypatch.setattr(database, "_LONGEST_PAUSE_S", 0.2)


@asynccontextmanager
async def opened(url: str, *, install: Catalog | None = None) -> AsyncIterator[PostgresEngine]:
    engine = PostgresEngine(url, clock=SystemClock())
    await engine.open()
    try:
        if install is not None:
            await engine.install(install)
        yield engine
    finally:
        await engine.close()


async def soon(what: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(what, PATIENCE_S)


async def until(holds: Callable[[], Any], expected: str) -> None:
    """Look again and again; `holds` may be asynchronous."""
    end = asyncio.get_running_loop().time() + PATIENCE_S
    while True:
        found = holds()
        if await found if inspect.isawaitable(found) else found:
            return
        assert asyncio.get_running_loop().time() < end, f"it does not come to pass: {expected}"
        await asyncio.sleep(0.02)


def add(commit: Commit, name: str, amount: int = 1, mark: str = "") -> Commit:
    """One more in the account, blindly: done twice it shows."""
    merge = Merge(add={"n": amount}, set={"mark": mark} if mark else {})
    write(commit, ACCOUNTS, name, None, merge, blind=True)
    return commit


def send(commit: Commit, queue: str, item: Any, group: str | None = None) -> Commit:
    emit(commit, queue, item, queue=queue, group=group)
    return commit


def ack(commit: Commit, *given: Delivery) -> Commit:
    commit.settles += [settle(delivery) for delivery in given]
    return commit


async def commit(engine: PostgresEngine, *fills: Callable[[Commit], object]) -> Committed:
    made = new_commit()
    for fill in fills:
        fill(made)
    committed: Committed = await soon(engine.commit(made))
    return committed


async def balance(engine: PostgresEngine, name: str) -> int:
    record = await engine.read(ACCOUNTS, (name, ""))
    return int(workbench.image(record.body)["n"]) if record else 0


async def waiting(engine: PostgresEngine, queue: str) -> list[Any]:
    return [workbench.data(message) for message in await engine.peek(queue, 1000)]


def note(commit: Commit, item: Any) -> Commit:
    """Append to the list of what was done, blindly."""
    write(commit, ACCOUNTS, "done", None, Merge(append={"items": [item]}), blind=True)
    return commit


async def done(engine: PostgresEngine) -> list[Any]:
    record = await engine.read(ACCOUNTS, ("done", ""))
    return list(workbench.image(record.body)["items"]) if record else []
