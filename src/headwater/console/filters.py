"""How templates show values."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

_STEPS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def age(ms: float | None) -> str:
    """A duration in milliseconds, in at most two units: "3 d 4 h", "12 s", "0.4 s"."""
    if ms is None:
        return "-"
    left = ms / 1000
    if left < 10:
        return f"{left:.1f} s".replace(".0 s", " s")
    parts: list[str] = []
    for size, unit in _STEPS:
        if left >= size and len(parts) < 2:
            count = int(left // size)
            left -= count * size
            parts.append(f"{count} {unit}")
        elif parts:
            break
    return " ".join(parts)


def moment(ms: int | None) -> str:
    """A time in milliseconds as UTC."""
    return "-" if not ms else datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def number(value: float | None) -> str:
    """With thin spaces between the thousands."""
    if value is None:
        return "-"
    text = f"{value:,.1f}" if value < 100 and value != int(value) else f"{value:,.0f}"
    return text.replace(",", "\u202f")


def pretty(value: Any) -> str:
    """JSON for people."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def size(octets: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if octets < 1024:
            return f"{octets:.0f} {unit}" if unit == "B" else f"{octets:.1f} {unit}"
        octets /= 1024
    return f"{octets:.1f} GiB"


FILTERS = {"age": age, "moment": moment, "number": number, "pretty": pretty, "size": size}
