"""The relay: from what streams tell to queues and topics.

For each record, in its order: the events that it stands for, where the router says they go, their place in the history,
and the sending. All of it bears to be done again: the history has the same items, FIFO queues drop what they have, and
what comes twice is recognized by its marker. So a batch that fails is repeated from its first record that is not done.

The catalog's revision is looked at for each batch, so a subscription is in force from the commit that made it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from headwater.aws import stored
from headwater.aws.changes import Streamed, changes_of
from headwater.aws.deliver import Send, batches, entries, fitting, schedule_of, send_of
from headwater.aws.items import PK, SK, Item
from headwater.aws.journal import pack_entry
from headwater.aws.messages import Address, body_of, is_too_large, marker_of
from headwater.aws.outbox import Posted, unpack_outbox
from headwater.aws.ways import Way, Ways
from headwater.catalog import Destination, TableSpec
from headwater.engines.aws.addresses import Addresses
from headwater.engines.aws.client import Refused
from headwater.engines.aws.commits import letter_id
from headwater.errors import StoreError, Unavailable
from headwater.events import MAX_DEPTH, Envelope

HISTORY_MS = 7 * 86_400_000
REDRIVEN_FROM = "redriven-from"
_MOST_WRITES = 25
_TRIES = 8
_BY_TOPIC = Address(by_topic=True)


class _Routed(NamedTuple):
    """An event with its messages, or, when it is too `deep`, where they would have gone. `at` is its record's place."""

    at: int
    event: Envelope
    queues: tuple[str, ...]
    sends: tuple[Send, ...] = ()
    deep: tuple[Destination, ...] = ()
    by_topic: bool = False
    is_new: bool = True
    is_copy: bool = False


