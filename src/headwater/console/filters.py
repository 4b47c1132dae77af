"""How templates show values."""

from __future__ import annotations

import json
import shlex
from datetime import UTC, datetime
from typing import Any

from headwater.console.pattern_words import route_words

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


def lapse(ms: float) -> str:
    """How long something ran: "0.4 ms", "20 ms", then as `age`."""
    if ms >= 1000:
        return age(ms)
    return f"{ms:.1f} ms".replace(".0 ms", " ms") if ms < 10 else f"{ms:.0f} ms"


def moment(ms: int | None) -> str:
    """A time in milliseconds as UTC."""
    return "-" if not ms else datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def number(value: float | None) -> str:
    """With thin spaces between the thousands."""
    if value is None:
        return "-"
    text = f"{value:,.1f}" if value < 100 and value != int(value) else f"{value:,.0f}"
    return text.replace(",", "\u202f")


def compact(value: Any) -> str:
    """JSON in one line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def pretty(value: Any) -> str:
    """JSON for people."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def size(octets: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if octets < 1024:
            return f"{octets:.0f} {unit}" if unit == "B" else f"{octets:.1f} {unit}"
        octets /= 1024
    return f"{octets:.1f} GiB"


def brief(value: Any, most: int = 80) -> str:
    """A value of a document as a cell: texts as they are, the rest as JSON, long ones cut."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= most else f"{text[: most - 1]}…"


FILTERS = {
    "age": age,
    "lapse": lapse,
    "moment": moment,
    "number": number,
    "pretty": pretty,
    "size": size,
    "brief": brief,
    "shell": shlex.quote,
    "compact": compact,
    "route_words": route_words,
}
