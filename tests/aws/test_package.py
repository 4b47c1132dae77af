"""Deployment packages: the same bytes each time, nothing that a function does not need, and offline."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from headwater.deploy.contents import Contents, gather
from headwater.deploy.lock import Locked, Target, read_lock
from headwater.deploy.package import Package, build_package
from headwater.errors import DeclarationError, TooLarge

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements-dev.txt"
ARM = Target("arm64", "3.12")


def make_wheel(folder: Path, name: str, tags: str, files: dict[str, bytes]) -> Locked:
    """A wheel of these files, and its line in a lock."""
    info = f"{name}-1.0.dist-info"
    files = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: false\nTag: {tags}\n".encode(),
        f"{info}/entry_points.txt": b"[console_scripts]\nprogram = tiny:main\n",
    }
    record = "".join(
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip('=')},{len(data)}\n"
        for path, data in files.items()
    )
    wheel = folder / f"{name}-1.0-{tags}.whl"
    with zipfile.ZipFile(wheel, "w") as made:
        for path, data in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n".encode()}.items():
            made.writestr(path, data)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return Locked(name, "1.0", f"{name}==1.0 --hash=sha256:{digest}")


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    return folder


@pytest.fixture
def contents(tmp_path: Path, wheels: Path) -> Contents:
    tiny = make_wheel(
        wheels,
        "tiny",
        "cp312-cp312-manylinux2014_aarch64",
        {"tiny/__init__.py": b"def main(): ...\n", "tiny/native.so": b"\x7fELF" * 1000, "tiny/types.pyi": b""},
    )
    data = {f"botocore/data/{name}/service-2.json": b"{}" for name in ("sqs", "textract", "ec2")}
    sdk = make_wheel(wheels, "botocore", "py3-none-any", {**data, "botocore/data/endpoints.json": b"{}"})
    app = tmp_path / "app.py"
    app.write_text("app = 1\n")
    return Contents({"shop/app.py": app}, {"tiny": tiny, "botocore": sdk})


def names(package: Package) -> list[str]:
    with zipfile.ZipFile(package.path) as made:
        return made.namelist()


def test_the_same_bytes_each_time(contents: Contents, wheels: Path, tmp_path: Path) -> None:
    first = build_package(contents, ARM, tmp_path / "1.zip", wheels=wheels)
    contents.files["shop/app.py"].touch()
    second = build_package(contents, ARM, tmp_path / "2" / "2.zip", wheels=wheels)
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.digest == second.digest == hashlib.sha256(first.path.read_bytes()).hexdigest()
    with zipfile.ZipFile(first.path) as made:
        assert made.namelist() == sorted(made.namelist())
        assert {entry.date_time for entry in made.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {entry.external_attr >> 16 for entry in made.infolist()} == {0o100644}


def test_only_what_a_function_needs(contents: Contents, wheels: Path, tmp_path: Path) -> None:
    package = build_package(contents, ARM, tmp_path / "p.zip", wheels=wheels, services=["textract"])
    assert names(package) == [
        "botocore-1.0.dist-info/METADATA",
        "botocore-1.0.dist-info/entry_points.txt",
        "botocore/data/endpoints.json",
        "botocore/data/sqs/service-2.json",
        "botocore/data/textract/service-2.json",
        "shop/app.py",
        "tiny-1.0.dist-info/METADATA",
        "tiny-1.0.dist-info/entry_points.txt",
        "tiny/__init__.py",
        "tiny/native.so",
    ]
    assert package.parts["tiny"] == 4016
    assert package.unzipped == sum(package.parts.values())
    assert package.zipped == package.path.stat().st_size


def test_a_package_above_the_limit_is_refused(contents: Contents, wheels: Path, tmp_path: Path) -> None:
    with pytest.raises(TooLarge, match=r"unzipped it has 4\.\d KiB, and Lambda takes 3\.9 KiB.*tiny 3\.9 KiB"):
        build_package(contents, ARM, tmp_path / "p.zip", wheels=wheels, limit=4_000)
    assert not (tmp_path / "p.zip").exists()


def test_wheels_are_those_of_the_target_and_of_the_lock(contents: Contents, wheels: Path, tmp_path: Path) -> None:
    with pytest.raises(DeclarationError, match="tiny") as refused:
        build_package(contents, Target("x86_64", "3.12"), tmp_path / "p.zip", wheels=wheels)
    assert refused.value.resource == "x86_64, Python 3.12"
    wheel = next(wheels.glob("tiny*"))
    with zipfile.ZipFile(wheel, "a") as made:
        made.writestr("tiny/evil.py", "")
    with pytest.raises(DeclarationError, match=r"(?i)hash"):
        build_package(contents, ARM, tmp_path / "p.zip", wheels=wheels)


@pytest.mark.parametrize("line", ["shop>=1 --hash=sha256:aa", "shop==1.0"])
def test_a_lock_pins_versions_with_hashes(line: str, tmp_path: Path) -> None:
    lock = tmp_path / "requirements.txt"
    lock.write_text(
        f"# made by hand\n-i https://pypi.example/simple\nother==1 \\\n    --hash=sha256:aa  # via x\n{line}\n"
    )
    with pytest.raises(DeclarationError, match="has no version or no hash"):
        read_lock(lock)


def test_an_import_that_is_not_locked_is_named() -> None:
    lock = {name: entry for name, entry in read_lock(LOCK).items() if name != "pillow"}
    with pytest.raises(DeclarationError, match=r"pillow is not in the lock, but .*images\.py needs it"):
        gather(["apps.gallery.app"], lock, ARM, http=False)


def test_functions_without_http_have_no_fastapi() -> None:
    lock = read_lock(LOCK)
    plain = gather(["apps.catalog.app"], lock, ARM, http=False)
    served = gather(["apps.catalog.app", "apps.catalog.api"], lock, ARM, http=True)
    assert set(served.distributions) - set(plain.distributions) >= {"fastapi", "starlette", "pyjwt", "cryptography"}
    assert not set(served.distributions) & {"typer", "uvicorn", "rich", "polars", "pillow", "pytest"}
    assert {"apps/__init__.py", "apps/catalog/app.py", "headwater/unit.py"} <= set(plain.files)
    assert not any(name.startswith(("apps/catalog/tests", "apps/gallery", "headwater/cli")) for name in plain.files)
    directory = gather(["apps.directory.app"], lock, ARM, http=False)
    assert {"polars", "fastapi"} <= set(directory.distributions), "`csv` and `require` need them"
    assert not set(directory.distributions) & {"pyjwt", "cryptography"}


IMPORTS = """
import importlib, importlib.metadata, sys
sys.modules["rich"] = sys.modules["click"] = None  # what others use if it happens to be there
for name in {modules!r}:
    importlib.import_module(name)
homes = importlib.metadata.packages_distributions()
tops = {{name.partition(".")[0] for name, module in sys.modules.items() if module}}
print(*sorted({{found.lower().replace("_", "-") for top in tops for found in homes.get(top, ())}}))
"""


@pytest.mark.parametrize("http", [False, True])
def test_what_is_imported_is_in_the_package(http: bool) -> None:
    kinds = ["http"] if http else ["queue", "relay", "tick", "objects", "alarm", "letters"]
    functions = [f"headwater.functions.{kind}" for kind in kinds]
    apps = [f"apps.{name}.app" for name in ("catalog", "reporting", "intake", "erasure", "gallery", "directory")]
    contents = gather(apps, read_lock(LOCK), ARM, http=http)
    code = IMPORTS.format(modules=[*functions, "headwater.engines.aws", *apps])
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split()) - {"headwater", "attrs"}
    optional = {name for name in loaded if name.startswith("opentelemetry")}
    if not http:
        optional.add("python-multipart")  # starlette tries it, for forms

    assert loaded - optional <= set(contents.distributions)
