"""Every benchmark runs and reports its figure beside its floor; how fast it is, is no test's business."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
SMALL = {
    "pipeline": 2_000,
    "changes": 2_000,
    "latency": 20,
    "fanout": 640,
    "backlog": 20_000,
    "http": 300,
    "intake": 300,
    "overload": 300,
    "reading": 20_000,
    "dataset": 20_000,
    "operations": 1_000,
    "remote": 2_000,
    "groups": 2_000,
    "scale": 40,
    "console": 2_000,
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", SMALL)
def test_benchmark_reports_one_line(name: str) -> None:
    command = [sys.executable, "-m", "bench", name, "--json", "--n", str(SMALL[name])]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    report = json.loads(line)
    stored = ("none", "none") if name == "reading" else ("sqlite", "FULL")
    assert (report["bench"], report["engine"], report["durability"]) == (name, *stored)
    figure, floor = ("p50_ms", "floor_p50_ms") if name in ("latency", "console") else ("rate_s", "floor_s")
    assert report[figure] > 0
    assert report[floor] > 0
    assert report["ratio"] > 0
    assert report["rss_mb"] > 0
    assert report["versions"]["sqlite"]


def test_all_benchmarks_are_here() -> None:
    from bench.__main__ import BENCHES

    assert set(BENCHES) == set(SMALL)
