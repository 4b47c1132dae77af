"""Looking into queues and dead letters, pausing, purging, subscribing, replaying.

SQS counts its messages about, and shows none without handing it out: counts may be some seconds old, and `peek` is
refused. What was sent, settled and retried is counted in this process only; CloudWatch has it of all, and the age of
the oldest message, which is not known here.
"""

from __future__ import annotations

import asyncio

import msgspec

from headwater.applying.documents import subject
from headwater.applying.state import Counts
from headwater.aws import stored
from headwater.aws.items import PK
from headwater.catalog import Router, RouteSpec
from headwater.engine import MANY_GROUPS, DeadLetter, Query, QueueStats, Subscription, Waiting
from headwater.engines.aws.client import Refused
from headwater.engines.aws.deliveries import Deliveries
from headwater.engines.aws.installing import Installing
from headwater.engines.aws.leases import Receipt
from headwater.engines.aws.records import Records
from headwater.engines.aws.working import Working
from headwater.errors import DeclarationError, StoreError, UnknownResource, Unsupported
from headwater.events import INSERTED, Envelope, KeyPart
from headwater.ids import new_id
from headwater.unit import Emit, new_commit

_SLICE = 50
_TRIES = 10
_COUNTS = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible", "ApproximateNumberOfMessagesDelayed")


