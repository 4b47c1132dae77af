"""Mail at run time: composing, digests, sending. What is kept where is told in `headwater.mail`.

Composition takes effect once: row and outgoing message are in the commit that acknowledges the event. Sending is at
least once: the state "sent" is committed after the server's answer, so a process that dies in between sends again,
with the same Message-ID. An answer that was received is remembered until it is committed, so no re-run sends again.

A digest's window is read with validation by all who add to it, and changed only when it opens and closes; what is
collected is added without conflict to a row of the window's own. So once the commit that closes a window is made,
nobody adds to it, and a second message mails what it holds.

Mail that cannot be delivered raises the alarm "mail-undeliverable" of its address, which ends with the next mail that
the address gets. This alarm, and those about the queues of mail itself, are never mailed.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
import structlog

from headwater.backoff import delay_ms
from headwater.codec import decode_json
from headwater.engine import Query
from headwater.errors import DeclarationError, Discard, Retry, Undeliverable
from headwater.events import Delivery
from headwater.handlers import HandlerSpec
from headwater.ids import new_id
from headwater.mail import Digest, DigestEnd, Email, Item, Mail, Outgoing, State, email
from headwater.messaging import Queue
from headwater.runtime.composing import LISTED, Content, Notice, content_of, digest_of, item_of, notice_of
from headwater.runtime.smtp import NotTaken, Refused
from headwater.system import SENDS, Alarm, System
from headwater.unit import Write
from headwater.webhooks import Deliveries
from headwater.work import UnitOfWork, alone, caused_by, current

UNDELIVERABLE = "mail-undeliverable"
ALERTS_DIGEST = "15m"
SENDERS = 4
"""How many mails are sent at once."""
PAUSE_MS, MAX_PAUSE_MS = 15_000, 900_000
LOOKED_BACK = 20
"""Among how many mails to an address the one before is looked for."""
log = structlog.get_logger("headwater.mail")


class Post(Protocol):
    """Takes mail to where it is read."""

    async def send(self, mail: Mail) -> str:
        """Hand the mail over; what was answered. Raises `smtp.Refused` for good and `smtp.NotTaken` for now."""
        ...


class MailRules(msgspec.Struct, frozen=True):
    """Who sends mail (None: nobody, it is held), and the addresses that Headwater's own alarms are mailed to."""

    post: Post | None = None
    alerts: tuple[str, ...] = ()


