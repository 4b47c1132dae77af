"""What a commit writes, as the actions of one transaction: one for each item, its condition merged with its write.

An action's `kind` says what it means when its condition fails: a "read" that is stale is a conflict, a "marker" that is
there a lost lease, a "claim" that is taken is told as that; anything else means that the commit is to be worked out
anew from what the failure shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from headwater.aws import stored
from headwater.aws.items import (
    EXPIRES,
    GONE,
    MOST_ITEM,
    PK,
    VERSION,
    Item,
    is_foreign,
    item_size,
    pack_key,
    pack_record,
    pack_tombstone,
)
from headwater.aws.names import Names
from headwater.aws.outbox import Orders, pack_outbox
from headwater.engines.aws.working import Working
from headwater.errors import TooLarge
from headwater.events import Delivery

MOST_ACTIONS = 100
MOST_BYTES = 4 * 1024 * 1024
Kind = Literal["read", "marker", "claim", "record", "letter", "flip", "plain"]
Verb = Literal["Put", "Delete", "ConditionCheck"]
_FREE = f"attribute_not_exists({PK})"


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """`what` names it: a record's slot, a claim's scope and id, a queue or a dead letter's id; of a flip its table and
    scope, and why it is refused."""

    kind: Kind
    verb: Verb
    table: str
    item: Item
    condition: str = ""
    values: Item = {}
    what: Any = None

    def wrote(self, item: Item | None) -> bool:
        """Whether the item is what the action writes."""
        return item is not None and self.verb == "Put" and item.get(VERSION) == self.item.get(VERSION)

    @property
    def arguments(self) -> dict[str, Any]:
        """As of a single call; of a transaction they are the same."""
        body = "Item" if self.verb == "Put" else "Key"
        found: dict[str, Any] = {"TableName": self.table, body: self.item}
        if self.condition:
            found["ConditionExpression"] = self.condition
            found["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD"
        if self.values:
            found["ExpressionAttributeValues"] = self.values
        return found


class Drafting:
    """Makes the actions of commits."""

    def __init__(self, names: Names) -> None:
        self._names = names

    def actions(self, work: Working, orders: Orders, ends: list[tuple[Delivery, str]]) -> list[Action]:
        """All of a commit that was worked out. `ends` are the deliveries that it settles, with their markers."""
        found = [*self._records(work), *self._reads(work), *self._claims(work)]
        found += self._outbox(work, orders)
        found += self._letters(work)
        if found or work.buried:
            found += self._markers(work, ends)
        found += self._attempts(work)
        return found

    def _records(self, work: Working) -> Iterator[Action]:
        read = {work.slot(read.table, read.key): read.version for read in work.commit.reads}
        for slot, (write, origin) in work.written.items():
            if slot not in work.dirty:
                continue
            spec, record = work.state.tables[write.table], work.records[slot]
            if record is None:
                item = pack_tombstone(spec, write.key, write.version, origin)
            else:
                item = pack_record(spec, write.key, record, origin)
            kind: Kind = "record"
            condition = ""
            values: Item = {}
            if slot in work.known.versions:
                condition, values = unchanged(work.known.versions[slot])
            elif slot in read:
                kind = "read"
                condition, values = still(read[slot], work.now_ms)
            yield Action(
                kind=kind,
                verb="Put",
                table=self._names.table(write.table),
                item=item,
                condition=condition,
                values=values,
                what=slot,
            )

    def _reads(self, work: Working) -> Iterator[Action]:
        for read in work.commit.reads:
            slot = work.slot(read.table, read.key)
            if slot not in work.dirty:
                condition, values = still(read.version, work.now_ms)
                yield Action(
                    kind="read",
                    verb="ConditionCheck",
                    table=self._names.table(read.table),
                    item=pack_key(work.state.tables[read.table], read.key),
                    condition=condition,
                    values=values,
                    what=slot,
                )

    def _claims(self, work: Working) -> Iterator[Action]:
        for scope, id in work.new_claims:
            expires_ms, result = work.claims[scope, id]
            item = stored.claim_item(scope, id, expires_ms, result)
            yield self._put("claim", item, f"{_FREE} OR {EXPIRES} <= :now", work, what=(scope, id))

    def _put(self, kind: Kind, item: Item, condition: str, work: Working, *, what: Any = None) -> Action:
        """Into the store table. The commit's id tells an item of ours from one that was there before."""
        return Action(
            kind=kind,
            verb="Put",
            table=self._names.store,
            item={**item, VERSION: {"S": work.commit.id}},
            condition=condition,
            values={":now": {"N": str(work.now_ms)}} if ":now" in condition else {},
            what=what,
        )

    def _outbox(self, work: Working, orders: Orders) -> Iterator[Action]:
        for item in pack_outbox(work.commit.id, work.posted, orders, work.now_ms):
            yield Action(kind="plain", verb="Put", table=self._names.outbox, item=item)

    def _letters(self, work: Working) -> Iterator[Action]:
        for id, queue in work.redriven.items():
            name = work.state.names[queue]
            yield Action(
                kind="letter",
                verb="Delete",
                table=self._names.store,
                item=stored.letter_key(name, id),
                condition=f"attribute_exists({PK})",
                what=id,
            )
        for buried in work.letters:
            yield self._put("letter", stored.letter_item(*buried), _FREE, work)

    def _markers(self, work: Working, ends: list[tuple[Delivery, str]]) -> Iterator[Action]:
        outcomes = {(settle.queue, settle.position): settle.outcome for settle in work.commit.settles}
        for delivery, marker in ends:
            if outcomes[delivery.queue, delivery.position] in ("retry", "fence"):
                yield Action(
                    kind="marker",
                    verb="ConditionCheck",
                    table=self._names.store,
                    item=stored.marker_key(marker),
                    condition=_FREE,
                    what=delivery.queue,
                )
            else:
                until_ms = work.now_ms + work.state.queues[delivery.queue].retention_ms
                yield self._put("marker", stored.marker_item(marker, until_ms), _FREE, work, what=delivery.queue)

    def _attempts(self, work: Working) -> Iterator[Action]:
        for attempt in work.attempts:
            queue = work.state.names[attempt.queue]
            until_ms = work.now_ms + stored.KEPT_MS
            failed = stored.Failed(
                receive=attempt.receives,
                outcome=attempt.outcome,
                error=attempt.error,
                traceback=attempt.traceback,
                started_ms=attempt.started_ms,
                ended_ms=attempt.ended_ms,
            )
            item = stored.attempt_item(f"{attempt.event_id}/{queue}", work.commit.id, failed, until_ms)
            yield self._put("plain", item, "", work)