class Queues(Deliveries, Installing, Records):
    async def stats(self) -> list[QueueStats]:
        await self.fresh()
        return await asyncio.gather(*(self._stats_of(queue) for queue in sorted(self.state.queues)))

    async def _stats_of(self, queue: str) -> QueueStats:
        (ready, leased, delayed), dead = await asyncio.gather(self._counts(queue), self._count_dead(queue))
        number = self.state.ids[queue]
        counts = self.state.counts.get(number) or Counts()
        depth = ready + leased + delayed
        return QueueStats(
            queue=queue,
            depth=depth,
            in_flight=leased,
            delayed=delayed,
            dead=dead,
            oldest_age_ms=0,
            paused=number in self.state.paused,
            sent=counts.settled + depth,
            settled=counts.settled,
            retried=counts.retried,
            due_ms=self.present_ms() if depth else 0,
            groups=min(ready + leased, MANY_GROUPS) if self.state.queues[queue].fifo else None,
        )

    async def _counts(self, queue: str) -> tuple[int, int, int]:
        """How many messages are ready, leased and delayed, about."""
        answer = await self.clients.call(
            "sqs", "get_queue_attributes", QueueUrl=await self.queue_url(queue), AttributeNames=list(_COUNTS)
        )
        ready, leased, delayed = (int(answer["Attributes"][name]) for name in _COUNTS)
        return ready, leased, delayed

    async def _count_dead(self, queue: str) -> int:
        arguments = {
            "TableName": self.names.store,
            "KeyConditionExpression": f"{PK} = :p",
            "ExpressionAttributeValues": {":p": stored.letter_key(queue, 0)[PK]},
            "Select": "COUNT",
        }
        total = 0
        while True:
            answer = await self.dynamodb("query", **arguments)
            total += int(answer["Count"])
            if "LastEvaluatedKey" not in answer:
                return total
            arguments["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    async def _depth(self, queue: str) -> int:
        return sum(await self._counts(queue))

    async def _finish(self, work: Working) -> None:
        for place, (_, settle) in work.settled.items():
            counts = self.state.counts.setdefault(place[0], Counts())
            if settle.outcome == "retry":
                counts.retried += 1
            else:
                counts.settled += 1
        await super()._finish(work)

    async def peek(self, queue: str, limit: int, after: int = 0) -> list[Waiting]:
        """Refused: SQS hands out what it shows, and counts that."""
        self.queue_number(queue)
        raise Unsupported(
            "SQS does not show messages without handing them out",
            operation="peek",
            resource=queue,
            hint="look at its dead letters and at the history of its source",
        )

    async def pause(self, queue: str, paused: bool) -> None:
        """Other processes and functions see it within seconds; what a function has received goes back.

        The queue's function, if there is one, is given no more messages: what it gave back would count as received.
        """
        number = self.queue_number(queue)
        item = stored.catalog_item(f"{stored.PAUSE}{queue}")
        await self._revise({"Put": {"Item": item}} if paused else {"Delete": {"Key": item}})
        (self.state.paused.add if paused else self.state.paused.discard)(number)
        self._stir([queue])
        await self._switch(queue, on=not paused)

    async def _switch(self, queue: str, *, on: bool) -> None:
        try:
            answer = await self.clients.call(
                "lambda",
                "list_event_source_mappings",
                expect=("ResourceNotFoundException",),
                FunctionName=self.names.function(queue, "queue"),
            )
        except Refused:
            return
        for mapping in answer["EventSourceMappings"]:
            await self.clients.call("lambda", "update_event_source_mapping", UUID=mapping["UUID"], Enabled=on)

    async def _revise(self, action: dict[str, dict[str, object]]) -> None:
        self.writable()
        for _ in range(_TRIES):
            if await self.revise([action]):
                await self.reload()
                return
            await self.reload()
        raise StoreError("others change the catalog at the same time", operation="write", resource=self.names.stack)

    async def purge(self, queue: str) -> int:
        """Receives and deletes them all, which keeps leased ones; those that are delayed stay."""
        self.queue_number(queue)
        self.writable()
        url, total, empty = await self.queue_url(queue), 0, 0
        while empty < 2:  # SQS looks at a part of its servers only, when a queue is short
            answer = await self.clients.call(
                "sqs", "receive_message", QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1
            )
            messages = answer.get("Messages", [])
            empty = 0 if messages else empty + 1
            await self._delete(queue, [Receipt(m["ReceiptHandle"], m["MessageId"], "") for m in messages])
            total += len(messages)
        return total

    async def dead_letters(self, queue: str = "", limit: int = 100, after: int = 0) -> list[DeadLetter]:
        if queue:
            self.queue_number(queue)
        queues = [queue] if queue else sorted(self.state.queues)
        parts = await asyncio.gather(*(self._letters_of(name, limit, after) for name in queues))
        return sorted((letter for part in parts for letter in part), key=lambda letter: letter.id)[:limit]

    async def _letters_of(self, queue: str, limit: int, after: int) -> list[DeadLetter]:
        key = stored.letter_key(queue, after)
        answer = await self.dynamodb(
            "query",
            TableName=self.names.store,
            KeyConditionExpression="hw_pk = :p AND hw_sk > :s",
            ExpressionAttributeValues={":p": key["hw_pk"], ":s": key["hw_sk"]},
            ConsistentRead=True,
            Limit=limit,
        )
        found = []
        for item in answer["Items"]:
            (_, id), letter = stored.letter_place(item), stored.read_letter(item)
            told = {name: getattr(letter, name) for name in letter.__struct_fields__}
            found.append(DeadLetter(id=id, queue=queue, **told))
        return found

    async def subscribe(self, route: RouteSpec) -> Subscription:
        await self.reload()
        self.queue_number(route.target)
        if route.source not in self.state.ids:
            raise UnknownResource("no such source", operation="subscribe", resource=route.source)
        if route.group and not self.state.queues[route.target].fifo:
            raise DeclarationError(
                "the queue is not FIFO, it cannot keep groups in order",
                operation="subscribe",
                resource=route.target,
                hint="declare it with fifo=True, or subscribe without a group",
            )
        self.writable()
        plain = msgspec.structs.replace(route, origin="subscribed", id="")
        added = msgspec.structs.replace(plain, id=new_id())
        item = stored.catalog_item(f"{stored.SUBSCRIPTION}{added.id}", added)
        for _ in range(_TRIES):
            merged = self.state.merged()
            Router(merged.queues, (*merged.routes, plain))
            for id, present in self.state.subscriptions.items():
                if msgspec.structs.replace(present, id="") == plain:
                    return Subscription(id, present)
            done = await self.revise([{"Put": {"Item": item}}])
            await self.reload()
            if done:
                return Subscription(added.id, added)
        raise StoreError("others change the catalog at the same time", operation="subscribe", resource=route.target)

    async def unsubscribe(self, id: str) -> bool:
        await self.reload()
        if id not in self.state.subscriptions:
            return False
        await self._revise({"Delete": {"Key": stored.catalog_item(f"{stored.SUBSCRIPTION}{id}")}})
        return True

    async def replay(self, table: str, queue: str) -> int:
        """Slices of present rows, each one commit of direct sends in key order."""
        self.queue_number(queue)
        fifo, total = self.state.queues[queue].fifo, 0
        after: tuple[KeyPart, ...] | None = None
        while True:
            page = await self.query(Query(table=table, after=after, limit=_SLICE))
            if not page.records:
                return total
            commit = new_commit()
            for n, record in enumerate(page.records):
                event = Envelope(
                    id=f"{commit.id}-{n}",
                    source=table,
                    type=INSERTED,
                    subject=subject(record.key),
                    data=record.body,
                    key=record.key,
                    version=record.version,
                    attributes={"replayed": "true"},
                    trace=commit.trace,
                    schema=record.schema,
                )
                commit.emits.append(Emit(event, queue=queue, group=event.subject if fifo else None))
            await self.commit(commit)
            total += len(page.records)
            after = page.next
            if after is None:
                return total
