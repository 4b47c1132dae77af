"""Importing apps by name: "package.module" (its `app`), or "package.module:name"."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from headwater.app import App
from headwater.errors import DeclarationError

_HINT = 'name it as "package.module" or "package.module:app", from the folder that holds the package'


def load_app(spec: str, folder: Path | None = None) -> App[Any]:
    """Import one app, from `folder` (the working folder) too; raises `DeclarationError` when the module has none."""
    module_name, _, attribute = spec.partition(":")
    place = str(folder or Path.cwd())
    if place not in sys.path:
        sys.path.insert(0, place)
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise DeclarationError(f"{module_name!r} is no module's name", operation="load", resource=spec, hint=_HINT)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise DeclarationError(
            f"there is no module {error.name!r}",
            operation="load",
            resource=spec,
            hint=_HINT,
        ) from error
    found = getattr(module, attribute or "app", None)
    if not isinstance(found, App):
        raise DeclarationError(f"the module has no App named {attribute or 'app'!r}", operation="load", resource=spec)
    return found
