"""The wheel, installed into an empty environment: a scaffolded app is served from it."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S

PROJECT = Path(__file__).parents[2]
BASE = [getattr(sys, "_base_executable", sys.executable), "-m", "pip", "--quiet", "--disable-pip-version-check"]


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of an environment that holds the wheel and its locked dependencies, and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, PROJECT, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "env", cwd=folder)
    python = folder / "env" / "bin" / "python"
    requirements = ("--require-hashes", "-r", PROJECT / "requirements.txt")
    run(*BASE, "--python", python, "install", *requirements, cwd=folder)
    run(*BASE, "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    return python.parent


def test_a_scaffolded_app_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    run(installed / "headwater", "init", "demo", cwd=tmp_path)
    demo = tmp_path / "demo"
    environment = {**os.environ, "HEADWATER_PORT": "0", "HEADWATER_LOG": "json"}
    server = subprocess.Popen([installed / "headwater", "run"], cwd=demo, env=environment, stderr=subprocess.PIPE)
    try:
        address = address_of(installed, demo)
        with urllib.request.urlopen(f"{address}/", timeout=PATIENCE_S) as answer:
            assert json.load(answer)["apps"]
    finally:
        server.send_signal(signal.SIGTERM)
        _, errors = server.communicate(timeout=PATIENCE_S)
    assert server.returncode == 0, errors.decode()


def address_of(installed: Path, demo: Path) -> str:
    for _ in range(100):
        asked = subprocess.run(
            [installed / "headwater", "status", "--json"], cwd=demo, capture_output=True, text=True, check=False
        )
        if asked.returncode == 0 and (server := json.loads(asked.stdout).get("server")):
            address: str = server["address"]
            return address
        time.sleep(0.1)
    raise AssertionError(f"the server did not start: {asked.stdout} {asked.stderr}")
