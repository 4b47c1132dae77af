"""Usage plans: rates, bursts and quotas. Pure: the time comes in, nothing is kept.

A plan lets in `rate` requests a second on average and up to `burst` at once (a token bucket), and `quota` requests
in each calendar period of its time zone. 0 means no limit.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import inf
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

Period = Literal["day", "week", "month"]


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A usage plan. `burst` 0 stands for one second's rate. Weeks begin on Monday (ISO 8601)."""

    rate: float = 0
    burst: int = 0
    quota: int = 0
    period: Period = "month"
    tz: str = "UTC"

    def __post_init__(self) -> None:
        if not 0 <= self.rate < inf or self.burst < 0 or self.quota < 0:
            raise ValueError("rate, burst and quota are 0 (no limit) or more")
        if self.burst and not self.rate:
            raise ValueError("burst needs a rate")
        try:
            ZoneInfo(self.tz)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"tz: there is no time zone {self.tz!r}") from error

    @property
    def capacity(self) -> int:
        """How many requests a full bucket lets in at once."""
        return self.burst or max(1, int(self.rate))


_ROUNDING = 1e-9
"""Of a token: who waits as long as told must not be sent away by the rounding of floats."""


class Bucket(msgspec.Struct):
    """A token bucket: `level` tokens at the monotonic time `at_s`."""

    level: float
    at_s: float


def take(bucket: Bucket, plan: Plan, now_s: float) -> float:
    """Take one token; 0 when there was one, else the seconds until there is."""
    level = min(plan.capacity, bucket.level + max(0.0, now_s - bucket.at_s) * plan.rate)
    bucket.at_s = now_s
    if level >= 1 - _ROUNDING:
        bucket.level = max(0.0, level - 1)
        return 0.0
    bucket.level = level
    return (1 - level) / plan.rate


def reserve(bucket: Bucket, plan: Plan, now_s: float) -> float:
    """Take one token in any case, from the future if need be; the seconds until it is there."""
    bucket.level = min(plan.capacity, bucket.level + max(0.0, now_s - bucket.at_s) * plan.rate) - 1
    bucket.at_s = max(bucket.at_s, now_s)
    debt = -bucket.level if bucket.level < -_ROUNDING else 0.0
    return debt / plan.rate


class Window(msgspec.Struct, frozen=True):
    """One period of a quota: its name in the calendar of the plan's time zone, and when it ends."""

    name: str
    ends_ms: int


def window_of(plan: Plan, now_ms: int) -> Window:
    """The period that a moment lies in. A day of the zone may have 23 or 25 hours."""
    zone = ZoneInfo(plan.tz)
    day = datetime.fromtimestamp(now_ms / 1000, zone).date()
    if plan.period == "day":
        begin, end = day, day + timedelta(days=1)
        name = begin.isoformat()
    elif plan.period == "week":
        begin = day - timedelta(days=day.weekday())
        end = begin + timedelta(days=7)
        year, week, _ = begin.isocalendar()
        name = f"{year}-W{week:02}"
    else:
        begin = day.replace(day=1)
        end = (begin + timedelta(days=32)).replace(day=1)
        name = f"{begin:%Y-%m}"
    ends = datetime(end.year, end.month, end.day, tzinfo=zone).astimezone(UTC)
    return Window(name, int(ends.timestamp() * 1000))
