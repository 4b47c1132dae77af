"""`headwater init`: what it makes passes its own test and runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.acceptance.cli_processes import Serving, clean_environment, cli
from tests.patience import PATIENCE_S


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = tmp_path_factory.mktemp("init")
    ended = cli(parent, "init", "demo").ok()
    assert ended.out == ""
    assert "headwater run" in ended.err
    return parent / "demo"


def test_the_folder_needs_no_packaging(demo: Path) -> None:
    made = {path.name for path in demo.iterdir()}
    assert made == {"headwater.toml", "app.py", "test_app.py", "README.md", ".gitignore"}
    assert "@NAME@" not in "".join(path.read_text("utf-8") for path in demo.iterdir())


def test_its_test_passes_with_plain_pytest(demo: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=demo,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_it_runs_and_counts(demo: Path) -> None:
    with Serving(demo, "--port", "0") as server:
        answer = httpx.post(f"{server.url}/demo/visits", json={"guest": "ada"})
        assert answer.status_code == 202
        cli(demo, "trace", answer.headers["headwater-trace"]).ok()
        for _ in range(20):
            row = cli(demo, "table", "get", "demo/counts", "ada", "--json")
            if row.code == 0:
                break
        assert row.json["value"] == {"guest": "ada", "visits": 1}
        assert server.stop() == 0


def test_it_is_linted_and_typed(demo: Path) -> None:
    for tool in (["ruff", "check", "--isolated"], ["mypy", "--strict", "--no-incremental"]):
        files = ["app.py", "test_app.py"]
        done = subprocess.run(
            [sys.executable, "-m", *tool, *files],
            cwd=demo,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout


def test_a_folder_with_content_and_a_wrong_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert "not an empty folder" in cli(tmp_path, "init", "full").failed(1).err
    assert "no name for an app" in cli(tmp_path, "init", "Wrong Name").failed(1).err
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["file"]
    assert not (tmp_path / "Wrong Name").exists()
    (tmp_path / "empty").mkdir()
    cli(tmp_path, "init", "empty").ok()


def test_version(tmp_path: Path) -> None:
    from importlib.metadata import version

    assert cli(tmp_path, "version").ok().out == f"{version('headwater')}\n"
