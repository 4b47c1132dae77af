"""What functions import: none but the one of HTTP has FastAPI, none has what only servers and commands need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from headwater.deploy.contents import HTTP_ONLY, SERVER_ONLY
from tests.patience import PATIENCE_S

MODULES = {"pyjwt": "jwt", "python-multipart": "multipart", "prometheus-client": "prometheus_client"}
HEAVY = ("starlette", "cryptography", "httpx", "apsw", "asyncpg", "botocore", "boto3", "obstore", "jinja2", "polars")
WITHOUT_HTTP = ("queue", "relay", "tick", "objects", "alarm", "letters")

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ImportError(f"{{name}} is not in the package of a function")

sys.meta_path.insert(0, Absent())
import headwater.functions.{kind}
{then}
print(*sorted({{name.partition(".")[0] for name in sys.modules}} & {heavy!r}))
"""


def imported(kind: str, absent: frozenset[str], then: str = "") -> str:
    """The heavy packages that a function's module has imported, with others not to be had."""
    names = {MODULES.get(name, name) for name in absent}
    program = PROGRAM.format(absent=names, kind=kind, heavy=set(HEAVY), then=then)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("kind", WITHOUT_HTTP)
def test_a_function_without_http_works_without_what_only_http_and_servers_need(kind: str) -> None:
    assert imported(kind, HTTP_ONLY | SERVER_ONLY) == ""


def test_the_function_of_http_works_without_what_only_servers_need() -> None:
    assert imported("http", SERVER_ONLY) == "starlette"
    served = imported("http", SERVER_ONLY, "from apps.intake.app import app; app.load_http()")
    assert "starlette" in served.split()
