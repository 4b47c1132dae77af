"""Real worker processes of a real server: what a job costs whose process dies, stops, or runs out of memory."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.cli_processes import HEADWATER, Serving, clean_environment, cli
from tests.patience import PATIENCE_S

APP = Path(__file__).with_name("jobs_app.py")


def make_jobs(folder: Path, settings: str = "", code: str = "old") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "jobs.py").write_text(APP.read_text("utf-8").replace('CODE = "old"', f'CODE = "{code}"'), "utf-8")
    (folder / "headwater.toml").write_text(f'[default]\napps = ["jobs"]\nport = 0\ndrain = "5s"\n{settings}', "utf-8")
    return folder


def send(folder: Path, id: str, **todo: str) -> None:
    cli(folder, "send", "jobs/work", json.dumps({"id": id, **todo})).ok()


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    found = cli(folder, "table", "query", "jobs/done").ok().out.splitlines()
    return {row["id"]: row for row in map(json.loads, found)}


def begun(folder: Path) -> list[list[str]]:
    """[id, attempt, pid, code] of each attempt that began."""
    path = folder / "begun"
    return [line.split() for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def until(what: Callable[[], Any]) -> Any:
    end = time.monotonic() + PATIENCE_S
    while not (found := what()):
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.05)
    return found


def attempts(folder: Path, id: str) -> list[int]:
    return [int(attempt) for of, attempt, *_ in begun(folder) if of == id]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server with two workers, for all tests that leave it as it was."""
    with Serving(make_jobs(tmp_path_factory.mktemp("jobs"), "workers = 2\n")) as server:
        server.wait_for("worker runs", 4)
        yield server
        assert server.stop() == 0, server.stderr


def test_handlers_run_where_they_are_declared_to(served: Serving) -> None:
    send(served.folder, "plain")
    cli(served.folder, "send", "jobs/quick", '{"id": "home"}').ok()
    found = until(lambda: len(rows(served.folder)) >= 2 and rows(served.folder))
    assert found["home"]["pid"] == served.process.pid
    assert found["plain"]["pid"] not in (served.process.pid, os.getpid())
    assert not found["plain"]["http"], "a worker serves nothing, and does not import what serves"


@pytest.mark.parametrize("how", ["die", "crash"])
def test_a_process_that_dies_costs_one_redelivery(served: Serving, how: str) -> None:
    send(served.folder, how, **{"1": how})
    row = until(lambda: rows(served.folder).get(how))
    assert (row["attempt"], attempts(served.folder, how)) == (2, [1, 2])
    until(lambda: "another one is started" in served.stderr)


def test_a_job_that_kills_every_worker_is_buried_and_takes_nothing_with_it(served: Serving) -> None:
    send(served.folder, "poison", always="die")
    for number in range(4):
        send(served.folder, f"innocent{number}")
    letters = until(lambda: cli(served.folder, "dlq", "ls", "--json").ok().json["dead_letters"])
    innocents = until(lambda: (found := [r for id, r in rows(served.folder).items() if "innocent" in id])[3:] and found)
    assert [row["attempt"] for row in innocents] == [1] * 4
    assert attempts(served.folder, "poison") == [1, 2, 3]
    text = json.dumps(letters)
    assert "poison" in text
    assert text.count("the worker process ended while the handler ran") >= 1
    cli(served.folder, "dlq", "discard", "--queue", "jobs/work", "--yes").ok()


def test_what_is_not_granted_is_refused_in_a_worker_too(served: Serving) -> None:
    """Its code puts rows, and was not seen to get any."""
    send(served.folder, "reaching", **{"1": "reach"})
    assert until(lambda: rows(served.folder).get("reaching"))["attempt"] == 2
    assert "NotGranted: get jobs/done" in served.stderr


def test_out_of_memory_is_a_failed_attempt(served: Serving) -> None:
    send(served.folder, "hungry", **{"1": "allocate"})
    assert until(lambda: rows(served.folder).get("hungry"))["attempt"] == 2
    assert "MemoryError" in served.stderr


def test_a_worker_without_any_memory_left_costs_one_redelivery(served: Serving) -> None:
    """Its event loop, too, gets none while the handler has it all."""
    send(served.folder, "hoarder", **{"1": "hoard"})
    assert until(lambda: rows(served.folder).get("hoarder"))["attempt"] == 2
    assert attempts(served.folder, "hoarder") == [1, 2]
    until(lambda: served.stderr.count("worker runs") >= 4 + served.stderr.count("another one is started"))
    cli(served.folder, "queue", "pause", "jobs/work").ok()
    for heir in ("heir1", "heir2"):
        send(served.folder, heir, always="sleep3")
    cli(served.folder, "queue", "resume", "jobs/work").ok()
    until(lambda: rows(served.folder).keys() >= {"heir1", "heir2"})
    heirs = {line[2] for line in begun(served.folder) if "heir" in line[0]}
    assert len(heirs) == 2, "another worker has taken its place"


def test_a_worker_that_hangs_beyond_its_lease_has_no_effect_when_it_goes_on(served: Serving) -> None:
    """Code that keeps the interpreter's lock keeps the worker from extending its leases."""
    send(served.folder, "hanging", **{"1": "hold"})
    refused = served.stderr.count("an attempt has no effect")
    row = until(lambda: rows(served.folder).get("hanging"))
    assert (row["attempt"], attempts(served.folder, "hanging")) == (2, [1, 2])
    until(lambda: served.stderr.count("an attempt has no effect") > refused)
    assert rows(served.folder)["hanging"] == row