class Relaying(Addresses):
    exported: frozenset[str] = frozenset()
    """Topics that other stacks follow."""
    history_ms: int = HISTORY_MS
    _relayed: tuple[int, Ways, dict[str, TableSpec]] | None = None

    async def relay(self, records: Sequence[Streamed]) -> int | None:
        """Send on what the records tell; the place of the first that is not done, None when all are.

        Raises when nothing of them is done.
        """
        ways, tables = await self._ways_now()
        routed, failed = [], None
        for at, streamed in enumerate(records):
            try:
                for posted in self._events(streamed, tables):
                    routed.append(self._route(at, posted, ways))
            except Exception as error:
                if not routed:
                    raise StoreError(f"a stream's record cannot be read: {error!r}", operation="relay") from error
                failed = at
                break
        await self._write_history(routed)
        await self._publish(routed)
        await self._write_letters(routed)
        unsent = await self._send(routed)
        return min((at for at in (failed, unsent) if at is not None), default=None)

    async def _ways_now(self) -> tuple[Ways, dict[str, TableSpec]]:
        """Of the catalog as it is now."""
        answer = await self.dynamodb(
            "get_item", TableName=self.names.store, Key=stored.key(stored.CATALOG, stored.HEAD), ConsistentRead=True
        )
        revision = int(answer["Item"][stored.REVISION]["N"]) if "Item" in answer else 0
        if self._relayed is None or self._relayed[0] != revision:
            await self.reload()
            catalog = self.state.merged()
            tables = {self.names.table(name): spec for name, spec in catalog.tables.items()}
            self._relayed = (self.state.head.revision, Ways(catalog, self.exported), tables)
        return self._relayed[1], self._relayed[2]

    def _events(self, streamed: Streamed, tables: dict[str, TableSpec]) -> list[Posted]:
        if streamed.record is None:
            return [Posted(event=streamed.event)] if streamed.event else []
        if streamed.table == self.names.outbox:
            return unpack_outbox(streamed.record.new) if streamed.record.new and not streamed.record.old else []
        spec = tables.get(streamed.table)
        return [Posted(event=event) for event in changes_of(spec, streamed.record)] if spec else []

    def _route(self, at: int, posted: Posted, ways: Ways) -> _Routed:
        event = posted.event
        is_new = not posted.turn or REDRIVEN_FROM in event.attributes
        is_copy = bool(posted.queue) and event.key is not None
        if posted.queue:
            spec = self.state.queues[posted.queue]
            delay_ms = spec.delay_ms if posted.delay_ms is None else posted.delay_ms
            where = Destination(posted.queue, (posted.group or "") if spec.fifo else None, delay_ms)
            way = Way((where,), by_topic=False)
        else:
            by_topic = event.depth <= MAX_DEPTH and not is_too_large(body_of(event, _BY_TOPIC))
            way = ways.way(event) if by_topic else Way(ways.destinations(event), by_topic=False)
        queues = way.queues if posted.queue else ways.queues(event)
        if event.depth > MAX_DEPTH:
            return _Routed(at, event, queues, deep=way.direct, is_copy=is_copy)
        now_ms = self.present_ms()
        sends = tuple(
            send_of(event, where, self.state.queues[where.queue], posted.turn, now_ms) for where in way.direct
        )
        return _Routed(at, event, queues, sends, by_topic=way.by_topic, is_new=is_new, is_copy=is_copy)

    # The history

    async def _write_history(self, routed: Iterable[_Routed]) -> None:
        items: dict[tuple[str, str], Item] = {}
        for one in routed:
            if one.is_new:
                in_pieces = any(send.stored for send in one.sends)
                packed = pack_entry(one.event, one.queues, self.history_ms, is_copy=one.is_copy, in_pieces=in_pieces)
                for item in packed:
                    items[item[PK]["S"], item[SK]["S"]] = item
        await self.put_all(self.names.journal, list(items.values()))

    async def put_all(self, table: str, items: Sequence[Item]) -> None:
        """Put items that are the same whenever they are put."""
        waiting, pause_s = [{"PutRequest": {"Item": item}} for item in items], 0.05
        for _ in range(len(items) + _TRIES):
            if not waiting:
                return
            part, waiting = waiting[:_MOST_WRITES], waiting[_MOST_WRITES:]
            answer = await self.dynamodb("batch_write_item", RequestItems={table: part})
            if left := answer.get("UnprocessedItems", {}).get(table, []):
                waiting = left + waiting
                await asyncio.sleep(random.uniform(0, pause_s))
                pause_s = min(2.0, pause_s * 2)
        raise Unavailable("the table takes no more writes", operation="relay", resource=table)

    # Topics

    async def _publish(self, routed: Iterable[_Routed]) -> None:
        by_topic: dict[str, list[str]] = {}
        for one in routed:
            if one.by_topic:
                by_topic.setdefault(one.event.source, []).append(body_of(one.event, _BY_TOPIC))
        for topic, bodies in by_topic.items():
            arn = await self.topic_arn(topic)
            for part in fitting(bodies):
                numbered = [{"Id": str(n), "Message": body} for n, body in enumerate(part)]
                answer = await self.clients.call(
                    "sns", "publish_batch", TopicArn=arn, PublishBatchRequestEntries=numbered
                )
                if answer.get("Failed"):
                    raise Unavailable(f"{answer['Failed'][0].get('Message', '')}", operation="publish", resource=topic)

    # Queues

    async def _send(self, routed: Sequence[_Routed]) -> int | None:
        """The place of the first record of which something was not sent."""
        places = {id(send): one.at for one in routed for send in one.sends}
        sends = [send for one in routed for send in one.sends]
        failed = []
        later = [send for send in sends if send.at_ms]
        failed += [places[id(send)] for send in later if not await self._schedule(send)]
        waiting: dict[str, list[list[Send]]] = {}
        for batch in batches([send for send in sends if not send.at_ms]):
            waiting.setdefault(batch[0].queue, []).append(batch)
        for unsent in await asyncio.gather(*(self._send_in_turn(parts) for parts in waiting.values())):
            failed += [places[id(send)] for send in unsent]
        return min(failed, default=None)

    async def _send_in_turn(self, parts: Sequence[list[Send]]) -> list[Send]:
        """One queue's batches, up to the first that fails in part."""
        for batch in parts:
            url = await self.queue_url(batch[0].queue)
            answer = await self.clients.call("sqs", "send_message_batch", QueueUrl=url, Entries=entries(batch))
            if answer.get("Failed"):
                return [batch[int(failure["Id"])] for failure in answer["Failed"]]
        return []

    async def _schedule(self, send: Send) -> bool:
        """Have it sent when it is due; whether that is so."""
        queue_arn, role_arn = await self.queue_arn(send.queue), await self.role_arn("headwater", "delays")
        arguments = schedule_of(send, self.names, queue_arn, role_arn)
        try:
            await self.clients.call("scheduler", "create_schedule", expect=("ConflictException",), **arguments)
        except Refused:
            """It is there already."""
        except Unavailable:
            return False
        return True

    # What is too deep

    async def _write_letters(self, routed: Iterable[_Routed]) -> None:
        for one in routed:
            for n, where in enumerate(one.deep):
                message_id = f"{one.event.id}/{where.queue}"
                letter = stored.Letter(
                    event=one.event,
                    message_id=message_id,
                    receives=0,
                    reason=f"the event is more than {MAX_DEPTH} causes deep",
                    died_ms=one.event.time_ms,
                    group=where.group,
                )
                item = stored.letter_item(where.queue, letter_id(letter.died_ms, one.event.id, n), letter)
                marker = stored.marker_item(f"{marker_of(message_id)}#deep", letter.died_ms + stored.KEPT_MS)
                await self._write_letter(item, marker)

    async def _write_letter(self, letter: Item, marker: Item) -> None:
        """Once, even if it was redriven since."""
        free = {"ConditionExpression": f"attribute_not_exists({PK})", "TableName": self.names.store}
        puts = [{"Put": {"Item": item, **free}} for item in (letter, marker)]
        try:
            await self.dynamodb("transact_write_items", expect=("TransactionCanceledException",), TransactItems=puts)
        except Refused:
            """It was written before."""
