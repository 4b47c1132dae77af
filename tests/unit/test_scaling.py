"""The number of workers: what each need asks for, and over time neither flapping nor cutting off what runs."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater import DeclarationError, Scale
from headwater.scaling import WINDOW_MS, Counts, Decision, Observation, Throughput, wanted

BY_DEPTH = Scale(max=8, backlog_per_worker=10, cooldown="1m")
BY_AGE = Scale(max=8, target_age="30s", cooldown="1m")
COOLDOWN_MS = 60_000


def seen(backlog: int, at_ms: int = 0, **more: Any) -> Observation:
    return Observation(now_ms=at_ms, backlog=backlog, **more)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"min": 3, "max": 2}, "0 ≤ min ≤ max"),
        ({"min": -1}, "0 ≤ min ≤ max"),
        ({"max": 0}, "1 ≤ max"),
        ({"max": 2.5}, "whole numbers"),
        ({"max": 10_000}, "max ≤ 1000"),
        ({"target_age": "1m", "backlog_per_worker": 10}, "not both"),
        ({"backlog_per_worker": 0}, "at least 1"),
        ({"target_age": 0}, "more than 0"),
        ({"target_age": "soon"}, "target_age"),
        ({"cooldown": "-1s"}, "cooldown"),
    ],
)
def test_a_scale_that_cannot_be_is_refused_at_its_declaration(options: dict[str, Any], says: str) -> None:
    with pytest.raises(DeclarationError, match=says):
        Scale(**options)


@pytest.mark.parametrize(("backlog", "number"), [(0, 0), (1, 1), (10, 1), (11, 2), (80, 8), (81, 8), (1_000_000, 8)])
def test_one_worker_for_so_many_messages(backlog: int, number: int) -> None:
    assert wanted(BY_DEPTH, seen(backlog)).number == number


@pytest.mark.parametrize(
    ("observation", "number"),
    [
        (seen(500), 1),  # how long one takes is not known
        (seen(500, oldest_age_ms=31_000, running=1), 2),  # and it takes too long
        (seen(500, oldest_age_ms=31_000, running=2), 4),
        (seen(100, job_s=0.3, running=1), 1),  # 30 s of work
        (seen(101, job_s=0.3, running=1), 2),
        (seen(101, job_s=0.3, running=1, oldest_age_ms=45_000), 2),
        (seen(2, job_s=0.3, running=1, oldest_age_ms=61_000), 2),  # the measure must be wrong
        (seen(1, job_s=0.3, running=1, oldest_age_ms=61_000), 1),
        (seen(3, job_s=600.0), 3),  # no more workers than messages
    ],
)
def test_as_many_as_handle_what_waits_within_the_target(observation: Observation, number: int) -> None:
    assert wanted(BY_AGE, observation).number == number


@pytest.mark.parametrize(
    ("observation", "number", "reason"),
    [
        (seen(500, groups=3), 3, "500 messages, 10 a worker, in 3 groups"),
        (seen(500, groups=1), 1, "500 messages, 10 a worker, in 1 group"),
        (seen(25, groups=3), 3, "25 messages, 10 a worker"),
        (seen(500, groups=100), 8, "500 messages, 10 a worker, of 8 at most"),
        (seen(500, groups=0), 0, "500 messages, none of a group that is ready"),
        (seen(500, groups=0, busy=2), 2, "2 workers busy"),
        (seen(500, groups=5, failing=True, running=2), 2, "attempts fail, and none succeeds"),
        (seen(4, groups=0, retrying=4), 0, "4 messages, none of a group that is ready"),
    ],
)
def test_no_more_workers_than_groups_that_are_ready(observation: Observation, number: int, reason: str) -> None:
    decision = wanted(BY_DEPTH, observation)
    assert (decision.number, decision.reason) == (number, reason)


def test_groups_bound_the_steps_by_age_too() -> None:
    late = seen(500, oldest_age_ms=31_000, running=2, groups=3)
    assert wanted(BY_AGE, late).number == 3
    assert wanted(BY_AGE, seen(101, job_s=0.3, running=1, groups=1)).number == 1


def test_the_decision_tells_why() -> None:
    assert wanted(BY_DEPTH, seen(25)).reason == "25 messages, 10 a worker"
    assert wanted(BY_DEPTH, seen(500)).reason == "500 messages, 10 a worker, of 8 at most"
    assert wanted(BY_AGE, seen(200, job_s=0.3)).reason == "200 messages of 0.3 s each, within 30 s"
    assert wanted(Scale(min=2, max=4), seen(0)).reason == "no message waits, but 2 at least"
    held = wanted(BY_DEPTH, seen(0, 30_000), wanted(BY_DEPTH, seen(25)))
    assert (held.number, held.reason) == (3, "3 needed within the last 60 s")


def test_up_at_once_and_down_to_the_most_that_was_needed_in_the_last_cool_down() -> None:
    decision: Decision | None = None
    numbers = {}
    for at_s, backlog in ((0, 75), (10, 20), (30, 5), (59, 0), (60, 0), (69, 0), (70, 0), (89, 0), (90, 0)):
        decision = wanted(BY_DEPTH, seen(backlog, at_s * 1000), decision)
        numbers[at_s] = decision.number
    assert numbers == {0: 8, 10: 8, 30: 8, 59: 8, 60: 2, 69: 2, 70: 1, 89: 1, 90: 0}


def test_what_is_being_handled_keeps_its_workers() -> None:
    assert wanted(BY_DEPTH, seen(3, busy=3, running=5)).number == 3
    assert wanted(BY_DEPTH, seen(3, busy=3, running=5, paused=True)).number == 3
    assert wanted(BY_DEPTH, seen(300, paused=True)).number == 0
    assert wanted(BY_DEPTH, seen(0, handled=1)).number == 1  # too short to be seen while it was handled


POISONED = [BY_DEPTH, BY_AGE, Scale(max=8, backlog_per_worker=1, cooldown="1m")]


@pytest.mark.parametrize("scale", POISONED)
def test_a_message_that_is_only_retried_never_has_more_than_one_worker(scale: Scale) -> None:
    decision: Decision | None = None
    for second in range(3600):
        poison = seen(
            1,
            second * 1000,
            oldest_age_ms=second * 1000,
            running=min(second, 1),
            retrying=second > 0,
            failing=second > 5,
        )
        decision = wanted(scale, poison, decision)
        assert decision.number == 1


@pytest.mark.parametrize("scale", POISONED)
def test_messages_that_failed_before_bring_no_workers(scale: Scale) -> None:
    assert wanted(scale, seen(40, retrying=40, running=1, job_s=9.0, oldest_age_ms=90_000)).number == 1
    fresh = wanted(scale, seen(20, running=1, job_s=3.0))
    assert (
        wanted(scale, seen(60, retrying=40, running=1, job_s=3.0)).number
        == fresh.number
        == wanted(scale, seen(20, running=1, job_s=3.0)).number
    )


@pytest.mark.parametrize("scale", POISONED)
def test_a_backlog_of_which_nothing_succeeds_brings_no_workers(scale: Scale) -> None:
    failing = seen(500, running=2, busy=2, job_s=1.0, oldest_age_ms=90_000, failing=True)
    assert wanted(scale, failing).number == 2
    assert wanted(scale, msgspec.structs.replace(failing, failing=False)).number > 2
    assert wanted(scale, seen(500, failing=True)).number == 1


scales = st.builds(
    lambda low, more, age, depth, cooldown: Scale(
        min=low,
        max=low + more,
        target_age=age if depth is None else None,
        backlog_per_worker=depth,
        cooldown=cooldown,
    ),
    st.integers(0, 5),
    st.integers(1, 30),
    st.floats(0.5, 600),
    st.none() | st.integers(1, 100),
    st.integers(0, 600),
)
observations = st.builds(
    Observation,
    now_ms=st.integers(0, 3_600_000),
    backlog=st.integers(0, 100_000),
    oldest_age_ms=st.integers(0, 3_600_000),
    busy=st.integers(0, 40),
    running=st.integers(0, 40),
    retrying=st.integers(0, 100),
    handled=st.integers(0, 100),
    job_s=st.just(0.0) | st.floats(0.001, 1000),
    failing=st.booleans(),
    paused=st.booleans(),
)


@given(scales, st.lists(observations, min_size=1, max_size=12))
def test_always_within_bounds_and_never_below_the_need(scale: Scale, history: list[Observation]) -> None:
    decision: Decision | None = None
    for observation in sorted(history, key=lambda one: one.now_ms):
        decision = wanted(scale, observation, decision)
        alone = wanted(scale, observation)
        assert scale.min <= alone.number <= decision.number <= scale.max
        assert decision.reason
        assert len(decision.needs) <= scale.max + 1
        assert all(a.number > b.number for a, b in pairwise(decision.needs))


@given(scales, st.lists(observations, max_size=5), observations, st.integers(0, 100_000))
def test_a_larger_backlog_never_asks_for_fewer(
    scale: Scale, history: list[Observation], observation: Observation, more: int
) -> None:
    decision: Decision | None = None
    for earlier in sorted(history, key=lambda one: one.now_ms):
        if earlier.now_ms <= observation.now_ms:
            decision = wanted(scale, earlier, decision)
    larger = msgspec.structs.replace(observation, backlog=observation.backlog + more)
    assert wanted(scale, larger, decision).number >= wanted(scale, observation, decision).number


@given(scales, st.lists(observations, min_size=2, max_size=12))
def test_no_number_falls_within_a_cool_down_of_its_need(scale: Scale, history: list[Observation]) -> None:
    decision: Decision | None = None
    needs: list[tuple[int, int]] = []
    for observation in sorted(history, key=lambda one: one.now_ms):
        decision = wanted(scale, observation, decision)
        needs.append((observation.now_ms, wanted(scale, observation).number))
        lasting = [number for at_ms, number in needs if at_ms > observation.now_ms - scale.cooldown_ms]
        assert decision.number == max([*lasting, needs[-1][1]])


class Plant:
    """A queue and workers, second by second: random arrivals, jobs of a length, workers that take time to start."""

    def __init__(self, scale: Scale, job_s: float, *, seed: int = 0, start_s: int = 1) -> None:
        self.scale, self.job_s, self.start_s = scale, job_s, start_s
        self.random = random.Random(seed)
        self.now_s = 0
        self.waiting: list[float] = []
        self.settled = 0
        self._ends: list[float] = []
        self.workers: list[float] = []
        """When each is free."""
        self.decision: Decision | None = None
        self.flow = Throughput()
        self.numbers: list[int] = []
        self.ages: list[float] = []

    def second(self, arrivals: int) -> None:
        self.waiting += sorted(self.now_s - self.random.random() for _ in range(arrivals))
        self._work()
        busy = sum(1 for free_s in self.workers if free_s > self.now_s)
        self.flow.add(Counts(at_ms=self.now_s * 1000, settled=self.settled, dead=0, retried=0, busy=busy))
        age_s = self.now_s - self.waiting[0] if self.waiting else 0.0
        observation = seen(
            len(self.waiting) + busy,
            self.now_s * 1000,
            oldest_age_ms=int(age_s * 1000),
            busy=busy,
            running=len(self.workers),
            handled=self.flow.handled,
            job_s=self.flow.job_s,
        )
        self.decision = wanted(self.scale, observation, self.decision)
        self.numbers.append(self.decision.number)
        self.ages.append(age_s)
        self._resize(self.decision.number)
        self.now_s += 1

    def _work(self) -> None:
        """What the workers take in the second that ends now."""
        while self.waiting and self.workers:
            at = self.workers.index(min(self.workers))
            begin_s = max(self.workers[at], self.waiting[0])
            if begin_s >= self.now_s:
                break
            del self.waiting[0]
            self.workers[at] = begin_s + self.job_s
            self._ends.append(self.workers[at])
        self.settled += sum(1 for end_s in self._ends if end_s <= self.now_s)
        self._ends = [end_s for end_s in self._ends if end_s > self.now_s]

    def _resize(self, number: int) -> None:
        while len(self.workers) < number:
            self.workers.append(float(self.now_s + self.start_s))
        if len(self.workers) > number:
            idle = [free_s for free_s in self.workers if free_s <= self.now_s]
            keep = [free_s for free_s in self.workers if free_s > self.now_s]
            self.workers = keep + idle[: max(0, number - len(keep))]


@pytest.mark.parametrize("scale", [BY_DEPTH, BY_AGE])
@pytest.mark.parametrize("per_s", [0.3, 1.5, 4.0])
@pytest.mark.parametrize("job_s", [0.2, 0.9])
@pytest.mark.parametrize("noise", [False, True])
def test_constant_load_settles_on_a_number(scale: Scale, per_s: float, job_s: float, noise: bool) -> None:
    plant, owed = Plant(scale, job_s, seed=7), 0.0
    for _ in range(1800):
        owed += plant.random.expovariate(1 / per_s) if noise else per_s
        arrivals, owed = int(owed), owed - int(owed)
        plant.second(arrivals)
    settled = plant.numbers[900:]
    changes = sum(1 for before, after in pairwise(settled) if before != after)
    assert changes <= (2 if noise else 0), settled
    assert max(settled) <= 2 + per_s * job_s * 1.5


@pytest.mark.parametrize("scale", [BY_DEPTH, BY_AGE])
def test_bursts_are_worked_off_and_end_at_zero(scale: Scale) -> None:
    plant = Plant(scale, 0.5)
    for burst in range(3):
        plant.second(500)
        for _ in range(300):
            plant.second(0)
        assert plant.settled == 500 * (burst + 1)
        assert plant.numbers[-1] == 0
        ups = sum(1 for before, after in pairwise(plant.numbers[-301:]) if after > before)
        downs = sum(1 for before, after in pairwise(plant.numbers[-301:]) if after < before)
        assert ups <= 4
        assert downs <= 9
    assert max(plant.ages) <= 500 * 0.5 / 8 + 40


def test_the_worker_of_a_single_message_is_there_a_cool_down_longer() -> None:
    plant = Plant(BY_AGE, 0.5)
    plant.second(1)
    for _ in range(100):
        plant.second(0)
    assert plant.numbers[0] == 1
    assert 60 <= plant.numbers.index(0) <= 63


def counts(at_s: int, settled: int = 0, dead: int = 0, retried: int = 0, busy: int = 0) -> Counts:
    return Counts(at_ms=at_s * 1000, settled=settled, dead=dead, retried=retried, busy=busy)


def test_throughput_tells_how_long_a_message_keeps_a_worker() -> None:
    flow = Throughput()
    for second in range(20):
        flow.add(counts(second, settled=second * 4, busy=2))
    assert (flow.handled, flow.job_s, flow.failing) == (4, 0.5, False)
    for second in range(20, 90):
        flow.add(counts(second, settled=76, busy=0))
    assert (flow.handled, flow.job_s) == (0, 0.5)


def test_what_is_under_way_counts_as_half_done() -> None:
    flow = Throughput()
    for second, settled, busy in ((0, 0, 0), (1, 0, 1), (2, 0, 1), (3, 1, 5)):
        flow.add(counts(second, settled=settled, busy=busy))
    assert flow.job_s == 4.5 / 3.5  # each takes 3 s; 4.5 in all were worked, on one that is done and five that began


def test_messages_that_die_are_no_progress() -> None:
    flow = Throughput()
    later = [counts(second, settled=2, dead=1, retried=4) for second in range(4, 6 + WINDOW_MS // 1000)]
    seen_failing = []
    for at in (
        counts(0),
        counts(1, retried=1, busy=1),
        counts(2, settled=1, dead=1, retried=4, busy=1),
        counts(3, settled=2, dead=1, retried=4, busy=1),
        *later,
    ):
        flow.add(at)
        seen_failing.append((flow.failing, flow.job_s > 0))
    assert seen_failing == [(False, False), (True, False), (True, False)] + [(False, True)] * (1 + len(later))
