"""Importing apps by name: "package.module" (its `app`), or "package.module:name"."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from headwater.app import App
from headwater.errors import DeclarationError


def load_app(spec: str) -> App[Any]:
    """Import one app; raises `DeclarationError` when the module has none."""
    module_name, _, attribute = spec.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise
        raise DeclarationError(
            f"there is no module {error.name!r}",
            operation="load",
            resource=spec,
            hint='name it as "package.module" or "package.module:app", from the folder that holds the package',
        ) from error
    found = getattr(module, attribute or "app", None)
    if not isinstance(found, App):
        raise DeclarationError(f"the module has no App named {attribute or 'app'!r}", operation="load", resource=spec)
    return found
