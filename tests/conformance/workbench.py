"""What the conformance tests work with: one store of an engine under a manual clock, and short ways to use it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from headwater.catalog import Catalog, QueueSpec, RouteSpec, TableSpec
from headwater.clock import Clock
from headwater.codec import decode_json, encode_json
from headwater.engine import Engine, QueueStats, Record
from headwater.events import Delivery, Envelope, Key
from headwater.ids import new_id
from headwater.unit import Claim, Commit, Committed, Emit, Merge, Read, Redrive, Settle, Write, new_commit
from tests.conformance.clocks import ManualClock
from tests.patience import PATIENCE_S


class MakeEngine(Protocol):
    def __call__(self, clock: Clock, *, read_only: bool = False) -> Engine: ...


def catalog(
    *specs: TableSpec | QueueSpec | RouteSpec | str, app: str = "shop", renamed: dict[str, str] | None = None
) -> Catalog:
    """What one app declares: tables, queues, routes, and topics as plain names."""
    routes = [msgspec.structs.replace(spec, origin=app) for spec in specs if isinstance(spec, RouteSpec)]
    return Catalog(
        apps=(app,),
        tables={spec.name: spec for spec in specs if isinstance(spec, TableSpec)},
        queues={spec.name: spec for spec in specs if isinstance(spec, QueueSpec)},
        topics={spec: 1 for spec in specs if isinstance(spec, str)},
        routes=tuple(routes),
        renamed=renamed or {},
    )


def key_of(key: Key | str) -> Key:
    return (key, "") if isinstance(key, str) else key


def write(commit: Commit, table: str, key: Key | str, document: Any, *merges: Merge, blind: bool = False) -> Write:
    """Add a write to the commit; `document` None removes the record."""
    body = None if document is None else encode_json(document)
    version = f"{commit.id}-{len(commit.writes) + len(commit.emits)}"
    commit.writes.append(Write(table, key_of(key), version, body, merges, blind))
    return commit.writes[-1]


def emit(commit: Commit, source: str, data: Any, **options: Any) -> Envelope:
    """Add an event to the commit: published by `source`, or sent to it when it is named as `queue` too."""
    subject, depth = options.pop("subject", ""), options.pop("depth", 0)
    id = f"{commit.id}-{len(commit.writes) + len(commit.emits)}"
    event = Envelope(
        id=id, source=source, type="message", subject=subject, data=encode_json(data), trace=commit.trace, depth=depth
    )
    commit.emits.append(Emit(event, **options))
    return event


def settle(delivery: Delivery, **options: Any) -> Settle:
    return Settle(delivery.queue, delivery.position, delivery.fence, **options)


def data(message: Any) -> Any:
    """The decoded data of a delivery, of a waiting message, of a dead letter or of an event."""
    event = message if isinstance(message, Envelope) else message.event
    return None if event.data is None else decode_json(event.data)


def image(body: bytes | None) -> Any:
    return None if body is None else decode_json(body)


async def at_rest(engine: Engine) -> None:
    """What the engine does beside its commits, such as asking a database for messages, is done."""

    def tasks() -> set[asyncio.Future[Any]]:
        return {task for task in getattr(engine, "_tasks", ()) if task is not getattr(engine, "_listener", None)}

    while under_way := tasks():
        await asyncio.wait(under_way)
        for _ in range(3):
            await asyncio.sleep(0)


class Store:
    def __init__(self, make: MakeEngine) -> None:
        self.make = make
        self.clock = ManualClock()
        self.engine = make(self.clock)

    async def open(self, *specs: TableSpec | QueueSpec | RouteSpec | str) -> Store:
        await self.engine.open()
        if specs:
            await self.engine.install(catalog(*specs))
        return self

    async def reopen(self) -> None:
        await self.engine.close()
        self.engine = self.make(self.clock)
        await self.engine.open()

    async def commit(self, fill: Callable[[Commit], object] | None = None, **parts: Any) -> Committed:
        commit = Commit(id=new_id(), **parts)
        commit.trace = commit.trace or commit.id
        if fill:
            fill(commit)
        return await asyncio.wait_for(self.engine.commit(commit), PATIENCE_S)

    async def put(self, table: str, key: Key | str, document: Any) -> str:
        """Write (None: remove) a record; its new version."""
        commit = new_commit()
        version = write(commit, table, key, document).version
        await self.engine.commit(commit)
        return version

    async def merge(self, table: str, key: Key | str, *merges: Merge) -> None:
        await self.commit(lambda commit: write(commit, table, key, None, *merges, blind=True))

    async def send(self, queue: str, *items: Any, **options: Any) -> list[Envelope]:
        """Send items straight to a queue in one commit."""
        commit = new_commit()
        events = [emit(commit, queue, item, queue=queue, **options) for item in items]
        await self.engine.commit(commit)
        return events

    async def publish(self, source: str, item: Any, **options: Any) -> Envelope:
        commit = new_commit()
        event = emit(commit, source, item, **options)
        await self.engine.commit(commit)
        return event

    async def take(self, queue: str, count: int = 1, *, grouped: bool = False) -> list[Delivery]:
        """Receive exactly `count` messages; they must come."""
        found: list[Delivery] = []
        while len(found) < count:
            receiving = self.engine.receive(queue, count - len(found), grouped=grouped)
            found += await asyncio.wait_for(receiving, PATIENCE_S)
        return found

    async def ready(self, queue: str, limit: int = 100) -> list[Delivery]:
        """Receive what is there now, perhaps nothing."""
        await self.barrier()
        receiving = asyncio.ensure_future(self.engine.receive(queue, limit))
        await self.barrier()
        if receiving.done():
            return await receiving
        receiving.cancel()
        await asyncio.wait([receiving])
        return []

    async def drain(self, queue: str) -> list[Any]:
        """Receive and acknowledge all that is ready now; the data, in order."""
        found: list[Any] = []
        while deliveries := await self.ready(queue):
            found += [data(delivery) for delivery in deliveries]
            await self.ack(*deliveries)
        return found

    async def ack(self, *deliveries: Delivery) -> None:
        await self.commit(settles=[settle(delivery) for delivery in deliveries])

    async def retry(self, delivery: Delivery, after_s: float = 0) -> None:
        ready_ms = await self.engine.now_ms() + round(after_s * 1000) if after_s else 0
        await self.commit(settles=[settle(delivery, outcome="retry", ready_ms=ready_ms)])

    async def bury(self, delivery: Delivery, reason: str = "no use") -> None:
        await self.commit(settles=[settle(delivery, outcome="bury", reason=reason)])

    async def redrive(self, id: int, **options: Any) -> Committed:
        return await self.commit(redrives=[Redrive(id, **options)])

    async def claim(self, scope: str, id: str, for_s: float, result: bytes = b"") -> None:
        expires_ms = await self.engine.now_ms() + round(for_s * 1000)
        await self.commit(claims=[Claim(scope, id, expires_ms, result)])

    async def read(self, table: str, key: Key | str) -> Any:
        record = await self.engine.read(table, key_of(key))
        return image(record.body) if record else None

    async def record(self, table: str, key: Key | str) -> Record:
        record = await self.engine.read(table, key_of(key))
        assert record is not None
        return record

    def reading(self, table: str, key: Key | str, version: str | None) -> list[Read]:
        return [Read(table, key_of(key), version)]

    async def stats(self, queue: str) -> QueueStats:
        return next(stats for stats in await self.engine.stats() if stats.queue == queue)

    async def counts(self, queue: str) -> tuple[int, int, int, int]:
        """(depth, in flight, delayed, dead letters)"""
        stats = await self.stats(queue)
        return stats.depth, stats.in_flight, stats.delayed, stats.dead

    async def waiting(self, queue: str) -> list[Any] | int:
        """The messages that wait in a queue, or how many they are where nobody can see them."""
        if self.engine.features.peeks:
            return list(await self.engine.peek(queue, 10))
        return (await self.stats(queue)).depth

    async def barrier(self) -> None:
        """All that was started before has passed through the store."""
        for _ in range(3):
            await asyncio.sleep(0)
        await asyncio.wait_for(self.engine.commit(new_commit()), PATIENCE_S)
        for _ in range(3):
            await asyncio.sleep(0)
        await asyncio.wait_for(at_rest(self.engine), PATIENCE_S)

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await self.barrier()
