"""What the groups of admin operations share: the engine, the live server when there is one, and JSON shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import msgspec

from headwater.app import App
from headwater.blobs import BlobStore, Uncommitted
from headwater.catalog import Catalog, QueueSpec, TableSpec
from headwater.clock import Clock, SystemClock, from_ms
from headwater.codec import decode_json, encode_json
from headwater.engine import Engine
from headwater.errors import DeclarationError, InvalidValue, UnknownResource
from headwater.events import Envelope
from headwater.grants import Permits
from headwater.graph import build_graph
from headwater.http.access import Access
from headwater.http.limits import Limits
from headwater.http.presigned import Presigner
from headwater.metrics import Recorder
from headwater.runtime.flows import Flows
from headwater.runtime.mail import Mailer
from headwater.runtime.pulls import Pulls
from headwater.runtime.rates import Rates
from headwater.runtime.spans import Spans
from headwater.runtime.webhooks import WebhookRules, Webhooks
from headwater.store_url import shown_store
from headwater.system import System

if TYPE_CHECKING:
    import httpx

    from headwater.engines.remote.owner import Holder
    from headwater.runtime.supervisor import Supervisor

S = TypeVar("S")
_HINT = "names are app/resource; `headwater ls` lists them"


class About(msgspec.Struct, frozen=True):
    """The running server, for `status`."""

    pid: int
    address: str
    started_ms: int


class Processes(Protocol):
    """The worker processes of a running server."""

    def started(self) -> dict[int, str]: ...

    def connected(self) -> Sequence[Holder]: ...


class AdminBase:
    """`supervisor`, `about` and `processes` are given by a running server only.

    It is the binding (`app.Binding`) of stand-in resources, which reuse the checks of declared ones.
    """

    def __init__(
        self,
        engine: Engine,
        supervisor: Supervisor | None = None,
        *,
        clock: Clock | None = None,
        store: str = "",
        about: About | None = None,
        webhooks: WebhookRules | None = None,
        blobs: BlobStore | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.engine = engine
        self.clock = clock or SystemClock()
        self.limits = Limits()
        self.recorder = supervisor.recorder if supervisor else Recorder()
        self.supervisor = supervisor
        self.uncommitted = supervisor.uncommitted if supervisor else Uncommitted()
        self._blobs = blobs
        self.store = shown_store(store)
        self.about = about
        self.processes = processes
        self.rates = Rates()
        self.flows = Flows()
        self.stand_in: App[None] = App("admin")
        self.stand_in.bind(self)
        self.system = supervisor.system if supervisor else System()
        if supervisor is None:
            self.system.app.bind(self)
            unsent = Mailer(self.system)
            unwritten = Spans(engine, self.clock, self.system, share=0, kept_ms=0)
            alone = Webhooks(self.system, build_graph([self.system.app]), webhooks, self.reach)
        self.webhooks = supervisor.webhooks if supervisor else alone
        self.mail = supervisor.mail if supervisor else unsent
        self.tracer = supervisor.tracer if supervisor else unwritten
        self.permits = supervisor.permits if supervisor else Permits(build_graph([self.system.app]))

    @property
    def access(self) -> Access:
        """The running server's; raises `DeclarationError` without one."""
        if self.supervisor is None:
            raise DeclarationError("no server runs", operation="admin")
        return self.supervisor.access

    @property
    def blobs(self) -> BlobStore:
        """Where the bytes of objects are; raises `DeclarationError` when that was not said."""
        if self.supervisor is not None:
            return self.supervisor.blobs
        if self._blobs is None:
            raise DeclarationError("no place for objects is given", operation="admin")
        return self._blobs

    @property
    def presigner(self) -> Presigner:
        """The running server's; raises `DeclarationError` without one."""
        if self.supervisor is None:
            raise DeclarationError("no server runs", operation="admin")
        return self.supervisor.presigner

    @property
    def pulls(self) -> Pulls:
        """The running server's; raises `DeclarationError` without one."""
        if self.supervisor is None:
            raise DeclarationError("no server runs", operation="admin")
        return self.supervisor.pulls

    def reach(self, app: str) -> tuple[httpx.AsyncBaseTransport | None, str | None]:
        return None, None

    async def queue_spec(self, queue: str) -> QueueSpec:
        return _known((await self.engine.catalog()).queues, queue, "queue")

    async def table_spec(self, table: str) -> TableSpec:
        return _known((await self.engine.catalog()).tables, table, "table")

    async def check_topic(self, topic: str) -> None:
        _known((await self.engine.catalog()).topics, topic, "topic")

    async def schedule_names(self) -> frozenset[str]:
        """The schedules that the store's apps declare; to routes and subscriptions they are topics."""
        declared = (await self.engine.catalog()).topics
        return frozenset(row.name for row in await self.system.rows(self.system.schedules) if row.name in declared)

    def check_model(self, kind: Literal["tables", "topics", "queues"], name: str, data: dict[str, Any]) -> None:
        """Refuse what the model of a resource does not accept, when its app runs here."""
        app = self._declared_app(name)
        declared = getattr(app, kind).get(name) if app else None
        if declared is not None:
            try:
                declared.codec.decode(encode_json(data))
            except InvalidValue as error:
                error.resource = name
                raise

    def _declared_app(self, resource: str) -> App[Any] | None:
        """The app that declares a resource, when it runs here: its models can judge values."""
        apps = self.supervisor.graph.apps if self.supervisor else ()
        name = resource.partition("/")[0]
        return next((app for app in apps if app.name == name), None)


def orphans_of(catalog: Catalog, depths: dict[str, int]) -> list[str]:
    """Queues that hold messages and that no installed app consumes."""
    return sorted(queue for queue, depth in depths.items() if depth and queue not in catalog.consumed)


def _known(named: dict[str, S], name: str, kind: str) -> S:
    if name not in named:
        raise UnknownResource(f"the store has no {kind} of this name", resource=name, hint=_HINT)
    return named[name]


def time_of(ms: int) -> str:
    """RFC 3339, UTC."""
    return from_ms(ms).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def event_json(event: Envelope) -> dict[str, Any]:
    """An event as the admin API shows it; always with the same members."""
    return {
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "subject": event.subject,
        "time": time_of(event.time_ms),
        "data": None if event.data is None else decode_json(event.data),
        "old": None if event.old is None else decode_json(event.old),
        "key": None if event.key is None else key_json(event.key),
        "version": event.version,
        "expired": event.expired,
        "attributes": event.attributes,
        "caller": None if event.caller is None else msgspec.to_builtins(event.caller),
        "cause": event.cause,
        "trace": event.trace,
        "depth": event.depth,
    }


def key_json(key: tuple[str, str | int]) -> list[str | int]:
    """The parts of a key: one, or two for a table with a sort key."""
    return [key[0]] if key[1] == "" else [key[0], key[1]]
