"""Writing what a commit says: one transaction, or a single write, which costs half as much.

A transaction has a token: repeated with the same one, it has no second effect. So one whose answer was lost is repeated
until there is one. `CommitUnknown` is raised only when that takes longer than `PATIENCE_S`.

A single write has no token. What it writes has the commit's id in it, so when it is found there, it took effect; when
the item is as it was before, it did not. When somebody else has written the item meanwhile, it may have taken effect
before: that is `CommitUnknown` at once, for a second effect would be worse.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import msgspec

from headwater.aws import stored
from headwater.aws.items import ORIGIN, PK, SK, VERSION, Item, unpack, version_of
from headwater.engine import AlreadyClaimed, AlreadyDone
from headwater.engines.aws.actions import Action, unchanged
from headwater.engines.aws.addresses import Addresses
from headwater.engines.aws.client import ONCE, Refused, Unanswered
from headwater.engines.aws.working import Working
from headwater.errors import CommitUnknown, Conflict, StoreError, Unavailable

PATIENCE_S = 30.0
SURELY_BEFORE_MS = 10_000
"""So much earlier a write has to be to be sure, with the clocks of two processes, that it came first."""
_TRIES = 5
_CONDITION = "ConditionalCheckFailed"
_SINGLE = "ConditionalCheckFailedException"
_CANCELLED = "TransactionCanceledException"
_UNDER_WAY = "TransactionInProgressException"
_BUSY = ("TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded")


class Stale(Exception):
    """What the commit was worked out from is not so: nothing was written."""


class _Patience:
    """How long what has no answer is tried again, and what was not done for sure."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = self._loop.time() + PATIENCE_S
        self._pause_s = 0.05
        self._tries = 0
        self.unanswered = False

    async def wait(self, failure: Exception, stack: str) -> None:
        """Raises the failure when it is known that nothing was done and enough tried, or that nobody knows."""
        self._tries += 1
        self.unanswered = self.unanswered or isinstance(failure, Unanswered)
        if not self.unanswered and isinstance(failure, Unavailable) and self._tries >= _TRIES:
            raise failure
        if self._loop.time() >= self._end:
            raise CommitUnknown(f"no answer came: {failure}", operation="commit", resource=stack) from failure
        await asyncio.sleep(random.uniform(0, self._pause_s))
        self._pause_s = min(2.0, self._pause_s * 2)


class Writing(Addresses):
    async def write(self, actions: list[Action], work: Working, token: str) -> None:
        """Raises `Stale`, why the commit is refused, or that its outcome is unknown."""
        if len(actions) == 1 and actions[0].verb != "ConditionCheck":
            await self._write_one(actions[0], work)
        elif actions:
            await self._write_all(actions, work, token)

    async def _write_one(self, action: Action, work: Working) -> None:
        patience = _Patience()
        while True:
            try:
                operation = f"{action.verb.lower()}_item"
                await self.clients.call(ONCE, operation, expect=(_SINGLE,), **action.arguments)
                return
            except Refused as refused:
                item = refused.answer.get("Item")
                if action.wrote(item):
                    return
                if patience.unanswered and action.kind in ("record", "read"):
                    raise self._ambiguous(action) from refused
                self._refuse([(action, item)], work)
            except Unavailable as failure:
                await patience.wait(failure, self.names.stack)
                if patience.unanswered and action.kind == "record" and not action.condition:
                    guarded = await self._guard(action, work)
                    if guarded is None:
                        return
                    action = guarded

    async def _guard(self, action: Action, work: Working) -> Action | None:
        """A write without a condition that may have taken effect, as one that is sure not to; None when it has."""
        place = {name: action.item[name] for name in (PK, SK) if name in action.item}
        answer = await self.dynamodb("get_item", TableName=action.table, Key=place, ConsistentRead=True)
        item = answer.get("Item")
        if action.wrote(item):
            return None
        if item is not None and not _is_before(item, work.now_ms):
            raise self._ambiguous(action)
        condition, values = unchanged(version_of(unpack(item)) if item else None)
        return msgspec.structs.replace(action, condition=condition, values=values)

    def _ambiguous(self, action: Action) -> CommitUnknown:
        return CommitUnknown(
            "no answer came, and the record was written by others since", operation="commit", resource=action.table
        )

    async def _write_all(self, actions: list[Action], work: Working, token: str) -> None:
        items = [{action.verb: action.arguments} for action in actions]
        try:
            await self._transact(TransactItems=items, ClientRequestToken=token)
        except Refused as refused:
            reasons = refused.answer.get("CancellationReasons", [])
            failed = [
                (action, reason.get("Item"))
                for action, reason in zip(actions, reasons, strict=False)
                if reason["Code"] == _CONDITION
            ]
            if failed:
                self._refuse(failed, work)
            if any(reason["Code"] in _BUSY for reason in reasons):
                raise Stale from refused
            told = "; ".join(f"{x['Code']}: {x.get('Message', '')}" for x in reasons if x["Code"] != "None")
            raise StoreError(told, operation="commit", resource=self.names.stack) from refused

    async def _transact(self, **arguments: Any) -> None:
        patience = _Patience()
        while True:
            try:
                await self.dynamodb("transact_write_items", expect=(_CANCELLED, _UNDER_WAY), **arguments)
                return
            except Refused as refused:
                if refused.code != _UNDER_WAY:
                    raise
                await patience.wait(refused, self.names.stack)
            except Unavailable as failure:
                await patience.wait(failure, self.names.stack)

    def _refuse(self, failed: list[tuple[Action, Item | None]], work: Working) -> None:
        """Raise what the failed conditions mean; the first thing that a commit is judged by comes first."""
        by_kind = {action.kind: action for action, _ in reversed(failed)}
        if "marker" in by_kind:
            raise AlreadyDone(
                "the message's effect was committed before; this attempt has no effect",
                operation="commit",
                resource=by_kind["marker"].what,
            )
        if "flip" in by_kind:
            resource, message = by_kind["flip"].what
            raise Conflict(message, operation="load", resource=resource)
        if "read" in by_kind:
            table, pk, _ = by_kind["read"].what
            raise Conflict(f"{pk!r} changed after it was read", operation="commit", resource=work.state.names[table])
        for action, item in failed:
            if action.kind == "claim" and item is not None:
                scope, id = action.what
                work.known.claims[scope, id] = taken = stored.read_claim(item)
                if any((claim.scope, claim.id) == (scope, id) for claim in work.commit.claims):
                    raise AlreadyClaimed(scope, id, taken[1])
        raise Stale


def _is_before(item: Item, now_ms: int) -> bool:
    """Whether an item was written for sure before a commit of this time."""
    origin = unpack(item).origin if ORIGIN in item and VERSION in item else None
    return origin is not None and origin.time_ms < now_ms - SURELY_BEFORE_MS
