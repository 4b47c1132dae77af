"""Where a worker process has its store from: a server on this machine that owns it, or, of a store that many
processes may have open, from itself.

Either way the worker holds its apps' declarations against the store's catalog (`check`, which raises): of an owner
whenever a connection begins, of its own store at the start and from time to time (`worker_store`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pydantic import SecretStr

from headwater.blobs import Uncommitted
from headwater.catalog import Catalog, RouteSpec
from headwater.clock import Clock
from headwater.config import Config, worker_socket
from headwater.engine import Engine
from headwater.engines import remote_engine
from headwater.errors import DeclarationError, HeadwaterError, StoreError
from headwater.graph import Graph
from headwater.metrics import Recorder
from headwater.runtime.tally import Counter, Counting
from headwater.store_url import is_file_store
from headwater.system import System
from headwater.webhooks import Subscribed

if TYPE_CHECKING:
    from headwater.engines.remote.engine import RemoteEngine
    from headwater.events import Delivery
    from headwater.webhooks import Deliverer, Secret

Check = Callable[[Catalog], None]


class Home(Protocol):
    """What a worker has of its store and of the store's servers."""

    engine: Engine

    @property
    def address(self) -> str:
        """Where the apps are served; "" when that is not known."""
        ...

    @property
    def public_url(self) -> str: ...

    @property
    def webhooks(self) -> Deliverer: ...

    def presigning(self, make: bool) -> bytes:
        """The secret of presigned URLs; raises `StoreError` without one."""
        ...

    async def open(self) -> None:
        """Returns when the store is there and has what the apps declare."""
        ...

    async def bound(self) -> None:
        """The apps are bound; raises `DeclarationError` when they can't work here."""
        ...

    def start(self, consumers: Mapping[str, Counting]) -> None:
        """The consumers run."""
        ...

    def report(self, held: set[str], counters: Iterable[Counter]) -> None:
        """Called every second with the blobs that may still be committed here, and what was counted."""
        ...

    async def broken(self) -> HeadwaterError:
        """Wait until the worker has to end; why."""
        ...

    async def stop(self) -> None:
        """Write what is left to tell; the engine stays open."""
        ...


def make_home(
    config: Config,
    clock: Clock,
    system: System,
    graph: Graph,
    *,
    recorder: Recorder,
    uncommitted: Uncommitted,
    check: Check,
    server: str,
) -> Home:
    """The home that the store's URL asks for; `server` is where the apps are served, as far as the caller knows."""
    if is_file_store(config.store):
        return OwnersHome(config, clock, check)
    from headwater.runtime.worker_store import OwnHome

    address = server or config.public_url
    return OwnHome(
        config, clock, system, graph, recorder=recorder, uncommitted=uncommitted, check=check, address=address
    )


class OwnersHome:
    """The store of the server that owns it, over its socket."""

    def __init__(self, config: Config, clock: Clock, check: Check) -> None:
        path = worker_socket(config.store)
        self._remote = remote_engine(path, clock=clock, check=check, trusted=_store_user(config.store))
        self.engine: Engine = self._remote
        self.webhooks: Deliverer = _OwnersWebhooks(self._remote)

    @property
    def address(self) -> str:
        return self._remote.address

    @property
    def public_url(self) -> str:
        return self._remote.public_url

    def presigning(self, make: bool) -> bytes:
        if not self._remote.presigning:
            raise StoreError("the server gave this worker no secret to sign URLs with", operation="presign")
        return self._remote.presigning

    async def open(self) -> None:
        await self._remote.open()

    async def bound(self) -> None:
        pass

    def start(self, consumers: Mapping[str, Counting]) -> None:
        pass

    def report(self, held: set[str], counters: Iterable[Counter]) -> None:
        self._remote.hold(held)
        for counter in counters:
            if (counted := counter.news()) is not None:
                self._remote.report(counted)

    async def broken(self) -> HeadwaterError:
        return await self._remote.broken()

    async def stop(self) -> None:
        pass


class _OwnersWebhooks:
    """The server's webhooks, as a worker reaches them (`webhooks.Deliverer`)."""

    def __init__(self, remote: RemoteEngine) -> None:
        self._remote = remote
        self.unsubscribe = remote.unsubscribe

    async def subscribe(self, route: RouteSpec, url: str, secret: Secret | None) -> Subscribed:
        told = secret.get_secret_value() if isinstance(secret, SecretStr) else secret
        return Subscribed(*await self._remote.subscribe_url(route, url, told))

    async def deliver(self, delivery: Delivery, url: str, secret: Secret) -> None:
        raise DeclarationError("a worker process cannot deliver webhooks", operation="use")


def _store_user(store: str) -> int | None:
    """Who owns the store's folder: the socket of a deep folder stands in a shared one."""
    try:
        return Path(store.partition(":")[2]).stat().st_uid
    except OSError:
        return None
