"""The process that tests stop or kill: `python -m tests.postgres.victim ROLE URL ...`, with beats as short as theirs.

It writes a line to its standard output for each thing that happened, before anything else can happen.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from headwater.errors import LeaseLost
from headwater.events import Delivery
from headwater.unit import new_commit
from tests.conformance.workbench import data, settle
from tests.faults.processes import ROOT
from tests.postgres.shop import JOBS, STEPS, ack, add, hurry, note, opened

HAND = 3


def spawn(role: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.postgres.victim", role, *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


async def hold(url: str) -> None:
    """Take a step, wait for a line, then note the step and acknowledge it."""
    async with opened(url) as engine:
        (delivery,) = await engine.receive(STEPS, 1)
        say(f"holds {data(delivery)}")
        await asyncio.to_thread(sys.stdin.readline)
        try:
            await engine.commit(note(ack(new_commit(), delivery), data(delivery)))
        except LeaseLost:
            say("LeaseLost")
        else:
            say("committed")


async def handle(url: str, poison: str) -> None:
    """A runtime in small, which dies when it has the poison in its hand."""
    async with opened(url) as engine:
        most = engine.state.queues[JOBS].max_receives

        async def finish(delivery: Delivery) -> None:
            made = new_commit()
            if delivery.receives > most:
                made.settles.append(settle(delivery, outcome="bury", reason="it killed its process"))
            else:
                add(ack(made, delivery), data(delivery))
            await engine.commit(made)

        while any(stats.depth for stats in await engine.stats() if stats.queue == JOBS):
            deliveries = await engine.receive(JOBS, HAND)
            say(" ".join(f"{data(delivery)}/{delivery.receives}" for delivery in deliveries))
            if any(data(delivery) == poison and delivery.receives <= most for delivery in deliveries):
                os.kill(os.getpid(), signal.SIGKILL)
            for delivery in deliveries:
                await finish(delivery)


if __name__ == "__main__":
    roles: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {"hold": hold, "handle": handle}
    with pytest.MonkeyPatch.context() as patch:
        hurry(patch)
        asyncio.run(roles[sys.argv[1]](*sys.argv[2:]))
