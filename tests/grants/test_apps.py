"""The grants of the example apps, by the command: a listing that was reviewed by hand (`apps.txt`)."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from headwater.grants import Permits, infer
from headwater.graph import Graph, build_graph
from headwater.loading import load_app
from headwater.permits import VERBS
from tests.acceptance.cli_processes import cli

ROOT = Path(__file__).parents[2]
LISTING = Path(__file__).with_name("apps.txt")
APPS = ("catalog", "reporting", "intake", "directory", "erasure", "gallery")


@pytest.fixture(scope="module")
def units() -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = cli(ROOT, "grants", "--json").ok().json["units"]
    return found


def listing(units: dict[str, list[dict[str, Any]]]) -> str:
    """One line for each grant, without the number of the line, which moves."""
    lines = []
    for unit, held in units.items():
        lines.append(unit)
        for grant in held:
            escapes = "  escapes" if grant["escapes"] else ""
            lines.append(f"    {grant['kind']} {grant['resource']} {grant['verb']}  {file_of(grant)}{escapes}")
    return "\n".join(lines) + "\n"


def file_of(grant: dict[str, Any]) -> str:
    return str(grant["at"].rpartition(":")[0])


def test_the_listing_is_what_was_reviewed(units: dict[str, list[dict[str, Any]]]) -> None:
    assert listing(units) == LISTING.read_text("utf-8")


def test_nothing_of_the_apps_escapes(units: dict[str, list[dict[str, Any]]]) -> None:
    assert [grant for held in units.values() for grant in held if grant["escapes"]] == []


def test_each_line_is_one_that_needs_the_grant(units: dict[str, list[dict[str, Any]]]) -> None:
    """A call of that name, or a declaration."""
    for held in units.values():
        for grant in held:
            file, _, line = grant["at"].rpartition(":")
            text = (ROOT / file).read_text("utf-8").splitlines()[int(line) - 1]
            calls = [name for name, verb in VERBS.get(grant["kind"], {}).items() if verb == grant["verb"]]
            declares = r"@app\.on|app\.(expose|ingest|operation|alarm)\(|\.to\("
            assert re.search(rf"\.({'|'.join(calls) or 'none'})\b|{declares}", text), (grant, text)


def test_one_unit_an_app_and_none() -> None:
    one = cli(ROOT, "grants", "erasure/forget").ok().out
    assert re.search(r"erasure/forget +table +erasure/customers +forget +apps/erasure/app\.py:\d+\n", one)
    of_app = cli(ROOT, "grants", "intake").ok()
    assert {line.split()[0].partition("/")[0] for line in of_app.out.splitlines()[1:]} == {"intake"}
    assert "intake GET / touches nothing" in of_app.err
    chosen = cli(ROOT, "grants", "--app", "apps.catalog.app", "--json").ok().json["units"]
    assert {unit[:7] for unit in chosen} == {"catalog"}
    cli(ROOT, "grants", "catalog/nobody").failed(4)


def graph() -> Graph:
    return build_graph([load_app(f"apps.{name}.app", ROOT) for name in APPS])


def test_all_apps_are_read_fast() -> None:
    """Tens of milliseconds; the bound leaves room for a slow machine."""
    apps = graph()
    infer(apps)
    begun = time.process_time()
    infer(apps)
    assert time.process_time() - begun < 1.0


def test_a_server_reads_nothing_at_its_start() -> None:
    apps = graph()
    begun = time.process_time()
    permits = Permits(apps)
    held = [permits.of_queue(queue) for queue in apps.handlers]
    assert time.process_time() - begun < 0.1
    assert not any("held" in vars(permit) for permit in held if permit is not None)


def test_a_handlers_permit_does_not_import_the_web_framework() -> None:
    code = (
        "import sys, json; from headwater.loading import load_app; from headwater.graph import build_graph;"
        "from headwater.grants import Permits;"
        "g = build_graph([load_app('apps.reporting.app')]); held = Permits(g).of_queue('reporting/reports').held;"
        "print(json.dumps([len(held), 'fastapi' in sys.modules]))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == [6, False]
