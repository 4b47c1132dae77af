"""A function's deployment package: locked wheels of the target platform, Headwater and the apps, as one zip.

The same lock, apps and versions of Headwater and pip give the same bytes, wherever and whenever it is built: names are
sorted, times and modes are fixed, and nothing that pip writes about the place (scripts, records, byte code) is kept.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from headwater.deploy.contents import Contents
from headwater.deploy.lock import Locked, Target
from headwater.errors import DeclarationError, TooLarge

UNZIPPED_LIMIT = 250 * 1024 * 1024
"""Lambda's: of everything, https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html."""
SERVICES = frozenset({"cloudwatch", "dynamodb", "s3", "scheduler", "ses", "sesv2", "sns", "sqs", "sts"})
"""Those that Headwater calls: botocore describes 400, which is 9 tenths of an otherwise small package."""
_EARLIEST = (1980, 1, 1, 0, 0, 0)
_KEPT_METADATA = ("METADATA", "entry_points.txt", "licenses", "LICENSE")


class Package(NamedTuple):
    """A built package; `parts` says how many unzipped bytes each top-level folder has."""

    path: Path
    digest: str
    zipped: int
    unzipped: int
    parts: dict[str, int]

    def largest(self, most: int = 5) -> list[tuple[str, int]]:
        return Counter(self.parts).most_common(most)


def build_package(
    contents: Contents,
    target: Target,
    path: Path,
    *,
    wheels: Path | None = None,
    services: Iterable[str] = (),
    limit: int = UNZIPPED_LIMIT,
) -> Package:
    """Write the package; with `wheels`, a folder of wheels, without any network.

    `services` are further services of AWS that the apps call with boto3. Raises `TooLarge` above the limit, and
    `DeclarationError` when a wheel is missing, is not for the target, or is not the one that was locked.
    """
    with tempfile.TemporaryDirectory(prefix="headwater-package-") as folder:
        _install(contents.distributions, target, Path(folder), wheels)
        files = dict(_installed(Path(folder), SERVICES | set(services)))
        files |= contents.files
        parts: Counter[str] = Counter()
        for name, file in files.items():
            parts[name.partition("/")[0]] += file.stat().st_size
        total = parts.total()
        if total > limit:
            raise _too_large(total, limit, parts)
        _write_zip(path, files)
    data = path.read_bytes()
    return Package(path, hashlib.sha256(data).hexdigest(), len(data), total, dict(parts))


def _install(locked: Mapping[str, Locked], target: Target, folder: Path, wheels: Path | None) -> None:
    if not locked:
        return
    lock = folder / "lock.txt"
    lock.write_text("\n".join(entry.text for entry in locked.values()), "utf-8")
    abi = "cp" + target.python.replace(".", "")
    command = [*_pip(), "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
    command += ["--only-binary=:all:", "--no-compile", "--ignore-installed", "--target", str(folder / "site")]
    command += ["--python-version", target.python, "--implementation", "cp"]
    command += [f"--abi={name}" for name in (abi, "abi3", "none")]
    command += [f"--platform={name}" for name in target.platforms]
    if wheels is not None:
        command += ["--no-index", f"--find-links={wheels}"]
    done = subprocess.run([*command, "-r", str(lock)], capture_output=True, text=True, check=False)
    if done.returncode:
        problem = next((line for line in done.stderr.splitlines() if line.startswith("ERROR:")), "ERROR: pip failed")
        raise DeclarationError(
            problem.removeprefix("ERROR: "),
            operation="package",
            resource=f"{target.architecture}, Python {target.python}",
            hint="each requirement needs a wheel for the target, and its hash in the lock",
        )


def _pip() -> list[str]:
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if found := shutil.which("pip3") or shutil.which("pip"):
        return [found]
    raise DeclarationError("pip was not found", operation="package", hint="python -m ensurepip")


def _installed(folder: Path, services: frozenset[str]) -> Iterator[tuple[str, Path]]:
    """The installed files that a function needs, by their path in the package."""
    site = folder / "site"
    for file in site.rglob("*"):
        inside = file.relative_to(site)
        if file.is_file() and _is_needed(inside.parts, services):
            yield inside.as_posix(), file


def _is_needed(parts: tuple[str, ...], services: frozenset[str]) -> bool:
    top, *below = parts
    if "__pycache__" in parts or parts[-1].endswith((".pyc", ".pyi")) or top in ("bin", "share"):
        return False
    if top.endswith(".dist-info"):
        return below[0].startswith(_KEPT_METADATA)
    if top == "botocore" and below[0] == "data" and len(below) > 2:
        return below[1] in services
    return not (top == "boto3" and below[0] == "examples")


def _write_zip(path: Path, files: Mapping[str, Path]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as package:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _EARLIEST)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3
            entry.external_attr = 0o100644 << 16
            package.writestr(entry, files[name].read_bytes())
    unfinished.replace(path)


def _too_large(total: int, limit: int, parts: Counter[str]) -> TooLarge:
    largest = ", ".join(f"{name} {shown_size(size)}" for name, size in parts.most_common(4))
    return TooLarge(
        f"unzipped it has {shown_size(total)}, and Lambda takes {shown_size(limit)}; the largest are {largest}",
        operation="package",
        hint="import less in the handlers' modules, or run the handler as a container (headwater worker)",
    )


def shown_size(size: int) -> str:
    return f"{size / 1_048_576:.1f} MiB" if size >= 1_048_576 else f"{size / 1024:.1f} KiB"
