"""Many jobs in FIFO groups while real worker processes are killed, stopped beyond their leases, and replaced."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from tests.acceptance.cli_processes import HEADWATER, Serving, clean_environment, cli
from tests.patience import PATIENCE_S

APP = Path(__file__).with_name("ledger_app.py")
GROUPS, LENGTH = 6, 30
WHOLE = {f"g{group}": list(range(LENGTH)) for group in range(GROUPS)}
VISIBILITY_S = 1.0


def make_ledgers(folder: Path, code: str = "old") -> Path:
    folder.mkdir()
    (folder / "ledgers.py").write_text(APP.read_text("utf-8").replace('CODE = "old"', f'CODE = "{code}"'), "utf-8")
    settings = '[default]\napps = ["ledgers"]\nport = 0\ndrain = "5s"\nworkers = 0\n'
    (folder / "headwater.toml").write_text(settings, "utf-8")
    return folder


class Crew:
    """Workers of one store, each in the folder of its code; leaving the context ends all."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.processes: list[subprocess.Popen[bytes]] = []
        self.folders: set[Path] = set()

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def hire(self, folder: Path) -> subprocess.Popen[bytes]:
        self.folders.add(folder)
        command = [*HEADWATER, "worker", "--store", f"sqlite:{self.store}/.headwater"]
        with (folder / "worker.log").open("ab") as log:
            process = subprocess.Popen(command, cwd=folder, env=clean_environment(), stderr=log)
        self.processes.append(process)
        return process

    def begun(self) -> list[list[str]]:
        """[job, attempt, pid, code] of each attempt that began."""
        return self._lines("begun")

    def running(self) -> list[list[str]]:
        """Those of them that have not come to their commit."""
        ended = self._lines("ended")
        return [attempt for attempt in self.begun() if attempt[:2] not in ended]

    def _lines(self, name: str) -> list[list[str]]:
        found = [folder / name for folder in self.folders]
        return [line.split() for path in found if path.exists() for line in path.read_text("utf-8").splitlines()]

    def logged(self) -> str:
        return "".join((folder / "worker.log").read_text("utf-8") for folder in self.folders)


def until(what: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
    end = time.monotonic() + patience_s
    while not (found := what()):
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.02)
    return found


def send_jobs(server: Serving, numbers: range = range(LENGTH)) -> None:
    """Job by job of all groups, in one commit."""
    sent = [{"group": group, "number": number} for number in numbers for group in WHOLE]
    httpx.post(f"{server.url}/ledgers/jobs", json=sent).raise_for_status()


def entered(folder: Path, field: str = "numbers") -> dict[str, list[Any]]:
    rows = cli(folder, "table", "query", "ledgers/ledgers").ok().out.splitlines()
    return {row["id"]: row[field] for row in map(json.loads, rows)}


def is_whole(folder: Path) -> bool:
    return sum(map(len, entered(folder).values())) >= GROUPS * LENGTH


def stop_one(crew: Crew) -> None:
    """Stop a worker in the midst of a job for longer than its lease."""

    def is_stopped() -> bool:
        attempt = crew.begun()[-1]
        os.kill(int(attempt[2]), signal.SIGSTOP)
        if attempt in crew.running():
            stopped.append(int(attempt[2]))
        else:
            os.kill(int(attempt[2]), signal.SIGCONT)
        return bool(stopped)

    stopped: list[int] = []
    until(is_stopped)
    time.sleep(VISIBILITY_S * 1.3)  # the lease ends by the server's own clock
    os.kill(stopped[0], signal.SIGCONT)


def test_workers_killed_and_stopped_cost_one_redelivery_each(tmp_path: Path) -> None:
    folder = make_ledgers(tmp_path / "server")
    struck: Counter[str] = Counter()
    with Serving(folder) as server, Crew(folder) as crew:
        for _ in range(3):
            crew.hire(folder)
        send_jobs(server)
        for begun, kind in zip(range(5, GROUPS * LENGTH, 36), itertools.cycle(["kill", "stop"]), strict=False):
            until(lambda: len(crew.begun()) >= begun)  # noqa: B023
            struck[kind] += 1
            if kind == "stop":
                stop_one(crew)
            else:
                os.kill(int(crew.begun()[-1][2]), signal.SIGKILL)
                crew.hire(folder)
        until(lambda: is_whole(folder))
        assert entered(folder) == WHOLE
        receives = Counter((job, int(attempt)) for job, attempt, *_ in crew.begun())
        assert max(receives.values()) == 1, "a receive is given to one worker"
        highest = {job: max(number for of, number in receives if of == job) for job, _ in receives}
        assert 0 < sum(highest.values()) - len(highest) <= struck.total()
        assert 0 < crew.logged().count("an attempt has no effect") <= struck["stop"]
        assert server.stop() == 0


def test_a_rolling_replacement_loses_doubles_and_repeats_nothing(tmp_path: Path) -> None:
    """Three workers and the server, one after the other, while jobs come and run."""
    store, old = make_ledgers(tmp_path / "server"), make_ledgers(tmp_path / "old")
    new = make_ledgers(tmp_path / "new", code="new")
    with Crew(store) as crew:
        olds = [crew.hire(old) for _ in range(3)]
        with Serving(store) as server:
            send_jobs(server, range(LENGTH // 2))
            until(lambda: crew.logged().count("worker runs") == 3 and len(crew.begun()) >= 3)
            for number, process in enumerate(olds[:2]):
                crew.hire(new)
                until(lambda: crew.logged().count("worker runs") == 4 + number)  # noqa: B023
                process.send_signal(signal.SIGTERM)
                assert process.wait(PATIENCE_S) == 0
            send_jobs(server, range(LENGTH // 2, LENGTH))
            assert server.stop() == 0
        with Serving(store) as server:
            until(lambda: crew.logged().count("connected again") == 3)
            olds[2].send_signal(signal.SIGTERM)
            assert olds[2].wait(PATIENCE_S) == 0
            until(lambda: is_whole(store))
            assert entered(store) == WHOLE
            assert server.stop() == 0
        codes = Counter(itertools.chain(*entered(store, "codes").values()))
        assert codes["old"] >= 3
        assert codes["new"] >= 3
        assert {attempt for _, attempt, *_ in crew.begun()} == {"1"}
        assert len(crew.begun()) == GROUPS * LENGTH
