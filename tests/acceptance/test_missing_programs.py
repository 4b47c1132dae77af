"""Tests that need a program which is not there are skipped visibly on a user's machine, and fail in CI."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.cli_processes import clean_environment
from tests.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]
NEEDY = {
    "tests/browser/test_intake_page.py": "chromium is not installed: `apt-get install chromium`",
    "tests/acceptance/test_consumers.py": "node is not installed: `apt-get install nodejs`",
    "tests/docs/test_consoles.py": "curl is not installed: `apt-get install curl`",
}


@pytest.mark.parametrize(("ci", "code", "outcome"), [("", 0, "SKIPPED"), ("true", 1, "ERROR")], ids=["user", "ci"])
def test_without_programs(tmp_path: Path, ci: str, code: int, outcome: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *NEEDY, "-k", "page or node or README"]
    environment = clean_environment(PATH=str(tmp_path), CI=ci)
    ran = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert ran.returncode == code, ran.stdout + ran.stderr
    for missing in NEEDY.values():
        assert missing in ran.stdout
    assert outcome in ran.stdout
    assert " passed" not in ran.stdout
