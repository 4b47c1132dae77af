"""Rates of queues: what was added to their counts between two looks, a second.

Nothing here looks by itself: whoever asks for the queues adds a look, so a rate is known from the second look on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

WINDOW_S = 10.0
"""A rate is that of about so long."""
_STALE_S = 60.0
"""A look that is older says nothing of now."""
_APART_S = 0.5
Counts = Mapping[str, int]


class Rates:
    """The counts of each queue at the last looks."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, Mapping[str, Counts]]] = deque()

    def look(self, now_s: float, counts: Mapping[str, Counts]) -> dict[str, dict[str, float]]:
        """The rates a second of every queue that was there before; none from looks that are long ago."""
        looks = self._looks
        while looks and now_s - looks[0][0] > _STALE_S:
            looks.popleft()
        while len(looks) > 1 and now_s - looks[1][0] >= WINDOW_S:
            looks.popleft()
        base = looks[0] if looks and now_s - looks[0][0] >= _APART_S else None
        if not looks or now_s - looks[-1][0] >= _APART_S:
            looks.append((now_s, counts))
        if base is None:
            return {}
        past_s, before = now_s - base[0], base[1]
        return {
            queue: {name: _rate(now.get(name, 0) - before[queue].get(name, 0), past_s) for name in now}
            for queue, now in counts.items()
            if queue in before
        }


def _rate(added: int, past_s: float) -> float:
    """Counts begin at 0 again when their process does."""
    return round(max(added, 0) / past_s, 2)