def unchanged(version: str | None) -> tuple[str, Item]:
    """That an item is as it was read, a tombstone or not; None: there was none."""
    if version is None:
        return _FREE, {}
    if is_foreign(version):
        return f"attribute_exists({PK}) AND attribute_not_exists({VERSION})", {}
    return f"{VERSION} = :v", {":v": {"S": version}}


def still(version: str | None, now_ms: int) -> tuple[str, Item]:
    """That a record is present with this version; None: that it is absent."""
    now: Item = {":now": {"N": str(now_ms)}}
    if version is None:
        return f"{_FREE} OR attribute_exists({GONE}) OR {EXPIRES} <= :now", now
    condition, values = unchanged(version)
    lives = f"attribute_not_exists({GONE}) AND (attribute_not_exists({EXPIRES}) OR {EXPIRES} > :now)"
    return f"{condition} AND {lives}", {**values, **now}


def check_size(actions: list[Action]) -> None:
    """Raise `TooLarge` for what no transaction can hold."""
    if len(actions) > MOST_ACTIONS:
        raise TooLarge(
            f"the unit of work names {len(actions)} items, {MOST_ACTIONS} are allowed on AWS",
            operation="commit",
            hint="split the work into several messages or transactions",
        )
    sizes = [item_size(action.item) for action in actions]
    for action, size in zip(actions, sizes, strict=True):
        if size > MOST_ITEM:
            raise TooLarge(
                f"an item of {size} bytes; {MOST_ITEM} are allowed on AWS, with the key and Headwater's own attributes",
                operation="commit",
                resource=action.table,
                hint="split it into several rows, or keep large content in a bucket",
            )
    if sum(sizes) > MOST_BYTES:
        raise TooLarge(
            f"the unit of work writes {sum(sizes)} bytes, {MOST_BYTES} are allowed on AWS",
            operation="commit",
            hint="split the work into several messages or transactions",
        )
