"""A store against the oracle: whatever the order of commits, deliveries, time and crashes, they agree.

HEADWATER_MODEL_EXAMPLES sets how many runs are tried (a run is up to 40 steps).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headwater.catalog import QueueSpec, RouteSpec, TableSpec
from headwater.codec import decode_json
from headwater.engine import AlreadyClaimed, Query, Staging, Waiting
from headwater.engines import make_engine
from headwater.engines.sqlite import staging as slices
from headwater.errors import Conflict, HeadwaterError, InvalidValue, LeaseLost
from headwater.events import Delivery
from headwater.unit import Claim, Commit, Merge, Read, Redrive, new_commit
from tests.conformance.crash import crash
from tests.conformance.loading import flip, stage
from tests.conformance.workbench import Store, data, emit, settle, write
from tests.model.oracle import VISIBILITY_MS, Message, Oracle

T = TypeVar("T")
PLAIN, FIFO, CHANGES = "shop/plain", "shop/fifo", "shop/changes"
QUEUES = [PLAIN, FIFO, CHANGES]
CATALOG = (
    TableSpec(name="shop/rows", partition="id"),
    QueueSpec(name=PLAIN, visibility_ms=VISIBILITY_MS),
    QueueSpec(name=FIFO, visibility_ms=VISIBILITY_MS, fifo=True),
    QueueSpec(name=CHANGES, visibility_ms=VISIBILITY_MS, fifo=True),
    RouteSpec(source="shop/rows", target=CHANGES),
)
KEYS, GROUPS = st.sampled_from("abc"), st.sampled_from(["g", "h", ""])
DOCUMENTS = st.none() | st.fixed_dictionaries({"n": st.integers(0, 2) | st.just("text")})
MERGES = st.sampled_from([Merge(add={"n": 1}), Merge(append={"l": [1]}), Merge(set={"n": 5}, unset=("l",))])
DELAYS = st.sampled_from([0, 0, 0, 1_000, 7_000])
ANY = st.integers(0, 1_000)


@pytest.fixture(autouse=True, scope="module")
def one_row_a_slice() -> Iterator[None]:
    """So that a load can be half in place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slices, "SLICE_ROWS", 1)
        yield


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp())
        self.store = Store(lambda clock, **_: make_engine(self.url(), clock=clock))
        self.oracle = Oracle(
            now_ms=self.store.clock.wall_ms(), fifo={FIFO, CHANGES}, queues={queue: [] for queue in QUEUES}
        )
        self.staged: tuple[Staging, dict[str, Any]] | None = None
        self.outdated: list[Staging] = []
        self.leases: list[tuple[Delivery, Message]] = []
        self.lost: list[Delivery] = []

    def url(self) -> str:
        return f"sqlite:{self.folder}/store"

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    @initialize()
    def open(self) -> None:
        self.run(self.store.open(*CATALOG))

    def teardown(self) -> None:
        self.run(self.store.engine.close())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        shutil.rmtree(self.folder)

    def commit(self, commit: Commit, *expected: type[HeadwaterError]) -> Any:
        """The result; None when it is refused, as expected, with one of the errors."""

        async def committed() -> Any:
            return await self.store.engine.commit(commit)

        if not expected:
            return self.run(committed())
        with pytest.raises(expected):
            self.run(committed())
        return None

    def lease(self, at: int) -> tuple[Delivery, Message]:
        return self.leases.pop(at % len(self.leases))

    def end(self, delivery: Delivery, message: Message) -> None:
        if message.begun:
            self.store.engine.end(delivery)
            message.begun = False

    @rule(key=KEYS, document=DOCUMENTS)
    def put(self, key: str, document: dict[str, Any] | None) -> None:
        commit = new_commit()
        document = None if document is None else {"id": key, **document}
        version = write(commit, "shop/rows", key, document).version
        self.commit(commit)
        self.oracle.put(key, version, document)

    @rule(key=KEYS, merge=MERGES)
    def merge(self, key: str, merge: Merge) -> None:
        commit = new_commit()
        version = write(commit, "shop/rows", key, None, merge, blind=True).version
        possible = self.oracle.merge(key, version, merge)
        self.commit(commit, *([] if possible else [InvalidValue]))

    @rule(rows=st.dictionaries(KEYS, st.integers(0, 1)))
    def stage(self, rows: dict[str, int]) -> None:
        """A load of all rows, in place of one that was staged before."""
        self.abandon()
        self.expand(many=True)
        documents = {key: {"id": key, "n": n} for key, n in rows.items()}
        staging, differences, vanished = self.run(stage(self.store.engine, "shop/rows", documents))
        staged = self.oracle.differences(documents)
        present = self.oracle.documents
        assert staging.staged == len(staged)
        assert differences.inserted == len(documents.keys() - present.keys())
        assert differences.modified == sum(k in present and present[k][1] != row for k, row in documents.items())
        assert vanished == sum(key in present for key, row in staged.items() if row is None)
        self.staged = staging, staged

    @rule(late=st.booleans(), key=KEYS)
    def flip(self, late: bool, key: str) -> None:
        """Perhaps with a write right behind it; an outdated load is refused."""
        if self.outdated:
            commit = new_commit()
            commit.flips = [self.outdated[-1].flip]
            self.commit(commit, Conflict)
        if self.staged is None:
            return
        staging, staged = self.staged
        self.run(flip(self.store.engine, staging))
        reads = {key: self.run(self.store.engine.read("shop/rows", (key, ""))) for key in staged}
        self.oracle.flip(staged, {key: record.version for key, record in reads.items() if record})
        self.staged, self.outdated = None, [staging]
        if late:
            self.put(key, {"n": 1})

    def abandon(self) -> None:
        if self.staged:
            self.run(self.give_up(self.staged[0]))
            self.outdated, self.staged = [self.staged[0]], None

    async def give_up(self, staging: Staging) -> None:
        self.store.engine.abandon(staging.flip.load)
        await self.store.barrier()
        await self.store.engine.sweep_loads(100)

    @rule(many=st.booleans())
    def expand(self, many: bool) -> None:
        keys = sorted(self.oracle.pending)
        for key in keys if many else keys[:1]:
            self.oracle.move(key)
            assert self.run(self.store.engine.expand("shop/rows")) == 1

    @rule(
        queue=st.sampled_from([PLAIN, FIFO]), group=GROUPS, delay_ms=DELAYS, dedup=st.sampled_from(["", "", "d", "e"])
    )
    def send(self, queue: str, group: str, delay_ms: int, dedup: str) -> None:
        commit = new_commit()
        event = emit(commit, queue, 1, queue=queue, group=group, delay_ms=delay_ms, dedup=dedup)
        first = self.oracle.send(queue, Message(event.id, 1, group), delay_ms, dedup)
        assert self.commit(commit).duplicates == ({} if first is None else {0: first})

    @rule(keys=st.tuples(KEYS, KEYS), stale=st.booleans(), lost=st.booleans(), claim=st.sampled_from(["", "x"]), at=ANY)
    def unit(self, keys: tuple[str, str], stale: bool, lost: bool, claim: str, at: int) -> None:
        """A read, a claim, an acknowledgement, a write and a send: all or nothing."""
        commit, (key, read) = new_commit(), keys
        expected: list[type[HeadwaterError]] = []
        commit.reads = [Read("shop/rows", (read, ""), "stale" if stale else self.oracle.version(read))]
        expected += [Conflict] if stale else []
        if claim:
            expected += [AlreadyClaimed] if self.oracle.claims.get(claim, 0) > self.oracle.now_ms else []
            commit.claims = [Claim("scope", claim, self.oracle.now_ms + 20_000)]
        settled = None
        if lost and self.lost:
            commit.settles = [settle(self.lost[at % len(self.lost)])]
            expected.append(LeaseLost)
        elif self.leases:
            settled = self.leases[at % len(self.leases)]
            commit.settles = [settle(settled[0])]
        version = write(commit, "shop/rows", key, {"id": key, "n": at}).version
        event = emit(commit, PLAIN, 2, queue=PLAIN)
        self.commit(commit, *expected)
        if expected:
            return
        self.oracle.put(key, version, {"id": key, "n": at})
        self.oracle.send(PLAIN, Message(event.id, 2), 0)
        if claim:
            self.oracle.claims[claim] = self.oracle.now_ms + 20_000
        if settled:
            self.leases.remove(settled)
            self.lost.append(settled[0])
            self.end(*settled)
            self.oracle.ack(settled[0].queue, settled[1])

    @rule(queue=st.sampled_from(QUEUES), limit=st.integers(1, 4), begin=st.booleans())
    def receive(self, queue: str, limit: int, begin: bool) -> None:
        possible = {message.id: message for message in self.possible(queue)}
        found = self.run(self.store.ready(queue, limit))
        assert bool(found) == bool(possible)
        assert len(found) <= limit
        assert {delivery.event.id for delivery in found} <= set(possible)
        for delivery in found:
            message = possible.pop(delivery.event.id)
            self.oracle.lease(message)
            assert (delivery.receives, delivery.group) == (message.attempts, message.group)
            assert message.data is None or data(delivery) == message.data
            self.leases.append((delivery, message))
            if begin:
                self.store.engine.begin(delivery)
                message.begun = True

    def possible(self, queue: str) -> list[Message]:
        """What may be handed out now."""
        return self.oracle.receivable(queue)

    @precondition(lambda self: self.leases)
    @rule(at=ANY, outcome=st.sampled_from(["ack", "discard", "filter", "bury"]))
    def settle(self, at: int, outcome: Any) -> None:
        delivery, message = self.lease(at)
        commit = new_commit()
        commit.settles = [settle(delivery, outcome=outcome)]
        self.commit(commit)
        self.end(delivery, message)
        (self.oracle.bury if outcome == "bury" else self.oracle.ack)(delivery.queue, message)
        self.lost.append(delivery)

    @precondition(lambda self: self.leases)
    @rule(at=ANY, delay_ms=DELAYS)
    def retry(self, at: int, delay_ms: int) -> None:
        delivery, message = self.lease(at)
        ready_ms = self.oracle.now_ms + delay_ms if delay_ms else 0
        commit = new_commit()
        commit.settles = [settle(delivery, outcome="retry", ready_ms=ready_ms)]
        self.commit(commit)
        self.end(delivery, message)
        self.oracle.retry(message, ready_ms)
        self.lost.append(delivery)

    @precondition(lambda self: self.leases)
    @rule(at=ANY)
    def release(self, at: int) -> None:
        delivery, message = self.lease(at)
        self.run(self.store.engine.release([delivery]))
        self.end(delivery, message)
        self.oracle.give_back(message, counted=False)
        self.lost.append(delivery)

    @precondition(lambda self: self.leases)
    @rule(at=ANY)
    def extend(self, at: int) -> None:
        delivery, message = self.leases[at % len(self.leases)]
        self.run(self.store.engine.extend([delivery]))
        message.deadline_ms = self.oracle.now_ms + VISIBILITY_MS

    @precondition(lambda self: self.oracle.dead)
    @rule(at=ANY, discard=st.booleans())
    def redrive(self, at: int, discard: bool) -> None:
        at %= len(self.oracle.dead)
        letters = self.run(self.store.engine.dead_letters())
        commit = new_commit()
        commit.redrives = [Redrive(letters[at].id, discard=discard)]
        assert self.commit(commit).missing == ()
        self.oracle.redrive(at, discard=discard)

    @rule(queue=st.sampled_from(QUEUES))
    def purge(self, queue: str) -> None:
        assert self.run(self.store.engine.purge(queue)) == self.oracle.purge(queue)

    @rule(ms=st.sampled_from([1, 1_000, 7_000, 10_000, 300_000]))
    def advance(self, ms: int) -> None:
        self.run(self.store.advance(ms / 1000))
        late = self.oracle.advance(ms)
        for delivery, message in [lease for lease in self.leases if lease[1] in late]:
            self.leases.remove((delivery, message))
            self.end(delivery, message)
            self.lost.append(delivery)

    @rule(how=st.sampled_from(["close", "die", "die and ask for suspects"]))
    def reopen(self, how: str) -> None:
        begun = {delivery.event.id: message for delivery, message in self.leases if message.begun}
        self.abandon()
        self.run(self.store.reopen() if how == "close" else crash(self.store))
        self.oracle.end(died=how != "close")
        self.lost += [delivery for delivery, _ in self.leases]
        self.leases = []
        if how == "die and ask for suspects":
            for queue in QUEUES:
                for delivery in self.run(self.store.engine.suspects(queue)):
                    message = begun.pop(delivery.event.id)
                    self.oracle.lease(message)
                    assert delivery.receives == message.attempts
                    self.leases.append((delivery, message))
            assert begun == {}

    @invariant()
    def documents_agree(self) -> None:
        page = self.run(self.store.engine.query(Query(table="shop/rows")))
        found = {record.key[0]: (record.version, decode_json(record.body)) for record in page.records}
        assert found == self.oracle.documents
        for key in "abc":
            record = self.run(self.store.engine.read("shop/rows", (key, "")))
            assert (record.version if record else None) == self.oracle.version(key)

    @invariant()
    def queues_agree(self) -> None:
        for queue in QUEUES:
            expected = self.oracle.queues[queue]
            waiting = self.run(self.store.engine.peek(queue, 1_000))
            for message, delivered in zip(expected, waiting, strict=False):
                message.id = message.id or delivered.event.id  # of a removal by a load
            self.waiting_agree(expected, waiting)
            leased = sum(message.leased for message in expected)
            delayed = sum(message.ready_ms > self.oracle.now_ms for message in expected)
            dead = sum(of == queue for of, _ in self.oracle.dead)
            assert self.run(self.store.counts(queue)) == (len(expected), leased, delayed, dead)

    def waiting_agree(self, expected: list[Message], waiting: list[Waiting]) -> None:
        found = [(x.event.id, x.receives, x.ready_ms, x.group) for x in waiting]
        assert found == [(x.id, x.receives, x.ready_ms, x.group) for x in expected]

    @invariant()
    def dead_letters_agree(self) -> None:
        found = [(x.queue, x.event.id, x.receives) for x in self.run(self.store.engine.dead_letters())]
        assert found == [(queue, message.id, message.receives) for queue, message in self.oracle.dead]


StoreMachine.TestCase.settings = settings(
    max_examples=int(os.environ.get("HEADWATER_MODEL_EXAMPLES", "40")),
    stateful_step_count=40,
    derandomize=os.environ.get("CI") == "true",
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestStore = StoreMachine.TestCase
