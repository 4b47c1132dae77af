"""Durations at the public edge: parsed once, `timedelta` in signatures, integers named `*_ms` when stored."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal

from headwater.errors import DeclarationError

Duration = timedelta | str | float
"""A `timedelta`, a text such as "5m" or "1h30m", or a number of seconds."""

_HINT = 'write "250ms", "30s", "5m", "1h30m", "3d" or "2w", a number of seconds, or a timedelta'
_UNIT_US = {
    "w": 604_800_000_000,
    "d": 86_400_000_000,
    "h": 3_600_000_000,
    "m": 60_000_000,
    "s": 1_000_000,
    "ms": 1_000,
}
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_TEXT = re.compile(r" ?".join(rf"(?:(?P<{unit}>{_NUMBER}) ?{unit})?" for unit in _UNIT_US))
_SECONDS = re.compile(_NUMBER)
_MAX_TEXT = 64


def parse_duration(value: timedelta | str | int | float, *, place: str = "duration") -> timedelta:
    """The duration that `value` says, exact to the microsecond; a bare number, also as text, is seconds.

    Units go from large to small, each at most once: w, d, h, m, s, ms. Anything negative, not finite, too
    large for a `timedelta` or not a duration raises `DeclarationError`, whose message begins with `place`.
    """
    try:
        duration = _read_duration(value)
    except (OverflowError, ValueError):
        duration = None
    if duration is None:
        raise DeclarationError(f"{place}: {_shorten(value)} is not a duration", hint=_HINT)
    if duration < timedelta(0):
        raise DeclarationError(f"{place}: {_shorten(value)} is negative", hint=_HINT)
    return duration


def to_ms(value: timedelta | str | int | float, *, place: str = "duration") -> int:
    """`parse_duration` in whole milliseconds, rounded up, so that only a zero duration becomes 0."""
    return -(-parse_duration(value, place=place) // timedelta(milliseconds=1))


def _read_duration(value: object) -> timedelta | None:
    if isinstance(value, timedelta):
        return value
    if isinstance(value, str):
        return _read_text(value.strip())
    if isinstance(value, int | float) and not isinstance(value, bool):
        return timedelta(seconds=value)
    return None


def _read_text(text: str) -> timedelta | None:
    if not text or len(text) > _MAX_TEXT:
        return None
    if _SECONDS.fullmatch(text):
        return timedelta(microseconds=int(Decimal(text) * _UNIT_US["s"]))
    found = _TEXT.fullmatch(text)
    if found is None:
        return None
    amounts = ((found[unit], size) for unit, size in _UNIT_US.items())
    return timedelta(microseconds=sum(int(Decimal(amount) * size) for amount, size in amounts if amount))


def _shorten(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= _MAX_TEXT else f"{shown[: _MAX_TEXT - 1]}…"
