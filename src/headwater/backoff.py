"""How long a message waits after a failed receive: exponential back-off with jitter, as a pure function."""

from __future__ import annotations

_MAX_DOUBLINGS = 62  # beyond any cap that fits int64, and keeps the power small for a hostile receive count


def delay_ms(receives: int, *, base_ms: int = 1000, cap_ms: int = 300_000, roll: float) -> int:
    """The delay before the next receive, in milliseconds, after `receives` receives (1 = the first failed).

    The ceiling doubles with each receive from `base_ms` up to `cap_ms`. The jitter is *equal*: half of it is
    fixed, the other half is scaled by `roll`, a random number in [0, 1) that the caller draws. Full
    jitter would spread the load a little better, but it allows retries next to zero, which spend the receives
    of a message on an outage of a few seconds; the fixed half keeps the promise that each wait is longer.
    """
    if not 0 <= roll < 1:
        raise ValueError(f"roll must be in [0, 1), not {roll!r}")
    if base_ms < 0 or cap_ms < 0:
        raise ValueError(f"base_ms and cap_ms must not be negative, not {base_ms} and {cap_ms}")
    doublings = min(max(receives - 1, 0), _MAX_DOUBLINGS)
    ceiling = min(cap_ms, base_ms << doublings)
    fixed = (ceiling + 1) // 2
    return fixed + int((ceiling - fixed) * roll)
