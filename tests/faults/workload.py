"""A workload whose commits account for themselves, and the audit that finds each broken promise in a store.

Each commit writes a row of the table `shop/log` under its own id: how many events it emitted, which message it
acknowledged, which document it moved on. So a store can be judged without knowing what was asked of it:

- an acknowledged commit has its row; a row has all of its commit's events, and an event has its row;
- a message waits, or exactly one row acknowledges it; its effect stands at 1 if acknowledged, and is absent if not;
- a counter stands at the number of rows that moved it; the changes of a key are a chain of old and new images;
- a deduplicated send is there once.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import apsw
import msgspec

from headwater.catalog import Catalog, QueueSpec, RouteSpec, TableSpec
from headwater.codec import encode_json
from headwater.engines.sqlite.database import fetch
from headwater.engines.sqlite.engine import SqliteEngine
from headwater.errors import Conflict, LeaseLost, StoreFull
from headwater.events import Delivery, Envelope
from headwater.unit import Commit, Emit, Merge, Read, Settle, Write, new_commit

QUEUES = ("shop/work", "shop/ledger", "shop/changes", "shop/direct")
TABLES = ("shop/log", "shop/effect", "shop/counter", "shop/stock")
CATALOG = Catalog(
    apps=("shop",),
    tables={name: TableSpec(name=name, partition="id") for name in TABLES},
    topics={"shop/orders": 1},
    queues={name: QueueSpec(name=name, fifo=name in ("shop/ledger", "shop/changes")) for name in QUEUES},
    routes=(
        RouteSpec(source="shop/orders", target="shop/work", origin="shop"),
        RouteSpec(source="shop/orders", target="shop/ledger", group="account", origin="shop"),
        RouteSpec(source="shop/stock", target="shop/changes", group="$subject", origin="shop"),
    ),
)
Acknowledge = Callable[[str], None]


class _Log:
    """The commit under construction and its row of the log."""

    def __init__(self) -> None:
        self.commit = new_commit()
        self.row: dict[str, Any] = {"id": self.commit.id, "events": 0}

    def write(self, table: str, key: str, **change: Any) -> None:
        version = f"{self.commit.id}-w{len(self.commit.writes)}"
        self.commit.writes.append(Write(table, (key, ""), version, **change))

    def count(self, table: str, key: str) -> None:
        self.write(table, key, merges=(Merge(add={"n": 1}),), blind=True)

    def emit(self, source: str, data: dict[str, Any], **how: Any) -> None:
        event = Envelope(
            id=f"{self.commit.id}-{self.row['events']}",
            source=source,
            type="message",
            data=encode_json(data),
            trace=self.commit.trace,
        )
        self.row["events"] += 1
        self.commit.emits.append(Emit(event, **how))

    def finished(self) -> Commit:
        self.write("shop/log", self.commit.id, body=encode_json(self.row))
        return self.commit


def published(account: int) -> Commit:
    """An order for two queues; the second takes the orders of an account in turn."""
    log = _Log()
    log.emit("shop/orders", {"account": f"a{account}"})
    return log.finished()


def counted(number: int) -> Commit:
    """A counter that is moved on blindly."""
    log = _Log()
    log.row["counter"] = f"c{number}"
    log.count("shop/counter", f"c{number}")
    return log.finished()


def restocked(item: int, present: str | None, level: int) -> Commit:
    """A row replaced if it still has the version read, and its change for the queue of changes."""
    log = _Log()
    key = f"s{item}"
    log.row["stock"] = key
    log.commit.reads.append(Read("shop/stock", (key, ""), present))
    log.write("shop/stock", key, body=encode_json({"id": key, "n": level, "by": log.commit.id}))
    return log.finished()


def deduplicated(name: str) -> Commit:
    log = _Log()
    log.emit("shop/direct", {"name": name}, queue="shop/direct", dedup=name)
    log.row["dedup"] = name
    return log.finished()


def handled(delivery: Delivery) -> Commit:
    """A delivery acknowledged with its effects: its own row, the queue's counter, and a new event."""
    log = _Log()
    name = f"{delivery.event.id}|{delivery.queue}"
    log.row["acks"] = name
    log.row["counter"] = delivery.queue
    log.count("shop/effect", name)
    log.count("shop/counter", delivery.queue)
    if delivery.queue == "shop/work":
        log.emit("shop/orders", {"effect": delivery.message_id}, queue="shop/direct")
    log.commit.settles.append(Settle(delivery.queue, delivery.position, delivery.fence))
    return log.finished()


