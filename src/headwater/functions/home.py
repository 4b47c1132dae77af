"""The home of the apps in a function: the store opened and the apps bound, once for each execution environment.

Lambda starts an environment, calls it again and again, one event at a time, and freezes it in between. So there is one
event loop, which runs while an event is handled, and nothing may be left to tasks that go on by themselves: what is
counted and traced is written before the answer. Only what a kind of function needs is imported and made.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from headwater.app import App
from headwater.blobs import BlobStore, Uncommitted
from headwater.catalog import Catalog
from headwater.clock import Clock, SystemClock
from headwater.config import Config, find_folder, load_config
from headwater.engine import Engine
from headwater.engines import make_engine
from headwater.errors import DeclarationError
from headwater.graph import build_graph
from headwater.loading import load_app
from headwater.metrics import Recorder
from headwater.runtime.agreement import check_agreement
from headwater.runtime.mail import Mailer
from headwater.runtime.posting import mail_rules
from headwater.runtime.spans import Spans
from headwater.system import System
from headwater.transactions import serve_waits

if TYPE_CHECKING:
    import httpx

    from headwater.grants import Permits
    from headwater.http.access import Access
    from headwater.http.opened import Pulling
    from headwater.http.presigned import Presigner
    from headwater.tracing import Tracer
    from headwater.webhooks import Deliverer

R = TypeVar("R")


class Home:
    """The binding (`app.Binding`) of the apps; `open` before it is used. An engine that is given is not opened here."""

    def __init__(
        self, apps: Sequence[App[Any]], config: Config, *, engine: Engine | None = None, clock: Clock | None = None
    ) -> None:
        self.config = config
        self.clock: Clock = clock or SystemClock()
        self.limits = config.limits
        self.recorder = Recorder()
        self.uncommitted = Uncommitted()
        self.system = System()
        self.mail = Mailer(self.system, mail_rules(config))
        self.graph = build_graph([*apps, self.system.app])
        self.engine: Engine = engine or make_engine(config.store, clock=self.clock)
        self.catalog: Catalog = self.graph.catalog
        """The store's, once it is open."""
        self._is_given = engine is not None
        self._spans = Spans(
            self.engine, self.clock, self.system, share=config.trace_sample, kept_ms=max(config.history_ms, 1000)
        )
        self.tracer: Tracer = self._spans

    async def open(self) -> None:
        """Raises `DeclarationError` when the store has something else than these apps declare."""
        if not self._is_given:
            await self.engine.open()
        self.catalog = await self.engine.catalog()
        check_agreement(self.graph.catalog, self.catalog)
        serve_waits(asyncio.get_running_loop())
        for app in self.graph.apps:
            app.bind(self)
            _ = app.settings

    async def flush(self) -> None:
        """Write what was traced; before every answer."""
        await self._spans.flush()

    # What only some functions need

    @cached_property
    def blobs(self) -> BlobStore:
        """The stack's own place: its name says whose it is, so nobody is asked."""
        from headwater.runtime.places import place_of_objects

        found = place_of_objects(self.config, self.engine.features, self.graph.apps)
        if found is None:
            raise DeclarationError("no app of this function has buckets", operation="use")
        return found

    @cached_property
    def access(self) -> Access:
        from headwater.http.access import Access
        from headwater.runtime.rules import access_rules

        return Access(access_rules(self.config), self.clock, keys=self.system, usage=self.system, shared=True)

    @cached_property
    def permits(self) -> Permits:
        """Asked here, too: roles cannot tell one topic from another, as all go through the outbox."""
        from headwater.grants import Permits

        return Permits(self.graph)

    @cached_property
    def presigner(self) -> Presigner:
        from headwater.http.presigned import Presigner
        from headwater.runtime.seal import PRESIGNING, Seal

        seal = Seal(Path(self.config.secret_key_file))
        return Presigner(lambda make: seal.derive(PRESIGNING, make=False), self.clock, self.config.public_url)

    @cached_property
    def webhooks(self) -> Deliverer:
        from headwater.runtime.rules import webhook_rules
        from headwater.runtime.webhooks import Webhooks

        return Webhooks(self.system, self.graph, webhook_rules(self.config), self.reach)

    @property
    def pulls(self) -> Pulling:
        _not_here("hand out messages over HTTP", "let the consumers receive from the queue in SQS")

    def reach(self, app: str) -> tuple[httpx.AsyncBaseTransport | None, str | None]:
        if app in self.config.services:
            return None, self.config.services[app]
        return None, f"{self.config.public_url}/{app}" if self.config.public_url else None


def _not_here(what: str, hint: str) -> NoReturn:
    raise DeclarationError(f"a function does not {what}", operation="use", hint=hint)


class Place:
    """An execution environment: its event loop, and the home that its first event opens."""

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None
        self._home: Home | None = None

    def run(self, work: Callable[[Home], Coroutine[Any, Any, R]], make: Callable[[], Home]) -> R:
        """Run the work of one event to its end; `make` makes the home when there is none."""
        runner = self._runner = self._runner or asyncio.Runner()
        return runner.run(self._work(work, make))

    async def _work(self, work: Callable[[Home], Coroutine[Any, Any, R]], make: Callable[[], Home]) -> R:
        if self._home is None:
            home = make()
            await home.open()
            self._home = home
        try:
            return await work(self._home)
        finally:
            await self._home.flush()


here = Place()
"""This execution environment."""


def make_home() -> Home:
    """The home that the variables of the function and `headwater.toml` in its package describe."""
    folder = find_folder(Path(os.environ.get("LAMBDA_TASK_ROOT") or Path.cwd()))
    config = load_config(folder)
    return Home([load_app(name, folder) for name in config.apps], config)


def variable(name: str) -> str:
    """A variable that the function cannot do without."""
    found = os.environ.get(name, "")
    if not found:
        raise DeclarationError(f"the variable {name} is not set", operation="start", hint="deploy the stack again")
    return found
