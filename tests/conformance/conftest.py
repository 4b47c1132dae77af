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
from tests.aws.provided import ProvidedEngine
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


def aws_store(stack: str) -> MakeEngine:
    def make(clock: Clock, *, read_only: bool = False) -> Engine:
        return ProvidedEngine(stack, clock=clock, read_only=read_only)

    return make


ENGINES: dict[str, Callable[[Path], MakeEngine]] = {
    "sqlite": sqlite,
    "remote": shared,
}
"""Those with a store in a folder; "postgres" has its own in a schema of a database that the tests share, "aws" in a
stack of the stand-in that they share."""
REQUESTED = os.environ.get("HEADWATER_TEST_ENGINES", ",".join([*ENGINES, "postgres", "aws"])).split(",")
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
ON_AWS = ("catalog", "erasure", "sql", *(module for module in SHARED if module != "fifo"))
"""The modules that run on the stand-in. SQS's clock cannot be moved: what is about times, and most of FIFO is, has
tests of its own (tests/aws/test_events.py)."""
collect_ignore_glob = [f"test_{engine}_*" for engine in ("sqlite", "postgres") if engine not in REQUESTED]


DECLARED = "by its Features"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "engine_name" in metafunc.fixturenames:
        module = metafunc.module.__name__.rpartition("test_")[2]
        narrow = {"remote": SHARED, "aws": ON_AWS}
        engines = [engine for engine in REQUESTED if module in narrow.get(engine, (module,))]
        if (own := module.partition("_")[0]) in REQUESTED:
            engines = [own]
        metafunc.parametrize("engine_name", engines)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, pytest.TestReport]:
    report: pytest.TestReport = yield
    reason = report.longrepr[2] if report.skipped and isinstance(report.longrepr, tuple) else ""
    declared = DECLARED in reason or "empty parameter set" in reason
    if report.skipped and not declared and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true":
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
    if engine_name == "aws":
        request.getfixturevalue("aws")
        return aws_store(request.getfixturevalue("stack"))
    return ENGINES[engine_name](tmp_path)


@pytest.fixture
async def store(make: MakeEngine, request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """A store, not yet open; closed after the test."""
    store = Store(make)
    features = store.engine.features
    for mark in request.node.iter_markers("feature"):
        name, reason = mark.args
        if not getattr(features, name):
            pytest.skip(f"not on {features.engine}, {DECLARED}: no {name}; {reason}")
    yield store
    await store.engine.close()
