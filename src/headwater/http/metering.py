"""Metering: who has used how much of a usage plan, and who must wait.

Rates are token buckets in memory: a restart fills them, so a crash lets in at most one burst more. Quotas are counts
of a calendar period: kept in memory, written to the table `headwater/usage` every second and at a graceful stop, so
a crash forgets at most a second's requests. In one process nothing overshoots: taking and checking is one step
without an `await`. Several processes have buckets of their own, and learn of each other's counts every second:
they overshoot a rate by the factor of their number, a quota by a second's requests of the others.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import msgspec
import structlog

from headwater.clock import Clock
from headwater.errors import Forbidden, StoreError, Throttled, Unavailable
from headwater.quota import Bucket, Plan, Window, take, window_of

FLUSH_S = 1.0
MOST_BUCKETS = 50_000
MOST_COUNTS = 50_000
MOST_WHO = 700
_CHUNK = 500
log = structlog.get_logger("headwater.access")
Headers = list[tuple[bytes, bytes]]


class Used(msgspec.Struct):
    """A row of `headwater/usage`: how many requests somebody made under a plan in one period."""

    who: str
    period: str
    plan: str = ""
    count: int = 0


class UsageStore(Protocol):
    """Where counts are kept."""

    async def count(self, who: str, period: str) -> int: ...

    async def add(self, used: list[Used]) -> None: ...


class _Count(msgspec.Struct):
    """What is known of one caller's use of a quota: `stored` is written already, `pending` not yet."""

    window: Window
    stored: int
    pending: int = 0
    read_s: float = 0.0


