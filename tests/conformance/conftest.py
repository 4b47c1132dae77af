"""The engines that the suite runs against. HEADWATER_TEST_ENGINES names them; one that is skipped fails CI."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from headwater.clock import Clock
from headwater.engine import Engine
from headwater.engines import make_engine
from tests.conformance.sharing import shared
from tests.conformance.workbench import MakeEngine, Store


def sqlite(folder: Path) -> MakeEngine:
    def make(clock: Clock, *, read_only: bool = False) -> Engine:
        return make_engine(f"sqlite:{folder}/store", clock=clock, read_only=read_only)

    return make


def postgres_store(url: str) -> MakeEngine:
    def make(clock: Clock, *, read_only: bool = False) -> Engine:
        return make_engine(url, clock=clock, read_only=read_only)

    return make


ENGINES: dict[str, Callable[[Path], MakeEngine]] = {
    "sqlite": sqlite,
    "remote": shared,
}
"""Those with a store in a folder; "postgres" has its own in a schema of a database that the tests share."""
REQUESTED = os.environ.get("HEADWATER_TEST_ENGINES", ",".join([*ENGINES, "postgres"])).split(",")
SHARED = (
    "commits",
    "dead_letters",
    "deliveries",
    "fifo",
    "history",
    "loads",
    "queries",
    "queues",
    "records",
    "routing",
)
"""The modules about what worker processes do with the store, too."""
collect_ignore_glob = [f"test_{engine}_*" for engine in ("sqlite", "postgres") if engine not in REQUESTED]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "engine_name" in metafunc.fixturenames:
        module = metafunc.module.__name__.rpartition("test_")[2]
        engines = [engine for engine in REQUESTED if module in SHARED or engine != "remote"]
        if (own := module.partition("_")[0]) in REQUESTED:
            engines = [own]
        metafunc.parametrize("engine_name", engines)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, pytest.TestReport]:
    report: pytest.TestReport = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped: a requested engine must run here"
    return report


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def make(engine_name: str, tmp_path: Path, request: pytest.FixtureRequest) -> MakeEngine:
    if engine_name == "postgres":
        return postgres_store(request.getfixturevalue("postgres_url"))
    return ENGINES[engine_name](tmp_path)


@pytest.fixture
async def store(make: MakeEngine) -> AsyncIterator[Store]:
    """A store, not yet open; closed after the test."""
    store = Store(make)
    yield store
    await store.engine.close()
