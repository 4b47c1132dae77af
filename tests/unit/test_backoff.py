from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.backoff import delay_ms

ROLLS = st.floats(min_value=0, max_value=1, exclude_max=True)
BARELY_ONE = 1 - 2**-53


@pytest.mark.parametrize(
    ("receives", "roll", "expected"),
    [
        (1, 0.0, 500),
        (1, 0.5, 750),
        (1, BARELY_ONE, 999),
        (2, 0.0, 1_000),
        (3, 0.0, 2_000),
        (9, 0.0, 128_000),
        (10, 0.0, 150_000),  # 512 s is beyond the cap of 300 s
        (10**9, 0.5, 225_000),
        (0, 0.0, 500),
    ],
)
def test_delay(receives: int, roll: float, expected: int) -> None:
    assert delay_ms(receives, roll=roll) == expected


def test_base_and_cap_are_honoured() -> None:
    assert delay_ms(1, base_ms=10, cap_ms=15, roll=0.0) == 5
    assert delay_ms(2, base_ms=10, cap_ms=15, roll=0.0) == 8
    assert delay_ms(1, base_ms=50, cap_ms=15, roll=0.0) == 8
    assert delay_ms(5, base_ms=0, roll=0.9) == 0


@given(st.integers(1, 10**12), st.integers(1, 10**6), st.integers(1, 10**9), ROLLS)
def test_delay_is_between_half_the_ceiling_and_the_ceiling(
    receives: int, base_ms: int, cap_ms: int, roll: float
) -> None:
    ceiling = min(cap_ms, base_ms * 2 ** min(receives - 1, 40))
    assert ceiling / 2 <= delay_ms(receives, base_ms=base_ms, cap_ms=cap_ms, roll=roll) <= ceiling


@given(st.integers(1, 60), ROLLS, ROLLS)
def test_a_later_receive_never_waits_less_until_the_cap(receives: int, roll: float, other: float) -> None:
    cap_ms = 2**70
    earlier = delay_ms(receives, cap_ms=cap_ms, roll=roll)
    assert earlier <= delay_ms(receives + 1, cap_ms=cap_ms, roll=other)


@pytest.mark.parametrize("roll", [-0.1, 1.0, float("nan"), float("inf")])
def test_a_roll_outside_its_range_is_refused(roll: float) -> None:
    with pytest.raises(ValueError, match="roll"):
        delay_ms(1, roll=roll)


def test_negative_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        delay_ms(1, base_ms=-1, roll=0.0)
    with pytest.raises(ValueError, match="negative"):
        delay_ms(1, cap_ms=-1, roll=0.0)
