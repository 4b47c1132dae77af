"""Processes that start warm: forked from one that has imported Headwater, instead of started and importing it.

They are processes like others: own folder, environment, streams, group, signals, exit code. What they spare is nearly
all of what a short command costs: a second of processor time. What `warm_origin` imports they have imported, needed or
not; tests of what is imported, and of what the environment does to the interpreter itself, start theirs cold.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self

ROOT = Path(__file__).parents[1]
_asking = threading.Lock()
_ORIGIN = Path(__file__).with_name("warm_origin.py")


@functools.cache
def _origin() -> socket.socket:
    """Started once for each process of the test run; it ends with that."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, _ORIGIN, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
    atexit.register(process.wait)
    atexit.register(ours.close)
    return ours


class Warm:
    """A started process: the part of `subprocess.Popen` that tests use."""

    def __init__(
        self,
        module: str,
        *arguments: str,
        folder: Path,
        environment: Mapping[str, str],
        streams: tuple[IO[bytes], IO[bytes], IO[bytes]],
        group: bool = False,
    ) -> None:
        wanted = {
            "module": module,
            "arguments": arguments,
            "folder": str(folder.resolve()),
            "environment": dict(environment),
            "group": group,
        }
        self.returncode: int | None = None
        self._lines = b""
        self._told, theirs = socket.socketpair()
        with theirs:
            handles = [*(stream.fileno() for stream in streams), theirs.fileno()]
            packet = json.dumps(wanted).encode()
            with _asking:
                socket.send_fds(_origin(), [len(packet).to_bytes(4, "big")], handles)
                _origin().sendall(packet)
        self.pid = self._read()

    def _read(self) -> int:
        while b"\n" not in self._lines:
            part = self._told.recv(64)
            assert part, "the origin of warm processes has ended"
            self._lines += part
        line, _, self._lines = self._lines.partition(b"\n")
        return int(line)

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._told.settimeout(timeout)
            try:
                self.returncode = self._read()
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired([str(self.pid)], timeout or 0) from None
            self._told.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended, and this is not told yet
            if self.poll() is None:
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def run_warm(
    module: str, *arguments: str, folder: Path, environment: Mapping[str, str], stdin: bytes = b"", timeout: float
) -> subprocess.CompletedProcess[bytes]:
    """As `subprocess.run` with its output captured."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(stdin)
        given.seek(0)
        process = Warm(module, *arguments, folder=folder, environment=environment, streams=(given, out, err))
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
            process.wait()
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess([module, *arguments], code, out.read(), err.read())


class Talking(Warm):
    """A module of this project whose standard input and output are pipes."""

    def __init__(self, module: str, *arguments: str) -> None:
        read_in, write_in = os.pipe()
        read_out, write_out = os.pipe()
        self.stdin, self.stdout = os.fdopen(write_in, "w"), os.fdopen(read_out)
        with os.fdopen(read_in, "rb") as given, os.fdopen(write_out, "wb") as said, open(2, "wb", closefd=False) as err:
            super().__init__(module, *arguments, folder=ROOT, environment=os.environ, streams=(given, said, err))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stdin.close()
        self.stdout.close()
        self.wait()

    def read(self) -> str:
        """What it says until it ends."""
        said = self.stdout.read()
        self.wait()
        return said
