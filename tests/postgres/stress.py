"""Machines with one database under faults by chance: `python -m tests.postgres.stress --seconds 120 --seed N`.

Each machine is a process of `ledger` with a proxy of its own. Its link is cut, held or slow, it is stopped, or killed
and started again; and so is the database. When all is well again and everything is handled, what was acknowledged
must be there, once, and in order.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from signal import SIGCONT, SIGSTOP

from headwater.engines.postgres.engine import PostgresEngine
from tests.faults.processes import ROOT
from tests.patience import PATIENCE_S
from tests.postgres.binaries import find_binaries
from tests.postgres.guard import run_guard
from tests.postgres.ledger import faults, found_bank
from tests.postgres.proxy import Proxy
from tests.postgres.server import Server, start_server
from tests.postgres.shop import opened

MACHINES = 3


class Machine:
    """One process, started anew when it was killed."""

    def __init__(self, name: str, server: Server, folder: Path, stack: ExitStack) -> None:
        self.name = name
        self.proxy = stack.enter_context(Proxy(server.address))
        self._url = server.url_through(self.proxy.port)
        self._log = folder / name
        self._lives = 0
        self.start()
        stack.callback(self.kill)

    def start(self) -> None:
        self._lives += 1
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.postgres.ledger", self._url, f"{self.name}/{self._lives}"],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=log,
                text=True,
                start_new_session=True,
            )
        run_guard().keep(self.process.pid)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()
        run_guard().forget(self.process.pid)

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    @property
    def sent(self) -> set[str]:
        """Whole lines: a killed process may have left a part of one."""
        return set(self._log.read_text("utf-8").split("\n")[:-1])


class Chaos:
    """Faults by chance, each in its time and mended after."""

    def __init__(self, seed: int, server: Server, machines: list[Machine]) -> None:
        self.seed = seed
        self.server = server
        self.machines = machines
        self.met: list[str] = []

    async def run(self, seconds: float) -> None:
        tasks = [asyncio.create_task(self._harm(machine)) for machine in self.machines]
        tasks.append(asyncio.create_task(self._harm_database()))
        await asyncio.wait(tasks, timeout=seconds)
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    async def _harm(self, machine: Machine) -> None:
        dice = random.Random(f"{self.seed}/{machine.name}")
        kinds: list[Callable[[Machine, float], Awaitable[None]]] = [
            self._cut, self._hold, self._hold_replies, self._slow_down, self._refuse, self._stop, self._kill,
        ]  # fmt: skip
        while True:
            await asyncio.sleep(dice.uniform(0.2, 1.0))
            kind, seconds = dice.choice(kinds), dice.uniform(0.1, 2.5)
            self.met.append(f"{machine.name}{kind.__name__} {seconds:.1f} s")
            await kind(machine, seconds)

    async def _cut(self, machine: Machine, seconds: float) -> None:
        machine.proxy.cut()

    async def _hold(self, machine: Machine, seconds: float) -> None:
        machine.proxy.hold()
        await self._heal_after(machine, seconds)

    async def _hold_replies(self, machine: Machine, seconds: float) -> None:
        machine.proxy.hold("reply")
        await self._heal_after(machine, seconds)

    async def _slow_down(self, machine: Machine, seconds: float) -> None:
        machine.proxy.slow_down(0.03)
        await self._heal_after(machine, seconds)

    async def _refuse(self, machine: Machine, seconds: float) -> None:
        machine.proxy.refuse()
        machine.proxy.cut()
        await self._heal_after(machine, seconds)

    async def _heal_after(self, machine: Machine, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        finally:
            machine.proxy.heal()

    async def _stop(self, machine: Machine, seconds: float) -> None:
        machine.process.send_signal(SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            machine.process.send_signal(SIGCONT)

    async def _kill(self, machine: Machine, seconds: float) -> None:
        machine.kill()
        try:
            await asyncio.sleep(seconds / 4)
        finally:
            machine.start()

    async def _harm_database(self) -> None:
        dice = random.Random(f"{self.seed}/database")
        while True:
            await asyncio.sleep(dice.uniform(3.0, 8.0))
            self.met.append("the database is killed")
            await asyncio.shield(asyncio.to_thread(self._kill_database))

    def _kill_database(self) -> None:
        self.server.kill()
        self.server.start()


async def stress(server: Server, folder: Path, seconds: float, seed: int) -> tuple[list[str], str]:
    """What was wrong in the end, and a line that tells what happened."""
    with ExitStack() as stack:
        async with AsyncExitStack() as opening:
            engine = await opening.enter_async_context(opened(server.url))
            await found_bank(engine)
            machines = [Machine(f"machine-{n}", server, folder, stack) for n in range(MACHINES)]
            chaos = Chaos(seed, server, machines)
            await chaos.run(seconds)
            wrong = await _come_to_rest(engine, machines)
            sent = set[str]().union(*(machine.sent for machine in machines))
            wrong += await faults(engine, sent)
            return wrong, f"{len(sent)} transfers acknowledged; {', '.join(chaos.met)}"


async def _come_to_rest(engine: PostgresEngine, machines: list[Machine]) -> list[str]:
    """Nothing is sent any more, all is handled, the processes end."""
    for machine in machines:
        machine.say("send no more")
    end = asyncio.get_running_loop().time() + PATIENCE_S
    while left := {stats.queue: stats.depth for stats in await engine.stats() if stats.depth}:
        if asyncio.get_running_loop().time() > end:
            return [f"not handled: {left}"]
        await asyncio.sleep(0.1)
    for machine in machines:
        machine.say("end")
    codes = [await asyncio.to_thread(machine.process.wait, PATIENCE_S) for machine in machines]
    return [f"{machine.name} ended with {code}" for machine, code in zip(machines, codes, strict=True) if code]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    given = parser.parse_args()
    binaries = find_binaries()
    assert binaries is not None, "there is no PostgreSQL here"
    print(f"seed {given.seed}", flush=True)
    with start_server(binaries) as server, tempfile.TemporaryDirectory() as folder:
        wrong, told = asyncio.run(stress(server, Path(folder), given.seconds, given.seed))
    print(told)
    sys.exit("\n".join(wrong) or 0)


if __name__ == "__main__":
    main()
