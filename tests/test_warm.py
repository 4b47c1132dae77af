"""Warm processes are as cold ones are, and end with who asked for them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from tests.warm import Warm, run_warm

PROBE = """
import atexit, json, os, sys, threading, time
atexit.register(lambda: print("at the end", file=sys.stderr))
threading.Timer(0.05, lambda: print("in a thread", file=sys.stderr)).start()
told = {
    "argv": sys.argv, "name": __name__, "path": sys.path[0], "folder": os.getcwd(), "stdin": sys.stdin.read(),
    "environment": {name: os.environ[name] for name in sorted(os.environ)},
    "threads": [thread.name for thread in threading.enumerate()][:1], "signal": str(signal.getsignal(signal.SIGCHLD)),
    "streams": [(os.isatty(n), s.encoding, s.errors, s.line_buffering) for n, s in enumerate((sys.stdin, sys.stdout))],
}
print(json.dumps(told))
"""
ENDS = {
    "return": "",
    "exit": "sys.exit(7)",
    "text": "sys.exit('it is over')",
    "error": "raise ValueError('no')",
    "killed": "sys.stdout.flush(); os.kill(os.getpid(), signal.SIGKILL)",
}


@pytest.mark.parametrize("end", ENDS)
def test_a_warm_process_is_as_a_cold_one(tmp_path: Path, end: str) -> None:
    (tmp_path / "probe.py").write_text(f"import signal\n{PROBE}\n{ENDS[end]}\n", "utf-8")
    environment = {**os.environ, "HEADWATER_PROBE": "é"}
    environment.pop("USER", None)
    arguments = ("a", "b c")
    command = [sys.executable, "-m", "probe", *arguments]
    wanted = subprocess.run(command, cwd=tmp_path, env=environment, input=b"given", capture_output=True, check=False)
    found = run_warm("probe", *arguments, folder=tmp_path, environment=environment, stdin=b"given", timeout=PATIENCE_S)
    assert found.returncode == wanted.returncode
    assert json.loads(found.stdout) == json.loads(wanted.stdout)
    assert found.stderr.splitlines()[-1:] == wanted.stderr.splitlines()[-1:]
    if end != "killed":
        assert b"in a thread" in found.stderr


SLEEPER = "import time; print('asleep', flush=True); time.sleep(600)"
ASKER = """
import os, sys
from pathlib import Path
from tests.warm import Warm
streams = (open(os.devnull, "rb"), open("out", "wb"), open("out", "ab"))
process = Warm("sleeper", folder=Path(), environment=os.environ, streams=streams)
print(process.pid, flush=True)
sys.stdin.read()
"""


def test_it_is_stopped_killed_and_of_its_own_group(tmp_path: Path) -> None:
    (tmp_path / "sleeper.py").write_text(SLEEPER, "utf-8")
    with open(os.devnull, "rb") as nothing, (tmp_path / "out").open("wb") as out:
        streams = (nothing, out, out)
        process = Warm("sleeper", folder=tmp_path, environment=os.environ, streams=streams, group=True)
    try:
        until(lambda: "asleep" in (tmp_path / "out").read_text())
        assert os.getpgid(process.pid) == process.pid
        process.send_signal(signal.SIGSTOP)
        until(lambda: state_of(process.pid) == "T")
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.1)
        assert process.poll() is None
    finally:
        process.kill()
    assert process.wait(PATIENCE_S) == process.poll() == -signal.SIGKILL
    process.kill()


def test_it_ends_with_who_asked_for_it(tmp_path: Path) -> None:
    (tmp_path / "sleeper.py").write_text(SLEEPER, "utf-8")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", ASKER]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as asker:
        assert asker.stdout is not None
        pid = int(asker.stdout.readline())
        until(lambda: "asleep" in (tmp_path / "out").read_text())
        assert state_of(pid) in {"R", "S", "D"}
        asker.kill()
    until(lambda: state_of(pid) in ("", "Z"))


def state_of(pid: int) -> str:
    """As in `/proc`; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)
