"""States of alarms: the evaluator against an oracle that tries all that the open minutes could have been."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.thresholds import Condition, Missing, State, Window

Verdicts = list[bool | None]


def naive_state(last: Verdicts, datapoints: int, before: State) -> State:
    """Each open minute was breaching or good: the state that follows from all of these pasts, else the former one."""
    pasts = product(*([verdict] if verdict is not None else [True, False] for verdict in last))
    states = {"alarm" if sum(past) >= datapoints else "ok" for past in pasts}
    if len(states) == 1:
        return "alarm" if "alarm" in states else "ok"
    return before


@given(
    verdicts=st.lists(st.sampled_from([True, False, None]), max_size=30),
    window=st.integers(1, 7),
    data=st.data(),
)
def test_the_state_is_that_of_the_oracle_after_each_minute(
    verdicts: Verdicts, window: int, data: st.DataObject
) -> None:
    datapoints = data.draw(st.integers(1, window))
    seen: Verdicts = [None] * window
    state: State = "insufficient"
    expected: State = "insufficient"
    minutes = Window(window)
    for verdict in verdicts:
        minutes.push(verdict)
        seen = [*seen[1:], verdict]
        state = minutes.state(datapoints, state)
        expected = naive_state(seen, datapoints, expected)
        assert state == expected


@given(
    st.lists(st.sampled_from([True, False, None]), max_size=12), st.integers(1, 6), st.sampled_from([True, False, None])
)
def test_a_settled_window_stays_as_it_is(verdicts: Verdicts, window: int, next_one: bool | None) -> None:
    minutes = Window(window)
    for verdict in verdicts:
        minutes.push(verdict)
    settled = minutes.settled(next_one)
    last = ([None] * window + verdicts)[-window:]
    assert settled == (last == [next_one] * window)


@pytest.mark.parametrize(("missing", "verdict"), [("ok", False), ("bad", True), ("ignore", None)])
def test_a_minute_without_data_is_what_was_declared(missing: Missing, verdict: bool | None) -> None:
    assert Condition(threshold=1, missing=missing).judge(None) is verdict


def test_equal_to_the_threshold_is_good() -> None:
    assert [Condition(threshold=5).judge(value) for value in (4.9, 5, 5.1)] == [False, False, True]
    assert [Condition(threshold=5, below=True).judge(value) for value in (4.9, 5, 5.1)] == [True, False, False]


def test_conditions_in_words() -> None:
    assert Condition(threshold=10).in_words == "above 10"
    assert Condition(threshold=0.5, below=True, datapoints=5, window=5).in_words == "below 0.5 in 5 minutes"
    assert Condition(threshold=0.5, datapoints=3, window=5).in_words == "above 0.5 in 3 of 5 minutes"