def test_a_stopped_worker_loses_its_lease_and_its_late_commit(served: Serving) -> None:
    send(served.folder, "late", **{"1": "stop"})
    row = until(lambda: rows(served.folder).get("late"))
    assert (row["attempt"], attempts(served.folder, "late")) == (2, [1, 2])
    stopped = int(next(line[2] for line in begun(served.folder) if line[:2] == ["late", "1"]))
    os.kill(stopped, signal.SIGCONT)
    until(lambda: "an attempt has no effect" in served.stderr)
    assert rows(served.folder)["late"] == row
    send(served.folder, "after")
    assert until(lambda: rows(served.folder).get("after"))["attempt"] == 1


def test_a_job_beyond_its_time_out_ends_its_process(served: Serving) -> None:
    cli(served.folder, "send", "jobs/bounded", '{"id": "hangs"}').ok()
    assert until(lambda: rows(served.folder).get("hangs"))["attempt"] == 2
    assert "a job runs on beyond its time-out" in served.stderr


def test_attempts_of_workers_are_in_the_metrics(served: Serving) -> None:
    def attempts_counted() -> float:
        shown = cli(served.folder, "metrics", "--prometheus").ok().out
        found = re.search(r'headwater_handler_attempts_total\{queue="jobs/work"\} (\S+)', shown)
        return float(found[1]) if found else 0.0

    before = attempts_counted()
    send(served.folder, "counted")
    until(lambda: attempts_counted() > before)


def worker(folder: Path, store: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [*HEADWATER, "worker", "--store", f"sqlite:{store}/.headwater", *arguments]
    with (folder / "worker.log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, env=clean_environment(), stderr=log)


def logged(folder: Path) -> str:
    return (folder / "worker.log").read_text("utf-8")


def test_a_worker_waits_for_its_server_and_can_be_stopped_meanwhile(tmp_path: Path) -> None:
    folder = make_jobs(tmp_path)
    process = worker(folder, folder)
    try:
        until(lambda: "waiting for the server" in logged(folder))
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
        assert "Traceback" not in logged(folder)
        assert "destroyed" not in logged(folder)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("how", "told"), [("raise", "this code cannot be imported"), ("abort", "code=-6")])
def test_code_that_cannot_be_imported_is_tried_again_with_pauses(tmp_path: Path, how: str, told: str) -> None:
    folder = make_jobs(tmp_path)
    (folder / "broken").write_text(how, "utf-8")
    with Serving(folder) as server:
        server.wait_for("another one is started", 2)
        assert told in server.stderr
        cli(folder, "send", "jobs/quick", '{"id": "home"}').ok()
        assert until(lambda: rows(folder).get("home")), "the server goes on"
        send(folder, "patient")
        (folder / "broken").unlink()
        assert until(lambda: rows(folder).get("patient"))["attempt"] == 1
        assert server.stop() == 0


def test_workers_end_with_their_server_however_it_ends(tmp_path: Path) -> None:
    folder = make_jobs(tmp_path)
    with Serving(folder) as server:
        server.wait_for("worker runs")
        send(folder, "one")
        pid = until(lambda: rows(folder).get("one"))["pid"]
        server.process.kill()
        try:
            until(lambda: not Path(f"/proc/{pid}").exists())
        except AssertionError:
            os.kill(pid, signal.SIGKILL)
            raise


def test_a_stop_lets_jobs_finish(tmp_path: Path) -> None:
    folder = make_jobs(tmp_path)
    with Serving(folder) as server:
        server.wait_for("worker runs")
        send(folder, "slow", always="sleep1.5")
        until(lambda: attempts(folder, "slow"))
        assert server.stop() == 0
    assert rows(folder)["slow"]["attempt"] == 1


def test_old_and_new_code_side_by_side(tmp_path: Path) -> None:
    """Workers are replaced one after the other while jobs run, and while the server is started anew."""
    store = make_jobs(tmp_path / "server", "workers = 0\n")
    old, new = make_jobs(tmp_path / "old"), make_jobs(tmp_path / "new", code="new")
    processes = []
    try:
        with Serving(store) as server:
            processes = [worker(old, store), worker(new, store)]
            until(lambda: "worker runs" in logged(old) and "worker runs" in logged(new))
            cli(store, "queue", "pause", "jobs/work").ok()
            for number in range(8):
                send(store, f"a{number}", always="sleep0.4")
            cli(store, "queue", "resume", "jobs/work").ok()
            until(lambda: {line[3] for f in (old, new) for line in begun(f)} == {"old", "new"})
            processes[0].send_signal(signal.SIGTERM)
            assert processes[0].wait(PATIENCE_S) == 0
            until(lambda: len(rows(store)) == 8)
            assert server.stop() == 0
        with Serving(store) as server:
            assert server.url
            send(store, "b")
            assert until(lambda: rows(store).get("b"))["code"] == "new"
            assert {row["attempt"] for row in rows(store).values()} == {1}
            assert server.stop() == 0
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_code_that_means_something_else_by_a_table_is_refused(tmp_path: Path) -> None:
    folder, other = make_jobs(tmp_path / "server", "workers = 0\n"), make_jobs(tmp_path / "other")
    source = (other / "jobs.py").read_text("utf-8")
    with Serving(folder) as server:
        assert server.url
        for change, told in (
            ('key="id", upgrade={1: dict}', "model version 1, this worker's code 2"),
            ('key="pid"', "with another key"),
            ('key="id"); extra = app.table("extra", dict, key="id"', "the store has no table"),
        ):
            (other / "jobs.py").write_text(source.replace('key="id"', change, 1), "utf-8")
            ended = cli(other, "worker", "--store", f"sqlite:{folder}/.headwater")
            assert told in ended.failed(1).err
