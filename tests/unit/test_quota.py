"""Usage plans: token buckets, and quotas in the calendars of time zones."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.quota import Bucket, Period, Plan, take, window_of

ZONES = ["UTC", "Europe/Vienna", "America/New_York", "Pacific/Apia", "Africa/Cairo", "Asia/Kathmandu", "America/Havana"]
PERIODS: list[Period] = ["day", "week", "month"]


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def utc(moment_ms: int) -> str:
    return datetime.fromtimestamp(moment_ms / 1000, UTC).isoformat()


def test_a_bucket_lets_in_its_burst_and_then_its_rate() -> None:
    plan = Plan(rate=2, burst=3)
    bucket = Bucket(plan.capacity, 0.0)
    assert [take(bucket, plan, 0.0) for _ in range(5)] == [0, 0, 0, 0.5, 0.5]
    assert take(bucket, plan, 0.25) == 0.25
    assert take(bucket, plan, 0.5) == 0
    assert take(bucket, plan, 0.5) == 0.5
    assert [take(bucket, plan, 1e6) for _ in range(4)] == [0, 0, 0, 0.5]


@pytest.mark.parametrize(("plan", "capacity"), [(Plan(rate=0.1), 1), (Plan(rate=7.9), 7), (Plan(rate=1, burst=9), 9)])
def test_without_a_burst_a_bucket_holds_the_rate_of_a_second(plan: Plan, capacity: int) -> None:
    assert plan.capacity == capacity


@given(
    rate=st.floats(0.01, 1000),
    burst=st.integers(1, 50),
    pauses=st.lists(st.floats(0, 20), min_size=1, max_size=200),
)
def test_no_interval_lets_in_more_than_the_burst_and_its_rate(rate: float, burst: int, pauses: list[float]) -> None:
    plan, now_s, entered = Plan(rate=rate, burst=burst), 0.0, []
    bucket = Bucket(plan.capacity, now_s)
    for pause in pauses:
        now_s += pause
        if take(bucket, plan, now_s) == 0:
            entered.append(now_s)
    for first, begin in enumerate(entered):
        for last in range(first, len(entered)):
            assert last - first + 1 <= burst + rate * (entered[last] - begin) + 1e-6


@given(rate=st.floats(0.001, 1000), burst=st.integers(1, 50), start_s=st.floats(0, 1000), early=st.floats(0, 1))
def test_who_waits_as_long_as_told_is_let_in_and_no_sooner(
    rate: float, burst: int, start_s: float, early: float
) -> None:
    plan = Plan(rate=rate, burst=burst)
    bucket = Bucket(plan.capacity, start_s)
    while not (wait_s := take(bucket, plan, start_s)):
        pass
    ready_s = start_s + wait_s
    if early < 0.999:
        assert take(bucket, plan, start_s + wait_s * early) > 0
    assert take(bucket, plan, ready_s) == 0


def test_a_clock_that_goes_back_takes_nothing_away() -> None:
    plan = Plan(rate=1, burst=2)
    bucket = Bucket(2, 100.0)
    assert take(bucket, plan, 50.0) == 0
    assert take(bucket, plan, 50.0) == 0
    assert take(bucket, plan, 50.0) == 1


@pytest.mark.parametrize(
    ("tz", "period", "now", "name", "ends"),
    [
        ("UTC", "day", "2026-01-31T23:59:59.999Z", "2026-01-31", "2026-02-01T00:00:00+00:00"),
        ("UTC", "day", "2026-02-01T00:00:00Z", "2026-02-01", "2026-02-02T00:00:00+00:00"),
        ("UTC", "month", "2026-12-31T23:00:00Z", "2026-12", "2027-01-01T00:00:00+00:00"),
        ("UTC", "month", "2028-02-29T12:00:00Z", "2028-02", "2028-03-01T00:00:00+00:00"),
        ("UTC", "month", "2026-01-31T12:00:00Z", "2026-01", "2026-02-01T00:00:00+00:00"),
        ("Europe/Vienna", "day", "2026-01-31T23:00:00Z", "2026-02-01", "2026-02-01T23:00:00+00:00"),
        ("America/New_York", "day", "2026-01-31T23:00:00Z", "2026-01-31", "2026-02-01T05:00:00+00:00"),
        ("UTC", "week", "2027-01-03T12:00:00Z", "2026-W53", "2027-01-04T00:00:00+00:00"),
        ("UTC", "week", "2027-01-04T00:00:00Z", "2027-W01", "2027-01-11T00:00:00+00:00"),
        ("UTC", "week", "2024-12-30T00:00:00Z", "2025-W01", "2025-01-06T00:00:00+00:00"),
        ("Europe/Vienna", "week", "2026-03-29T12:00:00Z", "2026-W13", "2026-03-29T22:00:00+00:00"),
        ("Pacific/Apia", "day", "2011-12-30T09:00:00Z", "2011-12-29", "2011-12-30T10:00:00+00:00"),
        ("Pacific/Apia", "day", "2011-12-30T10:00:00Z", "2011-12-31", "2011-12-31T10:00:00+00:00"),
    ],
)
def test_windows(tz: str, period: Period, now: str, name: str, ends: str) -> None:
    window = window_of(Plan(quota=1, period=period, tz=tz), ms(now))
    assert (window.name, utc(window.ends_ms)) == (name, ends)


@pytest.mark.parametrize(
    ("tz", "noon", "hours"),
    [
        ("Europe/Vienna", "2026-03-29T10:00:00Z", 23),
        ("Europe/Vienna", "2026-10-25T11:00:00Z", 25),
        ("Europe/Vienna", "2026-06-01T10:00:00Z", 24),
        ("Africa/Cairo", "2026-04-24T10:00:00Z", 23),
        ("America/Havana", "2026-11-01T17:00:00Z", 25),
    ],
)
def test_a_day_of_a_change_of_the_clock_is_shorter_or_longer(tz: str, noon: str, hours: int) -> None:
    plan = Plan(quota=1, period="day", tz=tz)
    before = window_of(plan, ms(noon) - 20 * 3_600_000)
    assert window_of(plan, ms(noon)).ends_ms - before.ends_ms == hours * 3_600_000


@given(
    now_ms=st.integers(ms("1990-01-01T00:00:00Z"), ms("2060-01-01T00:00:00Z")),
    tz=st.sampled_from(ZONES),
    period=st.sampled_from(PERIODS),
)
def test_each_moment_lies_in_one_window(now_ms: int, tz: str, period: Period) -> None:
    plan = Plan(quota=1, period=period, tz=tz)
    window = window_of(plan, now_ms)
    assert window.ends_ms > now_ms
    assert window_of(plan, window.ends_ms - 1) == window
    following = window_of(plan, window.ends_ms)
    assert following.name > window.name
    assert following.ends_ms > window.ends_ms


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rate": -1}, "0 \\(no limit\\) or more"),
        ({"rate": float("nan")}, "0 \\(no limit\\) or more"),
        ({"rate": float("inf")}, "0 \\(no limit\\) or more"),
        ({"burst": -1}, "0 \\(no limit\\) or more"),
        ({"quota": -1}, "0 \\(no limit\\) or more"),
        ({"burst": 5}, "burst needs a rate"),
        ({"tz": "Mars/Olympus"}, "no time zone 'Mars/Olympus'"),
        ({"tz": "../../etc/passwd"}, "no time zone"),
        ({"tz": ""}, "no time zone"),
        ({"period": "year"}, "year"),
        ({"limit": 1}, "limit"),
    ],
)
def test_a_wrong_plan_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=said):
        msgspec.convert(values, Plan)
