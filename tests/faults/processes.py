"""Starting the victims of the fault tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def spawn(*arguments: str) -> subprocess.Popen[str]:
    """A process that runs `tests.faults.victim`, its standard input and output as pipes."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.faults.victim", *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
