"""Testing apps: a harness that runs them on SQLite in a temporary directory, under a virtual clock.

    async with Harness(app) as h:
        await h.client(app).put("/products/1", json={...})
        await h.run_until_idle()
        await h.advance(days=3)

Time passes only in `advance`; delays, retries, schedules and expiry fire in its course, in order. Handlers run for
real, on the real engine, with real commits.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypedDict, Unpack

import httpx
import msgspec
from anyio.from_thread import start_blocking_portal

from headwater.app import App
from headwater.clock import Timer
from headwater.codec import encode_json
from headwater.engine import DeadLetter, Question, Waiting
from headwater.engines import make_engine
from headwater.errors import HeadwaterError
from headwater.http.access import AccessRules
from headwater.http.issuers import Issuer
from headwater.http.keys import Key, digest_of, make_id, make_key
from headwater.http.openapi import plans_named
from headwater.http.tokens import mint
from headwater.mail import Mail
from headwater.mail_settings import Addresses, Smtp, check_addresses
from headwater.messaging import Queue
from headwater.objects import make_blobs
from headwater.quota import Plan
from headwater.runtime.mail import MailRules, Post
from headwater.runtime.rules import smtp_server
from headwater.runtime.supervisor import Supervisor
from headwater.runtime.webhooks import WebhookRules
from headwater.unit import Redrive, new_commit

START = "2026-01-01T00:00:00Z"
IDLE_LIMIT_S = 30.0
UPKEEP_MOMENTS = 200
"""In how many steps of one `advance` expiry and retention are looked after, when a second each would be more."""


class HarnessOptions(TypedDict, total=False):
    """What `Harness` takes beside the apps."""

    settings: Mapping[str, Mapping[str, Any]] | None
    services: Mapping[str, Any] | None
    start: str
    store: Path | None
    plans: Mapping[str, Mapping[str, Any]] | None
    smtp: Mapping[str, Any] | None
    alerts: Addresses


class _VirtualTimer:
    def __init__(self, callback: Callable[[], None], wall_ms: int | None = None) -> None:
        self.callback: Callable[[], None] | None = callback
        self.wall_ms = wall_ms

    def cancel(self) -> None:
        self.callback = None


class VirtualClock:
    """A clock that stands still until `advance`; its timers fire then, in the order of their times."""

    def __init__(self, start: str = START) -> None:
        self._start = datetime.fromisoformat(start).astimezone(UTC)
        self._elapsed_us = 0
        self._timers: list[tuple[int, int, _VirtualTimer]] = []
        self._number = itertools.count()

    def wall_ms(self) -> int:
        return int(self._start.timestamp() * 1000) + self._elapsed_us // 1000

    def monotonic(self) -> float:
        return self._elapsed_us / 1_000_000

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        return self._push(seconds, _VirtualTimer(callback))

    def _push(self, seconds: float, timer: _VirtualTimer) -> Timer:
        due_us = self._elapsed_us + max(round(seconds * 1_000_000), 0)
        heapq.heappush(self._timers, (due_us, next(self._number), timer))
        return timer

    def call_at(self, wall_ms: int, callback: Callable[[], None]) -> Timer:
        return self._push((wall_ms - self.wall_ms()) / 1000, _VirtualTimer(callback, wall_ms))

    def step(self, duration: timedelta) -> None:
        """Set the wall clock forward, or back; no time passes. Timers for wall times are due when it shows them."""
        self._start += duration
        timers, self._timers = sorted(self._timers), []
        for due_us, number, timer in timers:
            if timer.wall_ms is None:
                heapq.heappush(self._timers, (due_us, number, timer))
            elif timer.callback is not None:
                self._push((timer.wall_ms - self.wall_ms()) / 1000, timer)

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if not done.done():
                done.set_result(None)

        timer = self.call_later(seconds, wake)
        try:
            await done
        finally:
            timer.cancel()

    def next_timer(self) -> float | None:
        """When the next timer fires, on the monotonic scale."""
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        return self._timers[0][0] / 1_000_000 if self._timers else None

    def move_to(self, elapsed: float) -> None:
        """Let time pass to this point and fire what is due, without waiting for what that starts."""
        self._elapsed_us = max(self._elapsed_us, round(elapsed * 1_000_000))
        while self.next_timer() is not None and self._timers[0][0] <= self._elapsed_us:
            _, _, timer = heapq.heappop(self._timers)
            callback, timer.callback = timer.callback, None
            assert callback is not None
            callback()


class _Endpoints:
    """An app's endpoints, looked up at the call: they may be declared after the harness is made."""

    def __init__(self, app: App[Any]) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._app.http(scope, receive, send)


_ISSUER = Issuer(development=True, roles=("roles", "Role", "scope"))
_TOKEN_SECRET = b"the harness signs its tokens with this"


class _KeyOnFirstUse(httpx.Auth):
    """Makes the client's API key when its first request is sent: only then is the store open for sure."""

    def __init__(self, harness: Harness, plan: str) -> None:
        self._harness = harness
        self._plan = plan
        self._key = ""
        self._making = asyncio.Lock()

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        async with self._making:
            self._key = self._key or await self._harness._make_key(self._plan)
        request.headers["X-Api-Key"] = self._key
        yield request


