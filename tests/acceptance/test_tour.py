"""`headwater tour` as a process: the real apps over real HTTP, its failures, and its end."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.patience import PATIENCE_S
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
SMALL_APP = """
from headwater import App

app = App("small")


@app.http.get("/ping")
async def ping() -> str:
    return "pong"
"""
SMALL_TOUR = """
PAGES = ["/small/ping"]


def steps(http, admin, command):
    async def the_app_answers():
        answer = (await http.get("/small/ping")).json()
        if answer != {wanted!r}:
            raise RuntimeError(f"it says {{answer}}")
        return [f"it says {{answer}}"]

    return [the_app_answers]
"""


def command(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("headwater")), *arguments]


def project(folder: Path) -> Path:
    """A folder with the project's apps and settings, so that a tour that runs in the project is not in the way."""
    (folder / "apps").symlink_to(ROOT / "apps")
    shutil.copy(ROOT / "headwater.toml", folder)
    return folder


def small_project(folder: Path, *, wanted: str = "pong", port: int = 0) -> Path:
    (folder / "small").mkdir()
    (folder / "small" / "app.py").write_text(SMALL_APP)
    (folder / "small" / "tour.py").write_text(SMALL_TOUR.format(wanted=wanted))
    (folder / "headwater.toml").write_text(f'[default]\napps = ["small.app"]\nport = {port or free_port()}\n')
    return folder


@contextmanager
def running(folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command("tour"), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """What the process prints up to a line with this text."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError(f"it ended before it printed {text!r}: {''.join(lines)}")


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
def test_the_tour_of_the_apps_comes_true(tmp_path: Path, request: pytest.FixtureRequest, engine: str) -> None:
    place = ["--database", request.getfixturevalue("postgres")] if engine == "postgres" else []
    done = subprocess.run(
        command("tour", "--once", *place),
        cwd=project(tmp_path),
        capture_output=True,
        text=True,
        timeout=8 * PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    drafts = [json.loads(line) for line in (ROOT / "apps/catalog/samples/products.jsonl").read_text().splitlines()]
    tools = [draft["price_cents"] for draft in drafts if draft["category"] == "tools"]
    assert re.search(rf"tools +{len(tools)} products +{sum(tools) / 100:.2f}\n", done.stdout)
    assert re.search(r"└─ ✓ reporting/reports done", done.stdout)
    assert "died after 3 receives" in done.stdout
    assert "GET /reporting/audit: its totals are those of the report" in done.stdout
    assert re.search(r"GET /intake/data/\S+ as ann: 200, as bob: 404\n", done.stdout)
    assert "stored for ann, under the id that it was accepted with\n" in done.stdout
    assert re.search(r"100 POSTs at once as max: \d\d accepted and stored, \d+ answered 429\n", done.stdout)
    assert "headwater tail directory/departments: Garden modified, Kitchen modified\n" in done.stdout
    assert "put once more: unchanged" in done.stdout
    assert "headwater dlq ls directory/load-staff: one letter, after one receive" in done.stdout
    assert "started, the vendor calls it del-000001\n" in done.stdout
    assert re.search(r"SELECT count.* LIKE '%Quibbleworth%'\": 0\n", done.stdout)
    assert re.search(r" 17 +completed +del-000001\n", done.stdout)
    assert re.search(r"tech@erasure\.example  The vendor's answers have changed \(customer 19", done.stdout)
    assert "GET /gallery/sheets/summer/1.png: 1376 x 560 pixels\n" in done.stdout
    assert "ann/summer/words.png: it is no GIF, JPEG, PNG or WebP image\n" in done.stdout
    assert "/catalog/docs\n" in done.stdout
    assert "/intake/\n" in done.stdout
    assert "\x1b" not in done.stdout
    assert "Traceback" not in done.stderr


def test_a_step_that_does_not_come_true_is_named_and_ends_the_tour(tmp_path: Path) -> None:
    folder = small_project(tmp_path, wanted="ping")
    for arguments in (["tour", "--once"], ["tour"]):
        done = subprocess.run(
            command(*arguments), cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert done.returncode == 1
        assert "the step 'the app answers' did not come true: it says pong" in done.stderr


def test_the_tour_serves_on_the_next_free_port_until_it_is_interrupted(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        folder = small_project(tmp_path, port=port)
        with running(folder) as process:
            told = read_until(process, "Ctrl-C")
            address, console = dict.fromkeys(re.findall(r"http://127\.0\.0\.1:\d+", told))
            assert f":{port}" not in address
            assert httpx.get(f"{address}/small/ping").json() == "pong"
            assert httpx.get(console).status_code == 200
            second = subprocess.run(
                command("tour"), cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False
            )
            assert second.returncode == 1
            assert "another tour is running" in second.stderr
            assert httpx.get(f"{address}/small/ping").json() == "pong"
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE_S) == 0
