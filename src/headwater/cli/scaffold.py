"""`headwater init NAME`: a folder with a small running app."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from headwater.cli.output import note
from headwater.errors import DeclarationError

FILES = {
    "headwater.toml": "headwater.toml.txt",
    "app.py": "app.py.txt",
    "test_app.py": "test_app.py.txt",
    "README.md": "README.md.txt",
    ".gitignore": "gitignore.txt",
}
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")


def scaffold(target: str) -> None:
    """Write the files. Raises `DeclarationError` for a name that no app can have, or a folder that is not empty."""
    folder = Path(target)
    name = folder.resolve().name
    if not _NAME.fullmatch(name):
        raise DeclarationError(
            f"{name!r} is no name for an app",
            operation="init",
            hint="use lower-case letters, digits, - and _, beginning with a letter",
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DeclarationError(
            "it exists and is not an empty folder", operation="init", resource=target, hint="choose another name"
        )
    folder.mkdir(parents=True, exist_ok=True)
    templates = files("headwater.cli").joinpath("templates")
    for path, template in FILES.items():
        text = templates.joinpath(template).read_text("utf-8").replace("@NAME@", name)
        (folder / path).write_text(text, "utf-8")
    note(f"{target} is ready:\n  cd {target}\n  headwater run\n  pytest")
