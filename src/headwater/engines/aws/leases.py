"""The leases of this process: what is known of the messages that it has from SQS, and how they end.

A lease is SQS's visibility timeout, kept here as a deadline; its receipt handle stays in `_receipts`, under the
delivery's place. The fencing token means something in this process only: that at most one attempt's commit is accepted
is the marker's work (decision 0035). SQS counts every receive; those that ended without an attempt are counted here
and taken off, as long as this process lives.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from headwater.aws import stored
from headwater.aws.items import PK
from headwater.engines.aws.client import Refused
from headwater.engines.aws.commits import Commits
from headwater.engines.aws.working import Known, Working
from headwater.errors import HeadwaterError, LeaseLost
from headwater.events import Delivery
from headwater.unit import Commit, Committed, Settle

MOST_MESSAGES = 10
MOST_HELD_S = 12 * 3600
_GONE = ("InvalidParameterValue", "ReceiptHandleIsInvalid", "MessageNotInflight")
Place = tuple[int, int]


class Receipt(msgspec.Struct, frozen=True):
    """What a leased message is for SQS. An `adopted` one was received by Lambda, which deletes it when it is done.

    `marker` is its name among those whose effects were committed.
    """

    handle: str
    sqs_id: str
    marker: str
    adopted: bool = False


class Leases(Commits):
    def _prepare_leases(self) -> None:
        self._receipts: dict[Place, Receipt] = {}
        self._unattempted: Counter[str] = Counter()
        self._fence = itertools.count(secrets.randbits(40)).__next__

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        self.drop_expired()
        by_queue: dict[str, list[tuple[Receipt, int]]] = {}
        for delivery in deliveries:
            place = self._place(delivery)
            lease = self.state.leases.get(place)
            if lease is not None and lease.delivery.fence == delivery.fence:
                visibility_ms = self.state.queues[delivery.queue].visibility_ms
                lease.deadline = self.clock.monotonic() + visibility_ms / 1000
                seconds = -(-visibility_ms // 1000)
                by_queue.setdefault(delivery.queue, []).append((self._receipts[place], seconds))
        for queue, changes in by_queue.items():
            await self._change(queue, changes)

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        by_queue: dict[str, list[tuple[Receipt, int]]] = {}
        for delivery in deliveries:
            receipt = self._forget(delivery)
            if receipt is not None:
                self._unattempted[receipt.sqs_id] += 1
                by_queue.setdefault(delivery.queue, []).append((receipt, 0))
        for queue, changes in by_queue.items():
            await self._change(queue, changes)
        self._stir(by_queue)

    # The end of a lease

    def drop_expired(self) -> None:
        """Leases whose time has passed are lost: SQS hands their messages out again."""
        now_s = self.clock.monotonic()
        for place, lease in list(self.state.leases.items()):
            if lease.deadline <= now_s:
                del self.state.leases[place]
                self._receipts.pop(place, None)

    async def _attempt(self, commit: Commit, known: Known, tries: int) -> Committed:
        self.drop_expired()
        try:
            return await super()._attempt(commit, known, tries)
        except LeaseLost:
            await self._drop_done(commit)
            raise

    async def _drop_done(self, commit: Commit) -> None:
        """Have SQS forget those of the commit's messages whose effect another attempt has committed.

        Lambda deletes what it has received; who runs its batch has yet to learn which one it was.
        """
        leases = [self.state.leases.get((self.state.ids[one.queue], one.position)) for one in commit.settles]
        held = [lease.delivery for lease in leases if lease is not None]
        own = [one for one in held if not self._receipts[self._place(one)].adopted]
        by_marker = {stored.marker_key(self._marker(one))[PK]["S"]: one for one in own}
        keys = [stored.marker_key(self._marker(delivery)) for delivery in own]
        for _, item in await self.batch_get({self.names.store: keys}) if keys else ():
            delivery = by_marker[item[PK]["S"]]
            if (receipt := self._forget(delivery)) is not None:
                await self._delete(delivery.queue, [receipt])

    def _marker(self, delivery: Delivery) -> str:
        return self._receipts[self._place(delivery)].marker

    async def _finish(self, work: Working) -> None:
        """The commit stands whatever fails here: what is not deleted comes again, and is known by its marker."""
        with contextlib.suppress(HeadwaterError):
            await self._end([(lease.delivery, settle) for lease, settle in work.settled.values()])

    async def _end(self, settled: Iterable[tuple[Delivery, Settle]]) -> None:
        """Have SQS forget what is done, and hand out later what is tried again."""
        deleted: dict[str, list[Receipt]] = {}
        changed: dict[str, list[tuple[Receipt, int]]] = {}
        for delivery, settle in settled:
            receipt = self._forget(delivery)
            if receipt is None:
                continue
            if settle.outcome == "retry":
                wait_s = max(0, -(-(settle.ready_ms - self.present_ms()) // 1000)) if settle.ready_ms else 0
                changed.setdefault(delivery.queue, []).append((receipt, min(wait_s, MOST_HELD_S)))
            else:
                self._unattempted.pop(receipt.sqs_id, None)
                if not receipt.adopted:
                    deleted.setdefault(delivery.queue, []).append(receipt)
        for queue, receipts in deleted.items():
            await self._delete(queue, receipts)
        for queue, changes in changed.items():
            await self._change(queue, changes)
        self._stir({*deleted, *changed})

    def _forget(self, delivery: Delivery) -> Receipt | None:
        place = self._place(delivery)
        lease = self.state.leases.get(place)
        if lease is None or lease.delivery.fence != delivery.fence:
            return None
        del self.state.leases[place]
        return self._receipts.pop(place, None)

    def _place(self, delivery: Delivery) -> Place:
        return self.state.ids[delivery.queue], delivery.position

    def _stir(self, queues: Iterable[str]) -> None:
        """Have those who wait for messages of these queues look again."""

    async def _delete(self, queue: str, receipts: Sequence[Receipt]) -> None:
        url = await self.queue_url(queue)
        for at in range(0, len(receipts), MOST_MESSAGES):
            part = receipts[at : at + MOST_MESSAGES]
            entries = [{"Id": str(n), "ReceiptHandle": receipt.handle} for n, receipt in enumerate(part)]
            await self.clients.call("sqs", "delete_message_batch", QueueUrl=url, Entries=entries)

    async def _change(self, queue: str, changes: Sequence[tuple[Receipt, int]]) -> None:
        url = await self.queue_url(queue)
        for at in range(0, len(changes), MOST_MESSAGES):
            part = changes[at : at + MOST_MESSAGES]
            entries = [
                {"Id": str(n), "ReceiptHandle": receipt.handle, "VisibilityTimeout": seconds}
                for n, (receipt, seconds) in enumerate(part)
            ]
            try:
                await self.clients.call(
                    "sqs", "change_message_visibility_batch", expect=_GONE, QueueUrl=url, Entries=entries
                )
            except Refused:
                """Not ours any more."""