class Mailer:
    """Composes and sends (`mail.Mailing`): the handlers of mail's queues in Headwater's own app."""

    def __init__(self, system: System, rules: MailRules | None = None) -> None:
        self._system = system
        self._rules = rules or MailRules()
        self._answers: dict[str, str] = {}
        self._sending: set[str] = set()
        self._handle(system.outgoing, self._send)
        self._handle(system.digest_ends, self._end_digest)
        if self._rules.alerts:
            target = email(self._rules.alerts, digest=ALERTS_DIGEST, name="alerts")
            system.alarms.to(target, group="resource")

    def _handle(self, queue: Queue[Any], fn: Any) -> None:
        self._system.app.handlers[queue.name] = HandlerSpec(
            name=queue.name.partition("/")[2], queue=queue.name, fn=fn, feed=Deliveries(queue.name), concurrency=SENDERS
        )

    def warn(self, targets: Sequence[str], environment: str) -> None:
        """Say that mail goes nowhere, where that is not development."""
        if targets and self._rules.post is None and environment != "default":
            log.warning(
                "mail is held, no server for it is set",
                setting=f"[{environment}.smtp] in headwater.toml",
                queues=sorted(targets),
            )

    # Composing

    async def compose(self, delivery: Delivery, target: Email, to: Sequence[str], digest_ms: int) -> None:
        """Write the mail that tells of the delivery's event, or fold it into a digest, in the open unit of work."""
        if not to:
            raise Discard("it has no address")
        notice = notice_of(delivery.event, target.subject)
        if notice.alarm == UNDELIVERABLE or (notice.alarm and notice.resource in self._own(delivery.queue)):
            raise Discard("an alarm about mail is not mailed")
        if not notice.news:
            raise Discard("it was never in alarm")
        item = item_of(delivery.event, notice)
        if digest_ms and await self._folds(delivery.queue, notice, item, to, digest_ms):
            return
        await self._write(delivery.queue, to, content_of(notice), [item])

    def _own(self, queue: str) -> tuple[str, ...]:
        return (queue, self._system.outgoing.name, self._system.digest_ends.name)

    async def _write(self, queue: str, to: Sequence[str], content: Content, items: Sequence[Item]) -> None:
        """A mail to each address, in the open unit of work."""
        unit, system = _unit(), self._system
        state: State = "held" if self._rules.post is None else "pending"
        now_ms = await system.app.binding.engine.now_ms()
        for address in to:
            mail = Mail(
                id=unit.next_id(),
                queue=queue,
                to=address,
                subject=content.subject,
                text=content.text,
                html=content.html,
                state=state,
                created_ms=now_ms,
                events=[item.event for item in items],
                traces=list(dict.fromkeys(item.trace for item in items)),
            )
            await system.mails.put(mail)
            if state == "pending":
                await system.outgoing.send(Outgoing(mail.id))

    # Digests

    async def _folds(self, queue: str, notice: Notice, item: Item, to: Sequence[str], period_ms: int) -> bool:
        """Add the event to the open window of its kind; False when it is to be mailed at once.

        What is not alike opens a window. A recovery opens none, and joins only a window that has something to tell.
        """
        system = self._system
        id = hashlib.sha256(f"{queue} {notice.about}".encode()).hexdigest()[:24]
        found = await system.digests.get(id)
        now_ms = await system.app.binding.engine.now_ms()
        end = DigestEnd(digest=id, window=new_id(), queue=queue, to=list(to), period_ms=period_ms)
        if notice.recovery:
            if found is None or await system.folded.get(found.window) is None:
                return False
        elif found is None or found.ends_ms + period_ms < now_ms:  # a window whose end was lost counts no more
            await self._open(end, now_ms)
            if found is not None:
                await system.digest_ends.send(msgspec.structs.replace(end, window=found.window, closed=True))
            return False
        await self._collect(found.window, item)
        return True

    async def _open(self, end: DigestEnd, now_ms: int) -> None:
        """Open a window, and have its end come in time."""
        window = Digest(id=end.digest, window=end.window, ends_ms=now_ms + end.period_ms)
        await self._system.digests.put(window)
        await self._system.digest_ends.send(end, delay=end.period_ms / 1000)

    async def _collect(self, window: str, item: Item) -> None:
        folded, told = self._system.folded, msgspec.to_builtins(item)
        seen = await folded.get(window, validate=False)
        listed = {} if seen is not None and seen.count >= LISTED else {"items": [told]}
        await folded.update(window, set={"last": told}, add={"count": 1}, append=listed)

    async def _end_digest(self, delivery: Delivery) -> None:
        """Close a window, opening the next one if it holds something; then mail what it holds."""
        system, end = self._system, _message(delivery, DigestEnd)
        if end.closed:
            folded = await system.folded.get(end.window)
            if folded is not None:
                await system.folded.delete(end.window)
                await self._write(end.queue, end.to, digest_of(folded), folded.items)
            return
        found = await system.digests.get(end.digest)
        if found is None or found.window != end.window:
            raise Discard("the window is closed")
        if await system.folded.get(end.window, validate=False) is None and await system.folded.get(end.window) is None:
            await system.digests.delete(end.digest)
            return
        now_ms = await system.app.binding.engine.now_ms()
        await self._open(msgspec.structs.replace(end, window=new_id()), now_ms)
        await system.digest_ends.send(msgspec.structs.replace(end, closed=True))

    # Sending

    async def _send(self, delivery: Delivery) -> None:
        """Hand a mail over and keep the answer; a mail that was refused for good is tried again when it is redriven."""
        id = _message(delivery, Outgoing).mail
        mail = await self._system.read(self._system.mails, id)
        if mail is None:
            raise Discard("the mail is gone")
        if mail.state == "sent":
            return
        if mail.state == "failed" and not delivery.redriven:
            raise Undeliverable(mail.answer)
        if id not in self._answers:
            self._answers[id] = await self._hand_over(delivery, mail)
        recovered = await self._recovers(mail)
        alarm = _alarm(mail, "ok", "it was delivered again") if recovered else None
        await self._keep(delivery, id, "sent", self._answers[id], alarm)
        del self._answers[id]

    async def _hand_over(self, delivery: Delivery, mail: Mail) -> str:
        post = self._rules.post
        if post is None:
            await self._keep(delivery, mail.id, "held", "no server for mail is set")
            raise Discard("no server for mail is set")
        if mail.id in self._sending:
            raise Retry(after=5, reason="another attempt is under way")
        self._sending.add(mail.id)
        try:
            return await post.send(mail)
        except Refused as error:
            await self._fail(delivery, mail, str(error))
            raise Undeliverable(str(error)) from None
        except NotTaken as error:
            if delivery.receives >= SENDS:
                await self._fail(delivery, mail, str(error))
            else:
                await self._keep(delivery, mail.id, "pending", str(error))
            pause_ms = delay_ms(delivery.receives, base_ms=PAUSE_MS, cap_ms=MAX_PAUSE_MS, roll=random.random())
            raise Retry(after=pause_ms / 1000, reason=str(error)) from None
        finally:
            self._sending.discard(mail.id)

    async def _fail(self, delivery: Delivery, mail: Mail, answer: str) -> None:
        log.warning("a mail cannot be delivered", mail=mail.id, queue=mail.queue, answer=answer)
        detail = f"{mail.subject!r} of {mail.queue}: {answer}; `headwater mail show {mail.id}` shows it"
        await self._keep(delivery, mail.id, "failed", answer, _alarm(mail, "alarm", detail))

    async def _recovers(self, mail: Mail) -> bool:
        """Whether the last mail to this address that came to an end could not be delivered."""
        table = self._system.mails
        query = Query(table=table.name, index="by-address", partition=mail.to, limit=LOOKED_BACK, reverse=True)
        page = await self._system.app.binding.engine.query(query)
        before = [table.codec.decode(record.body) for record in page.records]
        ended = [one for one in before if one.ended_ms and one.state in ("sent", "failed")]
        return bool(ended) and max(ended, key=lambda one: one.ended_ms).state == "failed"

    async def _keep(self, delivery: Delivery, id: str, state: State, answer: str, alarm: Alarm | None = None) -> None:
        """Keep an attempt's outcome in a commit of its own: it counts whatever becomes of the attempt's lease."""
        table, alarms, engine = self._system.mails, self._system.alarms, self._system.app.binding.engine
        now_ms = await engine.now_ms()

        async def change(unit: UnitOfWork) -> None:
            unit.use(caused_by(delivery))
            record = await unit.read(table.name, table.key(id))
            if record is None:
                return
            mail = table.codec.decode(record.body)
            mail.state, mail.answer, mail.attempts = state, answer, mail.attempts + 1
            mail.ended_ms = 0 if state == "pending" else now_ms
            unit.write(Write(table.name, table.key(id), unit.next_id(), table.codec.encode(mail)))
            if alarm is not None:
                unit.publish(alarms.name, alarms.codec.encode(alarm), {})

        token = current.set(None)
        try:
            await alone(engine, change)
        finally:
            current.reset(token)


def _alarm(mail: Mail, state: str, detail: str) -> Alarm:
    return Alarm(name=UNDELIVERABLE, resource=mail.to, detail=detail, state=state)


def _message(delivery: Delivery, model: type[Any]) -> Any:
    return msgspec.convert(decode_json(delivery.event.data or b"null"), model)


def _unit() -> UnitOfWork:
    unit = current.get()
    if unit is None:
        raise DeclarationError("mail is composed in a unit of work", operation="compose")
    return unit
