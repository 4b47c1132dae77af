"""What goes into a package: the app's own files, Headwater's, and the distributions that they import.

The app's code is read, not run: imports are followed from the app's modules, at any depth of a file. So a package of
functions without HTTP has no FastAPI, unless the app's own module needs it.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import sys
from collections.abc import Collection, Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import NamedTuple

import headwater
from headwater.deploy.lock import Locked, Resolver, Target
from headwater.errors import DeclarationError

SERVER_ONLY = frozenset({"prometheus-client", "rich", "typer", "uvicorn", "uvloop", "watchfiles"})
"""Requirements of Headwater's that the server and the command line need, and no function."""
HTTP_ONLY = frozenset({"fastapi", "pyjwt", "python-multipart"})
_NOT_DEPLOYED = ("cli", "console", "deploy", "pytest_plugin.py", "testing.py")
"""Parts of Headwater above its runtime, which nothing below them imports."""
_SKIPPED = frozenset({"__pycache__", "tests", "node_modules"})
_EXTRA_NAMES = {"csv": "csv", "jsonl": "csv", "parquet": "csv"}
"""Names of Headwater's that need an extra."""
_DEPENDENCIES = frozenset({"Auth", "anyone", "no_rerun", "require"})
"""Names of Headwater's that are, or come with, dependencies of FastAPI: an app that uses them has it everywhere."""


class Contents(NamedTuple):
    """`files` maps paths in the package to files here."""

    files: dict[str, Path]
    distributions: dict[str, Locked]


def gather(modules: Sequence[str], lock: dict[str, Locked], target: Target, *, http: bool) -> Contents:
    """What the apps of these modules need as functions; `modules` has those with endpoints where `http`."""
    code = OwnCode(modules)
    resolver = Resolver(lock, target, SERVER_ONLY if http else SERVER_ONLY | HTTP_ONLY)
    resolver.add_requirements("headwater", ("aws", *sorted(code.extras)))
    asked = Resolver(lock, target, frozenset())
    for name, file in sorted(code.foreign.items()):
        asked.add(_distributions_of(name, file), f"{file}")
    return Contents(code.files | _own_files(), {**resolver.found, **asked.found})


class OwnCode:
    """The files of apps, found from their modules by import."""

    def __init__(self, modules: Sequence[str]) -> None:
        self.files: dict[str, Path] = {}
        self.foreign: dict[str, Path] = {}
        self.extras: set[str] = set()
        self._seen: set[str] = set()
        for module in modules:
            spec = _find(module)
            if spec is None or spec.origin is None:
                raise DeclarationError(f"there is no module {module}", operation="package")
            self._add_folder(spec)
            self._visit(module, Path(spec.origin))

    def _add_folder(self, spec: ModuleSpec) -> None:
        """All of the package that an app is in: templates and data, too."""
        if not spec.parent:
            return
        folder = Path(spec.origin or "").parent
        inside = Path(*spec.parent.split("."))
        for file in _files(folder):
            self.files[str(inside / file.relative_to(folder))] = file

    def _visit(self, name: str, importer: Path) -> None:
        top = name.partition(".")[0]
        if name in self._seen or top in sys.stdlib_module_names or top == "headwater":
            return
        self._seen.add(name)
        spec = _find(name)
        if spec is None or spec.origin is None:
            return
        file = Path(spec.origin)
        if {"site-packages", "dist-packages"} & set(file.parts):
            self.foreign.setdefault(top, importer)
            return
        if "." in name:
            self._visit(name.rpartition(".")[0], importer)
        self.files[_place(spec)] = file
        for imported in self._imports(file, spec.parent or ""):
            self._visit(imported, file)

    def _imports(self, file: Path, package: str) -> Iterator[str]:
        if file.suffix != ".py":
            return
        for node in ast.walk(ast.parse(file.read_bytes(), str(file))):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                name = importlib.util.resolve_name("." * node.level + (node.module or ""), package or None)
                if name == "headwater":
                    self._note({alias.name for alias in node.names}, file)
                yield name
                yield from (f"{name}.{alias.name}" for alias in node.names if _find(f"{name}.{alias.name}"))

    def _note(self, names: set[str], importer: Path) -> None:
        self.extras |= {_EXTRA_NAMES[name] for name in names & _EXTRA_NAMES.keys()}
        if names & _DEPENDENCIES:
            self.foreign.setdefault("fastapi", importer)


def _find(name: str) -> ModuleSpec | None:
    """A module, without importing it; what is above it is imported."""
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None


def _place(spec: ModuleSpec) -> str:
    path = Path(*spec.name.split("."))
    return str(path / "__init__.py" if spec.submodule_search_locations is not None else path.with_suffix(".py"))


def _distributions_of(name: str, importer: Path) -> Collection[str]:
    found = importlib.metadata.packages_distributions().get(name, ())
    if not found:
        raise DeclarationError(
            f"{importer} imports {name}, which no installed distribution has",
            operation="package",
            hint="install it with pip, so that its name and version are known",
        )
    return sorted(set(found))


def _own_files() -> dict[str, Path]:
    """Headwater as it is here: what was tested is what is deployed."""
    home = Path(headwater.__file__).parent
    inside = ((file, file.relative_to(home)) for file in _files(home))
    return {str("headwater" / path): file for file, path in inside if path.parts[0] not in _NOT_DEPLOYED}


def _files(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.rglob("*")):
        parts = file.relative_to(folder).parts
        hidden = any(part in _SKIPPED or part.startswith(".") for part in parts)
        if file.is_file() and not hidden and file.suffix != ".pyc":
            yield file
