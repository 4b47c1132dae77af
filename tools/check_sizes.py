"""Check that files, functions and parameter lists stay small and modules have telling names.

`python tools/check_sizes.py FOLDER...` prints one line for each breach and exits 1 if there is any.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

FILE_LINES = 600
FUNCTION_LINES = 60
PARAMETERS = 6
SHORTEST_NAME = 3
VAGUE_NAMES = frozenset({"helpers", "manager", "utils"})
SUFFIXES = frozenset({".css", ".js", ".mjs", ".py", ".sql"})

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


def count_parameters(function: FunctionNode) -> int:
    """Count the positional parameters, without `self` and `cls`; keyword-only ones name themselves."""
    named = [*function.args.posonlyargs, *function.args.args]
    if named and named[0].arg in {"self", "cls"}:
        named = named[1:]
    return len(named)


def check_functions(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if not isinstance(node, FunctionNode):
            continue
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if lines > FUNCTION_LINES:
            yield node.lineno, f"{node.name} has {lines} lines, at most {FUNCTION_LINES}"
        parameters = count_parameters(node)
        if parameters > PARAMETERS:
            yield node.lineno, f"{node.name} has {parameters} positional parameters, at most {PARAMETERS}"


def check_file(path: Path) -> Iterator[tuple[int, str]]:
    text = path.read_text(encoding="utf-8")
    lines = len(text.splitlines())
    if lines > FILE_LINES:
        yield 1, f"the file has {lines} lines, at most {FILE_LINES}"
    if path.suffix != ".py":
        return
    if path.stem in VAGUE_NAMES or path.parent.name in VAGUE_NAMES:
        yield 1, "the name says nothing; name the module after what it holds"
    if len(path.stem) < SHORTEST_NAME:
        yield 1, f"the module's name has fewer than {SHORTEST_NAME} letters"
    yield from check_functions(ast.parse(text, str(path)))


def source_files(folders: list[str]) -> Iterator[Path]:
    for folder in folders:
        for path in sorted(Path(folder).rglob("*")):
            if path.suffix in SUFFIXES and path.is_file():
                yield path


def main(folders: list[str]) -> int:
    breaches = [f"{path}:{line}: {message}" for path in source_files(folders) for line, message in check_file(path)]
    print("\n".join(breaches) or "sizes: all within the limits")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
