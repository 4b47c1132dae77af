"""The Python blocks of the guides run, page by page.

The blocks of one page share a namespace. Blocks without a top-level `await` are declarations and run first, in order.
Then the blocks with `await` run, in order; where one of them names `h`, it is a harness that runs all apps of the page.
A block whose first line names a file is written to a folder instead; tests among those files run under pytest.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from headwater import App
from headwater.testing import Harness
from tests.docs.pages import Block, blocks, pages
from tests.patience import PATIENCE_S

TOP_LEVEL_AWAIT = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


def python_blocks(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language == "python" and not block.not_run]


PAGES = [page for page in pages() if python_blocks(page)]


def compiled(block: Block) -> types.CodeType:
    """The block's code, its line numbers those of the page."""
    source = "\n" * (block.line - 1) + block.code
    code = compile(source, str(block.page), "exec", flags=TOP_LEVEL_AWAIT, dont_inherit=True)
    assert isinstance(code, types.CodeType)
    return code


def awaits(code: types.CodeType) -> bool:
    return bool(code.co_flags & inspect.CO_COROUTINE)


async def run_page(found: list[Block], namespace: dict[str, Any]) -> None:
    codes = [compiled(block) for block in found]
    for code in codes:
        if not awaits(code):
            exec(code, namespace)
    apps = {id(value): value for value in namespace.values() if isinstance(value, App)}
    calls = [code for code in codes if awaits(code)]
    async with contextlib.AsyncExitStack() as stack:
        if any("h" in code.co_names for code in calls):
            harness = Harness(*apps.values(), services=namespace.get("SERVICES"), plans=namespace.get("PLANS"))
            namespace["h"] = await stack.enter_async_context(harness)
        for code in calls:
            await types.FunctionType(code, namespace)()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_run(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [block for block in python_blocks(page) if not block.name]
    module = types.ModuleType(f"page_{page.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # models look up their annotations there
    asyncio.run(run_page(found, vars(module)))


FILED = [page for page in PAGES if any(block.name for block in python_blocks(page))]


@pytest.mark.parametrize("page", FILED, ids=lambda page: page.stem)
def test_files_run(page: Path, tmp_path: Path) -> None:
    for block in blocks(page):
        if block.name and not block.not_run:
            with (tmp_path / block.name).open("a") as file:
                file.write(block.code)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_blocks_have_a_language_and_reasons_are_rare(page: Path) -> None:
    found = list(blocks(page))
    assert [block.place for block in found if not block.language] == []
    assert len([block for block in found if block.not_run]) <= 2
