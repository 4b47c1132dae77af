"""Commits: each is worked out by the rules of `applying`, and written by one transaction.

A commit is worked out from what it says itself: that its reads still hold, and its claims are free. Only what it
changes without having read it (blind merges, removals) is read before. The transaction's conditions then say whether
that was so. Where it was not, a stale read is a `Conflict` and a taken claim `AlreadyClaimed`; all else, such as a
record that another process changed between the look and the transaction, is worked out anew, for a bounded time.

Commits of this process that name the same record, claim, queue or group follow one another in the order of the calls;
others overtake.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from typing import Any

from headwater.applying.batch import Attempt
from headwater.applying.batch import Letter as DeadLetter
from headwater.applying.state import Slot, Stored
from headwater.aws import stored
from headwater.aws.items import Item, pack_key, unpack, version_of
from headwater.aws.journal import position_of
from headwater.aws.messages import marker_of
from headwater.aws.outbox import Posted
from headwater.engines.aws.actions import Action, Drafting, check_size
from headwater.engines.aws.working import Known, Working
from headwater.engines.aws.writing import Stale, Writing
from headwater.errors import Conflict, HeadwaterError, InvalidValue, StoreError
from headwater.events import Delivery, Key
from headwater.unit import Commit, Committed

_TRIES = 12
_MOST_KEYS = 100
"""Of one BatchGetItem."""
Place = tuple[object, ...]


class Commits(Writing):
    def _prepare_commits(self) -> None:
        self._drafting = Drafting(self.names)
        self._latest: dict[Place, asyncio.Task[None]] = {}
        self._committing: set[asyncio.Task[None]] = set()

    async def _end_commits(self) -> None:
        while self._committing:
            await asyncio.wait(self._committing)

    def commit(self, commit: Commit) -> asyncio.Future[Committed]:
        self.writable()
        if not self.is_open:
            raise StoreError("the store is not open", operation="commit", resource=self.names.stack)
        future: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
        places = self._places(commit)
        before = {self._latest[place] for place in places if place in self._latest}
        task = asyncio.create_task(self._commit(commit, future, before if places else set(self._committing)))
        self._committing.add(task)
        self._latest.update(dict.fromkeys(places, task))
        task.add_done_callback(lambda done: self._ended(done, places))
        return future

    def _ended(self, task: asyncio.Task[None], places: set[Place]) -> None:
        self._committing.discard(task)
        for place in places:
            if self._latest.get(place) is task:
                del self._latest[place]

    def _places(self, commit: Commit) -> set[Place]:
        """What a commit shares with others that are to come before or after it; a commit of nothing follows all."""
        found: set[Place] = {(write.table, *write.key) for write in commit.writes}
        found |= {(read.table, *read.key) for read in commit.reads}
        found |= {("claim", claim.scope, claim.id) for claim in commit.claims}
        found |= {("lease", settle.queue, settle.position) for settle in commit.settles}
        found |= {("letter", redrive.id) for redrive in commit.redrives}
        found |= {("load", flip.table) for flip in commit.flips}
        for emit in commit.emits:
            spec = self.state.queues.get(emit.queue)
            order = self.orders.order(Posted(event=emit.event, queue=emit.queue, group=emit.group))
            found.add(("order", order) if order else ("emit", emit.event.id))
            if emit.dedup:
                found.add(("dedup", emit.queue or emit.event.source, emit.dedup))
            if spec and spec.max_depth:
                found.add(("depth", emit.queue))
        return found

    async def _commit(self, commit: Commit, future: asyncio.Future[Committed], before: set[asyncio.Task[None]]) -> None:
        if before:
            await asyncio.wait(before)
        try:
            committed = await self._write(commit)
        except Exception as error:
            if not isinstance(error, HeadwaterError):
                cause, error = error, StoreError(repr(error), operation="commit", resource=self.names.stack)
                error.__cause__ = cause
            if not future.done():
                future.set_exception(error)
            return
        if not future.done():
            future.set_result(committed)

    async def _write(self, commit: Commit) -> Committed:
        if commit.redactions:
            raise InvalidValue("nothing can be erased from a store on AWS", operation="commit")
        await self.fresh()
        known = Known()
        for tries in range(_TRIES):
            try:
                return await self._attempt(commit, known, tries)
            except Stale:
                known.records.clear()
                known.versions.clear()
                await asyncio.sleep(random.uniform(0, min(0.5, 0.01 * 2**tries)) if tries else 0)
        raise Conflict("others keep changing the same records", operation="commit", resource=_tables(commit))

    async def _attempt(self, commit: Commit, known: Known, tries: int) -> Committed:
        """Work the commit out and write it. Raises `Stale` or why it is refused."""
        work = Working(self.state, self.present_ms(), commit, known)
        await self._look(work)
        result = work.work_out()
        ends = [(delivery, self._marker(delivery)) for delivery in _deliveries(work)]
        await self._prepare_letters(work, tries)
        actions = [*self._drafting.actions(work, self.orders, ends), *self._more_actions(work)]
        check_size(actions)
        await self.write(actions, work, f"{commit.id}{tries:04x}")
        await self._finish(work)
        return result

    # What has to be read before.

    async def _look(self, work: Working) -> None:
        """Read what the commit changes and has not read, dead letters, and depths of queues with a maximum."""
        commit, known = work.commit, work.known
        read = {(read.table, read.key) for read in commit.reads}
        wanted = {
            work.slot(write.table, write.key): (write.table, write.key)
            for write in commit.writes
            if write.blind
            or write.expired
            or write.staged
            or (write.body is None and not write.merges and (write.table, write.key) not in read)
        }
        missing = {slot: place for slot, place in wanted.items() if slot not in known.records}
        if missing:
            await self._read_records(missing, known)
        work.records.update(known.records)
        if commit.redrives:
            work.dead_letters = await self._find_letters([redrive.id for redrive in commit.redrives])
        for number, spec in {
            work.state.ids[spec.name]: spec
            for emit in commit.emits
            if emit.queue and (spec := work.state.queues.get(emit.queue)) and spec.max_depth
        }.items():
            work.state.counts[number].depth = await self._depth(spec.name)

    async def _read_records(self, wanted: dict[Slot, tuple[str, Key]], known: Known) -> None:
        keys: dict[str, list[Item]] = {}
        for table, key in wanted.values():
            spec = self.table_spec(table)
            keys.setdefault(self.names.table(table), []).append(pack_key(spec, key))
        known.records.update(dict.fromkeys(wanted))
        known.versions.update(dict.fromkeys(wanted))
        tables = {self.names.table(table): self.state.ids[table] for table, _ in wanted.values()}
        for name, item in await self.batch_get(keys):
            image = unpack(item)
            slot = (tables[name], *image.key)
            version = version_of(image)
            known.versions[slot] = version
            if image.body is not None:
                known.records[slot] = Stored(version, image.body, image.expires_ms, image.schema)

    async def batch_get(self, keys: dict[str, list[Item]]) -> list[tuple[str, Item]]:
        """The items that are there, each with its table."""
        pairs = [(table, key) for table, wanted in keys.items() for key in wanted]
        found: list[tuple[str, Item]] = []
        pause_s = 0.01
        while pairs:
            request: dict[str, dict[str, Any]] = {}
            for table, key in pairs[:_MOST_KEYS]:
                request.setdefault(table, {"Keys": [], "ConsistentRead": True})["Keys"].append(key)
            answer = await self.dynamodb("batch_get_item", RequestItems=request)
            found += [(table, item) for table, items in answer["Responses"].items() for item in items]
            left = [(t, key) for t, part in answer.get("UnprocessedKeys", {}).items() for key in part["Keys"]]
            pairs = left + pairs[_MOST_KEYS:]
            if left:
                pause_s = min(1.0, pause_s * 2)
                await asyncio.sleep(random.uniform(0, pause_s))
        return found

    async def _find_letters(self, ids: Iterable[int]) -> dict[int, DeadLetter]:
        queues = sorted(self.state.queues)
        keys = [stored.letter_key(queue, id) for id in dict.fromkeys(ids) for queue in queues]
        found = {}
        for _, item in await self.batch_get({self.names.store: keys}):
            queue, id = stored.letter_place(item)
            letter = stored.read_letter(item)
            found[id] = DeadLetter(self.state.ids[queue], letter.event, letter.group)
        return found

    async def _prepare_letters(self, work: Working, tries: int) -> None:
        for n, buried in enumerate(work.buried):
            queue = work.state.names[buried.queue]
            message = f"{buried.event.id}/{queue}"
            failures = stored.read_attempts(await self.store_items(stored.attempts_partition(message)))
            failures += tuple(_shown(attempt) for attempt in work.attempts if attempt.event_id == buried.event.id)
            letter = stored.Letter(
                event=buried.event,
                message_id=message,
                receives=buried.receives,
                reason=buried.reason,
                died_ms=work.now_ms,
                group=buried.group,
                failures=failures,
            )
            work.letters.append((queue, letter_id(work.now_ms, work.commit.id, n + tries), letter))

    async def _depth(self, queue: str) -> int:
        """How many messages are in a queue, about."""
        raise NotImplementedError

    def _marker(self, delivery: Delivery) -> str:
        """What stands for the effect of a delivery's message."""
        return marker_of(delivery.message_id)

    def _more_actions(self, work: Working) -> list[Action]:
        """What other parts of the engine have in the commit's transaction."""
        return []

    async def _finish(self, work: Working) -> None:
        """The commit is written: what it settles is to be settled with SQS, too."""


def _deliveries(work: Working) -> list[Delivery]:
    """Those that the commit settles, in its order, without those that it skips."""
    found = []
    for settle in work.commit.settles:
        lease = work.state.leases.get((work.state.ids.get(settle.queue, 0), settle.position))
        if lease is not None and lease.delivery.fence == settle.fence:
            found.append(lease.delivery)
    return found


def _shown(attempt: Attempt) -> dict[str, Any]:
    """As `stored.read_attempts` tells of it."""
    told = attempt._asdict()
    del told["event_id"], told["queue"]
    return {"receive": told.pop("receives"), **told}


def letter_id(died_ms: int, made_by: str, n: int) -> int:
    """A dead letter's number, which grows with time and is one that JavaScript can hold.

    `made_by` is the id of the commit or event that it died by, `n` tells those of the same one apart.
    """
    return died_ms << 12 | (position_of(made_by) >> 9 & 0x1FF) << 3 | n & 7


def _tables(commit: Commit) -> str:
    return ", ".join(sorted({write.table for write in commit.writes}))
