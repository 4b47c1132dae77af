"""How many workers a queue needs: pure decisions over what is seen of it.

Up at once, down late: the number is the most that was needed at any time of the last cool-down. So a need that
swings within a cool-down does not move it, and what is handled is never cut off. Messages that were tried before and
failed bring no workers beyond the first, nor does a backlog of which nothing succeeds: more workers would fail, too.
Of a FIFO queue each worker needs a group of its own.
"""

from __future__ import annotations

import math
from collections import deque

import msgspec

from headwater.durations import Duration, to_ms
from headwater.errors import DeclarationError

WINDOW_MS = 30_000
"""How far back throughput is measured."""
SCALINGS = "headwater/scalings"
_DEFAULT_AGE = "30s"
_MOST = 1000


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """Between `min` and `max` worker processes for a queue, by its backlog.

    With `target_age` as many as it takes to handle what waits within that time; with `backlog_per_worker` one for so
    many messages; without both the target is 30 seconds. A number that is needed no more is kept for `cooldown`.
    """

    min: int = 0
    max: int = 8
    target_age: Duration | None = None
    backlog_per_worker: int | None = None
    cooldown: Duration = "1m"

    def __post_init__(self) -> None:
        if not (_is_whole(self.min) and _is_whole(self.max) and 0 <= self.min <= self.max and 1 <= self.max <= _MOST):
            raise _wrong(f"min and max are whole numbers, 0 ≤ min ≤ max, 1 ≤ max ≤ {_MOST}")
        if self.target_age is not None and self.backlog_per_worker is not None:
            raise _wrong("give target_age= or backlog_per_worker=, not both")
        if self.backlog_per_worker is not None and not (
            _is_whole(self.backlog_per_worker) and self.backlog_per_worker > 0
        ):
            raise _wrong("backlog_per_worker is a whole number, at least 1")
        if self.target_ms < 1:
            raise _wrong("target_age is more than 0")
        to_ms(self.cooldown, place="cooldown")

    @property
    def target_ms(self) -> int:
        return to_ms(_DEFAULT_AGE if self.target_age is None else self.target_age, place="target_age")

    @property
    def cooldown_ms(self) -> int:
        return to_ms(self.cooldown)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _wrong(why: str) -> DeclarationError:
    return DeclarationError(why, operation="declare scale")


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What is seen of a queue at `now_ms`, of any clock that never steps back.

    `backlog` are the messages that are ready or being handled, `retrying` those of them that failed before, `busy` the
    workers that handle one, `running` those that there are. Of throughput: `handled` is how many messages left since
    the last look, `job_s` how long one keeps a worker, 0 while that is not known; `failing` tells that attempts ended
    lately and none well. `groups` are those of a FIFO queue that are ready or being handled, None without groups.
    """

    now_ms: int
    backlog: int
    oldest_age_ms: int = 0
    busy: int = 0
    running: int = 0
    retrying: int = 0
    handled: int = 0
    job_s: float = 0.0
    failing: bool = False
    paused: bool = False
    groups: int | None = None


class Scaling(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `headwater/scalings`: the wanted number of workers changed, and why, by what was seen then."""

    queue: str
    at_ms: int
    wanted: int
    before: int
    reason: str
    backlog: int
    oldest_age_ms: int
    busy: int


class Need(msgspec.Struct, frozen=True):
    """So many workers were needed at this time, and never as many since."""

    at_ms: int
    number: int


class Decision(msgspec.Struct, frozen=True):
    """The wanted number of workers, and why; `needs` of the last cool-down are what the next decision begins from."""

    number: int
    reason: str
    needs: tuple[Need, ...] = ()


def wanted(scale: Scale, seen: Observation, before: Decision | None = None) -> Decision:
    """How many workers there should be, after the decision `before`."""
    needed, reason = _needed(scale, seen)
    bounded = min(max(needed, scale.min), scale.max)
    if bounded < needed:
        reason += f", of {scale.max} at most"
    elif bounded > needed:
        reason += f", but {scale.min} at least"
    lasting = seen.now_ms - scale.cooldown_ms
    earlier = before.needs if before is not None else ()
    needs = (
        *(need for need in earlier if need.at_ms > lasting and need.number > bounded),
        Need(seen.now_ms, bounded),
    )
    number = needs[0].number
    if number > bounded:
        reason = f"{number} needed within the last {scale.cooldown_ms / 1000:g} s"
    return Decision(number, reason, needs)


