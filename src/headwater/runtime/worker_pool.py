"""Worker processes of this machine: as many for each queue as are wanted, watched and started again.

A place is one process that is wanted. A process that ends by itself is started again, after a pause that doubles while
they end soon. One that is wanted no more gets SIGTERM, finishes what it runs, and is killed when that takes too long.
Workers end when their standard input does: so they never outlive the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from asyncio.subprocess import Process
from collections.abc import Callable, Mapping, Sequence

import structlog

from headwater.backoff import delay_ms
from headwater.clock import Clock

PAUSE_MS, LONGEST_PAUSE_MS = 200, 30_000
STEADY_S = 10.0
"""A process that ran so long is started again without the pauses of those before it."""
PATIENCE_S = 2.0
"""What a process gets beyond the time that it has for what it runs."""
log = structlog.get_logger("headwater.workers")


class _Place:
    """One process that is wanted, until `leave`."""

    def __init__(self, queue: str, command: Sequence[str], variables: Mapping[str, str], clock: Clock) -> None:
        self.queue = queue
        self._command = command
        self._variables = variables
        self._clock = clock
        self._wanted = True
        self._failures = 0
        self.process: Process | None = None
        self._task = asyncio.create_task(self._keep(), name=f"worker {queue}")

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    async def _keep(self) -> None:
        while self._wanted:
            begun = self._clock.monotonic()
            try:
                environment = {**os.environ, **self._variables}
                self.process = await asyncio.create_subprocess_exec(
                    *self._command, stdin=asyncio.subprocess.PIPE, start_new_session=True, env=environment
                )
            except OSError as error:
                log.error("a worker cannot be started", queue=self.queue, error=str(error))
            else:
                code = await self.process.wait()
                if self._wanted:
                    log.warning("a worker ended; another one is started", queue=self.queue, code=code)
            steady = self._clock.monotonic() - begun >= STEADY_S
            self._failures = 1 if steady else self._failures + 1
            if self._wanted:
                pause_ms = delay_ms(self._failures, base_ms=PAUSE_MS, cap_ms=LONGEST_PAUSE_MS, roll=random.random())
                await self._clock.sleep(pause_ms / 1000)

    async def leave(self, patience_s: float) -> None:
        """End the process gracefully, or after the time."""
        self._wanted = False
        if not self.running:
            self._task.cancel()
        self._signal(signal.SIGTERM)
        done, _ = await asyncio.wait([self._task], timeout=patience_s)
        if not done:
            log.warning("a worker did not end in time and is killed", queue=self.queue)
            self._signal(signal.SIGKILL)
            await asyncio.wait([self._task])

    def _signal(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)


class WorkerPool:
    """`set` how many workers a queue has; `stop` ends all. `command` makes the command line of a queue's worker.

    `variables` are added to its environment.
    """

    def __init__(
        self,
        command: Callable[[str], Sequence[str]],
        clock: Clock,
        *,
        drain_s: float,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._command = command
        self._variables = variables or {}
        self._clock = clock
        self._drain_s = drain_s
        self._places: dict[str, list[_Place]] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._stopped = False

    async def set(self, queue: str, wanted: int) -> None:
        """Have so many processes for the queue from now on; the newest ones go first. Idempotent, waits for none."""
        if self._stopped:
            return
        places = self._places.setdefault(queue, [])
        while len(places) < wanted:
            places.append(_Place(queue, self._command(queue), self._variables, self._clock))
        while len(places) > wanted:
            self._leave(places.pop(), self._drain_s + PATIENCE_S)

    def running(self, queue: str) -> int:
        """How many processes of the queue live now, without those that are ending."""
        return sum(place.running for place in self._places.get(queue, ()))

    def started(self) -> dict[int, str]:
        """The queues of all processes that live, by pid."""
        return {pid: queue for queue in self._places for pid in self.pids(queue)}

    def pids(self, queue: str) -> list[int]:
        return [place.process.pid for place in self._places.get(queue, ()) if place.process and place.running]

    def _leave(self, place: _Place, patience_s: float) -> None:
        task = asyncio.create_task(place.leave(patience_s))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def stop(self, patience_s: float) -> None:
        """End all processes gracefully, kill those that take longer. Idempotent."""
        self._stopped = True
        for places in self._places.values():
            for place in places:
                self._leave(place, patience_s)
            places.clear()
        while self._leaving:
            await asyncio.wait(self._leaving)
