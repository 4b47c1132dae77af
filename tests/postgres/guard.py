"""Ends what a test run starts, also when the run itself is killed.

`Guard` is the run's side: a folder to be thrown away, and the pids of the processes that live in it. The guard
process reads them from a pipe of which only the run holds the other end; when that end is gone, however the run ended,
it ends the processes and removes the folder. A pid is struck off once it is reaped: no other process that gets the
number later is ever hit.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

ROOM_BYTES = 4 << 30
PATIENCE_S = 30.0


class Guard:
    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="headwater-", dir=roomy_folder()))
        self.folder.chmod(0o711)
        command = [sys.executable, "-I", "-S", __file__, str(self.folder)]
        self._guard = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)

    def keep(self, pid: int) -> None:
        self._tell(f"+{pid}")

    def forget(self, pid: int) -> None:
        """It has ended and been reaped."""
        self._tell(f"-{pid}")

    def discard(self, folder: Path) -> None:
        """Remove this one, too."""
        self._tell(f"~{folder}")

    def _tell(self, what: str) -> None:
        assert self._guard.stdin is not None
        self._guard.stdin.write(f"{what}\n")
        self._guard.stdin.flush()


@functools.cache
def run_guard() -> Guard:
    """The guard of this test run's process."""
    return Guard()


def roomy_folder() -> Path:
    """Memory, where there is enough of it: flushes cost nothing there, and a killed server loses as little."""
    memory = Path("/dev/shm")
    if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free >= ROOM_BYTES:
        return memory
    return Path(tempfile.gettempdir())


def watch(lines: Iterable[str], own: Path) -> None:
    living: set[int] = set()
    folders = [own]
    for kind, what in ((line[0], line[1:].rstrip("\n")) for line in lines):
        if kind == "~":
            folders.append(Path(what))
        else:
            (living.add if kind == "+" else living.discard)(int(what))
    end_all(living)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def end_all(pids: set[int]) -> None:
    """An immediate end that lets PostgreSQL give its shared memory back, then a kill."""
    end = time.monotonic() + PATIENCE_S
    left = {pid for pid in pids if signal_if_alive(pid, signal.SIGQUIT)}
    while left and time.monotonic() < end:
        time.sleep(0.02)
        left = {pid for pid in left if signal_if_alive(pid, 0)}
    for pid in left:
        signal_if_alive(pid, signal.SIGKILL)


def signal_if_alive(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    watch(sys.stdin, Path(sys.argv[1]))
