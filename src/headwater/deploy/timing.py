"""How long functions may run, and how much they take at once."""

from __future__ import annotations

from headwater.aws.settings import MAX_TIMEOUT_S
from headwater.deploy.plan import Plan, Unit, seconds
from headwater.errors import DeclarationError

MOST_FIFO = 10
DEFAULT_BATCH = 10
MOST_BATCH = 10_000
API_TIMEOUT_S = 30
"""API Gateway waits no longer."""
OWN_TIMEOUTS_S = {"relay": 60, "letters": 60, "alarm": 30, "tick": 30, "objects": 120, "http": API_TIMEOUT_S}
_OVERHEAD_S = 5


def batch_of(plan: Plan, queue: str) -> int:
    """How many messages an invocation brings at the most.

    Of a FIFO queue one, if its handler wants no more: SQS counts as received what only stands behind a failing message
    of its group, so a message could become a dead letter without a try of its own.
    """
    handler = plan.handled[queue]
    if handler is None:
        return DEFAULT_BATCH
    if plan.catalog.queues[queue].fifo:
        return min(handler.batch or 1, MOST_FIFO)
    return min(handler.batch, MOST_BATCH) if handler.batch else min(DEFAULT_BATCH, handler.concurrency)


def function_timeout_s(plan: Plan, unit: Unit) -> int:
    """Long enough for a whole batch whose handlers all run into their time-outs."""
    if given := plan.settings_of(unit).timeout:
        return seconds(given)
    if unit.kind != "queue":
        return OWN_TIMEOUTS_S[unit.kind]
    handler = plan.handled[unit.resource]
    if handler is None or handler.timeout_s is None:
        return seconds(plan.aws.timeout)
    at_once = 1 if plan.catalog.queues[unit.resource].fifo else handler.concurrency
    rounds = 1 if handler.batch else -(-batch_of(plan, unit.resource) // at_once)
    wanted = int(rounds * handler.timeout_s) + _OVERHEAD_S
    if handler.timeout_s + _OVERHEAD_S > MAX_TIMEOUT_S:
        raise DeclarationError(
            f"timeout= is {handler.timeout_s:g} s, a function of AWS runs for {MAX_TIMEOUT_S} s at the most",
            operation="synth",
            resource=unit.resource,
            hint='let a container run it: run_in="process"',
        )
    return min(wanted, MAX_TIMEOUT_S)