class Meter:
    """`charge` lets a request in or raises; `flush` writes what was counted. `shared`: others count there, too."""

    def __init__(self, plans: Mapping[str, Plan], store: UsageStore, clock: Clock, *, shared: bool = False) -> None:
        self.plans = plans
        self._store = store
        self._clock = clock
        self._shared = shared
        self._buckets: dict[tuple[str, str], Bucket] = {}
        self._counts: dict[tuple[str, str], _Count] = {}
        self._flushing = asyncio.Lock()

    def plan(self, name: str) -> Plan:
        found = self.plans.get(name)
        if found is None:
            raise Forbidden(f"the usage plan {name!r} is not declared here", operation="request")
        return found

    async def charge(self, who: str, name: str, *, always_counted: bool = False) -> Headers:
        """Count one request of somebody under a plan; the RateLimit headers. Raises `Throttled`."""
        plan = self.plan(name)
        if not (plan.rate or plan.quota or always_counted):
            return []
        limits: list[tuple[str, int, int, int, int]] = []
        counted = always_counted or bool(plan.quota)
        count = await self._count(who, name, plan) if counted else None
        wait_s = self._take(who, name, plan, limits)
        if wait_s:
            raise _throttled("the rate", name, wait_s, limits)
        if count is not None:
            now_ms = self._clock.wall_ms()
            left_s = max(0.0, (count.window.ends_ms - now_ms) / 1000)
            used = count.stored + count.pending
            if plan.quota:
                left = max(0, plan.quota - used - 1)
                limits.append((plan.period, plan.quota, _SECONDS[plan.period], left, math.ceil(left_s)))
                if used >= plan.quota:
                    raise _throttled(f"the quota a {plan.period}", name, left_s, limits)
            count.pending += 1
        return _headers(limits)

    def _take(self, who: str, name: str, plan: Plan, limits: list[tuple[str, int, int, int, int]]) -> float:
        if not plan.rate:
            return 0.0
        now_s = self._clock.monotonic()
        bucket = self._buckets.get((who, name))
        if bucket is None:
            if len(self._buckets) >= MOST_BUCKETS:
                self._drop_full(now_s)
            bucket = self._buckets[who, name] = Bucket(plan.capacity, now_s)
        wait_s = take(bucket, plan, now_s)
        window_s = max(1, math.ceil(plan.capacity / plan.rate))
        left = int(bucket.level)
        limits.append(("rate", plan.capacity, window_s, left, math.ceil((left + 1 - bucket.level) / plan.rate)))
        return wait_s

    def _drop_full(self, now_s: float) -> None:
        """A bucket that has had time to fill is as good as none; if most are in use the oldest half goes.

        So a look at all of them makes room for many, whoever comes from however many addresses.
        """
        for (who, name), bucket in list(self._buckets.items()):
            plan = self.plans[name]
            if bucket.level + (now_s - bucket.at_s) * plan.rate >= plan.capacity:
                del self._buckets[who, name]
        if len(self._buckets) > MOST_BUCKETS // 2:
            for place in list(self._buckets)[: MOST_BUCKETS // 2]:
                del self._buckets[place]

    async def _count(self, who: str, name: str, plan: Plan) -> _Count:
        """The count of the present period; read from the store when it is first asked for."""
        place, now_ms = (who, name), self._clock.wall_ms()
        count = self._counts.get(place)
        if count is None or count.window.ends_ms <= now_ms:
            if count is not None and count.pending:
                await self.flush()
            window = window_of(plan, now_ms)
            stored = await self._store.count(_row(who, name), window.name)
            present = self._counts.get(place)
            if present is None or present.window != window:
                self._counts[place] = _Count(window, stored, read_s=self._clock.monotonic())
            count = self._counts[place]
        elif self._shared and plan.quota and count.read_s + FLUSH_S <= self._clock.monotonic():
            async with self._flushing:
                await self._learn(place, count)
        return count

    async def _learn(self, place: tuple[str, str], count: _Count) -> None:
        """Read what all processes have written."""
        count.read_s = self._clock.monotonic()
        count.stored = await self._store.count(_row(*place), count.window.name)

    async def flush(self) -> None:
        """Write what was counted since the last time, and learn what other processes counted."""
        async with self._flushing:
            await self._flush()
        self._forget_ended()

    async def _flush(self) -> None:
        changed = [(place, count, count.pending) for place, count in self._counts.items() if count.pending]
        for start in range(0, len(changed), _CHUNK):
            part = changed[start : start + _CHUNK]
            await self._store.add(
                [Used(_row(*place), count.window.name, place[1], pending) for place, count, pending in part]
            )
            for place, count, pending in part:
                count.pending -= pending
                count.stored += pending
                if self.plans[place[1]].quota:
                    await self._learn(place, count)

    def _forget_ended(self) -> None:
        """Of too many all that are written go: they can be read again."""
        now_ms, too_many = self._clock.wall_ms(), len(self._counts) > MOST_COUNTS
        for place, count in list(self._counts.items()):
            if (too_many or count.window.ends_ms <= now_ms) and not count.pending:
                del self._counts[place]

    def unwritten(self) -> dict[tuple[str, str, str], int]:
        """Requests counted but not yet written, by (row, period, plan)."""
        return {
            (_row(who, plan), count.window.name, plan): count.pending
            for (who, plan), count in self._counts.items()
            if count.pending
        }

    async def run(self, sleep: Callable[[float], Awaitable[Any]]) -> None:
        """Flush every second until cancelled. A store that refuses is tried again with all that was counted."""
        while True:
            await sleep(FLUSH_S)
            try:
                await self.flush()
            except (StoreError, Unavailable) as error:
                log.warning("usage could not be written", error=str(error))


_SECONDS = {"day": 86_400, "week": 604_800, "month": 2_678_400}


def _row(who: str, plan: str) -> str:
    """The row's name of somebody under a plan; one that would be too long for a key stands there by its digest."""
    if len(who.encode()) > MOST_WHO:
        kind, _, rest = who.partition(":")
        who = f"{kind}:sha256:{hashlib.sha256(rest.encode()).hexdigest()}"
    return f"{who} {plan}"


def _throttled(what: str, plan: str, wait_s: float, limits: list[tuple[str, int, int, int, int]]) -> Throttled:
    error = Throttled(f"{what} of the usage plan {plan!r} is used up", retry_after_s=wait_s, resource=plan)
    error.limits = _headers(limits)
    return error


def _headers(limits: list[tuple[str, int, int, int, int]]) -> Headers:
    """RateLimit-Policy and RateLimit as structured fields (draft-ietf-httpapi-ratelimit-headers)."""
    if not limits:
        return []
    policy = ", ".join(f'"{name}";q={quota};w={window}' for name, quota, window, _, _ in limits)
    state = ", ".join(f'"{name}";r={left};t={reset}' for name, _, _, left, reset in limits)
    return [(b"ratelimit-policy", policy.encode()), (b"ratelimit", state.encode())]
