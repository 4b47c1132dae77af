"""Each row of the security page names a test that exists and runs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache

import pytest

from tests.docs.pages import DOCS, ROOT
from tests.patience import PATIENCE_S

PAGE = DOCS / "security.md"
_ROW = re.compile(r"^\| (.+) \|$", re.MULTILINE)
_TEST = re.compile(r"`([\w/]+\.py)::([^`]+)`")
GROUPS = [
    "Tokens",
    "API keys and admission",
    "Tenants",
    "Uploads",
    "Webhooks",
    "Input",
    "Secrets",
    "Console",
    "Transport",
    "Overload",
]
_NOT_RUN = re.compile(r"\b(skip|skipif|xfail|importorskip)\b")


def rows() -> list[list[str]]:
    """The cells of each row of the tables, without their heads."""
    found = [row.split(" | ") for row in _ROW.findall(PAGE.read_text("utf-8"))]
    return [row for row in found if row[0] != "---" and row[-1] != "Test"]


def named() -> list[tuple[str, str]]:
    return [(test[1], test[2]) for row in rows() if (test := _TEST.fullmatch(row[-1]))]


@cache
def collected() -> frozenset[str]:
    """The tests that pytest finds in the files, with their parameters."""
    files = sorted({file for file, _ in named() if (ROOT / file).exists()})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    return frozenset(line for line in done.stdout.splitlines() if "::" in line)


def test_each_row_is_an_attack_an_answer_and_a_test() -> None:
    assert [row for row in rows() if len(row) != 3 or not _TEST.fullmatch(row[-1])] == []
    assert len(rows()) > 90


def test_the_tables_have_their_groups() -> None:
    assert re.findall(r"^## (.+)$", PAGE.read_text("utf-8"), re.MULTILINE) == [*GROUPS, "What is not protected"]


def test_each_named_test_exists() -> None:
    known = collected()
    whole = {test.partition("[")[0] for test in known}
    assert [f"{file}::{name}" for file, name in named() if f"{file}::{name}" not in known | whole] == []


@pytest.mark.parametrize("file", sorted({file for file, _ in named()}))
def test_no_named_test_is_skipped(file: str) -> None:
    source = (ROOT / file).read_text("utf-8")
    wanted = {name.partition("[")[0] for known, name in named() if known == file}
    tree = ast.parse(source)
    marks = [
        ast.unparse(node) for node in tree.body if isinstance(node, ast.Assign) and "pytestmark" in ast.unparse(node)
    ]
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    checked = [node for node in functions if node.name in wanted]
    assert {node.name for node in checked} == wanted
    texts = [*marks, *(ast.unparse(node) for node in checked)]
    assert [text for text in texts if _NOT_RUN.search(text)] == []
