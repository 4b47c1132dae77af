"""Every benchmark runs and reports its figure beside its floor; how fast it is, is no test's business."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from bench.coldstart import KINDS
from tests.patience import PATIENCE_S
from tests.postgres.server import run_sql
from tests.warm import run_warm

PROJECT = Path(__file__).parents[2]
SMALL = {
    "pipeline": 2_000,
    "changes": 2_000,
    "latency": 20,
    "fanout": 640,
    "backlog": 2_000,
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
    "consoles": 2_000,
}
SMALL_ON_POSTGRES = {
    "pipeline": 1_000,
    "changes": 1_000,
    "latency": 20,
    "fanout": 640,
    "backlog": 2_000,
    "dataset": 20_000,
    "groups": 2_000,
    "pressure": 2,
}
DURABLE = "fsync=on, full_page_writes=on, synchronous_commit=on"


def run(name: str, n: int, *options: str) -> dict[str, Any]:
    arguments = (name, "--json", "--n", str(n), *options)
    done = run_warm("bench", *arguments, folder=PROJECT, environment=os.environ, timeout=4 * PATIENCE_S)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    report: dict[str, Any] = json.loads(line)
    assert report["bench"] == name
    figure, floor = ("p50_ms", "floor_p50_ms") if name in ("latency", "console") else ("rate_s", "floor_s")
    assert report[figure] > 0 or name == "overload", "in its short flood perhaps nothing is persisted"
    assert report[floor] > 0
    assert report["ratio"] > 0 or name == "overload"
    assert report["rss_mb"] > 0
    assert report["versions"]["sqlite"]
    return report


@pytest.mark.parametrize("name", SMALL)
def test_benchmark_reports_one_line(name: str) -> None:
    report = run(name, SMALL[name])
    stored = ("none", "none") if name == "reading" else ("sqlite", "FULL")
    assert (report["engine"], report["durability"]) == stored


@pytest.mark.parametrize("name", SMALL_ON_POSTGRES)
def test_benchmark_reports_one_line_on_postgres(name: str, postgres: str) -> None:
    report = run(name, SMALL_ON_POSTGRES[name], "--store", postgres)
    assert (report["engine"], report["durability"]) == ("postgres", DURABLE)
    assert report["versions"]["postgres"]
    assert not run_sql(postgres, "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'bench%'")


@pytest.mark.usefixtures("postgres_binaries")
def test_benchmark_starts_a_server_on_the_disk_of_the_working_directory() -> None:
    report = run("pipeline", SMALL_ON_POSTGRES["pipeline"], "--engine", "postgres")
    assert (report["engine"], report["durability"]) == ("postgres", DURABLE)
    assert report["fdatasync_ms"] > 0
    for figure in ("rate_two", "raw_put_s", "raw_claim_delete_s", "server_cpu_us_per_op"):
        assert report["details"][figure] > 0


def test_cold_starts_are_a_line_for_each_function() -> None:
    done = run_warm(
        "bench", "coldstart", "--json", "--n", "1", folder=PROJECT, environment=os.environ, timeout=4 * PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert [report["details"]["function"] for report in reports] == list(KINDS)
    for report in reports:
        assert report["p50_ms"] > report["floor_p50_ms"] > 0
        assert report["details"]["ready_ms"] > 0
        assert report["details"]["imports_ms"] > 0


def test_all_benchmarks_are_here() -> None:
    from bench.__main__ import BENCHES, POSTGRES

    assert set(BENCHES) == {*SMALL, "coldstart"}
    assert set(POSTGRES) == set(SMALL_ON_POSTGRES)
