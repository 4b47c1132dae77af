"""Check that the applications use the public names only: `headwater` itself and `headwater.testing`.

Prints one line for each import of another module of the framework and exits 1 if there is any.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path("src/headwater")
PUBLIC = frozenset({"headwater", "headwater.testing"})


def is_module(name: str) -> bool:
    """Tell whether a name such as `headwater.errors` is a module rather than a public object."""
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def imported_modules(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.lineno, node.module
            for alias in node.names:
                if node.module in PUBLIC and is_module(f"{node.module}.{alias.name}"):
                    yield node.lineno, f"{node.module}.{alias.name}"


def main() -> int:
    breaches = [
        f"{path}:{line}: imports {module}; the public names are in headwater and headwater.testing"
        for path in sorted(Path("apps").rglob("*.py"))
        for line, module in imported_modules(ast.parse(path.read_text(encoding="utf-8"), str(path)))
        if module.split(".")[0] == "headwater" and module not in PUBLIC
    ]
    print("\n".join(breaches) or "apps: public names only")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
