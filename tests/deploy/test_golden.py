"""The golden templates are what the applications come to, whoever synthesizes them, and they are no secret."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.golden import FOLDER, expected

ROOT = Path(__file__).parents[2]
_TOLD = """
import hashlib, json
from tests.deploy.golden import expected
print(hashlib.sha256(json.dumps(expected()).encode()).hexdigest())
"""


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.iterdir()))
def test_a_golden_template_is_what_comes_out(name: str) -> None:
    told = "`python -m tests.deploy.golden` writes them anew; review the difference"
    assert expected().get(name) == (FOLDER / name).read_text("utf-8"), told


def test_no_golden_template_is_missing() -> None:
    assert set(expected()) == {path.name for path in FOLDER.iterdir()}


def test_the_same_bytes_come_out_of_another_process() -> None:
    found = set()
    for seed in ("1", "2"):
        environment = {
            **os.environ,
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT))),
        }
        told = subprocess.run(
            [sys.executable, "-c", _TOLD], env=environment, capture_output=True, text=True, check=True
        )
        found.add(told.stdout)
    assert len(found) == 1
