"""The history, from the journal that the relay writes: it follows the commits by the stream's delay.

What became of a message is put together from what there is: a dead letter, the marker of its effect, what was told of
its attempts. One that was acknowledged without an effect leaves nothing. So of a message of which nothing is known it
is told that it waits as long as its queue holds any, and that it is done when the queue is empty.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from headwater.aws import stored
from headwater.aws.items import PK, SK, Item
from headwater.aws.journal import (
    AT,
    DAY,
    TRACE,
    Entry,
    days_between,
    history_key,
    place,
    position_of,
    time_of,
    unpack_entry,
)
from headwater.aws.messages import marker_of
from headwater.aws.shapes import BY_DAY, BY_TRACE
from headwater.engine import DeadLetter, MessageNote, TracedEvent
from headwater.engines.aws.queues import Queues
from headwater.events import Envelope, Key, subject_of
from headwater.ids import new_id

_DAY_MS = 86_400_000
_MOST_DAYS = 40
_LETTERS = 1000


class History(Queues):
    async def history(self, table: str, key: Key, limit: int) -> list[Envelope]:
        self.table_spec(table)
        items = await self._journal("", PK, history_key(table, subject_of(key)))
        entries = sorted(map(unpack_entry, items), key=lambda entry: -entry.position)
        return [entry.event for entry in await self._whole(entries[:limit])]

    async def event(self, id: str) -> TracedEvent | None:
        at = place(position_of(id))
        items = await self._journal(BY_DAY, DAY, at[DAY]["S"], f"{AT} = :a", {":a": at[AT]})
        found = await self._traced(unpack_entry(item) for item in items if item[SK]["S"] == id)
        return found[0] if found else None

    async def trace(self, trace: str, limit: int = 1000) -> list[TracedEvent]:
        return await self._traced(map(unpack_entry, await self._journal(BY_TRACE, TRACE, trace, limit=limit)))

    async def events(self, after: int, limit: int = 100) -> list[TracedEvent]:
        """At most `_MOST_DAYS` back; those that the stream has still to bring are missing."""
        now_ms = time_of(position_of(new_id()))
        first_ms = max(time_of(max(after, 0)), now_ms - _MOST_DAYS * _DAY_MS)
        days = days_between(first_ms, now_ms + _DAY_MS)
        backward = after < 0
        items: list[Item] = []
        for day in reversed(days) if backward else days:
            values = {":a": {"S": f"{max(after, 0):020d}"}}
            items += await self._journal(
                BY_DAY, DAY, day, f"{AT} > :a", values, limit=limit - len(items), backward=backward
            )
            if len(items) >= limit:
                break
        return await self._traced(map(unpack_entry, reversed(items) if backward else items))

    # Reading the journal

    async def _journal(
        self, index: str, name: str, value: str, more: str = "", values: Item | None = None, **options: Any
    ) -> list[Item]:
        """Items of one key, in order. `more` is a condition on the sort key."""
        limit, backward = options.get("limit", 10_000), options.get("backward", False)
        arguments: dict[str, Any] = {
            "TableName": self.names.journal,
            "KeyConditionExpression": f"{name} = :k" + (f" AND {more}" if more else ""),
            "ExpressionAttributeValues": {":k": {"S": value}, **(values or {})},
            "ScanIndexForward": not backward,
            **({"IndexName": index} if index else {"ConsistentRead": True}),
        }
        found: list[Item] = []
        while len(found) < limit:
            answer = await self.dynamodb("query", **arguments, Limit=limit - len(found))
            found += answer["Items"]
            if "LastEvaluatedKey" not in answer:
                break
            arguments["ExclusiveStartKey"] = answer["LastEvaluatedKey"]
        return found

    async def _whole(self, entries: Iterable[Entry]) -> list[Entry]:
        """With the images of those that are kept in pieces."""
        return list(await asyncio.gather(*map(self._fetched, entries)))

    async def _fetched(self, entry: Entry) -> Entry:
        if not entry.pieces:
            return entry
        return Entry(await self._fetch(entry.event.id) or entry.event, entry.queues, entry.position)

    # What became of messages

    async def _traced(self, entries: Iterable[Entry]) -> list[TracedEvent]:
        whole = await self._whole(entries)
        queues = sorted({queue for entry in whole for queue in entry.queues if queue in self.state.queues})
        depths = dict(zip(queues, await asyncio.gather(*map(self._depth, queues)), strict=True))
        letters: dict[str, DeadLetter] = {}
        for queue in queues:
            letters.update({x.message_id: x for x in await self.dead_letters(queue, _LETTERS)})
        return list(await asyncio.gather(*(self._told(entry, depths, letters) for entry in whole)))

    async def _told(self, entry: Entry, depths: dict[str, int], letters: dict[str, DeadLetter]) -> TracedEvent:
        traced = TracedEvent(position=entry.position, event=entry.event, messages={}, notes={})
        for queue in entry.queues:
            message_id = f"{entry.event.id}/{queue}"
            items = await self.store_items(stored.attempts_partition(message_id))
            tries = stored.read_attempts(items)
            letter = letters.get(message_id)
            turns = [item[SK]["S"] for item, one in zip(items, tries, strict=True) if one["outcome"] == "redrive"]
            state = await self._state(message_id, turns, letter, depths.get(queue, 0))
            traced.messages[queue] = state
            if tries or letter:
                traced.notes[queue] = MessageNote(
                    receives=letter.receives if letter else None if state == "done" else len(tries),
                    failures=tries,
                    dead_letter=letter.id if letter else None,
                    reason=letter.reason if letter else None,
                )
        return traced

    async def _state(self, message_id: str, turns: list[str], letter: DeadLetter | None, depth: int) -> str:
        if letter is not None:
            return "dead"
        marker = marker_of(message_id, turns[-1] if turns else "")
        answer = await self.dynamodb("get_item", TableName=self.names.store, Key=stored.marker_key(marker))
        return "done" if "Item" in answer or not depth else "waiting"
