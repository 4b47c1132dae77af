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
from tests.conformance.workbench import MakeEngine, Store


def sqlite(folder: Path) -> MakeEngine:
    def make(clock: Clock, *, read_only: bool = False) -> Engine:
        return make_engine(f"sqlite:{folder}/store", clock=clock, read_only=read_only)

    return make


ENGINES: dict[str, Callable[[Path], MakeEngine]] = {
    "sqlite": sqlite,
}
REQUESTED = os.environ.get("HEADWATER_TEST_ENGINES", ",".join(ENGINES)).split(",")


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


@pytest.fixture(params=REQUESTED)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> MakeEngine:
    return ENGINES[request.param](tmp_path)


@pytest.fixture
async def store(make: MakeEngine) -> AsyncIterator[Store]:
    """A store, not yet open; closed after the test."""
    store = Store(make)
    yield store
    await store.engine.close()