def checkpoint(connection: apsw.Connection) -> None:
    """A task for the writer: move the WAL into the database."""
    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)


def returned(delivery: Delivery) -> Commit:
    log = _Log()
    log.commit.settles.append(Settle(delivery.queue, delivery.position, delivery.fence, outcome="retry"))
    return log.finished()


class Load:
    """Producers and consumers on an open engine; `acknowledge` hears of each commit when its future has resolved."""

    def __init__(self, engine: SqliteEngine, acknowledge: Acknowledge, seed: int) -> None:
        self.engine = engine
        self.acknowledge = acknowledge
        self.random = random.Random(seed)
        self.seed = seed
        self.full = 0

    async def commit(self, commit: Commit) -> bool:
        """Whether the commit was accepted; refusals that a caller must live with are its False."""
        try:
            await self.engine.commit(commit)
        except (Conflict, LeaseLost):
            return False
        except StoreFull:
            self.full += 1
            return False
        self.acknowledge(commit.id)
        return True

    async def produce(self, actions: int) -> None:
        for n in range(actions):
            await self._act(n)

    async def _act(self, n: int) -> None:
        match self.random.randrange(5):
            case 0 | 1:
                await self.commit(published(self.random.randrange(4)))
            case 2:
                await self.commit(counted(self.random.randrange(3)))
            case 3:
                item = self.random.randrange(4)
                present = await self.engine.read("shop/stock", (f"s{item}", ""))
                await self.commit(restocked(item, present.version if present else None, self.random.randrange(9)))
            case _:
                name = f"d{self.seed}-{self.random.randrange(n + 1)}"
                await asyncio.gather(self.commit(deduplicated(name)), self.commit(deduplicated(name)))

    async def consume(self, queue: str) -> None:
        """Handle what comes, two messages at a time; every seventh delivery is given back first."""
        so_far = 0
        while True:
            deliveries = await self.engine.receive(queue, 2)
            retried = [(so_far + n) % 7 == 3 for n in range(len(deliveries))]
            so_far += len(deliveries)
            work = asyncio.gather(*map(self.handle, deliveries, retried))
            try:
                await asyncio.shield(work)
            except asyncio.CancelledError:
                await work
                raise

    async def handle(self, delivery: Delivery, retry: bool = False) -> None:
        """Commit the delivery's effects with its acknowledgement, or give it back."""
        self.engine.begin(delivery)
        await asyncio.sleep(0)
        self.engine.end(delivery)
        if retry and delivery.receives == 1:
            await self.commit(returned(delivery))
        elif await self.commit(handled(delivery)):
            return
        await self.engine.release([delivery])

    async def run(self, producers: int, actions: int) -> None:
        """Run consumers of all queues beside producers, until the producers are through."""
        consumers = [asyncio.create_task(self.consume(queue)) for queue in QUEUES]
        try:
            await asyncio.gather(*(self.produce(actions) for _ in range(producers)))
        finally:
            for consumer in consumers:
                consumer.cancel()
            ended = await asyncio.gather(*consumers, return_exceptions=True)
        for error in ended:
            if not isinstance(error, asyncio.CancelledError):
                raise AssertionError("a consumer ended") from error


async def drain(load: Load) -> None:
    """Handle all that waits in the queues of the store."""
    while depth := {stats.queue: stats.depth for stats in await load.engine.stats() if stats.depth}:
        for queue in depth:
            for delivery in await load.engine.receive(queue, 100, grouped=True):
                await load.handle(delivery)