class _Mailbox:
    """Where mail arrives when no server is given (`runtime.mail.Post`)."""

    def __init__(self) -> None:
        self.mails: list[Mail] = []

    async def send(self, mail: Mail) -> str:
        self.mails.append(mail)
        return "250 in the harness's mailbox"


class Harness:
    """Runs the apps together for one test.

    `plans` gives the limits of usage plans; those that endpoints name and it does not are without limits.
    `settings` gives each app's settings by its name, `services` an ASGI application (or a base URL) in place of a
    service. `store` keeps the store's folder; by default it is temporary. `mail` is what was sent, each with `to`,
    `subject`, `text` and `html`; with `smtp`, the settings of a real server, mail goes there instead. `alerts` is the
    setting of that name.
    """

    def __init__(
        self,
        *apps: App[Any],
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        services: Mapping[str, Any] | None = None,
        start: str = START,
        store: Path | None = None,
        plans: Mapping[str, Mapping[str, Any]] | None = None,
        smtp: Mapping[str, Any] | None = None,
        alerts: Addresses = None,
    ) -> None:
        self.apps = apps
        self._plans = {name: msgspec.convert(dict(plan), Plan) for name, plan in (plans or {}).items()}
        self.clock = VirtualClock(start)
        self._settings = settings or {}
        self._services = services or {}
        self._mailbox = _Mailbox()
        self.mail = self._mailbox.mails
        post: Post = self._mailbox if smtp is None else smtp_server(msgspec.convert(dict(smtp), Smtp), {})
        self._mail_rules = MailRules(post, tuple(check_addresses(alerts)))
        self._kept = store
        self._folder = store
        self._clients: list[httpx.AsyncClient] = []
        self._supervisor: Supervisor | None = None

    @classmethod
    @contextlib.contextmanager
    def sync(cls, *apps: App[Any], **options: Unpack[HarnessOptions]) -> Iterator[Harness]:
        """The harness for a plain `def` test, on an event loop in a thread: call all that is async with `wait`.

        with Harness.sync(app) as h:
            wait(products.put(Product(id="1")))
            wait(h.run_until_idle())
        """
        with (
            start_blocking_portal(backend="asyncio") as portal,
            portal.wrap_async_context_manager(cls(*apps, **options)) as harness,
        ):
            yield harness

    @property
    def supervisor(self) -> Supervisor:
        assert self._supervisor is not None, "the harness is not entered"
        return self._supervisor

    async def __aenter__(self) -> Harness:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="headwater-"))
        try:
            await self._start()
        except BaseException:
            self._remove_folder()
            raise
        return self

    async def _start(self) -> None:
        for app in self.apps:
            app.configure(self._settings.get(app.name, {}))
        engine = make_engine(f"sqlite:{self._folder}", clock=self.clock)
        for app in self.apps:
            if (http := app.load_http()) is not None:
                self._plans.update({name: Plan() for name in plans_named(http) if name not in self._plans})
        rules = AccessRules(
            environment="test", issuers={"test": _ISSUER}, plans=self._plans, secrets={"test": _TOKEN_SECRET}
        )
        assert self._folder is not None
        self._supervisor = Supervisor(
            self.apps,
            engine,
            self.clock,
            reach=self._reached(),
            upkeep=False,
            rules=rules,
            mail=self._mail_rules,
            webhooks=WebhookRules(key_file=self._folder / "secret.key", stand_ins=True),
            blobs=make_blobs(str(self._folder / "objects")),
        )
        await self._supervisor.start()
        await self._supervisor.serve()

    def _reached(self) -> dict[str, tuple[httpx.AsyncBaseTransport | None, str]]:
        """How the apps call each other, and the services that the test gives."""
        reached: dict[str, tuple[httpx.AsyncBaseTransport | None, str]] = {
            app.name: (httpx.ASGITransport(_Endpoints(app)), f"http://{app.name}")
            for app in self.apps
            if app.serves_http
        }
        for name, service in self._services.items():
            if isinstance(service, str):
                reached[name] = (None, service)
            else:
                reached[name] = (httpx.ASGITransport(service), f"http://{name}")
        return reached

    async def __aexit__(self, *error: object) -> None:
        for client in self._clients:
            await client.aclose()
        self._clients.clear()
        try:
            await self.supervisor.stop(5)
        finally:
            self._remove_folder()

    def _remove_folder(self) -> None:
        if self._kept is None and self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    async def restart(self) -> None:
        """Stop gracefully and start again on the same store."""
        await self.supervisor.stop(5)
        await self._start()

    async def crash(self) -> None:
        """Die as a killed process would, and start again on the same store.

        Running handlers end where they stand, without effect; their messages come again, with that receive counted.
        """
        assert self._folder is not None
        board = self._folder / "board"
        marks = board.read_bytes()
        await self.supervisor.crash()
        board.write_bytes(marks)
        await self._start()

    def client(
        self,
        app: App[Any],
        *,
        token: Mapping[str, Any] | None = None,
        key: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> httpx.AsyncClient:
        """An HTTP client of the app's endpoints, closed with the harness.

        `token` are the claims of a bearer token (`sub`, and the roles as `roles`, `Role` or `scope`) that is valid for
        an hour; `key` is the usage plan of an API key made for this client, without limits unless the harness's
        `plans` declare some.
        """
        sent = dict(headers or {})
        if token is not None:
            now_s = self.clock.wall_ms() / 1000
            sent["Authorization"] = f"Bearer {mint(token, _TOKEN_SECRET, _ISSUER, now_s=now_s, valid_s=3600)}"
        auth = _KeyOnFirstUse(self, key) if key else None
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app.http), base_url=f"http://{app.name}", headers=sent, auth=auth
        )
        self._clients.append(client)
        return client

    async def _make_key(self, plan: str) -> str:
        """An API key of a plan."""
        self._plans.setdefault(plan, Plan())
        id = make_id()
        key = make_key("test", id)
        row = Key(id=id, name=f"{plan}-{id}", digest=digest_of(key), environment="test", plan=plan)
        await self.supervisor.system.keys.put(row)
        return key

    async def run_until_idle(self) -> None:
        """Wait until no message is ready or running and nothing is being committed; time stands still.

        Raises `TimeoutError` after 30 seconds of real time, naming the busy queues.
        """
        deadline = time.monotonic() + IDLE_LIMIT_S
        while busy := await self._busy():
            if time.monotonic() > deadline:
                raise TimeoutError(f"still busy: {', '.join(busy)}")
            await asyncio.sleep(0.001)

    async def _busy(self) -> list[str]:
        for _ in range(3):
            await asyncio.sleep(0)
        consumers = self.supervisor.consumers
        busy = [queue for queue, consumer in consumers.items() if consumer.busy]
        busy += [wakeups.name for wakeups in self.supervisor.wakeups if wakeups.busy]
        for stats in await self.supervisor.engine.stats():
            ready = stats.depth - stats.delayed - stats.in_flight
            if ready > 0 and not stats.paused and stats.queue in consumers and not await self._blocked(stats.queue):
                busy.append(stats.queue)
        return busy

    async def _blocked(self, queue: str) -> bool:
        """Whether all that is ready waits behind the delayed head of its group."""
        waiting = await self.supervisor.engine.peek(queue, 10_000)
        now_ms, blocked = self.clock.wall_ms(), set()
        for message in waiting:
            if message.group in blocked:
                continue
            if message.ready_ms <= now_ms:
                return False
            if message.group is not None:
                blocked.add(message.group)
        return True

    async def advance(self, **duration: float) -> None:
        """Let time pass (`days=3`, `minutes=5`), firing everything that comes due on the way, in order."""
        begin = self.clock.monotonic()
        end = begin + timedelta(**duration).total_seconds()
        period = max((end - begin) / UPKEEP_MOMENTS, 1.0)
        upkeep = begin + period
        await self._settle()
        while (now := self.clock.monotonic()) < end:
            due = self.clock.next_timer()
            moment = min(end, upkeep, end if due is None else max(due, now))
            self.clock.move_to(moment)
            if moment in (upkeep, end):
                upkeep = moment + period
                await self.supervisor.janitor.tick()
                for folder in self.supervisor.drop_folders:
                    await folder.look()
            await self._settle()

    async def _settle(self) -> None:
        """Until idle; what happened meanwhile is told to the monitor, which skips minutes in which nothing does."""
        await self.run_until_idle()
        if await self.supervisor.monitor.rouse():
            await self.run_until_idle()

    async def set_clock(self, **duration: float) -> None:
        """Set the wall clock forward (`hours=1`) or back (`hours=-1`), as an administrator does; no time passes.

        What is due by the new time happens, but for what waits for time to pass: delays, retries, leases.
        """
        await self.run_until_idle()
        self.clock.step(timedelta(**duration))
        self.clock.move_to(self.clock.monotonic())
        await self.run_until_idle()

    async def messages(self, queue: Queue[Any] | str, limit: int = 100) -> list[Waiting]:
        """What waits in a queue, leased messages included."""
        return await self.supervisor.engine.peek(_name(queue), limit)

    async def dead_letters(self, queue: Queue[Any] | str = "", limit: int = 100) -> list[DeadLetter]:
        """The dead letters of a queue, or of all."""
        return await self.supervisor.engine.dead_letters(_name(queue), limit)

    async def sql(self, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """The rows of a statement over the tables (docs/sql.md), `parameters` bound to its `:name`s."""
        question = Question(statement=statement, parameters=parameters)
        return (await self.supervisor.engine.ask(question)).rows

    async def redrive(self, letter: DeadLetter, data: object = None) -> None:
        """Put a dead letter back at the tail of its queue, with other data when some is given."""
        commit = new_commit()
        commit.redrives = [Redrive(letter.id, data=None if data is None else encode_json(data))]
        await self.supervisor.engine.commit(commit)


def _name(queue: Queue[Any] | str) -> str:
    return queue if isinstance(queue, str) else queue.name


__all__ = ["Harness", "HeadwaterError", "VirtualClock"]
