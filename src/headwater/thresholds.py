"""When an alarm is raised: pure decisions over the last minutes of a metric.

Each minute is a verdict: True (breaching), False (good), or None (open: it is not known, or to be ignored). The state
is alarm when enough minutes of the window breach, whatever the open ones were; ok when they cannot be enough,
whatever the open ones were; otherwise it stays.
"""

from __future__ import annotations

from typing import Literal

import msgspec

State = Literal["ok", "alarm", "insufficient"]
Missing = Literal["ok", "bad", "ignore"]
MAX_WINDOW = 1440


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """`datapoints` of the last `window` minutes are above (or `below`) the threshold. Equal is never breaching."""

    threshold: float
    below: bool = False
    datapoints: int = 1
    window: int = 1
    missing: Missing = "ok"

    def judge(self, value: float | None) -> bool | None:
        """The verdict on a minute; None as a value is a minute without data."""
        if value is None:
            return None if self.missing == "ignore" else self.missing == "bad"
        return value < self.threshold if self.below else value > self.threshold

    @property
    def in_words(self) -> str:
        """ "above 10 in 3 of 5 minutes"."""
        side = f"{'below' if self.below else 'above'} {self.threshold:g}"
        if self.window == 1:
            return side
        of = "" if self.datapoints == self.window else f"{self.datapoints} of "
        return f"{side} in {of}{self.window} minutes"


class Window:
    """The verdicts of the last minutes, as two sets of bits; at first all are open."""

    __slots__ = ("_all", "_bad", "_open")

    def __init__(self, minutes: int) -> None:
        self._all = self._open = (1 << minutes) - 1
        self._bad = 0

    def push(self, verdict: bool | None) -> None:
        """One minute has passed."""
        self._bad = (self._bad << 1 | (verdict is True)) & self._all
        self._open = (self._open << 1 | (verdict is None)) & self._all

    def settled(self, verdict: bool | None) -> bool:
        """Whether more minutes of this verdict change nothing."""
        return self._bad == (self._all if verdict else 0) and self._open == (self._all if verdict is None else 0)

    def state(self, datapoints: int, before: State) -> State:
        bad = self._bad.bit_count()
        if bad >= datapoints:
            return "alarm"
        return "ok" if bad + self._open.bit_count() < datapoints else before
