"""The pace of calls to one third party: its rate, and the pauses that it asks for. Kept in memory.

Calls take their turns: each is told how long to wait, and the next one comes after it. A restart forgets pauses and
debts; the third party will say again.
"""

from __future__ import annotations

import random

from headwater.quota import Bucket, Plan, reserve

SPREAD = 0.1
"""Without a rate, calls that were held up come back over this share of the pause, not all at once."""


class Pace:
    """Shared by all operations of a service. Times are those of the monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._plan = Plan()
        self.reset()

    def limit(self, rate: float) -> None:
        """At most so many calls a second; of several rates the least holds."""
        self._plan = Plan(rate=min(rate, self._plan.rate or rate))
        self.reset()

    def reset(self) -> None:
        """Forget what was."""
        self._bucket = Bucket(self._plan.capacity, 0.0)
        self._closed_until = 0.0

    def pause(self, seconds: float, now_s: float) -> None:
        """The third party wants no calls for so long."""
        self._closed_until = max(self._closed_until, now_s + seconds)

    def turn(self, now_s: float, *, paced: bool) -> float:
        """How long a call has to wait; 0: it may be made now. `paced`: it has waited for its turn."""
        closed_s = max(self._closed_until - now_s, 0.0)
        if not self._plan.rate:
            return closed_s * (1 + SPREAD * random.random())
        if paced and not closed_s:
            return 0.0
        return reserve(self._bucket, self._plan, now_s + closed_s) + closed_s
