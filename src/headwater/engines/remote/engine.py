"""The worker's side: `RemoteEngine`, the engine of a process that does not own the store.

It connects, and when the connection is lost connects again, with pauses. Who waits for messages meanwhile goes on
waiting; everything else fails at once.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import NoReturn

import msgspec
import structlog
from msgspec.msgpack import Decoder

from headwater.backoff import delay_ms
from headwater.catalog import Catalog, RouteSpec
from headwater.clock import Clock
from headwater.engine import (
    Answer,
    Counted,
    DeadLetter,
    Engine,
    Features,
    Forgotten,
    Query,
    Question,
    QueueStats,
    Record,
    RecordPage,
    Remains,
    Staging,
    Subscription,
    TracedEvent,
    Waiting,
)
from headwater.engines.remote import wire
from headwater.engines.remote.link import Link, connect
from headwater.engines.remote.staging import RemoteStaging
from headwater.errors import DeclarationError, HeadwaterError, LeaseLost, Unavailable
from headwater.events import Delivery, Envelope, Key
from headwater.unit import Commit, Committed, Flip

_record: Callable[[msgspec.Raw], Record | None] = Decoder(Record | None).decode
_page = Decoder(RecordPage).decode
_history = Decoder(list[Envelope]).decode
_claimed: Callable[[msgspec.Raw], bytes | None] = Decoder(bytes | None).decode
_catalog = Decoder(Catalog).decode
_stats = Decoder(list[QueueStats]).decode
_subscription = Decoder(Subscription).decode
_done = Decoder(bool).decode
_count = Decoder(int).decode
_flip = Decoder(Flip).decode
_subscribed = Decoder(tuple[str, str]).decode
PAUSE_MS, LONGEST_PAUSE_MS = 50, 2_000
log = structlog.get_logger("headwater.worker")
Check = Callable[[Catalog], None]


class RemoteEngine(Engine):
    """The store of the process that listens at `path`. `open` waits until there is one.

    `check` sees the owner's catalog whenever a connection begins; what it raises ends `open`, or, later, `broken`.
    What only the owner does (upkeep, inspection, erasure) raises `DeclarationError`.
    """

    def __init__(self, path: Path, *, clock: Clock, check: Check = lambda _: None, trusted: int | None = None) -> None:
        self._path = path
        self._clock = clock
        self._check = check
        self._trusted = {0, os.getuid(), trusted}
        self._link: Link | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._welcome = wire.Welcome(headwater=wire.VERSION)
        self._blobs: set[str] = set()

    # Lifecycle

    @property
    def features(self) -> Features:
        assert self._welcome.features is not None
        return self._welcome.features

    @property
    def address(self) -> str:
        """Where the owner serves the apps; "" when it does not."""
        return self._welcome.address

    @property
    def public_url(self) -> str:
        """By what address clients know the owner."""
        return self._welcome.public_url

    @property
    def presigning(self) -> bytes:
        """The secret that the owner's presigned URLs are signed with; empty when no bucket is exposed there."""
        return self._welcome.presigning

    @property
    def clock(self) -> Clock:
        return self._clock

    async def open(self) -> None:
        self._connected = asyncio.Event()
        self._broken: asyncio.Future[HeadwaterError] = asyncio.get_running_loop().create_future()
        await self._connect()

    async def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
            self._connecting = None
        if self._link is not None:
            link, self._link = self._link, None
            await link.close()

    async def broken(self) -> HeadwaterError:
        return await asyncio.shield(self._broken)

    async def _connect(self) -> None:
        """Until the owner is there; raises when it will have nothing to do with this process."""
        failures = 0
        while True:
            try:
                self._link, self._welcome = await connect(self._path, self._trusted, self._lost)
                break
            except (OSError, Unavailable) as error:
                failures += 1
                if failures == 1:
                    log.info("waiting for the server of the store", socket=str(self._path), error=str(error))
                pause_ms = delay_ms(failures, base_ms=PAUSE_MS, cap_ms=LONGEST_PAUSE_MS, roll=random.random())
                await self._clock.sleep(pause_ms / 1000)
        try:
            assert self._welcome.catalog is not None
            self._check(self._welcome.catalog)
        except BaseException:
            link, self._link = self._link, None
            await link.close()
            raise
        if self._blobs:
            self._tell_blobs()
        self._connected.set()

    def _lost(self, link: Link) -> None:
        if self._link is link:
            self._link = None
            self._connected.clear()
            log.warning("the connection to the server of the store is lost; what this worker held comes again")
            self._connecting = asyncio.get_running_loop().create_task(self._reconnect())

    async def _reconnect(self) -> None:
        try:
            await self._connect()
        except HeadwaterError as error:
            if not self._broken.done():
                self._broken.set_result(error)
        else:
            log.info("connected again to the server of the store")

    # Requests

    def _here(self) -> Link:
        if self._link is None:
            raise Unavailable("the server of the store is not there", operation="ask", resource=str(self._path))
        return self._link

    def commit(self, commit: Commit) -> asyncio.Future[Committed]:
        try:
            if self._link is None and commit.settles:
                raise LeaseLost("the connection that it was granted on is lost", operation="commit")
            return self._here().submit(commit)
        except HeadwaterError as error:
            refused: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
            refused.set_exception(error)
            return refused

    async def now_ms(self) -> int:
        return await self._here().ask(wire.Now(0), _count)

    async def read(self, table: str, key: Key) -> Record | None:
        return await self._here().ask(wire.Read(0, table, key), _record)

    async def query(self, query: Query) -> RecordPage:
        return await self._here().ask(wire.Select(0, query), _page)

    async def history(self, table: str, key: Key, limit: int) -> list[Envelope]:
        return await self._here().ask(wire.History(0, table, key, limit), _history)

    async def claimed(self, scope: str, id: str) -> bytes | None:
        return await self._here().ask(wire.Claimed(0, scope, id), _claimed)

    async def catalog(self) -> Catalog:
        return await self._here().ask(wire.GetCatalog(0), _catalog)

    async def stats(self) -> list[QueueStats]:
        return await self._here().ask(wire.GetStats(0), _stats)

    async def subscribe(self, route: RouteSpec) -> Subscription:
        return await self._here().ask(wire.Subscribe(0, route), _subscription)

    async def subscribe_url(self, route: RouteSpec, url: str, secret: str | None) -> tuple[str, str]:
        """Deliver what the route selects to a URL; the subscription's id, and the secret that was made for it or ""."""
        return await self._here().ask(wire.SubscribeUrl(0, route, url, secret), _subscribed)

    async def unsubscribe(self, id: str) -> bool:
        return await self._here().ask(wire.Unsubscribe(0, id), _done)

    async def replay(self, table: str, queue: str) -> int:
        return await self._here().ask(wire.Replay(0, table, queue), _count)

    def hold(self, blobs: set[str]) -> None:
        """Have the owner keep these blobs, which may still be committed, in place of those named before."""
        if blobs != self._blobs:
            self._blobs = blobs
            self._tell_blobs()

    def _tell_blobs(self) -> None:
        if self._link is not None:
            self._link.tell(wire.Hold(sorted(self._blobs)))

    def report(self, counted: Counted) -> None:
        """Tell the owner what was counted; without one it is lost."""
        if self._link is not None:
            self._link.tell(wire.Report(counted))

    # Leases: without the connection that they were granted on there are none.

    async def receive(self, queue: str, limit: int, *, grouped: bool = False) -> list[Delivery]:
        while True:
            await self._connected.wait()
            try:
                return await self._here().receive(queue, limit, grouped=grouped)
            except Unavailable:
                continue

    async def suspects(self, queue: str) -> list[Delivery]:
        """None: what ran when the owner died is received like all else, and a worker runs one job at a time."""
        return []

    def begin(self, delivery: Delivery) -> None:
        """For the owner it began when it was handed out: no death of this process can come before that."""

    def end(self, delivery: Delivery) -> None:
        """For the owner it ends when it is settled or given back."""

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        if self._link is not None:
            await self._link.ask_leases(wire.Extend(0, [delivery.fence for delivery in deliveries]))

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        if self._link is not None:
            await self._link.ask_leases(wire.Release(0, [delivery.fence for delivery in deliveries]))

    # Loads: without the connection that they were begun on there are none.

    async def begin_load(self, table: str, scope: str) -> Staging:
        link = self._here()
        return RemoteStaging(link, await link.ask(wire.BeginLoad(0, table, scope), _flip))

    async def unchanged_since_load(self, table: str, scope: str) -> bool:
        return await self._here().ask(wire.Stands(0, table, scope), _done)

    def abandon(self, load: int) -> None:
        if self._link is not None:
            self._link.tell(wire.Abandon(load))

    # What only the owner does

    async def install(self, catalog: Catalog) -> int:
        _owners("install")

    async def check(self) -> list[str]:
        _owners("check")

    async def peek(self, queue: str, limit: int, after: int = 0) -> list[Waiting]:
        _owners("peek")

    async def pause(self, queue: str, paused: bool) -> None:
        _owners("pause")

    async def purge(self, queue: str) -> int:
        _owners("purge")

    async def dead_letters(self, queue: str = "", limit: int = 100, after: int = 0) -> list[DeadLetter]:
        _owners("dead_letters")

    async def event(self, id: str) -> TracedEvent | None:
        _owners("event")

    async def trace(self, trace: str, limit: int = 1000) -> list[TracedEvent]:
        _owners("trace")

    async def events(self, after: int, limit: int = 100) -> list[TracedEvent]:
        _owners("events")

    async def expand(self, table: str) -> int:
        _owners("expand")

    async def sweep_loads(self, limit: int) -> int:
        _owners("sweep")

    async def expire_records(self, limit: int) -> int:
        _owners("expire")

    async def expire_messages(self, limit: int) -> int:
        _owners("expire")

    async def sweep(self, history_ms: int, limit: int, *, most: int | None = None) -> int:
        _owners("sweep")

    async def traces(self, forgotten: Forgotten) -> set[str]:
        _owners("forget")

    def remains(self, forgotten: Forgotten, traces: set[str]) -> AsyncGenerator[Remains, None]:
        _owners("forget")

    async def withdraw(self, places: Sequence[tuple[str, int]]) -> int:
        _owners("forget")

    async def scrub(self) -> bool:
        _owners("forget")

    async def ask(self, question: Question) -> Answer:
        _owners("ask")


def _owners(operation: str) -> NoReturn:
    raise DeclarationError(
        "a worker process cannot do this",
        operation=operation,
        hint="do it in a handler that runs in the server: send it a message",
    )
