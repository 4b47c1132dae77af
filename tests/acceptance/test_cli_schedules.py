"""`headwater schedule` against a running server and a store that nobody owns; ticks when the server is killed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.cli_processes import Serving, cli
from tests.patience import PATIENCE_S

APP = """
from headwater import App, Tick

app = App("clockwork")
ticks = app.queue("ticks", Tick)
reports = app.queue("reports", Tick)
app.schedule("1s", name="seconds").to(ticks)
app.schedule("0 9 * * mon-fri", name="report", tz="Europe/Berlin").to(reports)
"""
SETTINGS = '[default]\napps = ["clockwork"]\nport = 0\ndrain = "5s"\n'


def make_clockwork(folder: Path) -> Path:
    (folder / "clockwork.py").write_text(APP, "utf-8")
    (folder / "headwater.toml").write_text(SETTINGS, "utf-8")
    return folder


def waiting(folder: Path, queue: str) -> list[dict[str, Any]]:
    messages = cli(folder, "peek", queue, "--limit", "1000", "--json").ok().json["messages"]
    return [message["event"]["data"] for message in messages]


@pytest.fixture(scope="module", params=["server", "store"])
def clockwork(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = make_clockwork(tmp_path_factory.mktemp("clockwork"))
    with Serving(folder) as server:
        _ = server.url
        if request.param == "store":
            assert server.stop() == 0
        yield folder


def test_schedules_are_listed_in_words(clockwork: Path) -> None:
    listed = cli(clockwork, "schedule", "ls").ok().out
    assert "clockwork/report" in listed
    assert "every weekday at 09:00 Europe/Berlin" in listed
    assert "every second" in listed
    assert "clockwork/report" in cli(clockwork, "ls").ok().out


def test_the_next_runs_of_a_schedule(clockwork: Path) -> None:
    ended = cli(clockwork, "schedule", "next", "clockwork/report", "-n", "7").ok()
    assert "every weekday at 09:00 Europe/Berlin" in ended.err
    head, *runs = ended.out.splitlines()
    assert head.split() == ["Europe/Berlin", "utc"]
    local = [datetime.fromisoformat(run.split()[0]) for run in runs]
    assert len(local) == 7
    assert {(at.hour, at.minute, at.weekday() < 5) for at in local} == {(9, 0, True)}
    assert [datetime.fromisoformat(run.split()[1]) for run in runs] == local


def test_a_run_by_hand_with_parameters(clockwork: Path) -> None:
    id = cli(clockwork, "schedule", "run", "clockwork/report", '{"month": "2026-11"}').ok().out.strip()
    again = cli(clockwork, "schedule", "run", "clockwork/report", "--dedup", "d1", "--json").ok().json
    assert again == cli(clockwork, "schedule", "run", "clockwork/report", "--dedup", "d1", "--json").ok().json
    first, second = waiting(clockwork, "clockwork/reports")
    assert (first["parameters"], first["manual"], second["parameters"]) == ({"month": "2026-11"}, True, {})
    assert cli(clockwork, "trace", id, "--json").ok().json["events"] == 1


def test_pause_and_resume(clockwork: Path) -> None:
    assert cli(clockwork, "schedule", "pause", "clockwork/seconds").ok().out == "clockwork/seconds: paused\n"
    listed = cli(clockwork, "schedule", "ls", "--json").ok().json["schedules"]
    assert {one["name"]: (one["paused"], one["next"] is None) for one in listed} == {
        "clockwork/report": (False, False),
        "clockwork/seconds": (True, True),
    }
    count = len(waiting(clockwork, "clockwork/ticks"))
    before = datetime.now(UTC) - timedelta(seconds=1)
    assert cli(clockwork, "schedule", "resume", "clockwork/seconds").ok().out == "clockwork/seconds: resumed\n"
    since = waiting(clockwork, "clockwork/ticks")[count:]
    assert all(datetime.fromisoformat(tick["nominal"]) >= before for tick in since)


def test_what_does_not_exist_is_said(clockwork: Path) -> None:
    assert "schedule ls" in cli(clockwork, "schedule", "run", "clockwork/none").failed(4).err
    assert "no JSON object" in cli(clockwork, "schedule", "run", "clockwork/report", "[]").failed(2).err
    assert "schedule run clockwork/report" in cli(clockwork, "publish", "clockwork/report", "{}").failed(1).err


def test_each_second_has_its_tick_or_is_told_as_missed_when_the_server_is_killed(tmp_path: Path) -> None:
    folder = make_clockwork(tmp_path)
    for count in (2, 5):
        with Serving(folder) as server:
            _ = server.url
            end = time.monotonic() + PATIENCE_S
            while len(waiting(folder, "clockwork/ticks")) < count:
                assert time.monotonic() < end
                time.sleep(0.05)
            server.process.kill()
    ticks = waiting(folder, "clockwork/ticks")
    times = [datetime.fromisoformat(tick["nominal"]) for tick in ticks]
    assert times == sorted(set(times))
    assert sum(1 + tick["missed"] for tick in ticks[1:]) == (times[-1] - times[0]) / timedelta(seconds=1)
