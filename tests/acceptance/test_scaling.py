"""Autoscaling of real processes: from zero by a request, several at a burst, zero again; and by a command."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.cli_processes import Serving, cli
from tests.patience import PATIENCE_S
from tests.ports import free_port

APP = """
import os
import time
from pathlib import Path

from headwater import App, Event, Scale, anyone, wait

app = App("mill")
grain = app.queue("grain")
flour = app.table("flour", dict, key="id")
app.ingest(grain, "/grain", auth=anyone())


@app.on(grain, run_in="process", scale=Scale(max=2, backlog_per_worker=3, cooldown="1s"))
def grind(event: Event[dict]) -> None:
    begun = time.time()
    while event.data["held"] and not Path("go").exists():
        time.sleep(0.02)
    wait(flour.put({"id": event.id, "begun": begun, "process": os.getpid()}))
"""
QUEUE = "mill/grain"


class Mill:
    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.metrics = f"http://127.0.0.1:{(port := free_port())}"
        (folder / "mill.py").write_text(APP, "utf-8")
        lines = [f"{name} = {value}" for name, value in settings.items()]
        more = "\n".join([f'metrics = "127.0.0.1:{port}"', *lines])
        (folder / "headwater.toml").write_text(f'[default]\napps = ["mill"]\nport = 0\ndrain = "5s"\n{more}\n', "utf-8")

    def send(self, server: Serving, count: int, *, held: bool = False) -> None:
        """Jobs that end at once, or when the file `go` is there."""
        for _ in range(count):
            httpx.post(f"{server.url}/mill/grain", json={"held": held}).raise_for_status()

    def wanted(self) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.metrics}/scale/{QUEUE}").raise_for_status().json()
        return found

    def until(self, **expected: int) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE_S
        while any((shown := self.wanted())[name] != value for name, value in expected.items()):
            assert time.monotonic() < end, shown
            time.sleep(0.05)
        return shown

    def ground(self, count: int) -> list[dict[str, Any]]:
        end = time.monotonic() + PATIENCE_S
        while True:
            rows = cli(self.folder, "table", "query", "mill/flour").ok().out.splitlines()
            if len(rows) >= count or time.monotonic() > end:
                return [json.loads(row) for row in rows]
            time.sleep(0.1)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Mill, Serving]]:
    mill = Mill(tmp_path)
    with Serving(tmp_path) as serving:
        _ = serving.url
        yield mill, serving


def test_from_zero_to_as_many_as_are_needed_and_back(server: tuple[Mill, Serving]) -> None:
    mill, serving = server
    mill.until(wanted=0, running=0)
    sent = time.time()
    mill.send(serving, 1)
    (first,) = mill.ground(1)
    assert first["begun"] - sent < 60
    mill.until(wanted=0, running=0)
    mill.send(serving, 8, held=True)
    mill.until(wanted=2, running=2)
    (mill.folder / "go").touch()
    listed = cli(mill.folder, "scale", "ls").ok().out
    assert QUEUE in listed
    rows = mill.ground(9)
    assert len({row["process"] for row in rows}) in (2, 3)
    mill.until(wanted=0, running=0, backlog=0)
    changes = cli(mill.folder, "scale", "history", QUEUE, "--json").ok().json["scalings"]
    assert changes[-1]["wanted"] == 1
    assert changes[-1]["reason"] == "1 message, 3 a worker"
    assert changes[0]["wanted"] == 0
    assert 2 in [change["wanted"] for change in changes]
    told = cli(mill.folder, "scale", "history", QUEUE, "-n", "1").ok().out
    assert "no message waits" in told
    assert serving.stop() == 0
    assert QUEUE in cli(mill.folder, "scale", "ls").ok().out
    cli(mill.folder, "scale", "history", "mill/nothing").failed(4)


def test_a_command_of_the_settings_gets_the_numbers_and_no_process_is_started(tmp_path: Path) -> None:
    script = tmp_path / "tell.sh"
    script.write_text('#!/bin/sh\necho "$1 $2" >> "$(dirname "$0")/told"\n', "utf-8")
    script.chmod(0o755)
    mill = Mill(tmp_path, scale_command=f'["{script}", "{{queue}}", "{{wanted}}"]')
    with Serving(tmp_path) as serving:
        mill.send(serving, 4)
        assert mill.until(wanted=2)["running"] is None
        told = tmp_path / "told"
        end = time.monotonic() + PATIENCE_S
        while f"{QUEUE} 2" not in (told.read_text() if told.exists() else ""):
            assert time.monotonic() < end
            time.sleep(0.02)
        assert mill.wanted()["backlog"] == 4
