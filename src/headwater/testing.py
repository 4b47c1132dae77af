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
import shutil
import tempfile
from collections.abc import AsyncGenerator, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, TypedDict, Unpack

import httpx
import msgspec
from anyio.from_thread import start_blocking_portal

from headwater.app import App
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
from headwater.runtime.passing import Passing
from headwater.runtime.posting import smtp_server
from headwater.runtime.supervisor import Supervisor
from headwater.runtime.webhooks import WebhookRules
from headwater.unit import Redrive, new_commit
from headwater.virtual_clock import START, VirtualClock


class HarnessOptions(TypedDict, total=False):
    """What `Harness` takes beside the apps."""

    settings: Mapping[str, Mapping[str, Any]] | None
    services: Mapping[str, Any] | None
    start: str
    store: Path | None
    plans: Mapping[str, Mapping[str, Any]] | None
    smtp: Mapping[str, Any] | None
    alerts: Addresses


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
        await self._passing.run_until_idle()

    @property
    def _passing(self) -> Passing:
        return Passing(self.supervisor, self.clock)

    async def advance(self, **duration: float) -> None:
        """Let time pass (`days=3`, `minutes=5`), firing everything that comes due on the way, in order."""
        await self._passing.advance(timedelta(**duration).total_seconds())

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
