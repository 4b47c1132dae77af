"""Admin operations on dead letters."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import structlog

from headwater.codec import check_json, encode_json
from headwater.engine import DeadLetter
from headwater.errors import InvalidValue, TooLarge, UnknownResource
from headwater.events import Delivery
from headwater.runtime.admin_base import AdminBase, event_json, time_of
from headwater.runtime.operations import Document, Limit, operation
from headwater.unit import MAX_MESSAGE, Redrive, new_commit

SLICE = 500
Ids = Annotated[list[int], msgspec.Meta(max_length=SLICE)]
Moment = Annotated[int, msgspec.Meta(ge=0)]
log = structlog.get_logger("headwater.admin")


class LetterOperations(AdminBase):
    @operation()
    async def dead_letters(self, *, queue: str = "", limit: Limit = 100, after: Moment = 0) -> dict[str, Any]:
        """Dead letters of a queue, or of all, oldest first. `after` is the `next` of the page before."""
        if queue:
            await self._check_queue(queue)
        found = await self.engine.dead_letters(queue, limit, after)
        return {
            "dead_letters": [letter_json(letter) for letter in found],
            "next": found[-1].id if len(found) == limit else None,
        }

    @operation()
    async def dead_letter(self, *, id: int) -> dict[str, Any]:
        """One dead letter with its message and the failures of its attempts."""
        return letter_json(await self._letter(id))

    @operation(writes=True)
    async def redrive(
        self,
        *,
        ids: Ids = [],  # noqa: B006
        queue: str = "",
        data: Document | None = None,
        reason: str = "",
        limit: Annotated[int, msgspec.Meta(ge=1, le=SLICE)] = SLICE,
        after: Moment = 0,
        until: Moment = 0,
    ) -> dict[str, Any]:
        """Put dead letters back at the tail of their queue: those of `ids`, or a slice of `queue`.

        `data` replaces the message of a single one. A queue is redriven slice by slice: hand the answer's `next` and
        `until` to the following call; letters that died after the first call are left alone.
        """
        body = None
        if data is not None:
            body = await self._edited(ids, data)
        return await self._settle("redrive", ids, queue, (limit, after, until), Redrive(0, data=body, reason=reason))

    @operation(writes=True)
    async def discard(
        self,
        *,
        ids: Ids = [],  # noqa: B006
        queue: str = "",
        reason: str = "",
        limit: Annotated[int, msgspec.Meta(ge=1, le=SLICE)] = SLICE,
        after: Moment = 0,
        until: Moment = 0,
    ) -> dict[str, Any]:
        """Remove dead letters for good: those of `ids`, or a slice of `queue` (as `redrive`)."""
        return await self._settle("discard", ids, queue, (limit, after, until), Redrive(0, discard=True, reason=reason))

    async def _settle(
        self, verb: str, ids: list[int], queue: str, page: tuple[int, int, int], how: Redrive
    ) -> dict[str, Any]:
        if bool(ids) == bool(queue):
            raise InvalidValue("give either ids or a queue", operation=verb)
        following: int | None = None
        limit, after, until = page
        if queue:
            await self._check_queue(queue)
            until = until or await self.engine.now_ms()
            ids, following = await self._slice(queue, limit, after, until)
        commit = new_commit()
        commit.redrives = [msgspec.structs.replace(how, id=id) for id in ids]
        missing: tuple[int, ...] = ()
        if ids:
            missing = (await self.engine.commit(commit)).missing
        settled = [id for id in ids if id not in missing]
        log.info(f"dead letters: {verb}", ids=settled, queue=queue, reason=how.reason, edited=how.data is not None)
        return {"ids": settled, "missing": list(missing), "next": following, "until": until}

    async def _slice(self, queue: str, limit: int, after: int, until: int) -> tuple[list[int], int | None]:
        letters = await self.engine.dead_letters(queue, limit, after)
        ids = [letter.id for letter in letters if letter.died_ms <= until]
        return ids, ids[-1] if len(ids) == limit else None

    async def _edited(self, ids: list[int], data: Document) -> bytes:
        """The replacement, judged by the handler that will get it when it runs here."""
        if len(ids) != 1:
            raise InvalidValue("a replacement message belongs to exactly one dead letter", operation="redrive")
        check_json(data)
        body = encode_json(data)
        if len(body) > MAX_MESSAGE:
            raise TooLarge(f"the message has {len(body)} bytes, {MAX_MESSAGE} are allowed", operation="redrive")
        letter = await self._letter(ids[0])
        consumer = self.supervisor.consumers.get(letter.queue) if self.supervisor else None
        if consumer is not None:
            event = msgspec.structs.replace(letter.event, data=body)
            consumer.spec.feed.decoder()(Delivery(queue=letter.queue, position=0, fence=0, receives=1, event=event))
        return body

    async def _letter(self, id: int) -> DeadLetter:
        found = await self.engine.dead_letters("", 1, id - 1)
        if not found or found[0].id != id:
            raise UnknownResource(
                "there is no dead letter of this id", resource=str(id), hint="`headwater dlq ls` lists them"
            )
        return found[0]

    async def _check_queue(self, queue: str) -> None:
        """Queues that no app declares any more may still have dead letters."""
        if queue not in {stats.queue for stats in await self.engine.stats()}:
            await self.queue_spec(queue)


def letter_json(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "queue": letter.queue,
        "message": letter.message_id,
        "reason": letter.reason,
        "receives": letter.receives,
        "died": time_of(letter.died_ms),
        "group": letter.group,
        "event": event_json(letter.event),
        "failures": list(letter.failures),
    }
