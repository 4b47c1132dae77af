"""The pytest plugin of Headwater: `async def` tests and fixtures run without a marker, each test on a loop of its own.

It keeps away from tests that belong to another runner: those that use anyio's plugin (the marker or its automatic
mode), and all when pytest-asyncio is installed. The fixture `harness` works under each of them; plain `def` tests
use `Harness.sync`.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any, Protocol, Unpack

import pytest

if TYPE_CHECKING:
    from headwater.app import App
    from headwater.testing import Harness, HarnessOptions

_runner = pytest.StashKey[asyncio.Runner]()


class StartHarness(Protocol):
    """`await harness(app, …)` starts one; it is stopped when the test ends."""

    def __call__(self, *apps: App[Any], **options: Unpack[HarnessOptions]) -> Awaitable[Harness]: ...


@pytest.fixture
async def harness() -> AsyncIterator[StartHarness]:
    """Starts harnesses that are stopped when the test ends: `h = await harness(app)`."""
    from headwater.testing import Harness

    async with contextlib.AsyncExitStack() as stack:

        async def start(*apps: App[Any], **options: Unpack[HarnessOptions]) -> Harness:
            return await stack.enter_async_context(Harness(*apps, **options))

        yield start


def _is_ours(item: object) -> bool:
    if not isinstance(item, pytest.Function) or item.config.pluginmanager.hasplugin("asyncio"):
        return False
    return inspect.iscoroutinefunction(item.obj) and "anyio_backend" not in item.fixturenames


def _runner_of(item: pytest.Item) -> asyncio.Runner:
    if _runner not in item.stash:
        item.stash[_runner] = asyncio.Runner()
    return item.stash[_runner]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not _is_ours(pyfuncitem):
        return None
    wanted = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: value for name, value in pyfuncitem.funcargs.items() if name in wanted}
    _runner_of(pyfuncitem).run(pyfuncitem.obj(**arguments))
    return True


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, Any, Any]:
    """Lets the async fixtures of our tests (scope: function) run on the test's loop."""
    fn = fixturedef.func
    item = request.node
    if fixturedef.scope != "function" or not _is_async(fn) or not _is_ours(item):
        return (yield)
    runner = _runner_of(item)
    fixturedef.func = _started(fn, runner)  # type: ignore[misc]
    try:
        return (yield)
    finally:
        fixturedef.func = fn  # type: ignore[misc]


def _is_async(fn: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(fn) or inspect.isasyncgenfunction(fn)


def _started(fn: Callable[..., Any], runner: asyncio.Runner) -> Callable[..., Any]:
    """The async fixture as a plain one."""
    if inspect.iscoroutinefunction(fn):
        return lambda **arguments: runner.run(fn(**arguments))

    def generate(**arguments: Any) -> Generator[Any, None, None]:
        generator = fn(**arguments)
        yield runner.run(_next(generator))
        with contextlib.suppress(StopAsyncIteration):
            runner.run(_next(generator))
            raise RuntimeError(f"the fixture {fn.__name__} yields more than once")

    return generate


async def _next(generator: Any) -> Any:
    return await anext(generator)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    try:
        yield
    finally:
        if _runner in item.stash:
            item.stash[_runner].close()
            del item.stash[_runner]
