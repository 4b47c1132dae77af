"""Several servers of one store, in one process, on one clock that moves only when the test moves it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from headwater.app import App
from headwater.engines import make_engine
from headwater.http.access import AccessRules
from headwater.mail import Mail
from headwater.objects import make_blobs
from headwater.runtime.mail import MailRules
from headwater.runtime.supervisor import Supervisor
from headwater.runtime.terms import TERM_S
from headwater.runtime.webhooks import WebhookRules
from headwater.testing import VirtualClock
from tests.patience import PATIENCE_S

STEP_S = 1.0
TAKEN_OVER_S = TERM_S * 4 / 3 + STEP_S
"""After this time the work of a dead server goes on at another one."""


class Mailbox:
    """Takes the mail of all servers (`runtime.mail.Post`)."""

    def __init__(self) -> None:
        self.subjects: list[str] = []

    async def send(self, mail: Mail) -> str:
        self.subjects.append(mail.subject)
        return "250 taken"


class Crew:
    """`make_apps` makes each server's own apps. Leaving the context stops the servers that are left.

    Nobody consumes the queues `unconsumed`.
    """

    def __init__(
        self, url: str, folder: Path, make_apps: Callable[[], Sequence[App[Any]]], count: int = 2, **options: Any
    ) -> None:
        self._unconsumed = set(options.pop("unconsumed", ()))
        self.clock = VirtualClock()
        self.mailbox = Mailbox()
        self._rules: dict[str, Any] = {"mail": MailRules(self.mailbox, ("oncall@shop.example",)), **options}
        self._url = url
        self._folder = folder
        self.members = [self.make(make_apps()) for _ in range(count)]

    def make(self, apps: Sequence[App[Any]], **options: Any) -> Supervisor:
        given = {
            "webhooks": WebhookRules(key_file=self._folder / "secret.key", stand_ins=True),
            "blobs": make_blobs(str(self._folder / "objects"), shared=True),
            "rules": AccessRules(environment="test"),
            **self._rules,
            **options,
        }
        return Supervisor(apps, make_engine(self._url, clock=self.clock), self.clock, **given)

    async def __aenter__(self) -> Crew:
        for member in self.members:
            await self.join(member)
        return self

    async def join(self, member: Supervisor) -> None:
        if member not in self.members:
            self.members.append(member)
        await member.start()
        await member.serve()
        await self.settle()

    async def __aexit__(self, *error: object) -> None:
        await asyncio.gather(*(member.stop(1) for member in self.members))

    async def kill(self, member: Supervisor) -> None:
        """It ends where it stands and gives up no term."""
        self.members.remove(member)
        await member.crash()

    async def leave(self, member: Supervisor) -> None:
        self.members.remove(member)
        await member.stop(1)

    async def pass_time(self, seconds: float, step: float = STEP_S) -> None:
        end = self.clock.monotonic() + seconds
        while (now := self.clock.monotonic()) < end:
            self.clock.move_to(min(now + step, end))
            await self.settle()

    async def settle(self) -> None:
        """Until nobody has anything to do at this moment."""
        deadline = time.monotonic() + PATIENCE_S
        quiet = 0
        while quiet < 2:
            await asyncio.sleep(0.001)
            quiet = 0 if await self._busy() else quiet + 1
            assert time.monotonic() < deadline, "still busy"

    async def _busy(self) -> bool:
        for member in self.members:
            if any(wakeups.busy for wakeups in member.wakeups):
                return True
            if any(consumer.busy for consumer in member.consumers.values()):
                return True
        stats = await self.members[0].engine.stats() if self.members else []
        return any(q.depth > q.delayed and not q.paused and q.queue not in self._unconsumed for q in stats)

    def holders(self, work: str) -> list[Supervisor]:
        """The servers that do this work now."""
        return [member for member in self.members if member.terms.holds(work)]
