"""Real processes for the acceptance tests: the CLI, and a server started by it; warm ones, see `warm`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from headwater.config import admin_socket
from tests.patience import PATIENCE_S
from tests.warm import Warm, run_warm

MODULE = "headwater.cli"
HEADWATER = (sys.executable, "-m", MODULE)
COLD = ("PYTHON", "LANG", "LC_", "TZ", "LD_")
"""Environment of the interpreter itself: a process that is given some starts cold."""
Process = subprocess.Popen[bytes] | Warm


def clean_environment(**more: str) -> dict[str, str]:
    """The environment without settings of Headwater's, with warnings as errors off: stderr is compared."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")}
    return {**kept, "NO_COLOR": "1", **more}


class Ended:
    """How a command ended."""

    def __init__(self, done: subprocess.CompletedProcess[bytes]) -> None:
        self.code = done.returncode
        self.out = done.stdout.decode()
        self.err = done.stderr.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def ok(self) -> Ended:
        assert self.code == 0, f"exit {self.code}\n{self.out}\n{self.err}"
        return self

    def failed(self, code: int) -> Ended:
        """An expected error: its code, `error:` on standard error, no data, no traceback."""
        assert self.code == code, f"exit {self.code}\n{self.out}\n{self.err}"
        assert self.err.startswith("error: "), self.err
        assert "Traceback" not in self.err
        return self


def run_cli(
    folder: Path, *arguments: str, stdin: bytes = b"", **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """Run one command in a folder; its output as bytes."""
    variables = clean_environment(**environment)
    if _is_cold(environment):
        command = [*HEADWATER, *arguments]
        return subprocess.run(
            command, cwd=folder, env=variables, input=stdin, capture_output=True, timeout=PATIENCE_S, check=False
        )
    return run_warm(MODULE, *arguments, folder=folder, environment=variables, stdin=stdin, timeout=PATIENCE_S)


def cli(folder: Path, *arguments: str, stdin: str = "", **environment: str) -> Ended:
    """Run one command in a folder."""
    return Ended(run_cli(folder, *arguments, stdin=stdin.encode(), **environment))


def _is_cold(environment: dict[str, str]) -> bool:
    return any(name.startswith(COLD) for name in environment)


def socket_of(folder: Path) -> Path:
    """The admin API of its store; when the folder's name is long, elsewhere."""
    return admin_socket(f"sqlite:{folder / '.headwater'}")


def make_shop(folder: Path) -> Path:
    """A folder with the sample app and its settings."""
    return _make_folder(folder, "shop")


def make_depot(folder: Path) -> Path:
    """A folder with the sample app that has buckets, and its settings."""
    return _make_folder(folder, "depot")


def make_noisy(folder: Path) -> Path:
    """A folder with the sample app that logs, and its settings."""
    return _make_folder(folder, "noisy")


def _make_folder(folder: Path, app: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{app}.py").write_text((Path(__file__).parent / f"{app}_app.py").read_text("utf-8"), "utf-8")
    (folder / "headwater.toml").write_text(f'[default]\napps = ["{app}"]\nport = 0\ndrain = "5s"\n', "utf-8")
    return folder


class Running:
    """A process and those it starts, a group of their own; leaving the context ends it."""

    def __init__(self, folder: Path, *command: str, **environment: str) -> None:
        self.folder = folder
        self.log = folder / f"stderr-{time.monotonic_ns()}"
        with self.log.open("wb") as stderr:
            self.process = self._start(command, clean_environment(**environment), stderr)

    def _start(self, command: tuple[str, ...], environment: dict[str, str], stderr: IO[bytes]) -> Process:
        return subprocess.Popen(command, cwd=self.folder, env=environment, stderr=stderr, process_group=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE_S)

    @property
    def stderr(self) -> str:
        return self.log.read_text("utf-8")

    def wait_for(self, pattern: str, count: int = 1) -> list[str]:
        """Until the log has so many matches; fails when the process ends before."""
        end = time.monotonic() + PATIENCE_S
        while len(found := re.findall(pattern, self.stderr)) < count:
            assert time.monotonic() < end, f"no {pattern!r} in:\n{self.stderr}"
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.stderr}"
            time.sleep(0.01)
        return [str(match) for match in found]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


class Serving(Running):
    """A `headwater run` process."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self._cold = _is_cold(environment)
        super().__init__(folder, *HEADWATER, "run", *arguments, **environment)

    def _start(self, command: tuple[str, ...], environment: dict[str, str], stderr: IO[bytes]) -> Process:
        if self._cold:
            return super()._start(command, environment, stderr)
        arguments = command[len(HEADWATER) :]
        with open(os.devnull, "rb") as nothing, open(1, "wb", closefd=False) as stdout:
            streams = (nothing, stdout, stderr)
            return Warm(MODULE, *arguments, folder=self.folder, environment=environment, streams=streams, group=True)

    @property
    def url(self) -> str:
        return self.wait_for(r"headwater serves (\S+) \(pid")[-1]
