"""Locked requirements with hashes, as pip-compile and uv write them, and what of them a set of distributions needs."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from headwater.errors import DeclarationError

if TYPE_CHECKING:
    from packaging.requirements import Requirement


class Locked(NamedTuple):
    """One line of a lock; `text` is what pip reads."""

    name: str
    version: str
    text: str


class Target(NamedTuple):
    """What a package is for."""

    architecture: str = "arm64"
    python: str = "3.12"

    @property
    def machine(self) -> str:
        return "aarch64" if self.architecture == "arm64" else self.architecture

    @property
    def platforms(self) -> tuple[str, ...]:
        """Tags of wheels that run there, the newest first: Amazon Linux 2023 has glibc 2.34."""
        glibc = (f"manylinux_2_{minor}_{self.machine}" for minor in (34, 28, 27, 24))
        return (*glibc, f"manylinux2014_{self.machine}", f"linux_{self.machine}")

    def markers(self, extra: str) -> dict[str, str]:
        return {
            "extra": extra,
            "python_version": self.python,
            "python_full_version": f"{self.python}.0",
            "implementation_version": f"{self.python}.0",
            "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
            "os_name": "posix",
            "sys_platform": "linux",
            "platform_system": "Linux",
            "platform_machine": self.machine,
        }


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock(path: Path) -> dict[str, Locked]:
    """The requirements of a lock by name. Raises `DeclarationError` where one has no version or no hash."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise DeclarationError(
            f"cannot read the lock {path}: {error.strerror}",
            operation="package",
            hint="write one: pip-compile --generate-hashes, or uv export --format requirements-txt",
        ) from error
    found = {}
    for written in text.replace("\\\n", " ").splitlines():
        line = written.split(" #")[0].strip()
        if not line or line.startswith(("#", "-")):
            continue
        named = re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*==\s*([^\s;]+)", line)
        if named is None or "--hash=" not in line:
            raise DeclarationError(
                f"{path}: {line.split()[0]!r} has no version or no hash",
                operation="package",
                hint="the lock must pin everything with hashes: pip-compile --generate-hashes",
            )
        found[normalized(named[1])] = Locked(normalized(named[1]), named[2], " ".join(line.split()))
    return found


class Resolver:
    """What distributions need on the target, by the metadata of those installed here; versions are the lock's."""

    def __init__(self, lock: Mapping[str, Locked], target: Target, left_out: frozenset[str]) -> None:
        self._lock = lock
        self._target = target
        self._left_out = left_out
        self._seen: set[tuple[str, str]] = set()
        self.found: dict[str, Locked] = {}

    def add(self, names: Iterable[str], why: str) -> None:
        for name in names:
            self._add(normalized(name), "", why)

    def add_requirements(self, distribution: str, extras: Iterable[str]) -> None:
        """What a distribution needs, with these extras of it, but not itself."""
        for extra in ("", *extras):
            self._follow(distribution, extra)

    def _add(self, name: str, extra: str, why: str) -> None:
        if name in self._left_out or (name, extra) in self._seen:
            return
        self._seen.add((name, extra))
        locked = self._lock.get(name)
        if locked is None:
            raise DeclarationError(
                f"{name} is not in the lock, but {why} needs it",
                operation="package",
                hint="add it to the requirements and make the lock anew",
            )
        self.found[name] = locked
        self._follow(name, extra)

    def _follow(self, name: str, extra: str) -> None:
        for requirement in _requirements(name):
            if requirement.marker is None and extra:
                continue
            if requirement.marker is not None and not self._holds(requirement, extra):
                continue
            for wanted in ("", *requirement.extras):
                self._add(normalized(requirement.name), wanted, name)

    def _holds(self, requirement: Requirement, extra: str) -> bool:
        marker = requirement.marker
        return marker is None or marker.evaluate(self._target.markers(extra))


def _requirements(name: str) -> list[Requirement]:
    from packaging.requirements import Requirement

    try:
        return [Requirement(text) for text in importlib.metadata.requires(name) or ()]
    except importlib.metadata.PackageNotFoundError as error:
        raise DeclarationError(
            f"{name} is in the lock and not installed here, so what it needs is unknown",
            operation="package",
            hint="install what the lock says: pip install --require-hashes -r …",
        ) from error
