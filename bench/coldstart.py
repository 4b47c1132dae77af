"""`coldstart`: how long a fresh process takes to import each kind of function, and then to have an app ready.

Of whole processes, `n` starts each, beside `python -c pass` in the same run; the rest of a cold start is AWS's: the
environment, the package, the SDK, the network. `imports_ms` is the processor time above the floor, which other work on
the machine disturbs less than the time that passes; `ready_ms` with the intake app imported and its graph built, for
`http` with its endpoints. What packages of functions leave out cannot be imported here either.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from bench.report import Report, versions
from headwater.deploy.contents import SERVER_ONLY

KINDS = ("queue", "relay", "http", "tick", "objects", "alarm", "letters")
ROOT = Path(__file__).parents[1]
FLOOR = "pass"
ABSENT = "; ".join(f"sys.modules[{name.replace('-', '_')!r}] = None" for name in sorted(SERVER_ONLY))
IMPORTS = f"import sys; {ABSENT}; import headwater.functions.{{kind}}"
READY = f"""{IMPORTS}
from apps.intake.app import app
from headwater.graph import build_graph
from headwater.system import System
build_graph([app, System().app])
"""
SERVED = "app.load_http()\n"


class Start(NamedTuple):
    """Milliseconds of a process: that passed, and of the processor."""

    wall_ms: float
    cpu_ms: float


async def coldstart(n: int = 5) -> list[Report]:
    programs = {FLOOR: FLOOR}
    for kind in KINDS:
        programs[kind] = IMPORTS.format(kind=kind)
        programs[f"{kind} ready"] = READY.format(kind=kind) + (SERVED if kind == "http" else "")
    took: dict[str, list[Start]] = {name: [] for name in programs}
    for program in programs.values():
        await asyncio.to_thread(_start, program)  # so that all have their bytecode
    for _ in range(n):
        for name, program in programs.items():
            took[name].append(await asyncio.to_thread(_start, program))
    return [_report(kind, took, n) for kind in KINDS]


def _report(kind: str, took: dict[str, list[Start]], n: int) -> Report:
    walls = {name: statistics.median(one.wall_ms for one in starts) for name, starts in took.items()}
    cpus = {name: statistics.median(one.cpu_ms for one in starts) for name, starts in took.items()}
    return Report(
        bench="coldstart",
        engine="aws",
        durability="none",
        n=n,
        p50_ms=round(walls[kind], 1),
        p99_ms=round(max(one.wall_ms for one in took[kind]), 1),
        floor_p50_ms=round(walls[FLOOR], 1),
        ratio=round(cpus[FLOOR] / cpus[kind], 3),
        details={
            "function": kind,
            "imports_ms": round(cpus[kind] - cpus[FLOOR], 1),
            "ready_ms": round(cpus[f"{kind} ready"] - cpus[FLOOR], 1),
        },
        versions=versions(),
    )


def _start(program: str) -> Start:
    """A process that runs the program."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, program
    return Start((time.perf_counter() - begun) * 1000, (used.ru_utime + used.ru_stime) * 1000)