class _Audit:
    """The content of a store, read straight from its tables."""

    def __init__(self, reader: apsw.Connection) -> None:
        names: dict[int, str] = dict(fetch(reader, "SELECT id, name FROM name"))
        self.tables: dict[str, dict[str, Any]] = defaultdict(dict)
        for table, key, body in fetch(reader, "SELECT tbl, pk, body FROM record"):
            self.tables[names[table]][key] = json.loads(body)
        self.log = self.tables["shop/log"]
        self.events: dict[str, tuple[Envelope, list[str]]] = {}
        self.in_order: list[Envelope] = []
        self.unknown: list[str] = []
        for body, messages in fetch(reader, "SELECT envelope, messages FROM event ORDER BY seq"):
            event = msgspec.msgpack.decode(body, type=Envelope)
            self.events[event.id] = event, [names[int(m.partition(":")[0])] for m in messages.split(",") if m]
            self.in_order.append(event)
        self.waiting: Counter[str] = Counter()
        for queue, id in fetch(reader, "SELECT queue, id FROM message LEFT JOIN event ON seq = event"):
            self.waiting[f"{id}|{names[queue]}"] += 1

    def commits(self, acknowledged: Iterable[str]) -> Iterable[str]:
        for id in set(acknowledged) - self.log.keys():
            yield f"acknowledged commit {id} is lost"
        emitted = Counter(id.partition("-")[0] for id, (event, _) in self.events.items() if event.key is None)
        changed = Counter(
            event.version.partition("-")[0] for event, _ in self.events.values() if event.source == "shop/stock"
        )
        for id in (emitted | changed).keys() - self.log.keys():
            yield f"commit {id} has events and no row"
        for id, row in self.log.items():
            if emitted[id] != row["events"] and "dedup" not in row:
                yield f"commit {id} has {emitted[id]} of {row['events']} events"
            if changed[id] != ("stock" in row):
                yield f"commit {id} has {changed[id]} changes"

    def messages(self) -> Iterable[str]:
        acks = Counter(row["acks"] for row in self.log.values() if "acks" in row)
        places = [f"{id}|{queue}" for id, (_, queues) in self.events.items() for queue in queues]
        for place in (acks.keys() | self.waiting.keys() | self.tables["shop/effect"].keys()) - set(places):
            yield f"message {place} has no event"
        for place in places:
            if acks[place] + self.waiting[place] != 1:
                yield f"message {place} was acknowledged {acks[place]} times and waits {self.waiting[place]} times"
            effect = self.tables["shop/effect"].get(place, {"n": 0})["n"]
            if effect != acks[place]:
                yield f"message {place} was acknowledged {acks[place]} times, its effect happened {effect} times"

    def counters(self) -> Iterable[str]:
        rows = Counter(row["counter"] for row in self.log.values() if "counter" in row)
        stand = Counter({key: body["n"] for key, body in self.tables["shop/counter"].items()})
        for key in rows.keys() | stand.keys():
            if rows[key] != stand[key]:
                yield f"counter {key} stands at {stand[key]}, {rows[key]} commits moved it"

    def changes(self) -> Iterable[str]:
        last: dict[str, bytes | None] = {}
        for event in self.in_order:
            if event.source == "shop/stock":
                if event.old != last.get(event.subject):
                    yield f"change {event.id} does not follow the one before it"
                last[event.subject] = event.data
        for key, body in self.tables["shop/stock"].items():
            if last.get(key) is None or json.loads(last[key] or b"") != body:
                yield f"{key} is not what its last change made it"

    def sends(self) -> Iterable[str]:
        asked = {row["dedup"] for row in self.log.values() if "dedup" in row}
        sent = Counter(
            json.loads(event.data or b"")["name"]
            for event, queues in self.events.values()
            if queues == ["shop/direct"] and b'"name"' in (event.data or b"")
        )
        for name in asked | sent.keys():
            if sent[name] != (name in asked):
                yield f"the deduplicated send {name} is there {sent[name]} times"


def audit(reader: apsw.Connection, acknowledged: Iterable[str]) -> list[str]:
    """Every broken promise that the store's content shows; empty when all were kept."""
    content = _Audit(reader)
    return [
        *content.commits(acknowledged),
        *content.messages(),
        *content.counters(),
        *content.changes(),
        *content.sends(),
    ]
