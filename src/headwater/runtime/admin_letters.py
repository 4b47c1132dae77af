"""Admin operations on dead letters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import msgspec
import structlog

from headwater.codec import check_json, encode_json
from headwater.engine import DeadLetter, Question
from headwater.errors import InvalidValue, TooLarge, UnknownResource
from headwater.events import Delivery
from headwater.inspecting.answering import Deadline
from headwater.runtime.admin_base import AdminBase, event_json, time_of
from headwater.runtime.masking import searchable
from headwater.runtime.operations import Document, Hide, Limit, operation
from headwater.runtime.rehearsal import rehearse
from headwater.unit import MAX_MESSAGE, Redrive, new_commit

SLICE = 500
SCAN = 1000
"""How many dead letters are looked at for one page of those that a filter chooses."""
Ids = Annotated[list[int], msgspec.Meta(max_length=SLICE)]
Moment = Annotated[int, msgspec.Meta(ge=0)]
log = structlog.get_logger("headwater.admin")


_EXCEPTION = """
    CASE WHEN instr(reason, ': ') > 1 AND substr(reason, 1, instr(reason, ': ') - 1) NOT GLOB '*[^A-Za-z0-9_.]*'
    THEN substr(reason, 1, instr(reason, ': ') - 1) ELSE reason END
"""
"""What `exception_of` says, in SQL."""
_GROUPS = f"""
    WITH found AS (
        SELECT queue, {_EXCEPTION} AS exception, count(*) AS count, min(id) AS oldest, max(id) AS newest
        FROM dead_letters
        WHERE (:queue = '' OR queue = :queue) AND (:search = '' OR instr(lower(reason), :search)
            OR instr(lower(coalesce(subject, '')), :search) OR instr(lower(coalesce(data, '')), :search))
        GROUP BY 1, 2)
    SELECT found.queue, exception, count, first.died AS first, last.died AS last, newest, last.reason AS example
    FROM found JOIN dead_letters first ON first.id = oldest JOIN dead_letters last ON last.id = newest
    ORDER BY count DESC, 1, 2
"""
_exception = re.compile(r"([A-Za-z0-9_.]+): ").match


def exception_of(reason: str) -> str:
    """The class that a dead letter's reason begins with; else all of the reason."""
    found = _exception(reason)
    return found[1] if found else reason


class Chosen(NamedTuple):
    """Which dead letters: those that died of the exception and have the text (in lower case), not in hidden fields."""

    exception: str = ""
    search: str = ""
    hide: Sequence[str] = ()

    @property
    def chooses(self) -> bool:
        return bool(self.exception or self.search)

    def takes(self, letter: DeadLetter) -> bool:
        if self.exception and exception_of(letter.reason) != self.exception:
            return False
        if not self.search:
            return True
        texts = (letter.reason, letter.event.subject, searchable(letter.event.data, self.hide))
        return any(self.search in text.lower() for text in texts)


class Which(NamedTuple):
    """The dead letters that are to be settled: by id, or a slice of those that a filter chooses."""

    ids: list[int]
    queue: str
    chosen: Chosen
    limit: int
    after: int
    until: int


