"""What becomes of a worker's leases and commits when it, its connection or the owner is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from headwater.engines.remote.engine import RemoteEngine
from headwater.engines.sqlite.board import read_board
from headwater.engines.sqlite.engine import SqliteEngine
from headwater.errors import CommitUnknown, DeclarationError, LeaseLost, Unavailable
from headwater.events import Delivery, Envelope
from headwater.unit import Commit, new_commit
from tests.conformance.workbench import data, emit, settle, write
from tests.patience import PATIENCE_S
from tests.remote.conftest import QUEUE, TABLE, Shared

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def worker(store: Shared) -> AsyncIterator[RemoteEngine]:
    """One more worker of the store's owner."""
    engine = RemoteEngine(store.engine._path, clock=store.clock)
    await engine.open()
    yield engine
    await engine.close()


def cut(engine: RemoteEngine) -> None:
    """The kernel closes the socket of a process that is killed."""
    assert engine._link is not None
    engine._link.transport.abort()


async def take(engine: RemoteEngine) -> Delivery:
    (delivery,) = await asyncio.wait_for(engine.receive(QUEUE, 1), PATIENCE_S)
    return delivery


def done(delivery: Delivery) -> Commit:
    commit = new_commit()
    write(commit, TABLE, "row", {"id": "row", "attempt": delivery.receives})
    commit.settles.append(settle(delivery))
    return commit


async def test_a_killed_worker_gives_back_at_once_with_the_receive_counted(store: Shared) -> None:
    async with worker(store) as doomed:
        await store.send(QUEUE, "job")
        first = await take(doomed)
        cut(doomed)
        again = await take(store.engine)
    assert (first.receives, again.receives) == (1, 2)
    await store.ack(again)
    assert await store.counts(QUEUE) == (0, 0, 0, 0)


async def test_what_it_had_committed_does_not_come_again(store: Shared) -> None:
    async with worker(store) as doomed:
        await store.send(QUEUE, "job")
        delivery = await take(doomed)
        committing = doomed.commit(done(delivery))
        await asyncio.sleep(0)  # the frame is in the socket, the answer is not back
        assert doomed._link is not None
        doomed._link._sender.flush()
        doomed._link.transport.close()
        with pytest.raises(CommitUnknown):
            await asyncio.wait_for(committing, PATIENCE_S)
        assert await store.ready(QUEUE) == []
    assert await store.read(TABLE, "row") == {"id": "row", "attempt": 1}


async def test_an_expired_lease_is_redelivered_and_its_late_commit_refused(store: Shared) -> None:
    async with worker(store) as paused:
        await store.send(QUEUE, "job")
        late = await take(paused)
        await store.advance(31)
        again = await take(store.engine)
        assert again.receives == 2
        with pytest.raises(LeaseLost):
            await paused.commit(done(late))
        await store.engine.commit(done(again))
    assert await store.read(TABLE, "row") == {"id": "row", "attempt": 2}


async def test_extended_leases_hold(store: Shared) -> None:
    await store.send(QUEUE, "job")
    delivery = await take(store.engine)
    for _ in range(3):
        await store.advance(20)
        await store.engine.extend([delivery])
    await store.engine.commit(done(delivery))
    assert await store.read(TABLE, "row") == {"id": "row", "attempt": 1}


async def test_after_a_restart_of_the_owner_old_leases_are_refused(store: Shared) -> None:
    await store.send(QUEUE, "job")
    late = await take(store.engine)
    await store.reopen()
    again = await take(store.engine)
    assert again.fence != late.fence
    with pytest.raises(LeaseLost):
        await store.engine.commit(done(late))
    await store.engine.commit(done(again))


async def test_a_worker_connects_again_and_goes_on_receiving(store: Shared) -> None:
    async with worker(store) as cut_off:
        receiving = asyncio.create_task(cut_off.receive(QUEUE, 1))
        await store.barrier()
        cut(cut_off)
        assert cut_off._link is not None
        await cut_off._link._ended
        with pytest.raises(LeaseLost):
            await cut_off.commit(Commit(id="x", settles=[settle(_foreign())]))
        with pytest.raises(Unavailable):
            await cut_off.read(TABLE, ("row", ""))
        await cut_off.release([_foreign()])
        await store.send(QUEUE, "job")
        (delivery,) = await asyncio.wait_for(receiving, PATIENCE_S)
        assert data(delivery) == "job"


def _foreign() -> Delivery:
    return Delivery(queue=QUEUE, position=1, fence=1, receives=1, event=Envelope(id="e", source=QUEUE, type="message"))


async def test_a_cancelled_receive_loses_nothing(store: Shared) -> None:
    """Whether the owner hears of it before the message comes, or after it has sent it."""
    for early in (True, False):
        receiving = asyncio.create_task(store.engine.receive(QUEUE, 1))
        await store.barrier()
        commit = new_commit()
        emit(commit, QUEUE, "job", queue=QUEUE)
        sending = store.owned.commit(commit)
        if early:
            receiving.cancel()
            await sending
        else:
            await sending
            receiving.cancel()
        await asyncio.wait([receiving])
        delivery = await take(store.engine)
        assert delivery.receives == 1
        await store.ack(delivery)
        assert await store.counts(QUEUE) == (0, 0, 0, 0)


async def test_deliveries_of_workers_are_on_the_board_until_they_are_settled(store: Shared) -> None:
    assert isinstance(store.owned, SqliteEngine)
    board = store.owned.folder / "board"
    await store.send(QUEUE, "one", "two")
    first, second = await store.take(QUEUE, 2)
    assert len(read_board(board).running) == 2
    await store.ack(first)
    assert len(read_board(board).running) == 1
    await store.engine.release([second])
    assert read_board(board).running == []


async def test_a_drain_hands_out_nothing_and_counts_nothing(store: Shared) -> None:
    await store.send(QUEUE, "one", "two")
    delivery = await take(store.engine)
    draining = asyncio.create_task(store.engine.owner.drain(PATIENCE_S))
    await store.barrier()
    assert await store.ready(QUEUE) == []
    assert not draining.done()
    await store.engine.commit(done(delivery))
    await asyncio.wait_for(draining, PATIENCE_S)


async def test_what_is_held_at_the_end_of_a_drain_goes_back_uncounted(store: Shared) -> None:
    await store.send(QUEUE, "one")
    await take(store.engine)
    await store.engine.owner.drain(0)
    await store.engine.owner.close()
    (delivery,) = await asyncio.wait_for(store.owned.receive(QUEUE, 1), PATIENCE_S)
    assert delivery.receives == 1


async def test_what_only_the_owner_does_is_refused(store: Shared) -> None:
    async with worker(store) as other:
        with pytest.raises(DeclarationError, match="a worker process cannot"):
            await other.peek(QUEUE, 1)


async def test_the_owner_tells_what_each_worker_holds(store: Shared) -> None:
    async with worker(store) as holder:
        await store.send(QUEUE, "job")
        taken = await take(holder)
        owner = store.engine.owner
        held = [one.held for one in owner.connected() if one.held]
        assert [[delivery.message_id for delivery in deliveries] for deliveries in held] == [[taken.message_id]]
        await holder.commit(done(taken))
        assert [one.held for one in owner.connected() if one.held] == []
