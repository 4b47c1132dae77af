"""Mail: addresses as the target of a route, and what is kept of each mail.

A target is a queue with a handler of Headwater's own. It composes: the mail's row in `headwater/mails`, one for each
address, and a message of `headwater/outgoing` that sends it, are in the commit that acknowledges the event. With a
digest, an event opens a window in `headwater/digests` and is mailed; more of its kind are added to the window's row
in `headwater/folded`, which is mailed when the window ends (`headwater/digest-ends`, delayed messages).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, Protocol, Unpack, cast

import msgspec

from headwater.durations import Duration, to_ms
from headwater.events import Delivery
from headwater.handlers import HandlerSpec, QueueOptions
from headwater.late import Late, resolve
from headwater.mail_settings import Addresses, check_addresses
from headwater.sources import Target
from headwater.webhooks import Deliveries

if TYPE_CHECKING:
    from headwater.app import App

State = Literal["pending", "sent", "failed", "held"]
POLICY: QueueOptions = {"max_receives": 8, "backoff": "10s", "retention": "7d"}
"""What the queue of a mail target has unless it is declared otherwise."""


# Rows and messages


class Mail(msgspec.Struct, kw_only=True):
    """A mail to one address, in `headwater/mails`.

    `queue` is the target that made it, `events` and `traces` what it is about (the first ones, of a long digest),
    `answer` what the server last said. "held" mails are for `headwater mail` alone: no server is set.
    """

    id: str
    queue: str
    to: str
    subject: str
    text: str
    html: str
    state: State
    created_ms: int
    events: list[str]
    traces: list[str]
    attempts: int = 0
    answer: str = ""
    ended_ms: int = 0


class Outgoing(msgspec.Struct):
    """A message of `headwater/outgoing`: the mail of this id is to be sent."""

    mail: str


class Digest(msgspec.Struct, kw_only=True):
    """An open window: what is alike goes into the row of `headwater/folded` that `window` names."""

    id: str
    window: str
    ends_ms: int


class Item(msgspec.Struct, kw_only=True):
    """One event in a digest."""

    time_ms: int
    headline: str
    line: str
    event: str
    trace: str


class Folded(msgspec.Struct, kw_only=True):
    """What a window has collected: how many, the first ones, and the last one."""

    window: str
    count: int
    last: Item
    items: list[Item] = []


class DigestEnd(msgspec.Struct, kw_only=True):
    """A message of `headwater/digest-ends`: close the window; when it is `closed`, mail what it has collected."""

    digest: str
    window: str
    queue: str
    to: list[str]
    period_ms: int
    closed: bool = False


# Declarations


class Mailing(Protocol):
    """What a running server does for mail (`app.Binding`)."""

    async def compose(self, delivery: Delivery, target: Email, to: Sequence[str], digest_ms: int) -> None:
        """Write the mail that tells of the delivery's event, or fold it into a digest, in the open unit of work."""
        ...


class Email(Target):
    """Made by `email`; the app that routes to it gets a queue of its name and the handler that composes."""

    def __init__(
        self, to: Addresses | Late[Any], digest: Duration | Late[Any], subject: str, name: str, options: QueueOptions
    ) -> None:
        self.name = name or _name_for(to)
        self.options: QueueOptions = {**POLICY, **options}
        self._digest = digest if isinstance(digest, Late) else to_ms(digest) / 1000
        self.subject = subject
        self._to: Addresses | Late[Any] = to if isinstance(to, Late) else check_addresses(to)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Email) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(self.name)

    def resolve(self, app: App[Any]) -> list[str]:
        """The addresses, from the app's settings where they are late; raises `DeclarationError` for a wrong one."""
        found: Addresses = resolve(cast("Any", self._to), app)
        return check_addresses(found)

    def digest_ms(self, app: App[Any]) -> int:
        """How long a window is, 0 without digests; raises `DeclarationError` for what is no duration."""
        found: Duration = resolve(cast("Any", self._digest), app)
        return to_ms(found, place="digest")

    def handler(self, app: App[Any], queue: str) -> HandlerSpec:
        async def compose(delivery: Delivery) -> None:
            await app.binding.mail.compose(delivery, self, self.resolve(app), self.digest_ms(app))

        return HandlerSpec(name=self.name, queue=queue, fn=compose, feed=Deliveries(queue))


def email(
    to: Addresses | Late[str] | Late[list[str]] | Late[str | None],
    *,
    digest: Duration | Late[str] | Late[timedelta] = 0,
    subject: str = "",
    name: str = "",
    **options: Unpack[QueueOptions],
) -> Email:
    """Mail addresses to route to: `source.to(email("ops@example.org", digest="15m"))`.

    Each address gets a mail of its own for each event. With `digest`, the first event of a kind is mailed at once, and
    what follows of that kind within the time is collected into one mail at its end. `to` and `digest` may be late
    (`app.late`); without an address nothing is mailed. In `subject`, "{field}" stands for a field of the event's data.
    `name` is the queue's; without one it is made of the addresses, and is "mail" for late ones. `options` are the
    queue's.
    """
    return Email(to, digest, subject, name, options)


def _name_for(to: Addresses | Late[Any]) -> str:
    if isinstance(to, Late):
        return "mail"
    addresses = check_addresses(to)
    words = re.sub(r"[^a-z0-9]+", "-", addresses[0].lower() if addresses else "nobody")[:40].strip("-")
    return f"mail-{words}-{hashlib.sha256(' '.join(addresses).encode()).hexdigest()[:8]}"