class LetterOperations(AdminBase):
    @operation()
    async def dead_letters(
        self,
        *,
        queue: str = "",
        exception: str = "",
        search: str = "",
        hide: Hide = [],  # noqa: B006
        limit: Limit = 100,
        after: Moment = 0,
    ) -> dict[str, Any]:
        """Dead letters of a queue, or of all, oldest first. `after` is the `next` of the page before.

        `exception` keeps those that died of it (as `dead-letter-groups` names it), `search` those with the text in
        their reason, subject or data, but for fields of the names `hide`. Then a page may be short, or empty, and there
        is more all the same.
        """
        if queue:
            await self._check_queue(queue)
        chosen = Chosen(exception, search.lower(), hide)
        scanned = await self.engine.dead_letters(queue, max(limit, SCAN) if chosen.chooses else limit, after)
        found = [letter for letter in scanned if chosen.takes(letter)]
        following = scanned[-1].id if len(scanned) == max(limit, SCAN if chosen.chooses else 0) else None
        if len(found) > limit:
            found = found[:limit]
            following = found[-1].id
        return {"dead_letters": [letter_json(letter) for letter in found], "next": following}

    @operation()
    async def dead_letter_groups(
        self,
        *,
        queue: str = "",
        search: str = "",
        hide: Hide = [],  # noqa: B006
        seconds: Annotated[float, msgspec.Meta(gt=0, le=60)] = 10,
    ) -> dict[str, Any]:
        """How many dead letters died of what, by queue and exception, most first; at most 1,000 groups.

        All letters are looked at; when that takes longer than `seconds`, it is given up (`TimedOut`). `search` and
        `hide` are as of `dead-letters`.
        """
        question = Question(statement=_GROUPS, parameters={"queue": queue, "search": search.lower()}, seconds=seconds)
        if search and hide:
            return {"groups": await self._grouped(queue, Chosen("", search.lower(), hide), Deadline(question))}
        answer = await self.engine.ask(question)
        return {"groups": [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]}

    async def _grouped(self, queue: str, chosen: Chosen, deadline: Deadline) -> list[dict[str, Any]]:
        """What `_GROUPS` answers, of the letters that are chosen."""
        found: dict[tuple[str, str], dict[str, Any]] = {}
        after: int | None = 0
        while after is not None:
            if deadline.left_s < 0:
                raise deadline.missed()
            letters = await self.engine.dead_letters(queue, SLICE, after)
            after = letters[-1].id if len(letters) == SLICE else None
            for letter in filter(chosen.takes, letters):
                exception, died = exception_of(letter.reason), time_of(letter.died_ms)
                named = {"queue": letter.queue, "exception": exception, "count": 0, "first": died}
                group = found.setdefault((letter.queue, exception), named)
                group |= {"count": group["count"] + 1, "last": died, "newest": letter.id, "example": letter.reason}
        return sorted(found.values(), key=lambda group: (-group["count"], group["queue"], group["exception"]))[:1000]

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
        exception: str = "",
        search: str = "",
        hide: Hide = [],  # noqa: B006
        data: Document | None = None,
        reason: str = "",
        limit: Annotated[int, msgspec.Meta(ge=1, le=SLICE)] = SLICE,
        after: Moment = 0,
        until: Moment = 0,
    ) -> dict[str, Any]:
        """Put dead letters back at the tail of their queue: those of `ids`, or a slice of what the filter chooses.

        The filter is `queue`, `exception`, `search` and `hide`, as of `dead-letters`. `data` replaces the message of
        a single one. What the filter chooses is redriven slice by slice: hand the answer's `next` and `until` to the
        following call; letters that died after the first call are left alone.
        """
        body = None
        if data is not None:
            body = await self._edited(ids, data)
        which = Which(ids, queue, Chosen(exception, search.lower(), hide), limit, after, until)
        return await self._settle("redrive", which, Redrive(0, data=body, reason=reason))

    @operation(writes=True)
    async def discard(
        self,
        *,
        ids: Ids = [],  # noqa: B006
        queue: str = "",
        exception: str = "",
        search: str = "",
        hide: Hide = [],  # noqa: B006
        reason: str = "",
        limit: Annotated[int, msgspec.Meta(ge=1, le=SLICE)] = SLICE,
        after: Moment = 0,
        until: Moment = 0,
    ) -> dict[str, Any]:
        """Remove dead letters for good: those of `ids`, or a slice of what the filter chooses (as `redrive`)."""
        which = Which(ids, queue, Chosen(exception, search.lower(), hide), limit, after, until)
        return await self._settle("discard", which, Redrive(0, discard=True, reason=reason))

    @operation(writes=True)
    async def dry_run(self, *, id: int, data: Document | None = None) -> dict[str, Any]:
        """Run the handler on a dead letter, with `data` in place of its message, and commit nothing of it.

        Answers what it would have written, sent and published, or how it failed. Calls of the app's services that could
        change something are not made: they end the run. Handlers that reach out otherwise do so. Takes a server that
        runs the handler in its own process.
        """
        letter = await self._letter(id)
        consumer = self.supervisor.consumers.get(letter.queue) if self.supervisor else None
        if consumer is None:
            raise InvalidValue(
                "its handler doesn't run in this process",
                operation="dry-run",
                resource=letter.queue,
                hint="a running server of the app can; handlers in worker processes can't",
            )
        event = letter.event
        if data is not None:
            event = msgspec.structs.replace(event, data=_checked(data))
        delivery = Delivery(
            queue=letter.queue, position=0, fence=0, receives=letter.receives + 1, event=event, group=letter.group
        )
        return msgspec.structs.asdict(await rehearse(self.engine, consumer, delivery))

    async def _settle(self, verb: str, which: Which, how: Redrive) -> dict[str, Any]:
        filtered = bool(which.queue) or which.chosen.chooses
        if bool(which.ids) == filtered:
            raise InvalidValue("give either ids, or a queue or another filter", operation=verb)
        ids, following, until = which.ids, None, which.until
        if filtered:
            if which.queue:
                await self._check_queue(which.queue)
            until = until or await self.engine.now_ms()
            ids, following = await self._slice(which, until)
        commit = new_commit()
        commit.redrives = [msgspec.structs.replace(how, id=id) for id in ids]
        missing: tuple[int, ...] = ()
        if ids:
            missing = (await self.engine.commit(commit)).missing
        settled = [id for id in ids if id not in missing]
        log.info(
            f"dead letters: {verb}", ids=settled, queue=which.queue, reason=how.reason, edited=how.data is not None
        )
        return {"ids": settled, "missing": list(missing), "next": following, "until": until}

    async def _slice(self, which: Which, until: int) -> tuple[list[int], int | None]:
        letters = await self.engine.dead_letters(which.queue, which.limit, which.after)
        ids = [letter.id for letter in letters if letter.died_ms <= until and which.chosen.takes(letter)]
        return ids, letters[-1].id if len(letters) == which.limit else None

    async def _edited(self, ids: list[int], data: Document) -> bytes:
        """The replacement, judged by the handler that will get it when it runs here."""
        if len(ids) != 1:
            raise InvalidValue("a replacement message belongs to exactly one dead letter", operation="redrive")
        body = _checked(data)
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


def _checked(data: Document) -> bytes:
    check_json(data)
    body = encode_json(data)
    if len(body) > MAX_MESSAGE:
        raise TooLarge(f"the message has {len(body)} bytes, {MAX_MESSAGE} are allowed", operation="redrive")
    return body


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
