"""The command line starts fast: what it does not need it does not import."""

from __future__ import annotations

import subprocess
import sys

from tests.patience import PATIENCE_S

HEAVY = ("apsw", "asyncio", "fastapi", "httpx", "pydantic", "starlette", "structlog", "uvicorn", "watchfiles")
PROBE = """
import sys
sys.argv = ["headwater", "--help"]
from headwater.cli.main import main
try:
    main()
finally:
    print(sorted(set(sys.modules) & set({heavy!r})), file=sys.stderr)
"""


def test_help_imports_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(heavy=HEAVY)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert "Usage: headwater" in done.stdout
    assert done.stderr == "[]\n"


def test_each_public_name_is_found() -> None:
    probe = "import headwater; [getattr(headwater, name) for name in headwater.__all__]; print(len(dir(headwater)))"
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr
