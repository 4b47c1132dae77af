"""How an attempt ends: pure decisions from an error to the settlement of its delivery."""

from __future__ import annotations

import random
import traceback

from headwater.backoff import delay_ms
from headwater.catalog import QueueSpec
from headwater.durations import to_ms
from headwater.errors import Discard, Retry, Undeliverable
from headwater.events import Delivery
from headwater.unit import Failure, Outcome, Settle

MAX_TRACEBACK = 16_000


class Undecodable(Exception):
    """The message does not fit the handler's model; no retry can mend that."""


def describe(error: BaseException, started_ms: int, ended_ms: int) -> Failure:
    text = "".join(traceback.format_exception(error))
    return Failure(
        error=f"{type(error).__name__}: {error}",
        traceback=text if len(text) <= MAX_TRACEBACK else f"…{text[-MAX_TRACEBACK:]}",
        started_ms=started_ms,
        ended_ms=ended_ms,
    )


def settle(delivery: Delivery, outcome: Outcome = "ack", reason: str = "") -> Settle:
    return Settle(delivery.queue, delivery.position, delivery.fence, outcome, 0, reason)


def settle_failed(delivery: Delivery, error: Exception, policy: QueueSpec, started_ms: int, now_ms: int) -> Settle:
    """Discarded, tried again after its back-off, or dead after the last receive."""
    if isinstance(error, Discard):
        return settle(delivery, "discard", error.reason)
    failure = describe(error, started_ms, now_ms)
    if isinstance(error, Undecodable | Undeliverable) or delivery.receives >= policy.max_receives:
        ended = settle(delivery, "bury", failure.error)
    else:
        ended = settle(delivery, "retry", failure.error)
        ended.ready_ms = now_ms + _pause_ms(delivery, error, policy)
    ended.failure = failure
    return ended


def _pause_ms(delivery: Delivery, error: Exception, policy: QueueSpec) -> int:
    if isinstance(error, Retry) and error.after is not None:
        return max(to_ms(error.after), 1)
    roll = random.random()
    return max(delay_ms(delivery.receives, base_ms=policy.backoff_ms, roll=roll), 1)