def _needed(scale: Scale, seen: Observation) -> tuple[int, str]:
    """What is asked for now; workers that handle messages are always needed."""
    number, reason = _by_backlog(scale, seen)
    if seen.busy > number:
        return seen.busy, f"{_counted(seen.busy, 'worker')} busy"
    if seen.handled and not number:
        return 1, f"{_counted(seen.handled, 'message')} handled just now"
    return number, reason


def _by_backlog(scale: Scale, seen: Observation) -> tuple[int, str]:
    if seen.paused:
        return 0, "the queue is paused"
    if not seen.backlog:
        return 0, "no message waits"
    if seen.groups == 0:
        return 0, f"{_counted(seen.backlog, 'message')}, none of a group that is ready"
    fresh = max(0, seen.backlog - seen.retrying)
    if not fresh:
        return 1, f"{_counted(seen.retrying, 'message')} failed before, and nothing else waits"
    number, reason = (
        _by_depth(scale.backlog_per_worker, fresh)
        if scale.backlog_per_worker
        else _by_age(scale.target_ms, seen, fresh)
    )
    if seen.groups is not None and number > seen.groups:
        number, reason = seen.groups, f"{reason}, in {_counted(seen.groups, 'group')}"
    if seen.failing and number > max(seen.running, 1):
        return max(seen.running, 1), "attempts fail, and none succeeds"
    return number, reason


def _by_depth(per_worker: int, fresh: int) -> tuple[int, str]:
    return -(-fresh // per_worker), f"{_counted(fresh, 'message')}, {per_worker} a worker"


def _by_age(target_ms: int, seen: Observation, fresh: int) -> tuple[int, str]:
    target_s, age_s = target_ms / 1000, seen.oldest_age_ms / 1000
    number, reason = 1, f"{_counted(fresh, 'message')}, how long each takes is not known yet"
    if seen.job_s:
        number = max(1, math.ceil(fresh * seen.job_s / target_s))
        reason = f"{_counted(fresh, 'message')} of {seen.job_s:.3g} s each, within {target_s:g} s"
    late = age_s > 2 * target_s if seen.job_s else age_s > target_s
    more = seen.running + 1 if seen.job_s else 2 * max(seen.running, 1)
    if late and more > number:
        number, reason = more, f"a message waits for {age_s:.0f} s, the target is {target_s:g} s"
    return min(number, fresh), reason


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Totals of a queue since any time: messages that left it, those of them that died, attempts to be repeated."""

    at_ms: int
    settled: int
    dead: int
    retried: int
    busy: int


class Throughput:
    """What a queue's counts of the last `WINDOW_MS` say. How long a message takes is remembered beyond them.

    That is the time of busy workers for each message that succeeded; what is under way counts as half done.
    """

    def __init__(self) -> None:
        self._counts: deque[Counts] = deque()
        self.job_s = 0.0

    def add(self, counts: Counts) -> None:
        found = self._counts
        found.append(counts)
        while len(found) > 2 and found[1].at_ms <= counts.at_ms - WINDOW_MS:
            found.popleft()
        if self.handled and self._succeeded:
            pairs = zip(found, list(found)[1:], strict=False)
            worked_s = sum((a.busy + b.busy) / 2 * (b.at_ms - a.at_ms) for a, b in pairs) / 1000
            under_way = (counts.busy - found[0].busy) / 2
            self.job_s = worked_s / max(1.0, self._succeeded + under_way)

    @property
    def _succeeded(self) -> int:
        first, last = self._counts[0], self._counts[-1]
        return max(0, last.settled - first.settled - max(0, last.dead - first.dead))

    @property
    def handled(self) -> int:
        """How many messages left between the last two counts."""
        return self._counts[-1].settled - self._counts[-2].settled if len(self._counts) > 1 else 0

    @property
    def failing(self) -> bool:
        """Whether attempts ended, and none of them well."""
        first, last = self._counts[0], self._counts[-1]
        return not self._succeeded and (last.retried > first.retried or last.dead > first.dead)
