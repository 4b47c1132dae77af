"""How the vendor misbehaves: each fault strikes some of the requests, as often as it was told to."""

from __future__ import annotations

import random
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, Field

Call = Literal["start", "poll", "cancel"]


class Kind(StrEnum):
    SLOW = "slow"
    """Answers after `seconds`."""
    RATE_LIMITED = "rate-limited"
    """429 with Retry-After: `seconds`."""
    UNAVAILABLE = "unavailable"
    """503, with Retry-After when `seconds` is more than 0."""
    BROKEN = "broken"
    """500 with a stack trace."""
    LOST_ANSWER = "lost-answer"
    """Does what was asked, and hangs for `seconds` instead of answering."""
    REPEATED = "repeated"
    """Answers a start that it knows with 409 and the deletion that there is, not with 200."""
    FORGETFUL = "forgetful"
    """Looks at no idempotency key: a start that is sent again makes another deletion."""
    STUCK = "stuck"
    """Deletions accepted meanwhile stay pending until the fault is taken away."""
    RENAMED_FIELD = "renamed-field"
    """`status` is called `state`."""
    NEW_WORD = "new-word"
    """A status that nobody was told of."""
    HTML = "html"
    """200 with a page that says sorry."""


class Fault(BaseModel):
    """`share` of the requests are struck, of the calls in `on`, at most `times` (None: without end)."""

    kind: Kind
    share: float = Field(default=1.0, ge=0, le=1)
    times: int | None = Field(default=None, ge=1)
    on: list[Call] = ["start", "poll", "cancel"]
    seconds: float = Field(default=0.0, ge=0, le=86_400)


class Faults:
    """The faults in force."""

    def __init__(self, seed: int) -> None:
        self.present: list[Fault] = []
        self.struck: dict[Kind, int] = {}
        self._random = random.Random(seed)

    def strike(self, call: Call) -> dict[Kind, Fault]:
        """The faults that strike this request."""
        struck = {
            fault.kind: fault
            for fault in self.present
            if call in fault.on and (fault.share >= 1 or self._random.random() < fault.share)
        }
        for fault in struck.values():
            self.struck[fault.kind] = self.struck.get(fault.kind, 0) + 1
            if fault.times is not None:
                fault.times -= 1
        self.present = [fault for fault in self.present if fault.times != 0]
        return struck
