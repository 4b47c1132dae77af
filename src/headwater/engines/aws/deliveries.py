"""Leasing messages from SQS to the consumers of this process.

A queue that somebody waits for has one ReceiveMessage under way, a long poll, which asks for no more than is waited
for. What comes is kept in the queue's line until it is handed out; what comes when nobody waits any more is given
back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from headwater.applying.state import Lease
from headwater.aws.journal import join_pieces, piece_key
from headwater.aws.messages import Arrived, marker_of, position_of, read_body
from headwater.aws.ways import Ways
from headwater.engines.aws.leases import MOST_HELD_S, MOST_MESSAGES, Leases, Receipt
from headwater.errors import StoreError, Unavailable
from headwater.events import Delivery

POLL_S = 10
"""How long SQS waits for a message before it answers that there is none."""
PAUSE_S = 2.0
"""How often a paused queue is looked at, and one that could not be asked."""
MOST_POLLS = 256


class _Line:
    """One queue that is consumed here."""

    def __init__(self, queue: str, number: int) -> None:
        self.queue = queue
        self.number = number
        self.ready: deque[Delivery] = deque()
        self.waiters: deque[tuple[asyncio.Future[None], int]] = deque()
        self.polling: asyncio.Task[None] | None = None
        self.stirred = asyncio.Event()

    def wake(self) -> None:
        self.stirred.set()
        while self.waiters:
            waiter, _ = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)

    def fail(self, error: Exception) -> None:
        while self.waiters:
            waiter, _ = self.waiters.popleft()
            if not waiter.done():
                waiter.set_exception(error)


class Deliveries(Leases):
    def _prepare_deliveries(self) -> None:
        self._prepare_leases()
        self._lines: dict[int, _Line] = {}
        self._polls = ThreadPoolExecutor(MOST_POLLS, thread_name_prefix="aws-poll")
        self._is_closing = False
        self._ways: tuple[int, Ways] | None = None

    async def _end_deliveries(self) -> None:
        """Stop polling, and give back what is leased still."""
        self._is_closing = True
        lines = list(self._lines.values())
        for line in lines:
            line.wake()
        places = [place for place, receipt in self._receipts.items() if not receipt.adopted]
        await self.release([self.state.leases[place].delivery for place in places if place in self.state.leases])
        for line in lines:
            if line.polling is not None:
                line.polling.cancel()
        await asyncio.gather(*(line.polling for line in lines if line.polling), return_exceptions=True)
        self._polls.shutdown(wait=False, cancel_futures=True)
        self.state.leases.clear()
        self._receipts.clear()

    def ways(self) -> Ways:
        """Of the present catalog."""
        revision = self.state.head.revision
        if self._ways is None or self._ways[0] != revision:
            self._ways = (revision, Ways(self.state.merged()))
        return self._ways[1]

    async def is_paused(self, queue: str) -> bool:
        number = self.queue_number(queue)
        await self.fresh()
        return number in self.state.paused

    async def receive(self, queue: str, limit: int, *, grouped: bool = False) -> list[Delivery]:
        self.writable()
        number = self.queue_number(queue)
        line = self._lines.setdefault(number, _Line(queue, number))
        while not self._is_closing:
            if number not in self.state.paused and (found := self._hand_out(line, limit, grouped)):
                return await self._refreshed(found)
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            line.waiters.append((waiter, limit))
            if line.polling is None or line.polling.done():
                line.polling = asyncio.get_running_loop().create_task(self._poll(line))
            try:
                await waiter
            finally:
                line.waiters = deque(other for other in line.waiters if other[0] is not waiter)
        raise StoreError("the store is closed", operation="receive", resource=queue)

    # Polling

    async def _poll(self, line: _Line) -> None:
        """Ask SQS as long as somebody waits."""
        while line.waiters and not self._is_closing:
            try:
                if await self.is_paused(line.queue):
                    await self._rest(line)
                    continue
                await self._poll_once(line)
            except Unavailable:
                await self._rest(line)
            except Exception as error:
                line.fail(error)

    async def _rest(self, line: _Line) -> None:
        line.stirred.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(line.stirred.wait(), PAUSE_S)

    async def _poll_once(self, line: _Line) -> None:
        wanted = min(MOST_MESSAGES, max(limit for _, limit in line.waiters))
        messages = await self._without_others(line.queue, await self._ask(line, wanted))
        deliveries = await self.adopt(line.queue, messages, adopted=False)
        if not deliveries:
            return
        if not line.waiters or line.number in self.state.paused or self._is_closing:
            await self.release(deliveries)
            return
        line.ready.extend(deliveries)
        line.wake()

    async def _ask(self, line: _Line, wanted: int) -> list[dict[str, Any]]:
        url = await self.queue_url(line.queue)
        loop = asyncio.get_running_loop()
        asking = loop.run_in_executor(self._polls, lambda: self._receive_now(url, wanted))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            asking.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise

    def _receive_now(self, url: str, wanted: int) -> list[dict[str, Any]]:
        """In a thread of its own. What comes when the store is closed goes back."""
        answer = self.clients.call_now(
            "sqs",
            "receive_message",
            QueueUrl=url,
            MaxNumberOfMessages=wanted,
            WaitTimeSeconds=self.poll_s,
            MessageSystemAttributeNames=["All"],
        )
        messages: list[dict[str, Any]] = answer.get("Messages", [])
        if self._is_closing and messages:
            entries = [
                {"Id": str(n), "ReceiptHandle": m["ReceiptHandle"], "VisibilityTimeout": 0}
                for n, m in enumerate(messages)
            ]
            self.clients.call_now("sqs", "change_message_visibility_batch", QueueUrl=url, Entries=entries)
            return []
        return messages

    poll_s = POLL_S

    # From a message to a delivery

    async def adopt(self, queue: str, messages: Sequence[Mapping[str, Any]], *, adopted: bool = True) -> list[Delivery]:
        """Deliveries of messages that were received, in their order, without those that are not for now.

        The messages are as ReceiveMessage answers them. Whoever has received them deletes those that are done.
        """
        number, fifo = self.queue_number(queue), self.state.queues[queue].fifo
        found: list[Delivery] = []
        held: dict[str | None, int] = {}
        for message in messages:
            arrived, receipt = _read(queue, message, adopted)
            address = arrived.address
            ready_ms = max(address.ready_ms, held.get(address.group, 0) if fifo else 0)
            if ready_ms > self.present_ms():
                held[address.group] = ready_ms
                await self._hold(queue, receipt, ready_ms)
                continue
            if address.stored:
                arrived = Arrived(await self._fetch(arrived.event.id) or arrived.event, address)
            found.append(self._lease(number, arrived, receipt, message["Attributes"]))
        return found

    def _lease(self, number: int, arrived: Arrived, receipt: Receipt, attributes: Mapping[str, str]) -> Delivery:
        queue = self.state.names[number]
        spec, place = self.state.queues[queue], (number, position_of(receipt.sqs_id))
        receives = int(attributes.get("ApproximateReceiveCount", 1)) - self._unattempted[receipt.sqs_id]
        delivery = Delivery(
            queue=queue,
            position=place[1],
            fence=self._fence(),
            receives=max(1, receives),
            event=arrived.event,
            group=(arrived.address.group or "") if spec.fifo else None,
            sent_ms=int(attributes.get("SentTimestamp", 0)),
            redriven=bool(arrived.address.turn),
        )
        deadline = self.clock.monotonic() + spec.visibility_ms / 1000
        self.state.leases[place] = Lease(delivery, None, deadline)
        self._receipts[place] = receipt
        return delivery

    async def _without_others(self, queue: str, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those that are for the queue: a topic's filter policy may let through more than the pattern it stands for."""
        others = []
        for message in messages:
            arrived, receipt = _read(queue, message, adopted=False)
            if arrived.address.by_topic and not self.ways().accepts(arrived.event, queue):
                others.append(receipt)
        if others:
            await self._delete(queue, others)
        dropped = {receipt.sqs_id for receipt in others}
        return [message for message in messages if message["MessageId"] not in dropped]

    async def _fetch(self, event_id: str) -> Any:
        items = await self.query_all(
            TableName=self.names.journal,
            KeyConditionExpression="hw_pk = :p",
            ExpressionAttributeValues={":p": {"S": piece_key(event_id)}},
        )
        return join_pieces(items) if items else None

    async def _hold(self, queue: str, receipt: Receipt, ready_ms: int) -> None:
        """Not ready yet: its group waits with it."""
        self._unattempted[receipt.sqs_id] += 1
        wait_s = min(-(-(ready_ms - self.present_ms()) // 1000), MOST_HELD_S)
        await self._change(queue, [(receipt, wait_s)])

    # Handing out

    def _hand_out(self, line: _Line, limit: int, grouped: bool) -> list[Delivery]:
        """Of what is in the line, in its order; of a group that is being worked on nothing, unless `grouped`."""
        self.drop_expired()
        found: list[Delivery] = []
        waiting: deque[Delivery] = deque()
        queued = {delivery.fence for delivery in line.ready}
        busy = {
            lease.delivery.group
            for place, lease in self.state.leases.items()
            if place[0] == line.number and lease.delivery.fence not in queued
        } - {None}
        for delivery in line.ready:
            lease = self.state.leases.get((line.number, delivery.position))
            if lease is None or lease.delivery is not delivery:
                continue
            if len(found) == limit or (not grouped and delivery.group in busy):
                waiting.append(delivery)
                continue
            found.append(delivery)
            if delivery.group is not None:
                busy.add(delivery.group)
        line.ready = waiting
        return found

    async def _refreshed(self, deliveries: list[Delivery]) -> list[Delivery]:
        """Those that have waited in the line for long get their whole time."""
        now_s = self.clock.monotonic()
        late = [
            delivery
            for delivery in deliveries
            if self.state.leases[self._place(delivery)].deadline - now_s
            < self.state.queues[delivery.queue].visibility_ms / 2000
        ]
        if late:
            await self.extend(late)
        return deliveries

    async def suspects(self, queue: str) -> list[Delivery]:
        """None: SQS hands out again what a process had when it died, and has counted it."""
        return []

    def begin(self, delivery: Delivery) -> None:
        """SQS has counted it."""

    def end(self, delivery: Delivery) -> None:
        """SQS has counted it."""

    def _stir(self, queues: Iterable[str]) -> None:
        """Messages of a group may be waiting for one that was just settled."""
        for queue in queues:
            if line := self._lines.get(self.state.ids[queue]):
                line.wake()


def _read(queue: str, message: Mapping[str, Any], adopted: bool) -> tuple[Arrived, Receipt]:
    sqs_id, sent_ms = message["MessageId"], int(message["Attributes"].get("SentTimestamp", 0))
    arrived = read_body(message["Body"], queue=queue, id=sqs_id, sent_ms=sent_ms)
    marker = marker_of(f"{arrived.event.id}/{queue}", arrived.address.turn)
    return arrived, Receipt(message["ReceiptHandle"], sqs_id, marker, adopted)
