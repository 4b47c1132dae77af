"""The wait that an answer asks for with Retry-After (RFC 9110 §10.2.3). Pure."""

from __future__ import annotations

from email.utils import parsedate_to_datetime

SHORTEST_S, LONGEST_S = 1.0, 3600.0


def asked_wait_s(header: str, now_s: float) -> float | None:
    """Seconds from 1 to an hour, from a number or an HTTP date; None for what is neither."""
    text = header.strip()
    if text.isascii() and text.isdigit():
        wait_s = float(text[:12])
    else:
        try:
            wait_s = parsedate_to_datetime(text).timestamp() - now_s
        except (ValueError, OverflowError):
            return None
    return min(max(wait_s, SHORTEST_S), LONGEST_S)
