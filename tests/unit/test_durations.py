from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.durations import parse_duration, to_ms
from headwater.errors import DeclarationError


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("5m", timedelta(minutes=5)),
        ("1h30m", timedelta(hours=1, minutes=30)),
        ("1h 30m", timedelta(hours=1, minutes=30)),
        ("250ms", timedelta(milliseconds=250)),
        ("3d", timedelta(days=3)),
        ("2w", timedelta(weeks=2)),
        ("1.5s", timedelta(seconds=1, milliseconds=500)),
        ("0.1s", timedelta(milliseconds=100)),
        ("1w2d3h4m5s6ms", timedelta(weeks=1, days=2, hours=3, minutes=4, seconds=5, milliseconds=6)),
        (" 10 s ", timedelta(seconds=10)),
        ("1m5ms", timedelta(minutes=1, milliseconds=5)),
        ("30", timedelta(seconds=30)),
        ("0", timedelta(0)),
        (0, timedelta(0)),
        (90, timedelta(seconds=90)),
        (0.25, timedelta(milliseconds=250)),
        (timedelta(hours=2), timedelta(hours=2)),
    ],
)
def test_parse(value: Any, expected: timedelta) -> None:
    assert parse_duration(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        *["", " ", "m", "5x", "5 minutes", "5M", "-5m", "+5m", "1m1h", "1m1m", "1e3", "1_000", ".5s", "5.s"],
        *["nan", "inf", "0x10s", "٣s", "5m\n5s", "9" * 60 + "w", "1" * 5000 + "s", "0." + "0" * 70 + "s"],
        *[float("nan"), float("inf"), -float("inf"), -1, -0.001, 1e300, 10**400],
        *[timedelta(seconds=-1), True, None, [], {}, b"5m"],
    ],
)
def test_what_is_no_duration_is_refused_with_a_hint(value: Any) -> None:
    with pytest.raises(DeclarationError) as refused:
        parse_duration(value, place="queue.delay")
    assert refused.value.message.startswith("queue.delay: ")
    assert "5m" in refused.value.hint
    assert len(refused.value.message) < 120


@pytest.mark.parametrize(
    ("value", "expected"),
    [("5m", 300_000), (1.5, 1_500), ("250ms", 250), (0, 0), (0.0001, 1), ("1.2ms", 2), ("2w", 1_209_600_000)],
)
def test_to_ms_rounds_up(value: Any, expected: int) -> None:
    assert to_ms(value) == expected


PARTS = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}


@given(st.dictionaries(st.sampled_from(list(PARTS)), st.integers(0, 10_000), min_size=1))
def test_units_add_up(amounts: dict[str, int]) -> None:
    text = "".join(f"{amounts[unit]}{unit}" for unit in PARTS if unit in amounts)
    assert to_ms(text) == sum(amount * PARTS[unit] for unit, amount in amounts.items())


@given(st.text(alphabet="0159.-wdhms ٣e", max_size=8) | st.floats() | st.integers() | st.timedeltas())
def test_anything_is_parsed_or_refused(value: Any) -> None:
    with contextlib.suppress(DeclarationError):
        assert parse_duration(value) >= timedelta(0)
