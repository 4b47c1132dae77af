"""A test that is written from a real trace runs, and fails when the app does something else."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from apps.catalog.app import app as catalog
from apps.reporting.app import app as reporting
from headwater import App
from headwater.errors import InvalidValue
from headwater.runtime.admin import Admin
from headwater.runtime.python_text import literal
from headwater.testing import Harness
from tests.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]


async def test_a_written_test_runs_and_notices_a_difference(tmp_path: Path) -> None:
    async with Harness(catalog, reporting) as h:
        client = h.client(catalog)
        made = (await client.post("/products", json={"name": 'it\'s "x"', "category": "c", "price_cents": 3})).json()
        await h.advance(seconds=10)
        changed = await client.put(f"/products/{made['id']}", json={"name": "y", "category": "d", "price_cents": 4})
        assert changed.status_code == 200
        await h.advance(seconds=10)
        admin = Admin(h.supervisor.engine, h.supervisor, clock=h.clock)
        traces = (await admin.call("traces", {"search": made["id"]}))["traces"]
        assert [trace["cause"].partition(" ")[0] for trace in traces] == ["PUT", "POST"]
        codes = [(await admin.call("trace-test", {"id": trace["trace"]}))["code"] for trace in traces]
    for n, code in enumerate(codes):
        (tmp_path / f"test_trace_{n}.py").write_text(code, "utf-8")
    assert "reporting/cache" in codes[0]
    (tmp_path / "test_other.py").write_text(codes[0].replace('"category": "d"', '"category": "c"'), "utf-8")
    (tmp_path / "test_less.py").write_text(
        codes[0].replace('"reporting/cache", "modified"', '"reporting/cache", "removed"')
    )
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    failed = set(re.findall(r"^FAILED \S+(test_\w+)\.py", ended.stdout, re.MULTILINE))
    assert failed == {"test_other", "test_less"}, ended.stdout + ended.stderr
    assert "2 failed, 2 passed" in ended.stdout


async def test_a_trace_of_unknown_apps_is_refused() -> None:
    app = App("hidden")
    rows = app.table("rows", dict, key="id")
    async with Harness(app) as h:
        await rows.put({"id": "1"})
        admin = Admin(h.supervisor.engine, h.supervisor, clock=h.clock)
        (trace,) = (await admin.call("traces", {}))["traces"]
        with pytest.raises(InvalidValue, match="nothing of what began the trace"):
            await admin.call("trace-test", {"id": trace["trace"]})


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -1.5,
        "a\"b'c\\",
        "ü😀",
        "\u2028\x00\n",
        [],
        {},
        [[1, {"a": [None]}]],
        {"k" * 90: ["v" * 90, {"\n": ()}]},
    ],
)
def test_values_are_python(value: Any) -> None:
    assert eval(literal(value)) == value
    assert eval(literal([value] * 30)) == [value] * 30
